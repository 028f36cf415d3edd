// SPDX-License-Identifier: Apache-2.0
#include "rag/encoder.h"

namespace unfold {
namespace {

// Attention of packed documents under the gist mask; hands each layer's KV on.
class DocumentAttention : public LayerAttention {
 public:
  DocumentAttention(Transformer& model, const LayerKvSink& sink, const CancelCheck& check)
      : model_(model), sink_(sink), check_(check) {}

  Status Prepare(std::span<const GistSequence* const> sequences) {
    std::vector<std::int32_t> positions;
    begin_.push_back(0);
    for (const GistSequence* sequence : sequences) {
      tokens_.insert(tokens_.end(), sequence->tokens.begin(), sequence->tokens.end());
      for (const GistToken& token : sequence->tokens) positions.push_back(token.position);
      begin_.push_back(static_cast<std::int64_t>(tokens_.size()));
    }
    rules_ = sequences.front()->mask;
    UNFOLD_TRY_ASSIGN(positions_, position_memory_.Upload(model_.backend(), positions));
    return Status::Ok();
  }

  Status Attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    UNFOLD_TRY(check_());
    UNFOLD_TRY(sink_(layer, k, v));
    if (q.data == nullptr) return Status::Ok();
    Backend& backend = model_.backend();
    UNFOLD_TRY_ASSIGN(const Tensor rotated_k, k_.Get(backend, q.dtype, {k.dims[0], k.dims[1], k.dims[2]}));
    UNFOLD_TRY(backend.Rope({.x = q, .positions = positions_, .rope = model_.rope(), .out = q}));
    UNFOLD_TRY(backend.Rope({.x = k, .positions = positions_, .rope = model_.rope(), .out = rotated_k}));
    return backend.GistPrefill({.q = q,
                                .k = rotated_k,
                                .v = v,
                                .tokens = tokens_,
                                .sequence_begin = begin_,
                                .rules = rules_,
                                .out = out,
                                .compute = model_.compute()});
  }

 private:
  Transformer& model_;
  const LayerKvSink& sink_;
  const CancelCheck& check_;
  std::vector<GistToken> tokens_;
  std::vector<std::int64_t> begin_;
  MaskRules rules_;
  ScratchBuffer position_memory_, k_;
  Tensor positions_;
};

}  // namespace

Status EncodePass(Transformer& model, std::span<const GistSequence* const> sequences, const LayerKvSink& sink,
                  const CancelCheck& check) {
  std::vector<TokenId> ids;
  for (const GistSequence* sequence : sequences) ids.insert(ids.end(), sequence->ids.begin(), sequence->ids.end());
  DocumentAttention attention(model, sink, check);
  UNFOLD_TRY(attention.Prepare(sequences));
  return model.Run(ids, attention,
                   {.num_layers = 0, .keys_only = true, .query_type = model.backend().WorkingType(model.compute())});
}

Result<std::unique_ptr<KvRecorder>> EncodeJobs(Transformer& model, DType kv_type, std::span<const EncodeJob> jobs,
                                               const CancelCheck& check) {
  std::vector<const GistSequence*> sequences;
  for (const EncodeJob& job : jobs) sequences.push_back(&job.prepared->sequence);
  KvHeader layout;
  layout.dtype = kv_type;
  layout.kv_heads = static_cast<std::uint16_t>(model.config().kv_heads);
  layout.head_dim = static_cast<std::uint16_t>(model.config().head_dim);
  auto recorder = std::make_unique<KvRecorder>(model.backend(), jobs, layout);
  const LayerKvSink sink = [&](int layer, const Tensor& k, const Tensor& v) { return recorder->Take(layer, k, v); };
  UNFOLD_TRY(EncodePass(model, sequences, sink, check));
  UNFOLD_TRY(recorder->Arrive());
  return recorder;
}

Status EncodeParts(Transformer& model, DType kv_type, std::span<const EncodeJob> jobs, const CancelCheck& check,
                   std::vector<StoreRecord>& records) {
  UNFOLD_TRY_ASSIGN(const std::unique_ptr<KvRecorder> recorder, EncodeJobs(model, kv_type, jobs, check));
  recorder->Finish(records);
  return Status::Ok();
}

}  // namespace unfold
