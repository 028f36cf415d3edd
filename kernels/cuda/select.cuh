// SPDX-License-Identifier: Apache-2.0
// What a block of SelectChunks has in shared memory, and how it finds the k-th best of many scores: the first part of
// the work of select.cu.
#ifndef UNFOLD_KERNELS_CUDA_SELECT_CUH_
#define UNFOLD_KERNELS_CUDA_SELECT_CUH_

#include <algorithm>

#include "kernels/cuda/common.cuh"

namespace unfold {

// Of a block, a power of two. Few: what all threads do alike takes most of the instructions; fewer still where the
// lists of several requests are short, so that all their blocks find a place at once.
constexpr int kMostSelectThreads = 512, kLeastSelectThreads = 256;
__device__ __forceinline__ int SelectThreads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int SelectWarps() { return static_cast<int>(blockDim.x) / kWarp; }
constexpr int kDigits = 256;
constexpr int kScoreParts = 1024;
constexpr int kPartsOfThread = kScoreParts / kLeastSelectThreads;
constexpr int kSample = 1024;
constexpr int kLoadsAtOnce = 8;    // loads of a thread under way
constexpr int kMostMembers = 512;  // of the part in which the k-th lies

// What a launch has room for: the smaller, the more blocks share a multiprocessor.
struct SelectRoom {
  int collected;  // candidates among which the k-th is sought: about k and what a sample cannot tell
  int words;      // of a union's marks, 32 candidates each

  static constexpr Index kLeastCollected = 2048, kMostCollected = 8192, kMostWords = 4096;
  SelectRoom(Index top_k, Index gists)
      : collected(static_cast<int>(std::clamp(4 * top_k + gists / kWarp, kLeastCollected, kMostCollected))),
        words(static_cast<int>(std::clamp<Index>(CeilDiv(gists, kWarp), 1, kMostWords))) {}
};

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
  __device__ __forceinline__ int Of(std::uint32_t rank) const {
    const float place = (ScoreOf(rank) - low) * per_part;
    return place > 0 ? static_cast<int>(fminf(place, kScoreParts - 1)) : 0;
  }
};

struct RadixShared {
  unsigned long long weights[kDigits];
  unsigned long long total;
  unsigned long long above;  // weight of the candidates that rank above all still open
  unsigned int best;
  unsigned int prefix;  // the digits found so far
};

struct SampleShared {
  int counts[kScoreParts];
  int collected, members;
  Order ranked[kMostMembers];
  Order order[1];  // and more, SelectRoom::collected
};

struct SelectShared {
  unsigned least, largest;  // ranks
  int sums[kMostSelectThreads / kWarp];
  int part, above;
  Order cut;
  int kept;
  bool last;
  union {
    RadixShared radix;
    SampleShared sample;
    unsigned marks[1];  // and more, SelectRoom::words
  };

  static std::size_t Bytes(const SelectRoom& room) {
    return sizeof(SelectShared) + std::max(room.collected * sizeof(Order), room.words * sizeof(unsigned));
  }
};

