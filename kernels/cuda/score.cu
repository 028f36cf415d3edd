// SPDX-License-Identifier: Apache-2.0
// GistScore and SelectChunks (method.md 4.1 to 4.4): the scores of the candidate gists, then per head the best of them
// by radix selection, and the union over a group.
//
// Bytes of scoring: the candidates' keys once for each row and key/value head. Selection reads each score five times,
// from L2 when there are few rows.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.h"

namespace unfold {
namespace {

constexpr int kScoreThreads = 256;
constexpr int kScoreWarps = kScoreThreads / kWarp;
constexpr Index kScoresOfWarp = 16;  // candidates, one after another
constexpr Index kScoresOfBlock = kScoreWarps * kScoresOfWarp;

struct ScoreShape {
  Index heads, kv_heads, head_dim, gists, documents;
};

// A warp takes one candidate at a time: a lane holds every 32nd dim of its key, and meets each head of the group.
template <int kVectors>
__global__ void ScoreKernel(RotatedQueries queries, const float* keys, const std::int32_t* segment,
                            Candidates candidates, ScoreShape shape, float* scores, FaultSink faults) {
  const Index blocks_of_list = CeilDiv(shape.gists, kScoresOfBlock);
  const Index list = blockIdx.x / blocks_of_list, t = list / shape.kv_heads, kv_head = list % shape.kv_heads;
  const Index count = candidates.gists == nullptr ? shape.gists : candidates.counts[list];
  const Index first = blockIdx.x % blocks_of_list * kScoresOfBlock + threadIdx.x / kWarp * kScoresOfWarp;
  const int lane = threadIdx.x % kWarp;
  const Index d = shape.head_dim, group = shape.heads / shape.kv_heads;
  Index document = 0;
  for (Index i = first; i < min(first + kScoresOfWarp, count); ++i) {
    const Index gist = candidates.gists == nullptr ? i : candidates.gists[list * shape.gists + i];
    while (document < shape.documents && gist >= segment[document + 1]) ++document;
    if (document == shape.documents) {  // the segments end too early
      if (lane == 0) NoteFault(faults, FaultKind::kScoreSegment, document, segment[document], shape.gists);
      return;
    }
    float key[kVectors];
#pragma unroll
    for (int n = 0; n < kVectors; ++n) {
      const Index e = lane + n * kWarp;
      key[n] = e < d ? keys[(kv_head * shape.gists + gist) * d + e] : 0.0F;
    }
    const float* q = queries.at + ((t * (queries.documents + 1) + document) * shape.heads + kv_head * group) * d;
    for (Index g = 0; g < group; ++g) {
      float dot = 0;
#pragma unroll
      for (int n = 0; n < kVectors; ++n) {
        const Index e = lane + n * kWarp;
        if (e < d) dot = fmaf(q[g * d + e], key[n], dot);
      }
      dot = WarpSum(dot);
      if (lane == 0) scores[(t * shape.heads + kv_head * group + g) * shape.gists + i] = dot;
    }
  }
}

constexpr int kSelectThreads = 512;
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

// One head of one row a block. Marks what it keeps in the list's bits, one for each candidate.
__global__ void __launch_bounds__(kSelectThreads)
    SelectKernel(const float* scores, Candidates candidates, SelectShape shape, Index words, unsigned* marks) {
  __shared__ SelectShared shared;
  __shared__ int warp_ties[kSelectThreads / kWarp];
  const Index row = blockIdx.x, group = shape.heads / shape.kv_heads, list = row / group;
  const Index count = candidates.gists == nullptr ? shape.gists : candidates.counts[list];
  if (count == 0) return;
  const float* mine = scores + row * shape.gists;
  const Cut cut = FindCut(mine, count, shape, shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
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
    const bool kept = i < count && (rank > cut.rank || (rank == cut.rank && place < cut.ties));
    const unsigned bits = __ballot_sync(kAllLanes, kept);
    if (lane == 0 && bits != 0) atomicOr(marks + list * words + i / kWarp, bits);
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
    int through = __popc(bits);
    const int own = through;
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = __shfl_up_sync(kAllLanes, through, step);
      if (lane >= step) through += before;
    }
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

ChosenGists RowsOf(const ChosenGists& lists, Index begin, Index end) {
  if (lists.gists.rank == 0) return {};
  return {lists.gists.Rows(begin, end), lists.counts.Rows(begin, end)};
}

}  // namespace

Status CudaBackend::DoGistScore(const GistScoreArgs& args) {
  const GistLevel& level = args.context->gists[args.level];
  const Index rows = args.q.dims[0], heads = args.q.dims[1], head_dim = args.q.dims[2];
  const Index documents = args.context->num_documents();
  const Index row_bytes = (documents + 1) * heads * head_dim * static_cast<Index>(sizeof(float));
  if (head_dim > 256) return Status::InvalidArgument("GistScore: cuda takes D up to 256");
  const Index at_once = RowsAtOnce(rows, row_bytes);
  for (Index begin = 0; begin < rows; begin += at_once) {
    const Index end = std::min(begin + at_once, rows);
    CallMemory memory(*context_, "GistScore");
    const RotatedQueries queries =
        RotateQueries(*context_, memory, args.q.Rows(begin, end), args.positions.Rows(begin, end), args.rope,
                      args.context->segment_offset, {FaultKind::kScorePositions, FaultKind::kScoreOffsets});
    const ScoreShape shape{heads, level.k.dims[0], head_dim, level.k.dims[1], documents};
    const Candidates candidates = CollectCandidates(*context_, memory, RowsOf(args.parents, begin, end),
                                                    ChildOf(args.context, args.level, args.parents), shape.gists,
                                                    {FaultKind::kScoreParentCounts, FaultKind::kScoreParents,
                                                     FaultKind::kScoreParentOrder, FaultKind::kScoreChild});
    UNFOLD_TRY(memory.status());
    const Index blocks = (end - begin) * shape.kv_heads * CeilDiv(shape.gists, kScoresOfBlock);
    if (blocks == 0) continue;
    const auto kernel = head_dim <= 64    ? ScoreKernel<2>
                        : head_dim <= 96  ? ScoreKernel<3>
                        : head_dim <= 128 ? ScoreKernel<4>
                                          : ScoreKernel<8>;
    kernel<<<static_cast<unsigned>(blocks), kScoreThreads, 0, context_->stream()>>>(
        queries, level.k.as<float>(), level.segment.as<std::int32_t>(), candidates, shape,
        args.scores.Rows(begin, end).as<float>(), context_->NextCall());
    UNFOLD_TRY(context_->Launched("GistScore"));
  }
  return Status::Ok();
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
