// SPDX-License-Identifier: Apache-2.0
#include "rag/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "rag/causal_kv.h"
#include "rag/kv_rows.h"

namespace unfold {
namespace {

// A causal pass that keeps the queries of the routing heads for the question's tokens.
class CapturingAttention : public CausalAttention {
 public:
  CapturingAttention(Transformer& model, CausalKv& kv, const GistConfig& config, const FilledPrompt& prompt,
                     const CancelCheck& check, RoutingQueries& result)
      : CausalAttention(model, kv), model_(model), config_(config), prompt_(prompt), check_(check), result_(result) {}

  Status Attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    UNFOLD_TRY(check_());
    const std::int64_t heads = q.dims[1];
    const std::int64_t dim = q.dims[2];
    host_.resize(q.size());
    UNFOLD_TRY(model_.backend().Download(host_.data(), q));
    for (std::size_t i = 0; i < config_.routing_heads.size(); ++i) {
      if (config_.routing_heads[i].layer != layer) continue;
      std::vector<float>& rows = result_.queries[i];
      for (std::int64_t t = prompt_.question_begin; t < prompt_.question_end; ++t) {
        const float* row = host_.data() + (t * heads + config_.routing_heads[i].head) * dim;
        rows.insert(rows.end(), row, row + dim);
      }
    }
    return CausalAttention::Attend(layer, q, k, v, out);
  }

 private:
  Transformer& model_;
  const GistConfig& config_;
  const FilledPrompt& prompt_;
  const CancelCheck& check_;
  RoutingQueries& result_;
  std::vector<float> host_;
};

}  // namespace

Result<RoutingQueries> ComputeRoutingQueries(Transformer& model, const GistConfig& config, const Tokenizer& tokenizer,
                                             std::string_view question, std::span<const Turn> history,
                                             const CancelCheck& check) {
  const FilledPrompt prompt = config.routing.Fill(question, config.max_question_tokens, tokenizer, history);
  RoutingQueries result;
  result.truncated = prompt.truncated;
  result.num_tokens = prompt.question_end - prompt.question_begin;
  result.queries.resize(config.routing_heads.size());
  if (result.num_tokens == 0) return Status::InvalidArgument("the question is empty");
  const auto num_tokens = static_cast<std::int64_t>(prompt.ids.size());
  if (num_tokens > model.config().max_positions)
    return Status::ResourceExhausted("the routing prompt exceeds the model's window");
  int num_layers = 0;
  for (const RoutingHead& head : config.routing_heads) num_layers = std::max(num_layers, head.layer + 1);
  UNFOLD_TRY_ASSIGN(CausalKv kv, CausalKv::Make(model, num_layers, num_tokens));
  CapturingAttention attention(model, kv, config, prompt, check, result);
  UNFOLD_TRY(attention.Prepare(num_tokens));
  UNFOLD_TRY(model.Run(prompt.ids, attention, {.num_layers = num_layers, .keys_only = false}));
  return result;
}

Status RoutingIndex::Allocate(Transformer& model, const GistConfig& config, DType type) {
  type_ = KeyType(type);
  head_dim_ = model.config().head_dim;
  const std::size_t bytes = static_cast<std::size_t>(unit_begin_.back() * head_dim_) * DTypeBytes(type_);
  for (const RoutingHead& head : config.routing_heads) {
    Buffer& buffer = keys_[{head.layer, head.head / model.config().group_size()}];
    if (buffer.data() == nullptr) {
      UNFOLD_TRY_ASSIGN(buffer, model.backend().Allocate(bytes));
    }
  }
  return Status::Ok();
}

PartRef RoutingIndex::Ref(std::size_t unit) const {
  const Unit& which = units_[unit];
  const PublishedDocument& document = documents_[which.document];
  const DocumentRecord& record = document.record;
  return {0, nullptr, document.id, record.name, which.part, record.parts[which.part], record.format};
}

