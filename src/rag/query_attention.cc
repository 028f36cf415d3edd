// SPDX-License-Identifier: Apache-2.0
#include "rag/query_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <utility>

namespace unfold {
namespace {

std::atomic<std::uint64_t> num_questions{0};

constexpr std::size_t kMostTurnedBytes = std::size_t{256} << 20;  // for more, each operation takes rows in turn

}  // namespace

std::int64_t DefaultTopK(std::int64_t num_tokens, double compression, int group_size, int chunk_size,
                         std::int64_t num_chunks) {
  const double share = static_cast<double>(num_tokens) / (compression * group_size * chunk_size);
  return std::min(static_cast<std::int64_t>(std::floor(share)) + 1, std::max<std::int64_t>(1, num_chunks / 4));
}

QueryAttention::QueryAttention(Transformer& model, const CausalKv& prefix, std::int64_t prefix_tokens,
                               WorkingSet* context, CausalKv tail, SelectionBudget budget, CancelCheck check)
    : id_(++num_questions),
      model_(model),
      prefix_(prefix),
      prefix_tokens_(prefix_tokens),
      context_(context),
      tail_(std::move(tail)),
      budget_(budget),
      check_(std::move(check)) {
  const std::size_t num_chunks = context_ == nullptr ? 0 : static_cast<std::size_t>(context_->num_chunks());
  report_.chunk_mass.assign(num_chunks, 0);
  report_.first_chosen.resize(model_.config().num_layers);
}

Status QueryAttention::BeginPass(std::int64_t num_tokens) {
  UNFOLD_TRY(GoOn(num_tokens, /*ahead=*/false));
  std::vector<std::int32_t> positions(static_cast<std::size_t>(num_tokens));
  std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(TailPosition() + tail_tokens_));
  UNFOLD_TRY_ASSIGN(positions_, position_memory_.Upload(model_.backend(), positions));
  return Status::Ok();
}

Status QueryAttention::BeginStep(const Tensor& position, bool ahead) {
  positions_ = position;
  return GoOn(1, ahead);
}

Status QueryAttention::GoOn(std::int64_t num_tokens, bool ahead) {
  tail_tokens_ += pass_tokens_;
  pass_tokens_ = num_tokens;
  ahead_ = ahead;
  row_documents_ = {};
  if (tail_tokens_ + num_tokens > tail_.capacity())
    return Status::Internal("the tail of a query is longer than planned");
  return report_.chunk_mass.empty() ? Status::Ok() : PrepareCounts();
}

Result<std::uint64_t> QueryAttention::UpdatePool() {
  return context_ == nullptr ? Result<std::uint64_t>(0) : context_->UpdatePool();
}

// Where a pass leaves what it attends.
Status QueryAttention::PrepareCounts() {
  Backend& backend = model_.backend();
  const ModelConfig& config = model_.config();
  const std::int64_t layers = config.num_layers, kv_heads = config.kv_heads, chunks = context_->num_chunks();
  UNFOLD_TRY_ASSIGN(pass_counts_, chunk_counts_.Get(backend, DType::kInt32, {layers, pass_tokens_, kv_heads}));
  if (mass_.rank != 0) return Status::Ok();
  UNFOLD_TRY_ASSIGN(waiting_counts_, backend.Allocate(static_cast<std::size_t>(kMostWaiting * layers * kv_heads) *
                                                      sizeof(std::int32_t)));
  UNFOLD_TRY_ASSIGN(counted_mass_, counted_mass_memory_.Get(backend, DType::kF32, {kv_heads, chunks}));
  const std::vector<float> zeros(static_cast<std::size_t>(kv_heads * chunks), 0.0F);
  UNFOLD_TRY(backend.Upload(counted_mass_, zeros.data()));
  UNFOLD_TRY_ASSIGN(mass_, mass_memory_.Get(backend, DType::kF32, {kv_heads, chunks}));
  return backend.Copy(counted_mass_, mass_);
}

bool QueryAttention::EndStep(std::span<const PagesFound> found) {
  return !ahead_ || context_ == nullptr || context_->EndPass(found);
}

const UnfoldCache* QueryAttention::cache() const { return context_ == nullptr ? nullptr : &context_->cache(); }

Status QueryAttention::BeginAgain() {
  ++passes_repeated_;
  ahead_ = false;
  if (mass_.rank == 0) return Status::Ok();
  return model_.backend().Copy(counted_mass_, mass_);
}

