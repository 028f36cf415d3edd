// SPDX-License-Identifier: Apache-2.0
// GistScore and SelectChunks (method.md 4.1 to 4.4): the scores of the candidate gists, then per head the best of them,
// and the union over a group.
//
// Bytes of scoring: the candidates' keys once for every kHeadsAtOnce heads of a group. Selection reads the scores four
// times, from L2 when there are few rows.
// Tried (H200, 28/4 heads x 128, 128K tokens of context, launches included): scores by a warp for each key, queries
// rotated by a kernel of their own: 51 us; a thread for each key: 19. The best 330 of 16,384 by radix selection: 203
// us; by equal parts: 21.
#include <algorithm>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/candidates.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.cuh"

namespace unfold {
namespace {

constexpr int kScoreThreads = 128;

struct ScoreInputs {
  QueryInputs queries;
  const float* keys;
  const std::int32_t* segment;
  Candidates candidates;
  Index kv_heads, gists;
};

// One candidate a thread, for up to kHeadsAtOnce heads; document by document, as far as the block's candidates have
// them.
template <bool kVectors>
__global__ void __launch_bounds__(kScoreThreads) ScoreKernel(ScoreInputs in, float* scores) {
  extern __shared__ __align__(16) float queries[];  // [kHeadsAtOnce, D]
  const Index group = in.queries.heads / in.kv_heads, batches = CeilDiv(group, kHeadsAtOnce);
  const Index tiles = CeilDiv(in.gists, kScoreThreads);
  Index rest = blockIdx.x;
  const Index first = rest % tiles * kScoreThreads;
  rest /= tiles;
  const Index batch = rest % batches, list = rest / batches, t = list / in.kv_heads, kv_head = list % in.kv_heads;
  const Index count = in.candidates.gists == nullptr ? in.gists : in.candidates.counts[list];
  if (first >= count) return;
  const auto gist_at = [&](Index i) {
    return in.candidates.gists == nullptr ? i : Index{in.candidates.gists[list * in.gists + i]};
  };
  const auto document_of = [&](Index gist) {
    return FirstNotBelow(in.segment + 1, in.queries.documents, static_cast<std::int32_t>(gist) + 1);
  };
  const Index i = first + threadIdx.x, gist = gist_at(min(i, count - 1)), document = document_of(gist);
  if (document == in.queries.documents && i < count) {  // the segments end too early
    NoteFault(in.queries.faults, FaultKind::kScoreSegment, document, in.segment[document], in.gists);
  }
  const Index last_document =
      min(document_of(gist_at(min(first + kScoreThreads, count) - 1)), in.queries.documents - 1);
  const Index first_head = kv_head * group + batch * kHeadsAtOnce;
  const int heads = static_cast<int>(min(Index{kHeadsAtOnce}, group - batch * kHeadsAtOnce));
  const int d = static_cast<int>(in.queries.head_dim);
  for (Index now = document_of(gist_at(first)); now <= last_document; ++now) {
    __syncthreads();
    LoadQueries(in.queries, t, now, first_head, heads, queries);
    __syncthreads();
    if (document != now || i >= count) continue;
    float dots[kHeadsAtOnce];
    DotHeads<kVectors>(queries, in.keys + (kv_head * in.gists + gist) * d, d, dots);
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (h < heads) scores[(t * in.queries.heads + first_head + h) * in.gists + i] = dots[h];
    }
  }
}

constexpr int kSelectThreads = 1024;
constexpr int kDigits = 256;

// An integer that is larger for a better score. NaN ranks last, with minus infinity; the two zeros are equal.
__device__ __forceinline__ std::uint32_t RankOf(float score) {
  if (isnan(score)) score = -INFINITY;
  const std::uint32_t bits = __float_as_uint(score + 0.0F);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ __forceinline__ float ScoreOf(std::uint32_t rank) {
  return __uint_as_float((rank >> 31) != 0 ? rank & 0x7fffffffU : ~rank);
}

// What one head keeps: all candidates that rank above `rank`, and the first `ties` of those at it.
struct Cut {
  std::uint32_t rank;
  Index ties;
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

struct SelectShared {
  unsigned long long weights[kDigits];
  unsigned long long total;
  unsigned long long above;  // weight of the candidates that rank above all still open
  unsigned int best;
  unsigned int prefix;  // the digits found so far
};

// By count, from scores that are all finite or minus infinity: candidates are counted by where they lie between the
// smallest and the largest, in kBins equal parts, and of the part in which the k-th best lies the members are ranked
// one by one. Scores crowd, and atomics on the same digit wait for each other: radix selection takes four such passes.
constexpr int kBins = 2048;
constexpr int kMostMembers = 1024;  // of the part that is ranked; else radix selection does the work

struct BinsShared {
  int counts[kBins];
  unsigned least, largest;  // ranks
  int sums[kSelectThreads / kWarp];
  int bin, above;  // the part, and how many candidates lie above it
  int members;
  unsigned long long ranked[kMostMembers];  // rank, then the lower index first
  unsigned long long cut;
};

struct SelectShape {
  Index heads, kv_heads, gists, top_k;
  float top_p, scale;
};

// Radix selection, the highest digit first: the digit at which the weight from above reaches what is wanted.
__device__ Cut FindCut(const float* scores, Index count, const SelectShape& shape, SelectShared& shared) {
  if (threadIdx.x == 0) shared.best = 0, shared.total = 0, shared.above = 0, shared.prefix = 0;
  __syncthreads();
  unsigned long long wanted = static_cast<unsigned long long>(min(shape.top_k, count));
  Weigher weigh{false, 0, 0, 0};
  if (shape.top_p > 0) {
    std::uint32_t best = 0;
    for (Index i = threadIdx.x; i < count; i += kSelectThreads) best = max(best, RankOf(scores[i]));
    atomicMax(&shared.best, best);
    __syncthreads();
    const float largest = ScoreOf(shared.best);
    wanted = 1;  // an infinite best has all the mass
    if (isfinite(largest)) {
      weigh = {true, largest, shape.scale, exp2(static_cast<double>(__clzll(count) - 2))};
      unsigned long long mine = 0;
      for (Index i = threadIdx.x; i < count; i += kSelectThreads) mine += weigh(RankOf(scores[i]));
      atomicAdd(&shared.total, mine);
      __syncthreads();
      wanted = min(__double2ull_ru(double{shape.top_p} * static_cast<double>(shared.total)), shared.total);
      wanted = max(wanted, 1ULL);
    }
  }
  unsigned long long above = 0, equal = 0;
  std::uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int digit = threadIdx.x; digit < kDigits; digit += kSelectThreads) shared.weights[digit] = 0;
    __syncthreads();
    for (Index i = threadIdx.x; i < count; i += kSelectThreads) {
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
  return {prefix, static_cast<Index>((missing + each - 1) / each)};
}

// Larger for a better candidate: the rank of its score, then the lower index.
__device__ __forceinline__ unsigned long long OrderOf(std::uint32_t rank, Index i) {
  return static_cast<unsigned long long>(rank) << 32 | (0xffffffffU - static_cast<std::uint32_t>(i));
}

// The order of the worst candidate that is kept, or 0 when this way does not do.
__device__ unsigned long long FindCutInBins(const float* scores, Index count, Index top_k, BinsShared& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (threadIdx.x == 0) {
    shared.least = 0xffffffffU, shared.largest = 0, shared.members = 0;
    shared.cut = 0;
  }
  for (int bin = threadIdx.x; bin < kBins; bin += kSelectThreads) shared.counts[bin] = 0;
  __syncthreads();
  unsigned least = 0xffffffffU, largest = 0;
  for (Index i = threadIdx.x; i < count; i += kSelectThreads) {
    const std::uint32_t rank = RankOf(scores[i]);
    largest = max(largest, rank);
    if (ScoreOf(rank) != -INFINITY) least = min(least, rank);
  }
  least = __reduce_min_sync(kAllLanes, least);
  largest = __reduce_max_sync(kAllLanes, largest);
  if (lane == 0) {
    atomicMin(&shared.least, least);
    atomicMax(&shared.largest, largest);
  }
  __syncthreads();
  const float low = ScoreOf(shared.least), high = ScoreOf(shared.largest);
  if (shared.least == 0xffffffffU || high == INFINITY) return 0;
  // Ascends with the score, whatever rounds: a product with a constant above 0, and a cut of the fraction.
  const float width = fmaxf((high - low) * (1.0F / (kBins - 1)), 1e-37F);
  const float per_bin = 1.0F / width;
  const auto bin_of = [&](std::uint32_t rank) {
    const float place = (ScoreOf(rank) - low) * per_bin;
    return place > 0 ? static_cast<int>(fminf(place, kBins - 1)) : 0;
  };
  for (Index i = threadIdx.x; i < count; i += kSelectThreads) atomicAdd(&shared.counts[bin_of(RankOf(scores[i]))], 1);
  __syncthreads();
  // Each thread has two bins, the best thread first; how many candidates lie above them?
  const int top = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
  const int first = shared.counts[top], second = shared.counts[top - 1];
  const int through = WarpSumThrough(first + second);
  if (lane == kWarp - 1) shared.sums[warp] = through;
  __syncthreads();
  int above = through - first - second;
  for (int w = 0; w < warp; ++w) above += shared.sums[w];
  const int wanted = static_cast<int>(min(top_k, count));
  if (above < wanted && above + first >= wanted) shared.bin = top, shared.above = above;
  if (above + first < wanted && above + first + second >= wanted) shared.bin = top - 1, shared.above = above + first;
  __syncthreads();
  const int bin = shared.bin, needed = wanted - shared.above;
  for (Index i = threadIdx.x; i < count; i += kSelectThreads) {
    const std::uint32_t rank = RankOf(scores[i]);
    if (bin_of(rank) != bin) continue;
    const int place = atomicAdd(&shared.members, 1);
    if (place < kMostMembers) shared.ranked[place] = OrderOf(rank, i);
  }
  __syncthreads();
  const int members = shared.members;
  if (members > kMostMembers) return 0;
  if (threadIdx.x < members) {
    const unsigned long long own = shared.ranked[threadIdx.x];
    int better = 0;
    for (int other = 0; other < members; ++other) better += shared.ranked[other] > own ? 1 : 0;
    if (better == needed - 1) shared.cut = own;
  }
  __syncthreads();
  return shared.cut;
}

// One head of one row a block. Marks what it keeps in the list's bits, one for each candidate.
__global__ void __launch_bounds__(kSelectThreads)
    SelectKernel(const float* scores, Candidates candidates, SelectShape shape, Index words, unsigned* marks) {
  __shared__ union {
    SelectShared digits;
    BinsShared bins;
  } shared;
  __shared__ int warp_ties[kSelectThreads / kWarp];
  const Index row = blockIdx.x, group = shape.heads / shape.kv_heads, list = row / group;
  const Index count = candidates.gists == nullptr ? shape.gists : candidates.counts[list];
  if (count == 0) return;
  const float* mine = scores + row * shape.gists;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto mark = [&](Index first, bool kept) {
    const unsigned bits = __ballot_sync(kAllLanes, kept);
    if (lane == 0 && bits != 0) atomicOr(marks + list * words + first / kWarp + warp, bits);
  };
  if (shape.top_p == 0) {
    const unsigned long long cut = FindCutInBins(mine, count, shape.top_k, shared.bins);
    for (Index first = 0; cut != 0 && first < count; first += kSelectThreads) {
      const Index i = first + threadIdx.x;
      mark(first, i < count && OrderOf(RankOf(mine[i]), i) >= cut);
    }
    if (cut != 0) return;
    __syncthreads();
  }
  const Cut cut = FindCut(mine, count, shape, shared.digits);
  Index ties_before = 0;
  for (Index first = 0; first < count; first += kSelectThreads) {
    const Index i = first + threadIdx.x;
    const std::uint32_t rank = i < count ? RankOf(mine[i]) : 0;
    const unsigned ties = __ballot_sync(kAllLanes, i < count && rank == cut.rank);
    __syncthreads();
    if (lane == 0) warp_ties[warp] = __popc(ties);
    __syncthreads();
    Index place = ties_before + __popc(ties & ((1U << lane) - 1));
    for (int w = 0; w < kSelectThreads / kWarp; ++w) {
      if (w < warp) place += warp_ties[w];
      ties_before += warp_ties[w];
    }
    mark(first, i < count && (rank > cut.rank || (rank == cut.rank && place < cut.ties)));
  }
}

// One list a block: the marked candidates in ascending order.
__global__ void __launch_bounds__(kSelectThreads)
    CompactKernel(const unsigned* marks, Index words, Candidates candidates, Index gists, std::int32_t* chosen,
                  std::int32_t* counts) {
  __shared__ int sums[kSelectThreads / kWarp];
  const Index list = blockIdx.x;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  std::int32_t written = 0;
  for (Index first = 0; first < words; first += kSelectThreads) {
    const Index word = first + threadIdx.x;
    unsigned bits = word < words ? marks[list * words + word] : 0;
    const int own = __popc(bits), through = WarpSumThrough(own);
    __syncthreads();
    if (lane == kWarp - 1) sums[warp] = through;
    __syncthreads();
    Index at = written + through - own;
    for (int w = 0; w < kSelectThreads / kWarp; ++w) {
      if (w < warp) at += sums[w];
      written += sums[w];
    }
    for (; bits != 0; bits &= bits - 1) {
      const Index i = word * kWarp + __ffs(static_cast<int>(bits)) - 1;
      chosen[list * gists + at++] =
          candidates.gists == nullptr ? static_cast<std::int32_t>(i) : candidates.gists[list * gists + i];
    }
  }
  if (threadIdx.x == 0) counts[list] = written;
}

Tensor ChildOf(const ContextView* context, int level, const ChosenGists& parents) {
  return parents.gists.rank == 0 ? Tensor() : context->gists[level + 1].child;
}

}  // namespace

Status CudaBackend::DoGistScore(const GistScoreArgs& args) {
  const GistLevel& level = args.context->gists[args.level];
  const Index head_dim = args.q.dims[2], kv_heads = level.k.dims[0], gists = level.k.dims[1];
  if (head_dim > kMaxQueryDim) return Status::InvalidArgument("GistScore: cuda takes D up to 256");
  CallMemory memory(*context_, "GistScore");
  ScoreInputs in{MakeQueries(args.q, args.positions, args.rope, args.context->segment_offset, context_->NextCall(),
                             FaultKind::kScorePositions, FaultKind::kScoreOffsets),
                 level.k.as<float>(),
                 level.segment.as<std::int32_t>(),
                 {},
                 kv_heads,
                 gists};
  in.candidates = CollectCandidates(
      *context_, memory, args.parents, ChildOf(args.context, args.level, args.parents), gists,
      {FaultKind::kScoreParentCounts, FaultKind::kScoreParents, FaultKind::kScoreParentOrder, FaultKind::kScoreChild});
  UNFOLD_TRY(memory.status());
  const Index lists = args.q.dims[0] * kv_heads, batches = CeilDiv(args.q.dims[1] / kv_heads, kHeadsAtOnce);
  const Index blocks = lists * batches * CeilDiv(gists, kScoreThreads);
  if (blocks == 0) return Status::Ok();
  const bool vectors = head_dim % 4 == 0 && HasVectors(level.k.data);
  const auto kernel = vectors ? ScoreKernel<true> : ScoreKernel<false>;
  kernel<<<static_cast<unsigned>(blocks), kScoreThreads, kHeadsAtOnce * head_dim * sizeof(float), context_->stream()>>>(
      in, args.scores.as<float>());
  return context_->Launched("GistScore");
}

Status CudaBackend::DoSelectChunks(const SelectChunksArgs& args) {
  const auto [rows, heads, gists, unused] = args.scores.dims;
  const Index lists = rows * args.kv_heads, words = CeilDiv(gists, kWarp);
  if (lists == 0) return Status::Ok();
  CallMemory memory(*context_, "SelectChunks");
  const Candidates candidates =
      CollectCandidates(*context_, memory, args.parents, ChildOf(args.context, args.level, args.parents), gists,
                        {FaultKind::kSelectParentCounts, FaultKind::kSelectParents, FaultKind::kSelectParentOrder,
                         FaultKind::kSelectChild});
  auto* marks = memory.Zeros<unsigned>(lists * words);
  UNFOLD_TRY(memory.status());
  const SelectShape shape{heads, args.kv_heads, gists, args.top_k, args.top_p, args.scale};
  if (gists > 0) {
    SelectKernel<<<static_cast<unsigned>(rows * heads), kSelectThreads, 0, context_->stream()>>>(
        args.scores.as<float>(), candidates, shape, words, marks);
  }
  CompactKernel<<<static_cast<unsigned>(lists), kSelectThreads, 0, context_->stream()>>>(
      marks, words, candidates, gists, args.chosen.gists.as<std::int32_t>(), args.chosen.counts.as<std::int32_t>());
  return context_->Launched("SelectChunks");
}

}  // namespace unfold