Status RoutingIndex::LoadPart(Transformer& model, const StoreSnapshot& snapshot, std::size_t unit) {
  const PartRef ref = Ref(unit);
  const std::int64_t num_chunks = unit_begin_[unit + 1] - unit_begin_[unit];
  std::set<int> layers;
  for (const auto& [head, buffer] : keys_) layers.insert(head.first);
  std::vector<RecordKey> keys;
  for (const int layer : layers) {
    keys.push_back({RecordKind::kGist, ref.id, ref.part, static_cast<std::uint16_t>(layer), 0});
  }
  UNFOLD_TRY_ASSIGN(const std::vector<std::string> records, snapshot.ReadMany(keys));
  const std::size_t dim_bytes = head_dim_ * DTypeBytes(type_);
  std::string rows(num_chunks * dim_bytes, '\0');
  for (std::size_t i = 0; i < keys.size(); ++i) {
    UNFOLD_TRY_ASSIGN(const KvView view, OpenKv(RecordKind::kGist, records[i], keys[i].ToString()));
    const KvHeader& header = view.header;
    const std::int64_t sinks = ref.summary.num_sinks;
    if (header.num_rows != sinks + ref.summary.num_gists || ref.summary.num_gists < num_chunks ||
        header.head_dim != head_dim_ || KeyType(header.dtype) != type_ || header.kv_heads != model.config().kv_heads) {
      return Status::Corruption(keys[i].ToString() + ": does not have the shape its document and model give it");
    }
    for (const auto& [head, buffer] : keys_) {
      if (head.first != keys[i].layer) continue;
      for (std::int64_t c = 0; c < num_chunks; ++c) {
        CopyKey(view, sinks + c, head.second, rows.data() + c * dim_bytes);
      }
      const Tensor slab = buffer.View(type_, {unit_begin_.back(), head_dim_});
      UNFOLD_TRY(model.backend().Upload(slab.Rows(unit_begin_[unit], unit_begin_[unit + 1]), rows.data()));
    }
  }
  return Status::Ok();
}

Status RoutingIndex::CopyPart(Transformer& model, std::size_t unit, const RoutingIndex& previous, std::size_t from) {
  const std::int64_t num_chunks = unit_begin_[unit + 1] - unit_begin_[unit];
  std::string rows(num_chunks * head_dim_ * DTypeBytes(type_), '\0');
  for (const auto& [head, buffer] : keys_) {
    const Tensor source = previous.keys_.at(head).View(type_, {previous.unit_begin_.back(), head_dim_});
    const Tensor slab = buffer.View(type_, {unit_begin_.back(), head_dim_});
    UNFOLD_TRY(model.backend().Download(
        rows.data(), source.Rows(previous.unit_begin_[from], previous.unit_begin_[from] + num_chunks)));
    UNFOLD_TRY(model.backend().Upload(slab.Rows(unit_begin_[unit], unit_begin_[unit + 1]), rows.data()));
  }
  return Status::Ok();
}

Result<std::shared_ptr<const RoutingIndex>> RoutingIndex::Build(Transformer& model, const GistConfig& config,
                                                                const StoreSnapshot& snapshot,
                                                                std::vector<PublishedDocument> documents,
                                                                const RoutingIndex* previous,
                                                                const CancelCheck& check) {
  auto index = std::make_shared<RoutingIndex>();
  index->documents_ = std::move(documents);
  index->unit_begin_.push_back(0);
  for (std::size_t d = 0; d < index->documents_.size(); ++d) {
    const PublishedDocument& document = index->documents_[d];
    index->first_unit_[document.id] = index->units_.size();
    for (std::uint32_t part = 0; part < document.record.parts.size(); ++part) {
      index->units_.push_back({d, part});
      index->unit_begin_.push_back(index->unit_begin_.back() + document.record.parts[part].num_chunks);
    }
  }
  if (index->units_.empty()) return std::shared_ptr<const RoutingIndex>(index);
  // The type of the stored keys is the first record's; all must agree with it.
  const PartRef first = index->Ref(0);
  const RecordKey key{RecordKind::kGist, first.id, first.part, 0, 0};
  UNFOLD_TRY_ASSIGN(const std::string sealed, snapshot.Read(key));
  UNFOLD_TRY_ASSIGN(const KvView view, OpenKv(RecordKind::kGist, sealed, key.ToString()));
  UNFOLD_TRY(index->Allocate(model, config, view.header.dtype));
  for (std::size_t unit = 0; unit < index->units_.size(); ++unit) {
    UNFOLD_TRY(check());
    const DocumentId id = index->documents_[index->units_[unit].document].id;
    const auto known = previous == nullptr ? index->first_unit_.end() : previous->first_unit_.find(id);
    if (previous != nullptr && known != previous->first_unit_.end()) {
      UNFOLD_TRY(index->CopyPart(model, unit, *previous, known->second + index->units_[unit].part));
    } else {
      UNFOLD_TRY(index->LoadPart(model, snapshot, unit));
    }
  }
  return std::shared_ptr<const RoutingIndex>(index);
}