Status QueryAttention::BeginLinks(std::int64_t num_links) {
  const auto num_documents = static_cast<std::int64_t>(context_->parts().size());
  UNFOLD_TRY(BeginPass(num_documents * num_links));
  std::vector<std::int32_t> seen;
  for (std::int64_t row = 0; row < pass_tokens_; ++row) {
    seen.push_back(static_cast<std::int32_t>(row / num_links + 1));
  }
  UNFOLD_TRY_ASSIGN(row_documents_, documents_memory_.Upload(model_.backend(), seen));
  return Status::Ok();
}

// Nothing here waits for the backend after a pass of one token.
Status QueryAttention::CommitPass() {
  if (mass_.rank == 0) return Status::Ok();
  Backend& backend = model_.backend();
  UNFOLD_TRY(backend.Copy(mass_, counted_mass_));
  const std::int64_t count = pass_counts_.size();
  if (pass_tokens_ > 1 || first_counts_.empty()) {
    std::vector<std::int32_t> counts(static_cast<std::size_t>(count));
    UNFOLD_TRY(backend.Download(counts.data(), pass_counts_));
    CountShares(counts, pass_tokens_);
    return Status::Ok();
  }
  if (num_waiting_ == kMostWaiting) UNFOLD_TRY(UpdateReport());
  const Tensor waiting = waiting_counts_.View(DType::kInt32, {kMostWaiting, count});
  UNFOLD_TRY(backend.Copy(pass_counts_.Reshape({1, count}), waiting.Rows(num_waiting_, num_waiting_ + 1)));
  ++num_waiting_;
  return Status::Ok();
}

// Of the last row of a pass over `rows`, an answer query: counts [N, rows, Hk].
void QueryAttention::CountShares(std::span<const std::int32_t> counts, std::int64_t rows) {
  const ModelConfig& config = model_.config();
  const bool first = first_counts_.empty();
  if (first) first_counts_.assign(static_cast<std::size_t>(config.kv_heads), 0);  // layer 0 chooses none
  for (int layer = 1; layer < config.num_layers; ++layer) {
    const auto row = counts.subspan(((layer + 1) * rows - 1) * config.kv_heads, config.kv_heads);
    if (first) first_counts_.insert(first_counts_.end(), row.begin(), row.end());
    for (const std::int32_t count : row) {
      report_.chosen_share_sum += static_cast<double>(count) / static_cast<double>(context_->num_chunks());
      ++report_.num_shares;
    }
  }
}

Status QueryAttention::UpdateReport() {
  if (mass_.rank == 0) return Status::Ok();
  Backend& backend = model_.backend();
  const std::int64_t kv_heads = model_.config().kv_heads, count = model_.config().num_layers * kv_heads;
  std::vector<std::int32_t> counts(static_cast<std::size_t>(num_waiting_ * count));
  UNFOLD_TRY(backend.Download(counts.data(), waiting_counts_.View(DType::kInt32, {num_waiting_, count})));
  for (std::int64_t pass = 0; pass < num_waiting_; ++pass) {
    CountShares(std::span(counts).subspan(pass * count, count), 1);
  }
  num_waiting_ = 0;
  if (!first_counts_.empty() && report_.first_chosen.back().empty()) UNFOLD_TRY(ReportFirst());
  std::vector<float> mass(static_cast<std::size_t>(counted_mass_.size()));
  UNFOLD_TRY(backend.Download(mass.data(), counted_mass_));
  const std::size_t chunks = report_.chunk_mass.size();
  for (std::size_t c = 0; c < chunks; ++c) {
    report_.chunk_mass[c] = 0;
    for (std::int64_t head = 0; head < kv_heads; ++head) report_.chunk_mass[c] += mass[head * chunks + c];
  }
  return Status::Ok();
}

Status QueryAttention::Attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
  QueryAttention* const own = this;
  UNFOLD_TRY(Attend(std::span(&own, 1), layer, q, k, v, out));
  return failure_;
}

Status QueryAttention::Attend(std::span<QueryAttention* const> questions, int layer, const Tensor& q, const Tensor& k,
                              const Tensor& v, const Tensor& out) {
  Backend& backend = questions.front()->model_.backend();
  const bool keys_only = q.data == nullptr;  // the last layer of a pass that is after keys alone
  std::vector<UnfoldArgs> appended;
  std::vector<LayerPart> parts;
  parts.reserve(questions.size());  // operations point into them
  std::int64_t end = 0;
  for (QueryAttention* own : questions) {
    const std::int64_t row = end;
    end += own->pass_tokens_;
    if (own->failure_.ok()) own->failure_ = own->check_();
    if (!own->failure_.ok()) continue;
    appended.push_back(own->tail_.Append(own->model_, layer, own->TailPosition(), k.Rows(row, end), v.Rows(row, end),
                                         own->positions_));
    if (!keys_only) UNFOLD_TRY(own->FillPart(layer, q.Rows(row, end), out.Rows(row, end), parts.emplace_back()));
  }
  UNFOLD_TRY(backend.Unfold(appended));
  if (parts.empty()) return Status::Ok();
  UNFOLD_TRY(Choose(backend, layer, parts));
  if (parts.front().of->ahead_) return UnfoldAndAttend(backend, layer, parts);
  // Each waits for its own raw KV, and may take the pages that the one before has used.
  for (LayerPart& part : parts) part.of->failure_ = UnfoldAndAttend(backend, layer, std::span(&part, 1));
  return Status::Ok();
}

