// SPDX-License-Identifier: Apache-2.0
// What a block of SelectChunks has in shared memory, and how it finds the k-th best of many scores: the first part of
// the work of select.cu.
#ifndef UNFOLD_KERNELS_CUDA_SELECT_CUH_
#define UNFOLD_KERNELS_CUDA_SELECT_CUH_

#include "kernels/cuda/common.cuh"

namespace unfold {

// Of a block: fewer where lists are short, and what all threads do alike takes most of the instructions.
constexpr int kMostSelectThreads = 512, kLeastSelectThreads = 256;
constexpr Index kShortList = 4096;
__device__ __forceinline__ int SelectThreads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int SelectWarps() { return static_cast<int>(blockDim.x) / kWarp; }
constexpr int kDigits = 256;
constexpr int kScoreParts = 1024;
constexpr int kPartsOfThread = kScoreParts / kLeastSelectThreads;
constexpr int kHeldScores = 32;  // of a thread, in registers
constexpr int kBestOf = 8;
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
  // The part, and what is cut off.
  __device__ __forceinline__ float Place(float score) const { return (score - low) * per_part; }
  __device__ __forceinline__ int Of(float score) const {
    const float place = Place(score);
    return place > 0 ? static_cast<int>(fminf(place, kScoreParts - 1)) : 0;
  }
};

// The scores of one head, as its block has them: thread t has every blockDim.x-th four from the t-th on, aligned, the
// first kHeldScores in registers; the others are loaded again, as many at a time, for every look.
//
// What is done with few of them is a loop over those few, which loads them again: code for each of a thread's scores
// would be read from memory once a launch, which takes longer than to run it.
class Scores {
 public:
  // A place is an index and `shift_`. What a four has of other memory is in the same 16 bytes.
  __device__ Scores(const float* from, int count)
      : shift_(static_cast<int>(reinterpret_cast<std::uintptr_t>(from) / sizeof(float) % kFour)),
        end_(count + shift_),
        from_(from - shift_) {
    Load(0, held_);
  }

  // each(best, worst), of every kBestOf scores of a thread. NaN is no score, and minus infinity no worst; infinities
  // where there is none.
  template <typename Each>
  __device__ __forceinline__ void ForBest(Each each) const {
    ForRounds([&](int begin, const float(&scores)[kHeldScores]) {
#pragma unroll
      for (int some = 0; some < kHeldScores; some += kBestOf) {
        if (!AnyFrom(begin, some)) return;
        float best = -INFINITY, worst = INFINITY;
#pragma unroll
        for (int n = some; n < some + kBestOf; ++n) {
          best = fmaxf(best, scores[n]);
          worst = fminf(worst, scores[n] == -INFINITY ? INFINITY : scores[n]);
        }
        each(best, worst);
      }
    });
  }
  // Of ForBest, at least.
  __device__ __forceinline__ int NumBest() const { return (end_ - shift_ + kBestOf - 1) / kBestOf; }

  // each(i, score) of those from part `lowest` on, in no order.
  template <typename Each>
  __device__ __forceinline__ void ForPartsFrom(const EqualParts& parts, int lowest, Each each) const {
    ForRounds([&](int begin, const float(&scores)[kHeldScores]) {
      unsigned found = 0;
#pragma unroll
      for (int n = 0; n < kHeldScores; ++n) {
        found |= parts.Place(scores[n]) >= static_cast<float>(lowest) ? 1U << n : 0U;
      }
      if (lowest == 0) found = ~0U;
      for (; found != 0; found &= found - 1) {
        const int place = PlaceOf(begin, __ffs(static_cast<int>(found)) - 1);
        if (place >= shift_ && place < end_) each(place - shift_, from_[place]);
      }
    });
  }

