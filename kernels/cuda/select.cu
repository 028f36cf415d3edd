// SPDX-License-Identifier: Apache-2.0
// SelectChunks (method.md 4.2 to 4.4) in one launch: a block finds what one head of one row keeps, and the last block
// of a list's heads unites them.
//
// Top-k: from a sample of the scores a bound that somewhat more than k candidates reach (from all, where the sample
// misleads); one pass collects those, and among them the k-th is found by equal parts between their smallest and
// largest. Where too many are alike or scores are not finite, and for top-p: radix selection. Each way is exact.
//
// Bytes: the scores once, from L2 when there are few rows.
// Tried (28/4 heads, launches included, the best 330 of 16,384): radix selection alone 203 us (H200); equal parts over
// all scores, four passes, then a kernel for the union 21 (H200); a list a cluster of 8 blocks, scores in shared
// memory 27, in registers, unrolled, 32 (H100).
#include <algorithm>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/candidates.h"
#include "kernels/cuda/common.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDigits = 256;
constexpr int kParts = 2 * kThreads;
constexpr int kMostCollected = 8192;
constexpr int kMostMembers = 512;   // of the part in which the k-th lies
constexpr int kWindowWords = 4096;  // of a union's marks

struct SelectShape {
  Index heads, kv_heads, gists, top_k;
  float top_p, scale;
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

// kParts equal parts between two scores. A score's part ascends with it, whatever rounds: a product with a constant
// above 0, and a cut of the fraction. What lies outside is in the first or the last.
struct EqualParts {
  float low, per_part;

  __device__ EqualParts(float least, float largest)
      : low(least), per_part(1.0F / fmaxf((largest - least) * (1.0F / (kParts - 1)), 1e-37F)) {}
  __device__ __forceinline__ int Of(std::uint32_t rank) const {
    const float place = (ScoreOf(rank) - low) * per_part;
    return place > 0 ? static_cast<int>(fminf(place, kParts - 1)) : 0;
  }
};

// How candidates weigh: 1 each towards top_k, or their softmax mass towards top_p as an integer, 1 standing for the
// best's. Sums of integers have no order, so the threads' order does not show.
struct Weigher {
  bool by_mass;
  float best;
  double scale, unit;

  __device__ unsigned long long operator()(std::uint32_t rank) const {
    if (!by_mass) return 1;
    return static_cast<unsigned long long>(exp(scale * (double{ScoreOf(rank)} - double{best})) * unit);
  }
};

// What one head keeps: all candidates that rank above `rank`, and the first `ties` of those at it.
struct Cut {
  std::uint32_t rank;
  int ties;
};

struct RadixShared {
  unsigned long long weights[kDigits];
  unsigned long long total;
  unsigned long long above;  // weight of the candidates that rank above all still open
  unsigned int best;
  unsigned int prefix;  // the digits found so far
};

struct SampleShared {
  int counts[kParts];
  int collected, members;
  Order order[kMostCollected];
  Order ranked[kMostMembers];
};

struct Shared {
  union {
    RadixShared radix;
    SampleShared sample;
    unsigned marks[kWindowWords];
  };
  unsigned least, largest;  // ranks
  int sums[kWarps];
  int part, above;
  Order cut;
  int kept;
  bool last;
};

// Radix selection, the highest digit first: the digit at which the weight from above reaches what is wanted.
__device__ Cut FindCut(const float* scores, int count, const SelectShape& shape, RadixShared& shared) {
  if (threadIdx.x == 0) shared.best = 0, shared.total = 0, shared.above = 0, shared.prefix = 0;
  __syncthreads();
  auto wanted = static_cast<unsigned long long>(min(shape.top_k, Index{count}));
  Weigher weigh{false, 0, 0, 0};
  if (shape.top_p > 0) {
    std::uint32_t best = 0;
    for (int i = threadIdx.x; i < count; i += kThreads) best = max(best, RankOf(scores[i]));
    atomicMax(&shared.best, best);
    __syncthreads();
    const float largest = ScoreOf(shared.best);
    wanted = 1;  // an infinite best has all the mass
    if (isfinite(largest)) {
      weigh = {true, largest, shape.scale, exp2(static_cast<double>(__clzll(count) - 2))};
      unsigned long long mine = 0;
      for (int i = threadIdx.x; i < count; i += kThreads) mine += weigh(RankOf(scores[i]));
      atomicAdd(&shared.total, mine);
      __syncthreads();
      wanted = min(__double2ull_ru(double{shape.top_p} * static_cast<double>(shared.total)), shared.total);
      wanted = max(wanted, 1ULL);
    }
  }
  unsigned long long above = 0, equal = 0;
  std::uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int digit = threadIdx.x; digit < kDigits; digit += kThreads) shared.weights[digit] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const std::uint32_t rank = RankOf(scores[i]);
      if (shift < 24 && rank >> (shift + 8) != prefix) continue;
      atomicAdd(&shared.weights[rank >> shift & (kDigits - 1)], weigh(rank));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = kDigits - 1;
      unsigned long long reached = above;
      while (digit > 0 && reached + shared.weights[digit] < wanted) reached += shared.weights[digit--];
      shared.above = reached;
      shared.prefix = prefix << 8 | static_cast<unsigned>(digit);
      shared.total = shared.weights[digit];
    }
    __syncthreads();
    above = shared.above, prefix = shared.prefix, equal = shared.total;
    __syncthreads();
  }
  // All candidates at the cut weigh the same.
  const unsigned long long each = max(weigh(prefix), 1ULL), missing = min(wanted - above, equal);
  return {prefix, static_cast<int>((missing + each - 1) / each)};
}

