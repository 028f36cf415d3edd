// SPDX-License-Identifier: Apache-2.0
// What a block of SelectChunks has in shared memory, and how it finds the k-th best of many scores: the first part of
// the work of select.cu.
#ifndef UNFOLD_KERNELS_CUDA_SELECT_CUH_
#define UNFOLD_KERNELS_CUDA_SELECT_CUH_

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace unfold {

// Of a block: fewer where lists are short, and what all threads do alike takes most of the instructions.
constexpr int kMostSelectThreads = 1024, kUsualSelectThreads = 512, kLeastSelectThreads = 256;
constexpr Index kShortList = 4096, kLongList = 20000;
constexpr Index kLeastRoom = 2048;  // of SelectShared::list
__device__ __forceinline__ int SelectThreads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int SelectWarps() { return static_cast<int>(blockDim.x) / kWarp; }
constexpr int kDigits = 256;
constexpr int kScoreParts = 1024;
constexpr int kPartsOfThread = kScoreParts / kLeastSelectThreads;
constexpr int kLoadsAtOnce = 8;    // of a thread, under way
constexpr int kMostMembers = 512;  // of the part in which the k-th lies

// An integer that is larger for a better score. NaN ranks last, with minus infinity; the two zeros are equal.
__device__ __forceinline__ std::uint32_t RankOf(float score) {
  if (isnan(score)) score = -INFINITY;
  const std::uint32_t bits = __float_as_uint(score + 0.0F);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ __forceinline__ float ScoreOf(std::uint32_t rank) {
  return __uint_as_float((rank >> 31) != 0 ? rank & 0x7fffffffU : ~rank);
}

// Larger for a better candidate: the rank of its score, then the lower index.
using Order = unsigned long long;
__device__ __forceinline__ Order OrderOf(std::uint32_t rank, int i) {
  return static_cast<Order>(rank) << 32 | (0xffffffffU - static_cast<std::uint32_t>(i));
}
__device__ __forceinline__ std::uint32_t RankOf(Order order) { return static_cast<std::uint32_t>(order >> 32); }
__device__ __forceinline__ int IndexOf(Order order) {
  return static_cast<int>(0xffffffffU - static_cast<std::uint32_t>(order));
}

// kScoreParts equal parts between two scores. A score's part ascends with it, whatever rounds: a difference, a product
// with a constant above 0, and a cut of the fraction. What lies outside is in the first or the last, NaN in the first.
struct EqualParts {
  float low, per_part;

  __device__ EqualParts(float least, float largest)
      : low(least), per_part(1.0F / fmaxf((largest - least) * (1.0F / (kScoreParts - 1)), 1e-37F)) {}
  __device__ __forceinline__ int Of(float score) const {
    const float place = (score - low) * per_part;
    return place > 0 ? static_cast<int>(fminf(place, kScoreParts - 1)) : 0;
  }
};

// The scores of one head, and the best of every kScoresOfBest, where they are as many as are wanted: then so many
// scores are at least the least of them.
struct Scores {
  const float *all, *best;  // best: or null
  int count, num_best;

  __device__ Scores(const float* scores, const float* best_scores, int count, int wanted)
      : all(scores),
        count(count),
        num_best((count + static_cast<int>(kScoresOfBest) - 1) / static_cast<int>(kScoresOfBest)) {
    best = num_best >= wanted ? best_scores : nullptr;
  }
};

// each(i, value) for those of `count` values, all threads of a block taking part; several loads under way.
template <typename Each>
__device__ __forceinline__ void ForValues(const float* values, int count, Each each) {
  for (int begin = 0; begin < count; begin += kLoadsAtOnce * SelectThreads()) {
    const int first = begin + static_cast<int>(threadIdx.x);
    float own[kLoadsAtOnce];
#pragma unroll
    for (int n = 0; n < kLoadsAtOnce; ++n) {
      const int i = first + n * SelectThreads();
      own[n] = i < count ? __ldcg(values + i) : 0.0F;
    }
#pragma unroll
    for (int n = 0; n < kLoadsAtOnce; ++n) {
      const int i = first + n * SelectThreads();
      if (i < count) each(i, own[n]);
    }
  }
}

// The same for the scores of `tiles`, a tile as many lanes.
template <typename Each>
__device__ __forceinline__ void ForTiles(const Scores& scores, const int* tiles, int num_tiles, Each each) {
  constexpr int kLanes = static_cast<int>(kScoresOfBest);
  const int at_once = SelectThreads() / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int begin = 0; begin < num_tiles; begin += kLoadsAtOnce * at_once) {
    const int first = begin + static_cast<int>(threadIdx.x) / kLanes;
    int i[kLoadsAtOnce];
    float own[kLoadsAtOnce];
#pragma unroll
    for (int n = 0; n < kLoadsAtOnce; ++n) {
      const int tile = first + n * at_once;
      i[n] = tile < num_tiles ? tiles[tile] * kLanes + lane : scores.count;
      own[n] = i[n] < scores.count ? __ldcg(scores.all + i[n]) : 0.0F;
    }
#pragma unroll
    for (int n = 0; n < kLoadsAtOnce; ++n) {
      if (i[n] < scores.count) each(i[n], own[n]);
    }
  }
}

struct RadixShared {
  unsigned long long weights[kDigits];
  unsigned long long total;
  unsigned long long above;  // weight of the candidates that rank above all still open
  unsigned int best;
  unsigned int prefix;  // the digits found so far
};

struct PartsShared {
  int of_best[kScoreParts], of_all[kScoreParts];  // scores in each part
  int members, tiles;
  Order ranked[kMostMembers];
};

// Marks of the candidates that a head keeps, before they are added to its list's: those of a list as long as this.
constexpr int kMarkWords = 2048;

struct alignas(16) SelectShared {
  unsigned marks[kMarkWords];
  unsigned least, largest;  // ranks
  int sums[kMostSelectThreads / kWarp];
  int part, above;
  bool last;
  union {
    RadixShared radix;
    PartsShared parts;
  };

  // Behind it, `room` of a launch: tiles of scores, then chosen candidates on their way to memory.
  __device__ __forceinline__ int* list() { return reinterpret_cast<int*>(this + 1); }
};

// Before KeepByParts, and a barrier.
__device__ inline void ClearForParts(SelectShared& shared) {
  for (int part = threadIdx.x; part < kScoreParts; part += SelectThreads()) {
    shared.parts.of_best[part] = shared.parts.of_all[part] = 0;
  }
  if (threadIdx.x == 0) shared.least = 0xffffffffU, shared.largest = 0, shared.parts.members = shared.parts.tiles = 0;
}

// Smallest and largest of `count` values, as ranks in shared.least and shared.largest. NaN is no value, and minus
// infinity no smallest.
__device__ inline void FindRange(const float* values, int count, SelectShared& shared) {
  float least = INFINITY, largest = -INFINITY;
  ForValues(values, count, [&](int, float value) {
    least = fminf(least, value == -INFINITY ? INFINITY : value);
    largest = fmaxf(largest, value);
  });
  const unsigned low = __reduce_min_sync(kAllLanes, least == INFINITY ? 0xffffffffU : RankOf(least));
  const unsigned high = __reduce_max_sync(kAllLanes, RankOf(largest));
  if (threadIdx.x % kWarp == 0) {
    atomicMin(&shared.least, low);
    atomicMax(&shared.largest, high);
  }
  __syncthreads();
}

// Of shared.sums, one of each of the first `warps` warps.
struct WarpSums {
  int before, all;
};
__device__ __forceinline__ WarpSums SumOfWarpsBefore(int warp, int warps, const SelectShared& shared) {
  const int lane = threadIdx.x % kWarp, own = lane < warps ? shared.sums[lane] : 0, through = WarpSumThrough(own);
  return {__shfl_sync(kAllLanes, through - own, warp), __shfl_sync(kAllLanes, through, kWarp - 1)};
}

// The part in which the wanted-th best lies, and how many lie in parts above it, from the counts of all parts.
__device__ inline void FindPart(const int (&counts)[kScoreParts], int wanted, SelectShared& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  // Each of the first threads has some parts, the best thread first.
  const bool takes_part = threadIdx.x < kLeastSelectThreads;
  const int top = kScoreParts - 1 - kPartsOfThread * static_cast<int>(threadIdx.x);
  int own[kPartsOfThread], above = 0;
  if (takes_part) {
    int all = 0;
#pragma unroll
    for (int n = 0; n < kPartsOfThread; ++n) all += own[n] = counts[top - n];
    above = WarpSumThrough(all);
    if (lane == kWarp - 1) shared.sums[warp] = above;
    above -= all;
  }
  __syncthreads();
  if (takes_part) {
    above += SumOfWarpsBefore(warp, kLeastSelectThreads / kWarp, shared).before;
#pragma unroll
    for (int n = 0; n < kPartsOfThread; ++n) {
      if (above < wanted && above + own[n] >= wanted) shared.part = top - n, shared.above = above;
      above += own[n];
    }
  }
  __syncthreads();
}

// The tiles whose best is in part `lowest` or above, in shared.list(): one place for all of a warp.
__device__ inline void FindTiles(const Scores& scores, const EqualParts& parts, int lowest, SelectShared& shared) {
  const int lane = threadIdx.x % kWarp;
  for (int begin = 0; begin < scores.num_best; begin += SelectThreads()) {
    const int tile = begin + static_cast<int>(threadIdx.x);
    const bool open = tile < scores.num_best && parts.Of(__ldcg(scores.best + tile)) >= lowest;
    const unsigned all = __ballot_sync(kAllLanes, open);
    int place = 0;
    if (lane == 0 && all != 0) place = atomicAdd(&shared.parts.tiles, __popc(all));
    place = __shfl_sync(kAllLanes, place, 0) + __popc(all & ((1U << lane) - 1));
    if (open) shared.list()[place] = tile;
  }
  __syncthreads();
}

// Calls keep(i) for each of the best `wanted`, of equal ones the first. False, and nothing kept, when too many are
// alike or the largest is not finite. ClearForParts and a barrier stand before.
//
// The best of tiles tell the range, and a part below which the wanted-th best cannot lie: as many scores as are wanted
// are at least there. Where they are few, so are the tiles to be looked at.
template <typename Keep>
__device__ __forceinline__ bool KeepByParts(const Scores& scores, int wanted, SelectShared& shared, Keep keep) {
  const bool bounded = scores.best != nullptr;
  FindRange(bounded ? scores.best : scores.all, bounded ? scores.num_best : scores.count, shared);
  const float high = ScoreOf(shared.largest);
  if (shared.least == 0xffffffffU || !isfinite(high)) return false;
  const EqualParts parts(ScoreOf(shared.least), high);
  PartsShared& in_parts = shared.parts;
  int lowest = 0;
  bool few = false;
  if (bounded) {
    ForValues(scores.best, scores.num_best, [&](int, float best) { atomicAdd(&in_parts.of_best[parts.Of(best)], 1); });
    __syncthreads();
    FindPart(in_parts.of_best, wanted, shared);
    lowest = shared.part;
    few = 2 * (shared.above + in_parts.of_best[lowest]) <= scores.num_best;
    if (few) FindTiles(scores, parts, lowest, shared);
  }
  const auto for_open = [&](auto each) {
    if (few) {
      ForTiles(scores, shared.list(), in_parts.tiles, each);
    } else {
      ForValues(scores.all, scores.count, each);
    }
  };
  for_open([&](int, float score) {
    const int own = parts.Of(score);
    if (own >= lowest) atomicAdd(&in_parts.of_all[own], 1);
  });
  __syncthreads();
  FindPart(in_parts.of_all, wanted, shared);
  const int part = shared.part, needed = wanted - shared.above;
  if (in_parts.of_all[part] > kMostMembers) return false;
  for_open([&](int i, float score) {
    const int own = parts.Of(score);
    if (own > part) keep(i);
    if (own == part) in_parts.ranked[atomicAdd(&in_parts.members, 1)] = OrderOf(RankOf(score), i);
  });
  __syncthreads();
  // A member a warp, the others by its lanes.
  const int members = in_parts.members, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int own = warp; own < members; own += SelectWarps()) {
    int better = 0;
    for (int other = lane; other < members; other += kWarp) {
      better += in_parts.ranked[other] > in_parts.ranked[own] ? 1 : 0;
    }
    if (__reduce_add_sync(kAllLanes, better) < needed && lane == 0) keep(IndexOf(in_parts.ranked[own]));
  }
  return true;
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_SELECT_CUH_