// Smallest and largest of all threads' values, in shared.least and shared.largest. Minus infinity is no smallest.
__device__ inline void FindRange(std::uint32_t least, std::uint32_t largest, SelectShared& shared) {
  if (threadIdx.x == 0) shared.least = 0xffffffffU, shared.largest = 0;
  __syncthreads();
  least = __reduce_min_sync(kAllLanes, least);
  largest = __reduce_max_sync(kAllLanes, largest);
  if (threadIdx.x % kWarp == 0) {
    atomicMin(&shared.least, least);
    atomicMax(&shared.largest, largest);
  }
  __syncthreads();
}
__device__ __forceinline__ std::uint32_t AsLeast(std::uint32_t rank) {
  return ScoreOf(rank) == -INFINITY ? 0xffffffffU : rank;
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
__device__ inline void FindPart(int wanted, SelectShared& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  // Each of the first threads has some parts, the best thread first.
  const int top = kScoreParts - 1 - kPartsOfThread * static_cast<int>(threadIdx.x);
  int own[kPartsOfThread], all = 0;
#pragma unroll
  for (int n = 0; n < kPartsOfThread; ++n) all += own[n] = top >= 0 ? shared.sample.counts[top - n] : 0;
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

__device__ inline void ClearCounts(SampleShared& sample) {
  for (int part = threadIdx.x; part < kScoreParts; part += SelectThreads()) sample.counts[part] = 0;
}

// The lowest of kScoreParts parts that has candidates which may be among the best `wanted`, and the parts. Looks at all
// scores, or at kSample of them. False when it cannot be told so.
__device__ inline bool FindLowestPart(const float* scores, int count, int wanted, bool sampled, EqualParts* parts,
                                      int* lowest, SelectShared& shared) {
  const int looked_at = sampled ? kSample : count;
  const auto rank_at = [&](int n) {
    const auto spread = static_cast<unsigned long long>(n) * static_cast<unsigned>(count) / kSample;
    return RankOf(scores[sampled ? static_cast<int>(spread) : n]);
  };
  std::uint32_t least = 0xffffffffU, largest = 0;
  for (int n = threadIdx.x; n < looked_at; n += SelectThreads()) {
    least = min(least, AsLeast(rank_at(n)));
    largest = max(largest, rank_at(n));
  }
  ClearCounts(shared.sample);
  FindRange(least, largest, shared);
  const float high = ScoreOf(shared.largest);
  if (shared.least == 0xffffffffU || !isfinite(high)) return false;
  *parts = EqualParts(ScoreOf(shared.least), high);
  for (int n = threadIdx.x; n < looked_at; n += SelectThreads())
    atomicAdd(&shared.sample.counts[parts->Of(rank_at(n))], 1);
  __syncthreads();
  int needed = wanted;
  if (sampled) {  // as many as the best `wanted` have of the sample, and four standard deviations
    const float share = static_cast<float>(wanted) * kSample / static_cast<float>(count);
    needed = static_cast<int>(share + 4 * sqrtf(share) + 3);
    if (needed >= kSample) return false;
  }
  FindPart(needed, shared);
  *lowest = shared.part;
  return true;
}

// Collects the candidates from part `lowest` on in shared.sample.order. False when they are too few or too many.
__device__ inline bool Collect(const float* scores, int count, int wanted, const EqualParts& parts, int lowest,
                               const SelectRoom& room, SelectShared& shared) {
  SampleShared& sample = shared.sample;
  const int lane = threadIdx.x % kWarp;
  __syncthreads();
  if (threadIdx.x == 0) sample.collected = 0;
  __syncthreads();
  for (int base = 0; base < count; base += kLoadsAtOnce * SelectThreads()) {
    const int first = base + static_cast<int>(threadIdx.x);
    float own[kLoadsAtOnce];
#pragma unroll
    for (int n = 0; n < kLoadsAtOnce; ++n)
      own[n] = first + n * SelectThreads() < count ? scores[first + n * SelectThreads()] : 0.0F;
    unsigned hits = 0;
#pragma unroll
    for (int n = 0; n < kLoadsAtOnce; ++n) {
      if (first + n * SelectThreads() < count && (lowest == 0 || parts.Of(RankOf(own[n])) >= lowest)) hits |= 1U << n;
    }
    // One place for all of a warp.
    const int mine = __popc(hits), through = WarpSumThrough(mine);
    int place = 0;
    if (lane == kWarp - 1 && through > 0) place = atomicAdd(&sample.collected, through);
    place = __shfl_sync(kAllLanes, place, kWarp - 1) + through - mine;
#pragma unroll
    for (int n = 0; n < kLoadsAtOnce; ++n) {
      if ((hits >> n & 1) == 0) continue;
      if (place < room.collected) sample.order[place] = OrderOf(RankOf(own[n]), first + n * SelectThreads());
      ++place;
    }
  }
  __syncthreads();
  return sample.collected >= wanted && sample.collected <= room.collected;
}

// Candidates among which the best `wanted` are: all, if they are few; by a sample; by a look at all.
__device__ inline bool CollectBest(const float* scores, int count, int wanted, const SelectRoom& room,
                                   SelectShared& shared) {
  EqualParts parts(0, 0);
  int lowest = 0;
  if (count <= kSample) return Collect(scores, count, wanted, parts, 0, room, shared);
  for (const bool sampled : {true, false}) {
    if (FindLowestPart(scores, count, wanted, sampled, &parts, &lowest, shared) &&
        Collect(scores, count, wanted, parts, lowest, room, shared)) {
      return true;
    }
    __syncthreads();
  }
  return false;
}

// The wanted-th best of the collected, in shared.cut. False when too many are alike, or not finite.
__device__ inline bool FindAmongCollected(int wanted, SelectShared& shared) {
  SampleShared& sample = shared.sample;
  const int collected = sample.collected, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  std::uint32_t least = 0xffffffffU, largest = 0;
  for (int i = threadIdx.x; i < collected; i += SelectThreads()) {
    const std::uint32_t rank = RankOf(sample.order[i]);
    least = min(least, AsLeast(rank));
    largest = max(largest, rank);
  }
  ClearCounts(sample);
  if (threadIdx.x == 0) sample.members = 0;
  FindRange(least, largest, shared);
  const float low = ScoreOf(shared.least), high = ScoreOf(shared.largest);
  if (shared.least == 0xffffffffU || !isfinite(high)) return false;
  const EqualParts parts(low, high);
  for (int i = threadIdx.x; i < collected; i += SelectThreads())
    atomicAdd(&sample.counts[parts.Of(RankOf(sample.order[i]))], 1);
  __syncthreads();
  FindPart(wanted, shared);
  for (int i = threadIdx.x; i < collected; i += SelectThreads()) {
    if (parts.Of(RankOf(sample.order[i])) != shared.part) continue;
    const int place = atomicAdd(&sample.members, 1);
    if (place < kMostMembers) sample.ranked[place] = sample.order[i];
  }
  __syncthreads();
  const int members = sample.members, needed = wanted - shared.above;
  if (members > kMostMembers) return false;
  // A member a warp, the others by its lanes.
  for (int own = warp; own < members; own += SelectWarps()) {
    int better = 0;
    for (int other = lane; other < members; other += kWarp) better += sample.ranked[other] > sample.ranked[own] ? 1 : 0;
    better = __reduce_add_sync(kAllLanes, better);
    if (lane == 0 && better == needed - 1) shared.cut = sample.ranked[own];
  }
  __syncthreads();
  return true;
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_SELECT_CUH_