// Smallest and largest of all threads' values, in shared.least and shared.largest. Minus infinity is no smallest.
__device__ void FindRange(std::uint32_t least, std::uint32_t largest, Shared& shared) {
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

// The part in which the wanted-th best lies, and how many lie in parts above it, from the counts of all parts.
__device__ void FindPart(int wanted, Shared& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  // Each thread has two parts, the best thread first.
  const int top = kParts - 1 - 2 * static_cast<int>(threadIdx.x);
  const int first = shared.sample.counts[top], second = shared.sample.counts[top - 1];
  const int through = WarpSumThrough(first + second);
  if (lane == kWarp - 1) shared.sums[warp] = through;
  __syncthreads();
  const int sums = shared.sums[lane];
  const int above = through - first - second + __shfl_sync(kAllLanes, WarpSumThrough(sums) - sums, warp);
  if (above < wanted && above + first >= wanted) shared.part = top, shared.above = above;
  if (above + first < wanted && above + first + second >= wanted) shared.part = top - 1, shared.above = above + first;
  __syncthreads();
}

__device__ void ClearCounts(SampleShared& sample) {
  for (int part = threadIdx.x; part < kParts; part += kThreads) sample.counts[part] = 0;
}

// The lowest of kParts parts that has candidates which may be among the best `wanted`, and the parts. Looks at all
// scores, or at a sample of a thread each. False when it cannot be told so.
__device__ bool FindLowestPart(const float* scores, int count, int wanted, bool sampled, EqualParts* parts, int* lowest,
                               Shared& shared) {
  const int looked_at = sampled ? kThreads : count;
  const auto rank_at = [&](int n) {
    const auto spread = static_cast<unsigned long long>(n) * static_cast<unsigned>(count) / kThreads;
    return RankOf(scores[sampled ? static_cast<int>(spread) : n]);
  };
  std::uint32_t least = 0xffffffffU, largest = 0;
  for (int n = threadIdx.x; n < looked_at; n += kThreads) {
    least = min(least, AsLeast(rank_at(n)));
    largest = max(largest, rank_at(n));
  }
  ClearCounts(shared.sample);
  FindRange(least, largest, shared);
  const float high = ScoreOf(shared.largest);
  if (shared.least == 0xffffffffU || !isfinite(high)) return false;
  *parts = EqualParts(ScoreOf(shared.least), high);
  for (int n = threadIdx.x; n < looked_at; n += kThreads) atomicAdd(&shared.sample.counts[parts->Of(rank_at(n))], 1);
  __syncthreads();
  int needed = wanted;
  if (sampled) {  // as many as the best `wanted` have of the sample, and four standard deviations
    const float share = static_cast<float>(wanted) * kThreads / static_cast<float>(count);
    needed = static_cast<int>(share + 4 * sqrtf(share) + 3);
    if (needed >= kThreads) return false;
  }
  FindPart(needed, shared);
  *lowest = shared.part;
  return true;
}

// Collects the candidates from part `lowest` on in shared.sample.order. False when they are too few or too many.
__device__ bool Collect(const float* scores, int count, int wanted, const EqualParts& parts, int lowest,
                        Shared& shared) {
  SampleShared& sample = shared.sample;
  const int lane = threadIdx.x % kWarp;
  __syncthreads();
  if (threadIdx.x == 0) sample.collected = 0;
  __syncthreads();
  constexpr int kAtOnce = 8;
  for (int base = 0; base < count; base += kAtOnce * kThreads) {
    const int first = base + static_cast<int>(threadIdx.x);
    float own[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) own[n] = first + n * kThreads < count ? scores[first + n * kThreads] : 0.0F;
    unsigned hits = 0;
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      if (first + n * kThreads < count && (lowest == 0 || parts.Of(RankOf(own[n])) >= lowest)) hits |= 1U << n;
    }
    // One place for all of a warp.
    const int mine = __popc(hits), through = WarpSumThrough(mine);
    int place = 0;
    if (lane == kWarp - 1 && through > 0) place = atomicAdd(&sample.collected, through);
    place = __shfl_sync(kAllLanes, place, kWarp - 1) + through - mine;
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      if ((hits >> n & 1) == 0) continue;
      if (place < kMostCollected) sample.order[place] = OrderOf(RankOf(own[n]), first + n * kThreads);
      ++place;
    }
  }
  __syncthreads();
  return sample.collected >= wanted && sample.collected <= kMostCollected;
}