 private:
  static constexpr int kFour = 4;
  static_assert(kHeldScores == 32 && kBestOf % kFour == 0);
  __device__ __forceinline__ static int PlaceOf(int begin, int n) {
    return begin + (n / kFour * SelectThreads() + static_cast<int>(threadIdx.x)) * kFour + n % kFour;
  }
  // Whether a thread has any from its n-th on, so that all go the same way.
  __device__ __forceinline__ bool AnyFrom(int begin, int n) const { return begin + n * SelectThreads() < end_; }
  __device__ __forceinline__ void Load(int begin, float (&to)[kHeldScores]) const {
#pragma unroll
    for (int some = 0; some < kHeldScores; some += kBestOf) {
#pragma unroll
      for (int n = some; n < some + kBestOf; ++n) to[n] = -INFINITY;
      if (!AnyFrom(begin, some)) continue;
#pragma unroll
      for (int n = some; n < some + kBestOf; n += kFour) {
        const int place = PlaceOf(begin, n);
        if (place >= end_) continue;
        const float4 four = *reinterpret_cast<const float4*>(from_ + place);
        to[n] = four.x, to[n + 1] = four.y, to[n + 2] = four.z, to[n + 3] = four.w;
        if (place >= shift_ && place + kFour <= end_) continue;
#pragma unroll
        for (int e = 0; e < kFour; ++e) {
          if (place + e < shift_ || place + e >= end_) to[n + e] = -INFINITY;
        }
      }
    }
  }
  template <typename Look>
  __device__ __forceinline__ void ForRounds(Look look) const {
    look(0, held_);
    for (int begin = kHeldScores * SelectThreads(); begin < end_; begin += kHeldScores * SelectThreads()) {
      float scores[kHeldScores];
      Load(begin, scores);
      look(begin, scores);
    }
  }

  int shift_, end_;
  const float* from_;
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

// Marks of the candidates that a head keeps, before they are added to its list's: those of a list as long as this.
constexpr int kMarkWords = 2048;

struct SelectShared {
  unsigned marks[kMarkWords];
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

// Before KeepByParts, and a barrier.
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

// Of shared.sums, one of each of the first `warps` warps.
struct WarpSums {
  int before, all;
};
__device__ __forceinline__ WarpSums SumOfWarpsBefore(int warp, int warps, const SelectShared& shared) {
  const int lane = threadIdx.x % kWarp, own = lane < warps ? shared.sums[lane] : 0, through = WarpSumThrough(own);
  return {__shfl_sync(kAllLanes, through - own, warp), __shfl_sync(kAllLanes, through, kWarp - 1)};
}

// The part in which the wanted-th best lies, and how many lie in parts above it, from the counts of all parts.
static __device__ __noinline__ void FindPart(const int (&counts)[kScoreParts], int wanted, SelectShared& shared) {
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

// Calls keep(i) for each of the best `wanted`, of equal ones the first. False, and nothing kept, when too many are
// alike or the largest is not finite. ClearForParts and a barrier stand before.
//
// Where few are wanted, the best of every few scores of a thread tell a part below which the wanted-th best cannot lie:
// as many scores as are wanted are at least there. Those from it on are few more than that.
template <typename Keep>
__device__ __forceinline__ bool KeepByParts(const Scores& scores, int wanted, SelectShared& shared, Keep keep) {
  float least = INFINITY, largest = -INFINITY;
  const bool few = scores.NumBest() >= 2 * wanted;
  scores.ForBest([&](float best, float worst) {
    least = fminf(least, !few ? worst : best == -INFINITY ? INFINITY : best);
    largest = fmaxf(largest, best);
  });
  FindRange(least == INFINITY ? -INFINITY : least, largest, shared);
  const float high = ScoreOf(shared.largest);
  if (shared.least == 0xffffffffU || !isfinite(high)) return false;
  const EqualParts parts(ScoreOf(shared.least), high);
  PartsShared& in_parts = shared.parts;
  int lowest = 0;
  if (few) {
    scores.ForBest([&](float best, float) { atomicAdd(&in_parts.of_best[parts.Of(best)], 1); });
    __syncthreads();
    FindPart(in_parts.of_best, wanted, shared);
    lowest = shared.part;
  }
  scores.ForPartsFrom(parts, lowest, [&](int, float score) { atomicAdd(&in_parts.of_all[parts.Of(score)], 1); });
  __syncthreads();
  FindPart(in_parts.of_all, wanted, shared);
  const int part = shared.part, needed = wanted - shared.above;
  if (in_parts.of_all[part] > kMostMembers) return false;
  scores.ForPartsFrom(parts, part, [&](int i, float score) {
    if (parts.Of(score) > part) return keep(i);
    in_parts.ranked[atomicAdd(&in_parts.members, 1)] = OrderOf(RankOf(score), i);
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