// Everything that is known before choosing.
Status QueryAttention::FillPart(int layer, const Tensor& q, const Tensor& out, LayerPart& part) {
  part.of = this;
  SparseAttentionArgs& args = part.args;
  args.q = q;
  args.positions = positions_;
  args.rope = model_.rope();
  args.scale = 1.0F / std::sqrt(static_cast<float>(model_.config().head_dim));
  args.prefix_k = prefix_.k(layer);
  args.prefix_v = prefix_.v(layer);
  args.prefix_tokens = prefix_tokens_;
  args.tail_k = tail_.k(layer);
  args.tail_v = tail_.v(layer);
  args.tail_position = TailPosition();
  args.out = out;
  if (context_ == nullptr) return Status::Ok();
  part.view = context_->View(layer);
  args.context = &part.view;
  args.read = layer == 0 ? GistRead::kCollapsed : row_documents_.rank == 0 ? GistRead::kChosen : GistRead::kAll;
  args.row_documents = row_documents_;
  return args.read == GistRead::kChosen && context_->num_chunks() > 0 ? PrepareChoice(layer, part) : Status::Ok();
}

// Where scores and what is chosen go.
Status QueryAttention::PrepareChoice(int layer, LayerPart& part) {
  Backend& backend = model_.backend();
  const std::int64_t kv_heads = model_.config().kv_heads;
  SparseAttentionArgs& args = part.args;
  args.page_k = context_->cache().page_k();
  args.page_v = context_->cache().page_v();
  args.chunk_mass = mass_;
  for (int level = 0; level < part.view.num_levels; ++level) {
    ChosenGists& chosen = args.chosen[level];
    const std::int64_t gists = part.view.gists[level].k.dims[1];
    UNFOLD_TRY_ASSIGN(chosen.gists, chosen_[level].Get(backend, DType::kInt32, {pass_tokens_, kv_heads, gists}));
    if (level == 0) {
      chosen.counts = pass_counts_.Rows(layer, layer + 1).Reshape({pass_tokens_, kv_heads});
    } else {
      UNFOLD_TRY_ASSIGN(chosen.counts, counts_[level].Get(backend, DType::kInt32, {pass_tokens_, kv_heads}));
      if (!backend.ListsChildren()) continue;
      const std::int64_t below = part.view.gists[level - 1].k.dims[1];
      UNFOLD_TRY_ASSIGN(chosen.children, children_[level].Get(backend, DType::kInt32, {pass_tokens_, kv_heads, below}));
      UNFOLD_TRY_ASSIGN(chosen.child_counts,
                        child_counts_[level].Get(backend, DType::kInt32, {pass_tokens_, kv_heads}));
    }
  }
  const std::size_t turned = backend.TurnedQueryBytes(args.q, kv_heads, part.view.num_documents());
  if (turned > 0 && turned <= kMostTurnedBytes) {
    UNFOLD_TRY_ASSIGN(args.turned, turned_.Get(backend, DType::kInt8, {static_cast<std::int64_t>(turned)}));
  }
  UNFOLD_TRY_ASSIGN(args.chunks, chunks_.Get(backend, DType::kInt8,
                                             {pass_tokens_, kv_heads, context_->num_chunks(), sizeof(ChosenChunk)}));
  return Status::Ok();
}

// Chooses for every query row, coarse to fine.
Status QueryAttention::Choose(Backend& backend, int layer, std::span<LayerPart> parts) {
  int levels = 0;
  for (const LayerPart& part : parts) levels = std::max(levels, part.chooses() ? part.view.num_levels : 0);
  for (int level = levels - 1; level >= 0; --level) UNFOLD_TRY(ChooseLevel(backend, level, parts));
  for (const LayerPart& part : parts) {
    if (part.chooses() && part.of->first_counts_.empty()) UNFOLD_TRY(part.of->KeepFirst(layer, part.args.chosen[0]));
  }
  return Status::Ok();
}