// Candidates among which the best `wanted` are: all, if they are few; by a sample; by a look at all.
__device__ bool CollectBest(const float* scores, int count, int wanted, Shared& shared) {
  EqualParts parts(0, 0);
  int lowest = 0;
  if (count <= kMostCollected / 4) return Collect(scores, count, wanted, parts, 0, shared);
  for (const bool sampled : {true, false}) {
    if (FindLowestPart(scores, count, wanted, sampled, &parts, &lowest, shared) &&
        Collect(scores, count, wanted, parts, lowest, shared)) {
      return true;
    }
    __syncthreads();
  }
  return false;
}

// The wanted-th best of the collected, in shared.cut. False when too many are alike, or not finite.
__device__ bool FindAmongCollected(int wanted, Shared& shared) {
  SampleShared& sample = shared.sample;
  const int collected = sample.collected, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  std::uint32_t least = 0xffffffffU, largest = 0;
  for (int i = threadIdx.x; i < collected; i += kThreads) {
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
  for (int i = threadIdx.x; i < collected; i += kThreads)
    atomicAdd(&sample.counts[parts.Of(RankOf(sample.order[i]))], 1);
  __syncthreads();
  FindPart(wanted, shared);
  for (int i = threadIdx.x; i < collected; i += kThreads) {
    if (parts.Of(RankOf(sample.order[i])) != shared.part) continue;
    const int place = atomicAdd(&sample.members, 1);
    if (place < kMostMembers) sample.ranked[place] = sample.order[i];
  }
  __syncthreads();
  const int members = sample.members, needed = wanted - shared.above;
  if (members > kMostMembers) return false;
  // A member a warp, the others by its lanes.
  for (int own = warp; own < members; own += kWarps) {
    int better = 0;
    for (int other = lane; other < members; other += kWarp) better += sample.ranked[other] > sample.ranked[own] ? 1 : 0;
    better = __reduce_add_sync(kAllLanes, better);
    if (lane == 0 && better == needed - 1) shared.cut = sample.ranked[own];
  }
  __syncthreads();
  return true;
}

// The marked candidates of one list in ascending order, kWindowWords of marks at a time.
__device__ void Unite(const std::int32_t* kept, const std::int32_t* kept_counts, int group, Index most, int count,
                      const std::int32_t* candidates, std::int32_t* chosen, std::int32_t* chosen_count,
                      Shared& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int written = 0;
  for (int window = 0; window < count; window += kWindowWords * kWarp) {
    const int words = min(kWindowWords, (count - window + kWarp - 1) / kWarp);
    __syncthreads();
    for (int word = threadIdx.x; word < words; word += kThreads) shared.marks[word] = 0;
    __syncthreads();
    for (int h = 0; h < group; ++h) {
      const int of_head = __ldcg(kept_counts + h);
      for (int n = threadIdx.x; n < of_head; n += kThreads) {
        const int i = __ldcg(kept + h * most + n) - window;
        if (i >= 0 && i < words * kWarp) atomicOr(&shared.marks[i / kWarp], 1U << (i % kWarp));
      }
    }
    __syncthreads();
    for (int first = 0; first < words; first += kThreads) {
      const int word = first + static_cast<int>(threadIdx.x);
      unsigned bits = word < words ? shared.marks[word] : 0;
      const int own = __popc(bits), through = WarpSumThrough(own);
      __syncthreads();
      if (lane == kWarp - 1) shared.sums[warp] = through;
      __syncthreads();
      const int sums = shared.sums[lane], sums_through = WarpSumThrough(sums);
      int at = written + through - own + __shfl_sync(kAllLanes, sums_through - sums, warp);
      written += __shfl_sync(kAllLanes, sums_through, kWarp - 1);
      for (; bits != 0; bits &= bits - 1) {
        const int i = window + word * kWarp + __ffs(static_cast<int>(bits)) - 1;
        chosen[at++] = candidates == nullptr ? i : candidates[i];
      }
    }
  }
  if (threadIdx.x == 0) *chosen_count = written;
}

struct Kept {
  std::int32_t* gists;   // [T, H, most], in no order
  std::int32_t* counts;  // [T, H]
  Index most;
};

// One head of one row a block.
__global__ void __launch_bounds__(kThreads)
    SelectKernel(const float* scores, Candidates candidates, SelectShape shape, Kept kept, unsigned* finished,
                 std::int32_t* chosen, std::int32_t* counts) {
  extern __shared__ __align__(16) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  WaitForWorkBefore();
  const unsigned row = blockIdx.x;
  const unsigned group = static_cast<unsigned>(shape.heads) / static_cast<unsigned>(shape.kv_heads), list = row / group;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int count = candidates.gists == nullptr ? static_cast<int>(shape.gists) : candidates.counts[list];
  const float* mine = scores + row * shape.gists;
  std::int32_t* to = kept.gists + row * kept.most;
  const auto wanted = static_cast<int>(min(shape.top_k, Index{count}));
  if (threadIdx.x == 0) shared.kept = 0;
  __syncthreads();
  const auto keep = [&](int i) { to[atomicAdd(&shared.kept, 1)] = i; };
  if (count > 0 && shape.top_p == 0 && CollectBest(mine, count, wanted, shared) && FindAmongCollected(wanted, shared)) {
    const Order cut = shared.cut;
    for (int i = threadIdx.x; i < shared.sample.collected; i += kThreads) {
      if (shared.sample.order[i] >= cut) keep(IndexOf(shared.sample.order[i]));
    }
  } else if (count > 0) {
    __syncthreads();
    const Cut cut = FindCut(mine, count, shape, shared.radix);
    int ties_before = 0;
    for (int first = 0; first < count; first += kThreads) {
      const int i = first + static_cast<int>(threadIdx.x);
      const std::uint32_t rank = i < count ? RankOf(mine[i]) : 0;
      const unsigned ties = __ballot_sync(kAllLanes, i < count && rank == cut.rank);
      __syncthreads();
      if (lane == 0) shared.sums[warp] = __popc(ties);
      __syncthreads();
      int place = ties_before + __popc(ties & ((1U << lane) - 1));
      for (int w = 0; w < kWarps; ++w) {
        if (w < warp) place += shared.sums[w];
        ties_before += shared.sums[w];
      }
      if (i < count && (rank > cut.rank || (rank == cut.rank && place < cut.ties))) keep(i);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) kept.counts[row] = shared.kept;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared.last = atomicInc(finished + list, group - 1) == group - 1;
  __syncthreads();
  if (!shared.last) return;
  __threadfence();
  const Index first = Index{list} * group;
  Unite(kept.gists + first * kept.most, kept.counts + first, static_cast<int>(group), kept.most, count,
        candidates.gists == nullptr ? nullptr : candidates.gists + list * shape.gists, chosen + list * shape.gists,
        counts + list, shared);
}

Tensor ChildOf(const ContextView* context, int level, const ChosenGists& parents) {
  return parents.gists.rank == 0 ? Tensor() : context->gists[level + 1].child;
}

}  // namespace

Status CudaBackend::DoSelectChunks(const SelectChunksArgs& args) {
  const auto [rows, heads, gists, unused] = args.scores.dims;
  const Index lists = rows * args.kv_heads;
  if (lists == 0) return Status::Ok();
  CallMemory memory(*context_, "SelectChunks");
  const Candidates candidates =
      CollectCandidates(*context_, memory, args.parents, ChildOf(args.context, args.level, args.parents), gists,
                        {FaultKind::kSelectParentCounts, FaultKind::kSelectParents, FaultKind::kSelectParentOrder,
                         FaultKind::kSelectChild});
  const SelectShape shape{heads, args.kv_heads, gists, args.top_k, args.top_p, args.scale};
  Kept kept{nullptr, memory.Array<std::int32_t>(rows * heads), args.top_p > 0 ? gists : std::min(args.top_k, gists)};
  kept.gists = memory.Array<std::int32_t>(rows * heads * kept.most);
  UNFOLD_TRY(memory.status());
  UNFOLD_TRY_ASSIGN(unsigned* finished, context_->Counters(lists));
  return context_->Launch(SelectKernel, {rows * heads, kThreads, sizeof(Shared), "SelectChunks"},
                          args.scores.as<float>(), candidates, shape, kept, finished,
                          args.chosen.gists.as<std::int32_t>(), args.chosen.counts.as<std::int32_t>());
}

}  // namespace unfold
