// SPDX-License-Identifier: Apache-2.0
// What a block of SelectChunks has in shared memory, and how it finds the k-th best of many scores: the first part of
// the work of select.cu.
#ifndef UNFOLD_KERNELS_CUDA_SELECT_CUH_
#define UNFOLD_KERNELS_CUDA_SELECT_CUH_

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"

namespace unfold {

// Of a block: fewer where lists are short, and what all threads do alike takes most of the instructions.
constexpr int kMostSelectThreads = 512, kLeastSelectThreads = 256;
constexpr Index kShortList = 4096;
__device__ __forceinline__ int SelectThreads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int SelectWarps() { return static_cast<int>(blockDim.x) / kWarp; }
constexpr int kDigits = 256;
constexpr int kScoreParts = 1024;
constexpr int kPartsOfThread = kScoreParts / kLeastSelectThreads;
constexpr Index kMostHeldScores = 48 << 10;  // in shared memory
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

// The scores of one head, as its block has them: in shared memory as far as they have room, the others in memory, to be
// loaded for every look. A thread has fours of them, aligned, blockDim.x fours apart.
//
// What is done with few of them is a loop over those few: code for each of a thread's scores would be read from memory
// once a launch, which takes longer than to run it.
class Scores {
 public:
  // `held` has `room` places, a multiple of four. A place is an index and `shift_`; what a four has of other memory is
  // in the same 16 bytes. A thread looks at those that it has copied itself, so no barrier stands behind.
  __device__ Scores(const float* from, int count, float* held, int room)
      : shift_(static_cast<int>(reinterpret_cast<std::uintptr_t>(from) / sizeof(float) % kFour)),
        end_(count + shift_),
        held_end_(min(room, end_)),
        from_(from - shift_),
        held_(held) {
    for (int place = FirstPlace(); place < held_end_; place += Stride()) CopyAsync16(held + place, from_ + place, true);
    CommitCopies();
    WaitForCopies<0>();
    for (int place = FirstPlace(); place < held_end_; place += Stride()) {
      if (IsWhole(place)) continue;
      for (int e = 0; e < kFour; ++e) {
        if (place + e < shift_ || place + e >= end_) held[place + e] = -INFINITY;
      }
    }
  }

  // each(best, worst), of every kBestOf scores of a thread. NaN is no score, and minus infinity no worst; infinities
  // where there is none.
  template <typename Each>
  __device__ __forceinline__ void ForBest(Each each) const {
    for (int place = FirstPlace(); place < end_; place += kBestOf / kFour * Stride()) {
      float best = -INFINITY, worst = INFINITY;
#pragma unroll
      for (int n = 0; n < kBestOf / kFour; ++n) {
        if (place + n * Stride() >= end_) break;
        const float4 four = FourAt(place + n * Stride());
        for (const float score : {four.x, four.y, four.z, four.w}) {
          best = fmaxf(best, score);
          worst = fminf(worst, score == -INFINITY ? INFINITY : score);
        }
      }
      each(best, worst);
    }
  }
  // Of ForBest, at least.
  __device__ __forceinline__ int NumBest() const { return (end_ - shift_ + kBestOf - 1) / kBestOf; }

  // each(i, score) of those from part `lowest` on, in no order.
  template <typename Each>
  __device__ __forceinline__ void ForPartsFrom(const EqualParts& parts, int lowest, Each each) const {
    const auto least = static_cast<float>(lowest);
    for (int begin = FirstPlace(); begin < end_; begin += kFoursAtOnce * Stride()) {
      unsigned found = 0;
#pragma unroll 4
      for (int n = 0; n < kFoursAtOnce; ++n) {
        const int place = begin + n * Stride();
        if (place >= end_) break;
        const float4 four = FourAt(place);
        const unsigned own = (parts.Place(four.x) >= least ? 1U : 0U) | (parts.Place(four.y) >= least ? 2U : 0U) |
                             (parts.Place(four.z) >= least ? 4U : 0U) | (parts.Place(four.w) >= least ? 8U : 0U);
        found |= (lowest == 0 ? 15U : own) << (kFour * n);
      }
      for (; found != 0; found &= found - 1) {
        const int n = __ffs(static_cast<int>(found)) - 1, place = begin + n / kFour * Stride() + n % kFour;
        if (place >= shift_ && place < end_) each(place - shift_, place < held_end_ ? held_[place] : from_[place]);
      }
    }
  }

 private:
  static constexpr int kFour = 4, kFoursAtOnce = 32 / kFour;
  __device__ __forceinline__ static int FirstPlace() { return kFour * static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int Stride() { return kFour * SelectThreads(); }
  __device__ __forceinline__ bool IsWhole(int place) const { return place >= shift_ && place + kFour <= end_; }
  __device__ __forceinline__ float4 FourAt(int place) const {
    if (place < held_end_) return *reinterpret_cast<const float4*>(held_ + place);
    float4 four = *reinterpret_cast<const float4*>(from_ + place);
    if (!IsWhole(place)) {  // the last one: the first are held
      if (place + 1 >= end_) four.y = -INFINITY;
      if (place + 2 >= end_) four.z = -INFINITY;
      if (place + 3 >= end_) four.w = -INFINITY;
    }
    return four;
  }

  int shift_, end_, held_end_;
  const float* from_;
  const float* held_;
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

struct alignas(16) SelectShared {
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

  // Behind it: scores, then chosen candidates on their way to memory. Room for those of a list, or kMostHeldScores.
  __device__ __forceinline__ float* scores() { return reinterpret_cast<float*>(this + 1); }
  __device__ __forceinline__ std::int32_t* chosen() { return reinterpret_cast<std::int32_t*>(this + 1); }
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
