// SPDX-License-Identifier: Apache-2.0
// One layer of a decoding step (method.md section 4): score gists coarse to fine, choose, find pages, attend, for one
// query row.
// Bytes are those of the choice that was made: keys that were scored, KV that was attended.
#include <algorithm>
#include <cmath>

#include "engine/bench_context.h"
#include "engine/bench_run.h"
#include "model/rope_table.h"
#include "rag/query_attention.h"

namespace unfold {
namespace {

constexpr std::int64_t kTailTokens = 64;  // question and answer so far, the query's own last

// What one copy of the context led to, summed over key/value heads.
struct LayerCounts {
  double scored_gists = 0, chosen_gists = 0, chosen_chunks = 0, chosen_raw_tokens = 0;
};

// Thread-compatible.
class LayerBench {
 public:
  LayerBench(BenchRun& run, BenchContext context) : run_(run), context_(std::move(context)) {}
  Status Prepare();
  Status Measure(std::vector<BenchFigure>& figures);

 private:
  // The step of one copy: its query, its lists, its arguments.
  struct Step {
    ContextView view;
    Tensor q, scores, best;
    std::array<ChosenGists, kMaxGistLevels> chosen;
    SparseAttentionArgs attend;
  };
  Status MakeStep(const ContextView& view, Step& step);
  Status Score(const Step& step, int level);
  Status Select(const Step& step, int level);
  Status FindPages(const Step& step);
  Status ScoreAll(const Step& step);
  Status SelectAll(const Step& step);
  Status RunAll(const Step& step);
  Status CountChoice(const Step& step);
  double RowBytes(double rows) const;  // of K, or of V, of one head
  void Describe(BenchFigure& figure) const;
  Tensor BestOf(const Step& step, int level) const {
    if (step.best.rank == 0) return {};
    const std::int64_t best = NumBest(context_.tables().levels[level].size());
    return step.best.Rows(level, level + 1).Reshape({1, run_.shape().heads, best});
  }
  ChosenGists ParentsOf(const Step& step, int level) const {
    return level + 1 < step.view.num_levels ? step.chosen[level + 1] : ChosenGists{};
  }
  const Step& StepOf(std::int64_t run) const { return steps_[static_cast<std::size_t>(run) % steps_.size()]; }

