// SPDX-License-Identifier: Apache-2.0
#include "rag/encoder.h"

#include "rag/kv_rows.h"

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

// The records of one part at one layer. `row_begin` is the part's first row in the packed pass.
void SealLayer(const EncodeJob& job, int layer, std::int64_t row_begin, const float* k, const float* v,
               const KvHeader& layout, std::vector<StoreRecord>& records) {
  const GistSequence& sequence = job.prepared->sequence;
  const auto add = [&](RecordKind kind, std::uint32_t block, std::string value) {
    records.push_back({{kind, job.document, job.part, static_cast<std::uint16_t>(layer), block}, std::move(value)});
  };
  KvRecordBuilder gist(k, v, layout);
  const auto num_rows = static_cast<std::int64_t>(sequence.tokens.size());
  for (std::int64_t i = 0; i < sequence.num_sinks; ++i) gist.AddRow(row_begin + i);
  for (std::int32_t level = 0; level <= sequence.mask.top_level; ++level) {
    for (std::int64_t i = 0; i < num_rows; ++i) {
      if (sequence.tokens[i].level == level) gist.AddRow(row_begin + i);
    }
  }
  add(RecordKind::kGist, 0, gist.Seal(RecordKind::kGist, static_cast<std::int8_t>(sequence.mask.top_level)));
  if (layer == 0) return;  // its raw tokens are never attended (method.md section 4)

  const auto num_chunks = static_cast<std::uint32_t>(sequence.chunk_tokens.size());
  KvRecordBuilder raw(k, v, layout);
  std::int64_t i = 0;
  for (std::uint32_t block = 0; block * kChunksPerRawBlock < num_chunks; ++block) {
    const auto end_chunk = static_cast<std::int32_t>((block + 1) * kChunksPerRawBlock);
    for (; i < num_rows && sequence.tokens[i].chunk < end_chunk; ++i) {
      if (sequence.tokens[i].level == kRawLevel && sequence.tokens[i].sink == 0) raw.AddRow(row_begin + i);
    }
    add(RecordKind::kRaw, block, raw.Seal(RecordKind::kRaw, kRawLevel));
  }
}

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

Status EncodeParts(Transformer& model, DType kv_type, std::span<const EncodeJob> jobs, const CancelCheck& check,
                   std::vector<StoreRecord>& records) {
  std::vector<const GistSequence*> sequences;
  for (const EncodeJob& job : jobs) sequences.push_back(&job.prepared->sequence);
  KvHeader layout;
  layout.dtype = kv_type;
  layout.kv_heads = static_cast<std::uint16_t>(model.config().kv_heads);
  layout.head_dim = static_cast<std::uint16_t>(model.config().head_dim);
  std::vector<float> host_k, host_v;
  const LayerKvSink sink = [&](int layer, const Tensor& k, const Tensor& v) -> Status {
    host_k.resize(k.size());
    host_v.resize(v.size());
    UNFOLD_TRY(model.backend().Download(host_k.data(), k));
    UNFOLD_TRY(model.backend().Download(host_v.data(), v));
    std::int64_t row_begin = 0;
    for (const EncodeJob& job : jobs) {
      SealLayer(job, layer, row_begin, host_k.data(), host_v.data(), layout, records);
      row_begin += static_cast<std::int64_t>(job.prepared->sequence.ids.size());
    }
    return Status::Ok();
  };
  return EncodePass(model, sequences, sink, check);
}

}  // namespace unfold
