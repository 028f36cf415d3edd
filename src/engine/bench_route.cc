// SPDX-License-Identifier: Apache-2.0
// Routing: the queries of 16 heads for 32 question tokens against every gist key of a collection, bf16, as
// RoutingIndex::Score asks for it: the best chunk of each part, and the sums of the standardised score.
#include <algorithm>
#include <random>

#include "engine/bench_run.h"

namespace unfold {
namespace {

constexpr std::int64_t kHeads = 16, kQuestionTokens = 32;
constexpr std::int64_t kFewestChunks = 100, kMostChunks = 300;  // of a part

std::vector<std::int64_t> Parts(std::int64_t num_chunks, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_int_distribution<std::int64_t> size(kFewestChunks, kMostChunks);
  std::vector<std::int64_t> begin = {0};
  while (begin.back() < num_chunks) begin.push_back(std::min(num_chunks, begin.back() + size(engine)));
  return begin;
}

}  // namespace

Status BenchRoute(BenchRun& run, std::vector<BenchFigure>& figures) {
  const std::int64_t dim = run.shape().head_dim, chunks = run.options().num_chunks;
  const std::vector<std::int64_t> unit_begin = Parts(chunks, run.options().seed);
  const auto units = static_cast<std::int64_t>(unit_begin.size()) - 1;
  const double keys = static_cast<double>(kHeads * chunks * dim);
  UNFOLD_TRY(run.NeedMemory(keys * static_cast<double>(DTypeBytes(DType::kBF16))));
  std::vector<double> sum(kHeads * kQuestionTokens), sum_squares(kHeads * kQuestionTokens);
  std::vector<RouteScoreArgs> heads;
  for (std::int64_t head = 0; head < kHeads; ++head) {
    UNFOLD_TRY(run.Check("make keys of routing head " + std::to_string(head + 1) + " of " + std::to_string(kHeads)));
    RouteScoreArgs args;
    UNFOLD_TRY_ASSIGN(args.q, run.memory().Normal(DType::kF32, {kQuestionTokens, dim}, 1));
    UNFOLD_TRY_ASSIGN(args.keys, run.memory().Normal(DType::kBF16, {chunks, dim}, 1));
    UNFOLD_TRY_ASSIGN(args.best, run.memory().Zeros(DType::kF32, {kQuestionTokens, units}));
    args.unit_begin = unit_begin;
    args.sum = std::span(sum).subspan(head * kQuestionTokens, kQuestionTokens);
    args.sum_squares = std::span(sum_squares).subspan(head * kQuestionTokens, kQuestionTokens);
    heads.push_back(args);
  }
  UNFOLD_TRY_ASSIGN(BenchFigure figure, run.Time("route", keys * static_cast<double>(DTypeBytes(DType::kBF16)),
                                                 [&](std::int64_t) { return run.backend().RouteScores(heads); }));
  const double flops = 2 * keys * static_cast<double>(kQuestionTokens);
  figure.counts.insert(figure.counts.end(), {{"chunks", static_cast<double>(chunks)},
                                             {"parts", static_cast<double>(units)},
                                             {"heads", static_cast<double>(kHeads)},
                                             {"head_dim", static_cast<double>(dim)},
                                             {"question_tokens", static_cast<double>(kQuestionTokens)},
                                             {"flops", flops},
                                             {"flops_per_s", flops / figure.median_ms * 1e3}});
  figures.push_back(std::move(figure));
  return Status::Ok();
}

}  // namespace unfold
