// SPDX-License-Identifier: Apache-2.0
// What a block of SelectChunks has in shared memory, and how it finds the k-th best of many scores: the first part of
// the work of select.cu.
#ifndef UNFOLD_KERNELS_CUDA_SELECT_CUH_
#define UNFOLD_KERNELS_CUDA_SELECT_CUH_

#include "kernels/cuda/common.cuh"

namespace unfold {

// Of a block, a power of two: fewer where the lists of several requests are short, so that all their blocks find a
// place at once.
constexpr int kMostSelectThreads = 1024, kLeastSelectThreads = 256;
__device__ __forceinline__ int SelectThreads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int SelectWarps() { return static_cast<int>(blockDim.x) / kWarp; }
constexpr int kDigits = 256;
constexpr int kScoreParts = 1024;
constexpr int kPartsOfThread = kScoreParts / kLeastSelectThreads;
constexpr int kHeldScores = 16;    // of a thread, in registers
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

// kScoreParts equal parts between two scores. A score's part ascends with it, whatever rounds: a product with a
// constant above 0, and a cut of the fraction. What lies outside is in the first or the last.
struct EqualParts {
  float low, per_part;

  __device__ EqualParts(float least, float largest)
      : low(least), per_part(1.0F / fmaxf((largest - least) * (1.0F / (kScoreParts - 1)), 1e-37F)) {}
  __device__ __forceinline__ int Of(float score) const {
    const float place = (score - low) * per_part;
    return place > 0 ? static_cast<int>(fminf(place, kScoreParts - 1)) : 0;
  }
};

// The scores of one head, as its block has them: thread t has every blockDim.x-th from t on, the first kHeldScores in
// registers; the others are loaded again, as many at a time, for every look.
class Scores {
 public:
  __device__ Scores(const float* from, int count) : from_(from), count_(count) { Load(0, held_); }

  // each(i, score), in no order. NaN has become minus infinity.
  template <typename Each>
  __device__ __forceinline__ void ForEach(Each each) const {
    ForRounds([&](int first, const float(&scores)[kHeldScores]) {
#pragma unroll
      for (int n = 0; n < kHeldScores; ++n) {
        const int i = first + n * SelectThreads();
        if (i < count_) each(i, scores[n]);
      }
    });
  }
  // each(score), of the best of every `of` scores of a thread: a power of two, up to kHeldScores.
  template <typename Each>
  __device__ __forceinline__ void ForBest(int of, Each each) const {
    ForRounds([&](int first, const float(&scores)[kHeldScores]) {
      float best = -INFINITY;
#pragma unroll
      for (int n = 0; n < kHeldScores; ++n) {
        best = fmaxf(best, scores[n]);
        if (((n + 1) & (of - 1)) != 0) continue;
        if (first + (n + 1 - of) * SelectThreads() < count_) each(best);
        best = -INFINITY;
      }
    });
  }
  // How many scores ForBest has, at least.
  __device__ __forceinline__ int NumBest(int of) const { return (count_ + of - 1) / of; }

 private:
  __device__ __forceinline__ void Load(int round, float (&to)[kHeldScores]) const {
    const int first = round + static_cast<int>(threadIdx.x);
#pragma unroll
    for (int n = 0; n < kHeldScores; ++n) {
      const int i = first + n * SelectThreads();
      to[n] = i < count_ ? from_[i] : -INFINITY;
    }
#pragma unroll
    for (int n = 0; n < kHeldScores; ++n) to[n] = isnan(to[n]) ? -INFINITY : to[n];
  }
  template <typename Look>
  __device__ __forceinline__ void ForRounds(Look look) const {
    look(static_cast<int>(threadIdx.x), held_);
    for (int round = kHeldScores * SelectThreads(); round < count_; round += kHeldScores * SelectThreads()) {
      float scores[kHeldScores];
      Load(round, scores);
      look(round + static_cast<int>(threadIdx.x), scores);
    }
  }