Result<std::vector<double>> RoutingIndex::Score(Transformer& model, const GistConfig& config,
                                                std::span<const std::vector<float>> queries,
                                                std::int64_t num_tokens) const {
  std::vector<double> scores(units_.size(), 0);
  if (units_.empty()) return scores;
  Backend& backend = model.backend();
  const auto num_units = static_cast<std::int64_t>(units_.size());
  const auto num_chunks = static_cast<double>(unit_begin_.back());
  const auto num_heads = static_cast<std::int64_t>(config.routing_heads.size());
  UNFOLD_TRY_ASSIGN(const Buffer q_memory, backend.Allocate(sizeof(float) * num_heads * num_tokens * head_dim_));
  UNFOLD_TRY_ASSIGN(const Buffer best_memory, backend.Allocate(sizeof(float) * num_heads * num_tokens * num_units));
  const Tensor q = q_memory.View(DType::kF32, {num_heads * num_tokens, head_dim_});
  const Tensor best = best_memory.View(DType::kF32, {num_heads * num_tokens, num_units});
  std::vector<double> sum(num_heads * num_tokens), sum_squares(num_heads * num_tokens);
  std::vector<RouteScoreArgs> heads;
  for (std::int64_t i = 0; i < num_heads; ++i) {
    const RoutingHead& head = config.routing_heads[i];
    const Buffer& keys = keys_.at({head.layer, head.head / model.config().group_size()});
    const std::int64_t begin = i * num_tokens, end = begin + num_tokens;
    UNFOLD_TRY(backend.Upload(q.Rows(begin, end), queries[i].data()));
    heads.push_back({.q = q.Rows(begin, end),
                     .keys = keys.View(type_, {unit_begin_.back(), head_dim_}),
                     .unit_begin = unit_begin_,
                     .best = best.Rows(begin, end),
                     .sum = std::span(sum).subspan(begin, num_tokens),
                     .sum_squares = std::span(sum_squares).subspan(begin, num_tokens)});
  }
  UNFOLD_TRY(backend.RouteScores(heads));
  std::vector<float> host(best.size());
  UNFOLD_TRY(backend.Download(host.data(), best));
  double total_weight = 0;
  for (std::int64_t row = 0; row < num_heads * num_tokens; ++row) {
    // maxsim: score = best / sqrt(D). standardised: over all chunks of the collection, per token and head.
    const RoutingHead& head = config.routing_heads[row / num_tokens];
    if (row % num_tokens == 0) total_weight += head.weight;
    double mean = 0;
    double deviation = std::sqrt(static_cast<double>(head_dim_));
    if (config.scoring == RouteScoring::kStandardised) {
      mean = sum[row] / num_chunks;
      deviation = std::sqrt(std::max(sum_squares[row] / num_chunks - mean * mean, 1e-12));
    }
    const double weight = head.weight / (deviation * static_cast<double>(num_tokens));
    for (std::int64_t u = 0; u < num_units; ++u) scores[u] += weight * (host[row * num_units + u] - mean);
  }
  for (double& score : scores) score /= total_weight;
  return scores;
}

std::vector<std::size_t> RankUnits(std::span<const double> scores) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  return order;
}

std::vector<RoutedDocument> BestDocuments(const RoutingIndex& index, std::span<const std::size_t> ranked,
                                          std::span<const double> scores, std::size_t count) {
  std::vector<RoutedDocument> best;
  std::set<std::size_t> seen;
  for (const std::size_t unit : ranked) {
    if (best.size() == count) break;
    if (!seen.insert(index.DocumentOf(unit)).second) continue;
    const PartRef ref = index.Ref(unit);
    best.push_back({ref.document, ref.part, scores[unit]});
  }
  return best;
}

std::vector<PartRef> ChooseUnits(const RoutingIndex& index, const std::shared_ptr<const StoreSnapshot>& snapshot,
                                 std::span<const std::size_t> ranked, std::int64_t max_units, std::int64_t max_tokens,
                                 std::int64_t links_per_part) {
  std::vector<PartRef> chosen;
  std::int64_t left = max_tokens;
  for (const std::size_t unit : ranked) {
    if (max_units > 0 && static_cast<std::int64_t>(chosen.size()) == max_units) break;
    PartRef ref = index.Ref(unit);
    const std::int64_t cost = ref.summary.num_tokens + links_per_part;
    if (cost > left) continue;
    left -= cost;
    ref.snapshot = snapshot;
    chosen.push_back(std::move(ref));
  }
  std::reverse(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace unfold
