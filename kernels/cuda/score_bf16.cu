// SPDX-License-Identifier: Apache-2.0
// GistScore with bf16 keys on tensor cores (method.md 4.1). A warp takes a run of candidates, 16 at a time, and has the
// next ones on their way; neighbours are mostly of one document, whose queries it keeps.
//
// Bytes: the candidates' keys once for every 16 heads of a group; a document's queries, 4 D for each head, from L2 for
// each warp that has a part of it.
#include <algorithm>

#include "kernels/cuda/query_fragments.cuh"
#include "kernels/cuda/score.cuh"
#include "kernels/cuda/together.cuh"

namespace unfold {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStages = 3;
constexpr Index kBlocksOfMultiprocessor = 4;

template <int kDim>
struct ScoreShared {
  TileRows<kDim> tiles[kWarps][kStages];
};

// `at_once` blocks a list, of whose tiles each warp has a run.
template <int kDim, int kHeadTiles, int kMost>
__global__ void __launch_bounds__(kThreads)
    ScoreBf16Kernel(const __grid_constant__ Together<ScoreRequest, kMost> requests, unsigned at_once) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<ScoreShared<kDim>*>(memory);
  const ScoreInputs<Bf16>& in = requests().in;
  const RotatedQueries& queries = requests().queries;
  const auto kv_heads = static_cast<unsigned>(in.kv_heads), list = blockIdx.x / at_once;
  const Index t = list / kv_heads, kv_head = list % kv_heads;
  if (in.candidates.gists != nullptr) WaitForWorkBefore();
  const auto count = static_cast<int>(in.Count(list));
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned tiles = static_cast<unsigned>(count + kTileKeys - 1) / kTileKeys, warps = at_once * kWarps;
  const int run = static_cast<int>((tiles + warps - 1) / warps) * kTileKeys;
  const int begin = min(static_cast<int>(blockIdx.x % at_once * kWarps + warp) * run, count);
  const int end = min(begin + run, count);
  if (begin == end) {
    if (in.candidates.gists == nullptr) WaitForWorkBefore();
    return;
  }
  // What is loaded late waits behind the keys that are on their way, so tables come first.
  const auto documents = static_cast<int>(in.queries.documents);
  int ends[2];
  WarpFirstNotBelow(
      in.segment + 1, documents,
      {static_cast<std::int32_t>(in.GistAt(list, begin)) + 1, static_cast<std::int32_t>(in.GistAt(list, end - 1)) + 1},
      ends);
  const auto first_document = static_cast<int>(in.Checked(ends[0])),
             last_document = static_cast<int>(in.Checked(ends[1]));
  // Candidates ascend, so a tile whose last one is before `known_end` is of document `known`.
  int known = first_document;
  std::int32_t known_end = known < queries.documents ? in.segment[known + 1] : INT_MAX;
  // Tile n of the warp. Keys past the last stand for the last.
  const auto copy = [&](int n) {
    const int first = begin + n * kTileKeys;
    if (first < end) {
      const Index gist = in.GistAt(list, min(first + lane % kTileKeys, count - 1));
      const Bf16* rows = in.keys + kv_head * in.gists * kDim;
      shared.tiles[warp][n % kStages].Copy(
          [&](int key) { return rows + __shfl_sync(kAllLanes, static_cast<unsigned>(gist), key) * Index{kDim}; });
    }
    CommitCopies();
  };
  // Keys and tables are older than the work before: they need not wait for it.
#pragma unroll
  for (int n = 0; n < kStages - 1; ++n) copy(n);
  if (in.candidates.gists == nullptr) WaitForWorkBefore();

  const auto group = static_cast<int>(static_cast<unsigned>(in.queries.heads) / kv_heads);
  float* head_scores = requests().scores + (t * in.queries.heads + kv_head * group) * in.gists;
  static_assert(kTileKeys == kScoresOfBest);
  const Index bests = CeilDiv(in.gists, kScoresOfBest);
  float* head_best = requests().best;
  if (head_best != nullptr) head_best += (t * in.queries.heads + kv_head * group) * bests;
  HeldQueries<kDim, kHeadTiles> held{queries, t, kv_head};
  for (int n = 0; begin + n * kTileKeys < end; ++n) {
    copy(n + kStages - 1);
    const int first = begin + n * kTileKeys;
    // The document of candidate lane % 16; those past the last have the last one's.
    int document = known;
    if (first_document != last_document && in.GistAt(list, min(first + kTileKeys, count) - 1) >= known_end) {
      const auto gist = static_cast<std::int32_t>(in.GistAt(list, min(first + lane % kTileKeys, count - 1)));
      document = static_cast<int>(in.Checked(DocumentsOfTile(in.segment + 1, documents, known, gist)));
      known = __shfl_sync(kAllLanes, document, kTileKeys - 1);
      known_end = known < queries.documents ? in.segment[known + 1] : INT_MAX;
    }
    WaitForCopies<kStages - 1>();
    __syncwarp();
    float best[kHeadTiles][2];
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) best[tile][0] = best[tile][1] = -INFINITY;
    ForDocuments(document, [&](int now, bool own, bool own8) {
      if (now == queries.documents) return;
      held.Take(now);
#pragma unroll
      for (int tile = 0; tile < kHeadTiles; ++tile) {
        float dots[4];
        shared.tiles[warp][n % kStages].Dot([&](int step) { return held(step, tile); }, dots);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int candidate = first + lane / 4 + i / 2 * 8, head = tile * kTileHeads + lane % 4 * 2 + i % 2;
          if (i / 2 == 0 ? !own : !own8) continue;
          if (candidate >= count) continue;
          best[tile][i % 2] = fmaxf(best[tile][i % 2], dots[i]);
          if (head < group) head_scores[head * in.gists + candidate] = dots[i];
        }
      }
    });
    if (head_best != nullptr) {
#pragma unroll
      for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float most = TileMax(best[tile][h]);
          const int head = tile * kTileHeads + lane % 4 * 2 + h;
          if (lane < 4 && head < group) head_best[head * bests + first / kTileKeys] = most;
        }
      }
    }
    __syncwarp();
  }
}

template <int kDim>
Status Launch(CudaContext& context, const std::vector<ScoreRequest>& requests, Index lists) {
  Index gists = 0;
  for (const ScoreRequest& request : requests) gists = std::max(gists, request.in.gists);
  const Index all = lists * static_cast<Index>(requests.size());
  // So many that all find a place at once.
  const Index at_once = std::clamp<Index>(kBlocksOfMultiprocessor * context.num_multiprocessors() / all, 1,
                                          CeilDiv(gists, kWarps * kTileKeys));
  return LaunchTogether(requests, [&]<int kMost>(const Together<ScoreRequest, kMost>& some, int count) {
    const auto kernel = requests.front().queries.heads_at_once == kTileHeads ? ScoreBf16Kernel<kDim, 1, kMost>
                                                                             : ScoreBf16Kernel<kDim, 2, kMost>;
    return context.Launch(kernel, {lists * at_once, kThreads, sizeof(ScoreShared<kDim>), "GistScore", false, count},
                          some, static_cast<unsigned>(at_once));
  });
}

}  // namespace

Status LaunchTensorCoreScore(CudaContext& context, const std::vector<ScoreRequest>& requests, Index lists) {
  switch (requests.front().in.queries.head_dim) {
    case 64: return Launch<64>(context, requests, lists);
    case 96: return Launch<96>(context, requests, lists);
    case 128: return Launch<128>(context, requests, lists);
    default: return Launch<256>(context, requests, lists);
  }
}

}  // namespace unfold