  const float* from_;
  int count_;
  float held_[kHeldScores];
};

struct RadixShared {
  unsigned long long weights[kDigits];
  unsigned long long total;
  unsigned long long above;  // weight of the candidates that rank above all still open
  unsigned int best;
  unsigned int prefix;  // the digits found so far
};

struct PartsShared {
  int of_best[kScoreParts], of_all[kScoreParts];  // scores in each part
  int members;
  Order ranked[kMostMembers];
};

struct SelectShared {
  unsigned least, largest;  // ranks
  int sums[kMostSelectThreads / kWarp];
  int part, above;
  Order cut;
  bool last;
  union {
    RadixShared radix;
    PartsShared parts;
  };
};

// Before FindCutByParts, and before a barrier.
__device__ inline void ClearForParts(SelectShared& shared) {
  for (int part = threadIdx.x; part < kScoreParts; part += SelectThreads()) {
    shared.parts.of_best[part] = shared.parts.of_all[part] = 0;
  }
  if (threadIdx.x == 0) shared.least = 0xffffffffU, shared.largest = 0, shared.parts.members = 0;
}

// Smallest and largest of all threads' values, in shared.least and shared.largest. Minus infinity is no smallest.
__device__ inline void FindRange(float least, float largest, SelectShared& shared) {
  const unsigned low = __reduce_min_sync(kAllLanes, least == -INFINITY ? 0xffffffffU : RankOf(least));
  const unsigned high = __reduce_max_sync(kAllLanes, RankOf(largest));
  if (threadIdx.x % kWarp == 0) {
    atomicMin(&shared.least, low);
    atomicMax(&shared.largest, high);
  }
  __syncthreads();
}

// Of shared.sums, one of each warp.
struct WarpSums {
  int before, all;
};
__device__ __forceinline__ WarpSums SumOfWarpsBefore(int warp, const SelectShared& shared) {
  const int lane = threadIdx.x % kWarp, own = lane < SelectWarps() ? shared.sums[lane] : 0,
            through = WarpSumThrough(own);
  return {__shfl_sync(kAllLanes, through - own, warp), __shfl_sync(kAllLanes, through, kWarp - 1)};
}

// The part in which the wanted-th best lies, and how many lie in parts above it, from the counts of all parts.
__device__ inline void FindPart(const int (&counts)[kScoreParts], int wanted, SelectShared& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  // Each of the first threads has some parts, the best thread first.
  const int top = kScoreParts - 1 - kPartsOfThread * static_cast<int>(threadIdx.x);
  int own[kPartsOfThread], all = 0;
#pragma unroll
  for (int n = 0; n < kPartsOfThread; ++n) all += own[n] = top >= 0 ? counts[top - n] : 0;
  const int through = WarpSumThrough(all);
  if (lane == kWarp - 1) shared.sums[warp] = through;
  __syncthreads();
  int above = through - all + SumOfWarpsBefore(warp, shared).before;
#pragma unroll
  for (int n = 0; n < kPartsOfThread; ++n) {
    if (above < wanted && above + own[n] >= wanted) shared.part = top - n, shared.above = above;
    above += own[n];
  }
  __syncthreads();
}

// Calls keep(i) for each of the best `wanted`, of equal ones the first. False, and nothing kept, when too many are
// alike or the largest is not finite. ClearForParts and a barrier stand before.
//
// The best of every few scores of a thread are enough to tell a part below which the wanted-th best cannot lie: as many
// scores as are wanted are at least there. Those from it on are few more than that, so all further steps have few.
template <typename Keep>
__device__ __forceinline__ bool KeepByParts(const Scores& scores, int wanted, SelectShared& shared, Keep keep) {
  int of = kHeldScores;
  while (of > 1 && scores.NumBest(of) < 2 * wanted) of /= 4;
  float least = INFINITY, largest = -INFINITY;
  scores.ForBest(of, [&](float score) {
    if (score != -INFINITY) least = fminf(least, score);
    largest = fmaxf(largest, score);
  });
  FindRange(least == INFINITY ? -INFINITY : least, largest, shared);
  const float high = ScoreOf(shared.largest);
  if (shared.least == 0xffffffffU || !isfinite(high)) return false;
  const EqualParts parts(ScoreOf(shared.least), high);
  PartsShared& in_parts = shared.parts;
  scores.ForBest(of, [&](float score) { atomicAdd(&in_parts.of_best[parts.Of(score)], 1); });
  __syncthreads();
  FindPart(in_parts.of_best, wanted, shared);
  if (of > 1) {
    const int lowest = shared.part;
    scores.ForEach([&](int, float score) {
      const int part = parts.Of(score);
      if (part >= lowest) atomicAdd(&in_parts.of_all[part], 1);
    });
    __syncthreads();
    FindPart(in_parts.of_all, wanted, shared);
  }
  const int part = shared.part, needed = wanted - shared.above;
  if ((of > 1 ? in_parts.of_all : in_parts.of_best)[part] > kMostMembers) return false;
  scores.ForEach([&](int i, float score) {
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