  BenchRun& run_;
  BenchContext context_;
  RopeMemory rope_;
  Tensor position_;
  std::int64_t top_k_ = 0;
  std::vector<Step> steps_;
  LayerCounts counts_;  // means over steps
};

Status LayerBench::Prepare() {
  const ModelConfig& shape = run_.shape();
  const BenchTables& tables = context_.tables();
  const std::int64_t position = context_.end_position() + kTailTokens - 1;
  ModelConfig window = shape;
  window.max_positions = static_cast<std::int32_t>(position) + 1;
  UNFOLD_TRY_ASSIGN(rope_, RopeMemory::Make(window, run_.backend()));
  UNFOLD_TRY_ASSIGN(position_, run_.memory().Ints(std::vector<std::int32_t>{static_cast<std::int32_t>(position)}));
  top_k_ = UnfoldTopK(run_, tables.num_tokens + tables.num_gists(), tables.num_chunks());
  for (const ContextView& view : context_.copies()) {
    UNFOLD_TRY(run_.Check("choose chunks"));
    Step& step = steps_.emplace_back();
    UNFOLD_TRY(MakeStep(view, step));
  }
  for (Step& step : steps_) {  // where they lie from now on
    step.attend.context = &step.view;
    UNFOLD_TRY(RunAll(step));
    UNFOLD_TRY(CountChoice(step));
  }
  return Status::Ok();
}

Status LayerBench::MakeStep(const ContextView& view, Step& step) {
  RandomTensors& memory = run_.memory();
  const ModelConfig& shape = run_.shape();
  step.view = view;
  UNFOLD_TRY_ASSIGN(step.q, memory.Normal(DType::kF32, {1, shape.heads, shape.head_dim}, 1));
  std::int64_t most = 0;
  for (int n = 0; n < view.num_levels; ++n) {
    const std::int64_t gists = context_.tables().levels[n].size();
    most = std::max(most, gists);
    UNFOLD_TRY_ASSIGN(step.chosen[n].gists, memory.Zeros(DType::kInt32, {1, shape.kv_heads, gists}));
    UNFOLD_TRY_ASSIGN(step.chosen[n].counts, memory.Zeros(DType::kInt32, {1, shape.kv_heads}));
    if (n == 0 || !run_.backend().ListsChildren()) continue;
    const std::int64_t below = context_.tables().levels[n - 1].size();
    UNFOLD_TRY_ASSIGN(step.chosen[n].children, memory.Zeros(DType::kInt32, {1, shape.kv_heads, below}));
    UNFOLD_TRY_ASSIGN(step.chosen[n].child_counts, memory.Zeros(DType::kInt32, {1, shape.kv_heads}));
  }
  const auto chunks = context_.tables().num_chunks();
  UNFOLD_TRY_ASSIGN(step.attend.chunks, memory.Zeros(DType::kInt8, {1, shape.kv_heads, chunks, sizeof(ChosenChunk)}));
  const auto turned =
      static_cast<std::int64_t>(run_.backend().TurnedQueryBytes(step.q, shape.kv_heads, view.num_documents()));
  if (turned > 0 && chunks > 0) {
    UNFOLD_TRY_ASSIGN(step.attend.turned, memory.Zeros(DType::kInt8, {turned}));
  }
  step.attend.page_k = context_.pool().page_k;
  step.attend.page_v = context_.pool().page_v;
  // Of the level at hand; the finest is the last to be scored.
  UNFOLD_TRY_ASSIGN(step.scores, memory.Zeros(DType::kF32, {view.num_levels, shape.heads, most}));
  if (run_.backend().SelectsByBest()) {
    UNFOLD_TRY_ASSIGN(step.best, memory.Zeros(DType::kF32, {view.num_levels, shape.heads, NumBest(most)}));
  }
  SparseAttentionArgs& attend = step.attend;
  attend.q = step.q;
  attend.positions = position_;
  attend.rope = rope_.table();
  attend.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  attend.chosen = step.chosen;
  UNFOLD_TRY_ASSIGN(attend.tail_k,
                    memory.Normal(run_.context_type(), {shape.kv_heads, kTailTokens, shape.head_dim}, 1));
  UNFOLD_TRY_ASSIGN(attend.tail_v,
                    memory.Normal(run_.context_type(), {shape.kv_heads, kTailTokens, shape.head_dim}, 1));
  attend.tail_position = context_.end_position();
  UNFOLD_TRY_ASSIGN(attend.out, memory.Zeros(DType::kF32, {1, shape.heads, shape.head_dim}));
  return Status::Ok();
}

Status LayerBench::Score(const Step& step, int level) {
  const std::int64_t gists = context_.tables().levels[level].size();
  return run_.backend().GistScore({.q = step.q,
                                   .positions = position_,
                                   .rope = rope_.table(),
                                   .context = &step.view,
                                   .level = level,
                                   .parents = ParentsOf(step, level),
                                   .scores = step.scores.Rows(level, level + 1).Reshape({1, run_.shape().heads, gists}),
                                   .best = BestOf(step, level),
                                   .turned = step.attend.turned,
                                   .is_turned = level + 1 < step.view.num_levels && step.attend.turned.rank != 0});
}

Status LayerBench::Select(const Step& step, int level) {
  const std::int64_t gists = context_.tables().levels[level].size();
  return run_.backend().SelectChunks(
      {.scores = step.scores.Rows(level, level + 1).Reshape({1, run_.shape().heads, gists}),
       .context = &step.view,
       .level = level,
       .parents = ParentsOf(step, level),
       .kv_heads = run_.shape().kv_heads,
       .top_k = top_k_,
       .scale = step.attend.scale,
       .chosen = step.chosen[level],
       .best = BestOf(step, level)});
}

Status LayerBench::FindPages(const Step& step) {
  return run_.backend().UnfoldChunks({.places = context_.places(),
                                      .chosen = step.chosen[0],
                                      .rope = rope_.table(),
                                      .pool = context_.pool(),
                                      .chunks = step.attend.chunks,
                                      .found = context_.found()});
}

Status LayerBench::ScoreAll(const Step& step) {
  for (int level = step.view.num_levels - 1; level >= 0; --level) UNFOLD_TRY(Score(step, level));
  return Status::Ok();
}

Status LayerBench::SelectAll(const Step& step) {
  for (int level = step.view.num_levels - 1; level >= 0; --level) UNFOLD_TRY(Select(step, level));
  return Status::Ok();
}

Status LayerBench::RunAll(const Step& step) {
  for (int level = step.view.num_levels - 1; level >= 0 && context_.tables().num_chunks() > 0; --level) {
    UNFOLD_TRY(Score(step, level));
    UNFOLD_TRY(Select(step, level));
  }
  if (context_.tables().num_chunks() > 0) UNFOLD_TRY(FindPages(step));
  return run_.backend().SparseAttention(step.attend);
}

Status LayerBench::CountChoice(const Step& step) {
  const BenchTables& tables = context_.tables();
  if (tables.num_chunks() == 0) return Status::Ok();
  const double weight = 1 / static_cast<double>(steps_.size());
  const std::int64_t kv_heads = run_.shape().kv_heads;
  const int top = step.view.num_levels - 1;
  counts_.scored_gists += weight * static_cast<double>(kv_heads * tables.levels[top].size());
  for (int level = top; level >= 0; --level) {
    const std::int64_t gists = tables.levels[level].size();
    std::vector<std::int32_t> chosen(static_cast<std::size_t>(kv_heads * gists));
    std::vector<std::int32_t> counts(static_cast<std::size_t>(kv_heads));
    UNFOLD_TRY(run_.backend().Download(chosen.data(), step.chosen[level].gists));
    UNFOLD_TRY(run_.backend().Download(counts.data(), step.chosen[level].counts));
    for (std::int64_t head = 0; head < kv_heads; ++head) {
      counts_.chosen_gists += weight * counts[head];
      if (level == 0) counts_.chosen_chunks += weight * counts[head];
      for (std::int32_t i = 0; i < counts[head]; ++i) {
        const std::int32_t gist = chosen[head * gists + i];
        if (level == 0) {
          counts_.chosen_raw_tokens += weight * tables.chunk_tokens[gist];
        } else {
          counts_.scored_gists += weight * (tables.levels[level].child[gist + 1] - tables.levels[level].child[gist]);
        }
      }
    }
  }
  return Status::Ok();
}

double LayerBench::RowBytes(double rows) const {
  return rows * static_cast<double>(run_.shape().head_dim) * static_cast<double>(DTypeBytes(run_.context_type()));
}

void LayerBench::Describe(BenchFigure& figure) const {
  const BenchTables& tables = context_.tables();
  const double heads = run_.shape().kv_heads;
  figure.counts.insert(figure.counts.end(), {{"context_tokens", static_cast<double>(tables.num_tokens)},
                                             {"documents", static_cast<double>(tables.num_documents)},
                                             {"copies", static_cast<double>(steps_.size())}});
  if (tables.num_chunks() == 0) return;
  const double raw = static_cast<double>(tables.num_tokens - tables.num_sinks);
  figure.counts.insert(figure.counts.end(), {{"chunks", static_cast<double>(tables.num_chunks())},
                                             {"mean_chunk_tokens", raw / static_cast<double>(tables.num_chunks())},
                                             {"compression", Compression(run_.options())},
                                             {"top_k", static_cast<double>(top_k_)},
                                             {"scored_gists_a_kv_head", counts_.scored_gists / heads},
                                             {"chosen_gists_a_kv_head", counts_.chosen_gists / heads},
                                             {"chosen_chunks_a_kv_head", counts_.chosen_chunks / heads},
                                             {"chosen_raw_tokens_a_kv_head", counts_.chosen_raw_tokens / heads}});
}

Status LayerBench::Measure(std::vector<BenchFigure>& figures) {
  const double always = static_cast<double>((context_.tables().num_sinks + kTailTokens) * run_.shape().kv_heads);
  const double score = RowBytes(counts_.scored_gists);
  const double attend = 2 * RowBytes(counts_.chosen_gists + counts_.chosen_raw_tokens + always);
  const auto add = [&](std::string_view what, double bytes, const std::function<Status(const Step&)>& work) -> Status {
    UNFOLD_TRY_ASSIGN(BenchFigure figure, run_.Time(what, bytes, [&](std::int64_t run) { return work(StepOf(run)); }));
    Describe(figure);
    figures.push_back(std::move(figure));
    return Status::Ok();
  };
  UNFOLD_TRY(add("layer", score + attend, [&](const Step& step) { return RunAll(step); }));
  if (context_.tables().num_chunks() == 0) return Status::Ok();
  // Scores between the two are the seam's own, f32 by query head.
  const double scores = counts_.scored_gists * run_.shape().group_size() * sizeof(float);
  UNFOLD_TRY(add("score", score, [&](const Step& step) { return ScoreAll(step); }));
  UNFOLD_TRY(add("select", scores, [&](const Step& step) { return SelectAll(step); }));
  // Of a chosen chunk its number, its slot's page and its entry.
  UNFOLD_TRY(add("pages", (2 * sizeof(std::int32_t) + sizeof(ChosenChunk)) * counts_.chosen_chunks,
                 [&](const Step& step) { return FindPages(step); }));
  return add("attend", attend, [&](const Step& step) { return run_.backend().SparseAttention(step.attend); });
}

}  // namespace

Status BenchLayer(BenchRun& run, std::vector<BenchFigure>& figures) {
  UNFOLD_TRY_ASSIGN(BenchContext context, BenchContext::Make(run));
  LayerBench layer(run, std::move(context));
  UNFOLD_TRY(layer.Prepare());
  return layer.Measure(figures);
}

}  // namespace unfold
