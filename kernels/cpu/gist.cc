// SPDX-License-Identifier: Apache-2.0
// Scoring and choosing chunks on the cpu backend.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/cpu/backend.h"

namespace unfold {
namespace {

using Index = std::int64_t;

constexpr Index kRankCost = 64;  // multiply-adds in the time that a score takes to find its place

// An integer that is larger for a better score and, among equal scores, for the lower chunk. NaN ranks last, with
// minus infinity; the two zeros are equal.
std::uint64_t RankOf(float score, Index chunk) {
  if (std::isnan(score)) score = -std::numeric_limits<float>::infinity();
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);
  const std::uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
  return std::uint64_t{ascending} << 32 | (0xffffffffU - static_cast<std::uint32_t>(chunk));
}
Index ChunkOf(std::uint64_t rank) { return 0xffffffffU - static_cast<std::uint32_t>(rank); }
float ScoreOf(std::uint64_t rank) {
  const auto ascending = static_cast<std::uint32_t>(rank >> 32);
  return std::bit_cast<float>((ascending >> 31) != 0 ? ascending & 0x7fffffffU : ~ascending);
}

// How many of the ranking, sorted best first, reach the mass. In double and in order, as `ref` does.
Index CountForMass(std::span<const std::uint64_t> ranking, const SelectChunksArgs& args, std::vector<double>* mass) {
  const double best = ScoreOf(ranking.front());
  mass->clear();
  for (std::uint64_t rank : ranking) mass->push_back(std::exp(args.scale * (double{ScoreOf(rank)} - best)));
  const double wanted = args.top_p * std::accumulate(mass->begin(), mass->end(), 0.0);
  double reached = 0;
  Index kept = 0;
  while (kept < static_cast<Index>(mass->size()) && (kept == 0 || reached < wanted)) reached += (*mass)[kept++];
  return kept;
}

// Marks the chunks that one head keeps.
void MarkBest(const float* scores, Index chunks, const SelectChunksArgs& args, CpuScratch& scratch) {
  auto& ranking = scratch.ranking;
  ranking.clear();
  for (Index c = 0; c < chunks; ++c) ranking.push_back(RankOf(scores[c], c));
  Index kept = std::min(args.top_k, chunks);
  if (args.top_p > 0) {
    std::sort(ranking.begin(), ranking.end(), std::greater<>());
    kept = CountForMass(ranking, args, &scratch.mass);
  } else if (kept < chunks) {
    std::nth_element(ranking.begin(), ranking.begin() + kept, ranking.end(), std::greater<>());
  }
  for (Index i = 0; i < kept; ++i) scratch.chosen[ChunkOf(ranking[i])] = 1;
}

// The union of what a group's heads keep, ascending.
void SelectList(const SelectChunksArgs& args, Index list, CpuScratch& scratch) {
  const Index heads = args.scores.dims[1], gists = args.scores.dims[2], group = heads / args.kv_heads;
  const bool narrowed = args.parents.gists.rank != 0;
  if (narrowed) CollectCandidates(*args.context, args.level, args.parents, list, &scratch.candidates);
  const Index count = narrowed ? static_cast<Index>(scratch.candidates.size()) : gists;
  scratch.chosen.assign(static_cast<std::size_t>(count), 0);
  for (Index row = list * group; count > 0 && row < (list + 1) * group; ++row) {
    MarkBest(args.scores.as<float>() + row * gists, count, args, scratch);
  }
  std::int32_t* chosen = args.chosen.gists.as<std::int32_t>() + list * gists;
  std::int32_t num_chosen = 0;
  for (Index i = 0; i < count; ++i) {
    if (scratch.chosen[i] == 0) continue;
    chosen[num_chosen++] = narrowed ? scratch.candidates[i] : static_cast<std::int32_t>(i);
  }
  args.chosen.counts.as<std::int32_t>()[list] = num_chosen;
}

}  // namespace

void CpuBackend::ScoreList(const GistScoreArgs& args, Index list, CpuScratch& scratch) {
  const ContextView& context = *args.context;
  const GistLevel& level = context.gists[args.level];
  const Index heads = args.q.dims[1], head_dim = args.q.dims[2];
  const Index kv_heads = level.k.dims[0], gists = level.k.dims[1], group = heads / kv_heads;
  const Index row = list / kv_heads, kv_head = list % kv_heads;
  CollectCandidates(context, args.level, args.parents, list, &scratch.candidates);
  const auto count = static_cast<Index>(scratch.candidates.size());
  scratch.keys.resize(scratch.candidates.size());
  const float* first_key = level.k.as<float>() + kv_head * gists * head_dim;
  for (Index i = 0; i < count; ++i) scratch.keys[i] = first_key + scratch.candidates[i] * head_dim;
  float* scores = args.scores.as<float>() + (row * heads + kv_head * group) * gists;
  Index from = 0;
  for (Index j = 0; j < context.num_documents(); ++j) {
    Index to = from;
    while (to < count && scratch.candidates[to] < Ints(level.segment)[j + 1]) ++to;
    if (from == to) continue;
    RotateHeads(args.q, args.rope, row, kv_head, group,
                args.positions.as<std::int32_t>()[row] - Ints(context.segment_offset)[j], scratch);
    simd_.dots[0](scratch.heads.data(), group, scratch.keys.data() + from, to - from, head_dim, scores + from, gists,
                  false);
    from = to;
  }
}

Status CpuBackend::ScoreGists(std::span<const GistScoreArgs> requests) {
  Index work = 0;
  for (const GistScoreArgs& args : requests) {
    const Tensor& k = args.context->gists[args.level].k;
    UNFOLD_TRY(TakesF32("GistScore", {args.context->gists[0].k}));
    UNFOLD_TRY(CheckQueryPositions("GistScore", args.positions, args.rope, args.context));
    UNFOLD_TRY(CheckContext("GistScore", *args.context, false));
    UNFOLD_TRY(CheckParents("GistScore", args.context, args.level, args.parents));
    work = std::max(work, k.dims[1] * args.q.dims[1] / k.dims[0] * args.q.dims[2]);
  }
  const auto lists = [](const GistScoreArgs& args) {
    return args.q.dims[0] * args.context->gists[args.level].k.dims[0];
  };
  SplitLists(requests, lists, work,
             [this](const GistScoreArgs& args, Index list, CpuScratch& scratch) { ScoreList(args, list, scratch); });
  return Status::Ok();
}

Status CpuBackend::DoSelectChunks(std::span<const SelectChunksArgs> requests) {
  Index work = 0;
  for (const SelectChunksArgs& args : requests) {
    UNFOLD_TRY(CheckParents("SelectChunks", args.context, args.level, args.parents));
    work = std::max(work, args.scores.dims[2] * args.scores.dims[1] / args.kv_heads * kRankCost);
  }
  const auto lists = [](const SelectChunksArgs& args) { return args.scores.dims[0] * args.kv_heads; };
  SplitLists(requests, lists, work, SelectList);
  return Status::Ok();
}

}  // namespace unfold