// Scores the gists of one level, under what was chosen above it, and chooses.
Status QueryAttention::ChooseLevel(Backend& backend, int level, std::span<LayerPart> parts) {
  std::vector<GistScoreArgs> scored;
  std::vector<SelectChunksArgs> selected;
  for (LayerPart& part : parts) {
    if (!part.chooses() || level >= part.view.num_levels) continue;
    QueryAttention& own = *part.of;
    const SparseAttentionArgs& args = part.args;
    const ModelConfig& config = own.model_.config();
    const bool under = level + 1 < part.view.num_levels;
    const ChosenGists parents = under ? args.chosen[level + 1] : ChosenGists{};
    const std::int64_t gists = part.view.gists[level].k.dims[1];
    UNFOLD_TRY_ASSIGN(const Tensor scores,
                      own.scores_.Get(backend, DType::kF32, {own.pass_tokens_, config.heads, gists}));
    Tensor best;
    if (backend.SelectsByBest()) {
      UNFOLD_TRY_ASSIGN(best,
                        own.best_scores_.Get(backend, DType::kF32, {own.pass_tokens_, config.heads, NumBest(gists)}));
    }
    scored.push_back({.q = args.q,
                      .positions = args.positions,
                      .rope = args.rope,
                      .context = &part.view,
                      .level = level,
                      .parents = parents,
                      .scores = scores,
                      .best = best,
                      .turned = args.turned,
                      .is_turned = under && args.turned.rank != 0});
    selected.push_back({.scores = scores,
                        .context = &part.view,
                        .level = level,
                        .parents = parents,
                        .kv_heads = config.kv_heads,
                        .top_k = own.budget_.top_k,
                        .top_p = own.budget_.top_p,
                        .scale = args.scale,
                        .chosen = args.chosen[level],
                        .best = best});
  }
  UNFOLD_TRY(backend.GistScore(scored));
  return backend.SelectChunks(selected);
}

Status QueryAttention::UnfoldAndAttend(Backend& backend, int layer, std::span<LayerPart> parts) {
  std::vector<UnfoldChunksArgs> unfolded;
  std::vector<SparseAttentionArgs> attended;
  for (const LayerPart& part : parts) {
    const SparseAttentionArgs& args = attended.emplace_back(part.args);
    if (!part.chooses()) continue;
    WorkingSet& context = *part.of->context_;
    if (!part.of->ahead_) {
      UNFOLD_TRY(context.Unfold(layer, args.chosen[0], args.chunks));
      continue;
    }
    UNFOLD_TRY_ASSIGN(unfolded.emplace_back(), context.Unfolding(layer, args.chosen[0], args.chunks));
  }
  UNFOLD_TRY(backend.UnfoldChunks(unfolded));
  return backend.SparseAttention(attended);
}

// The last row of the first pass is the first answer query. The lists stay on the device until they are reported.
Status QueryAttention::KeepFirst(int layer, const ChosenGists& chunks) {
  const std::int64_t layers = model_.config().num_layers, entries = chunks.gists.dims[1] * chunks.gists.dims[2];
  if (first_lists_.data() == nullptr) {
    const auto bytes = static_cast<std::size_t>(layers * entries) * sizeof(std::int32_t);
    UNFOLD_TRY_ASSIGN(first_lists_, model_.backend().Allocate(bytes));
  }
  const Tensor lists = first_lists_.View(DType::kInt32, {layers, entries});
  return model_.backend().Copy(chunks.gists.Rows(pass_tokens_ - 1, pass_tokens_), lists.Rows(layer, layer + 1));
}

Status QueryAttention::ReportFirst() {
  const std::int64_t layers = model_.config().num_layers, kv_heads = model_.config().kv_heads,
                     chunks = context_->num_chunks();
  const Tensor lists = first_lists_.View(DType::kInt32, {layers * kv_heads * chunks});
  for (std::int64_t list = kv_heads; list < layers * kv_heads; ++list) {
    const std::int32_t count = first_counts_[list];
    std::vector<std::int32_t>& chosen = report_.first_chosen[list / kv_heads].emplace_back(count);
    UNFOLD_TRY(model_.backend().Download(chosen.data(), lists.Rows(list * chunks, list * chunks + count)));
  }
  return Status::Ok();
}

Status RunQueryPass(Transformer& model, QueryAttention& attention, std::span<const TokenId> ids,
                    std::vector<float>& logits) {
  const auto num_tokens = static_cast<std::int64_t>(ids.size());
  UNFOLD_TRY(attention.BeginPass(num_tokens));
  UNFOLD_TRY(model.Run(ids, attention, {.num_layers = 0, .keys_only = false, .query = true}));
  return model.Logits(num_tokens - 1, logits);
}

}  // namespace unfold
