// SPDX-License-Identifier: Apache-2.0
// SelectChunks (method.md 4.2 to 4.4) in one launch: a block finds what one head of one row keeps, and the last block
// of a list's heads unites them.
//
// Top-k: the best of every 16 scores, which GistScore leaves, tell a bound that the k-th best reaches. The tiles of 16
// that reach it hold few candidates more than k; among those the part of equal ones in which the k-th lies is found,
// and in it the k-th. Without the best, or where too many are wanted: among all scores. Where too many are alike or
// scores are not finite, and for top-p: radix selection. Each way is exact.
//
// Bytes: a sixteenth of the scores and 64 for each tile, twice, from L2 when there are few rows.
// Tried (28/4 heads, launch included, of 1, 16 and 64 thousand candidates the best 2 in 100; H200): radix selection
// alone 203 us for 16 thousand; equal parts over all scores, four passes, then a kernel for the union 21; a bound from
// a sample of the scores, then one pass 7.4, 17.2 and 45.0. All scores in registers, a bound from the best of each
// thread's: with 1,024 threads 10.1, 13.2 and 55; with 512, code for each score 6.1, 11.3 and 45.5, a loop over those
// that reach the bound, which loads them again 7.2, 12.3 and 90; scores in shared memory 6.9, 13.0 and 68.
// So, with 512 threads: 7.1, 11.5 and 26.6, with 1,024 for more than 20 thousand 21.6; scoring takes 0.7 more. On an
// H100: a list a cluster of 8 blocks, scores in shared memory 27, in registers 32. What is left at 16 thousand, in
// thousands of cycles: smallest and largest 2, bound 3.5, parts 4.5, what is kept 5, marks for the others 2, union 4.5.
#include <algorithm>
#include <utility>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/candidates.h"
#include "kernels/cuda/select.cuh"
#include "kernels/cuda/together.cuh"

namespace unfold {
namespace {

struct SelectShape {
  Index heads, kv_heads, gists, top_k;
  float top_p, scale;
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

// Radix selection, the highest digit first: the digit at which the weight from above reaches what is wanted.
__device__ Cut FindCut(const float* scores, int count, const SelectShape& shape, RadixShared& shared) {
  if (threadIdx.x == 0) shared.best = 0, shared.total = 0, shared.above = 0, shared.prefix = 0;
  __syncthreads();
  auto wanted = static_cast<unsigned long long>(min(shape.top_k, Index{count}));
  Weigher weigh{false, 0, 0, 0};
  if (shape.top_p > 0) {
    std::uint32_t best = 0;
    for (int i = threadIdx.x; i < count; i += SelectThreads()) best = max(best, RankOf(scores[i]));
    atomicMax(&shared.best, best);
    __syncthreads();
    const float largest = ScoreOf(shared.best);
    wanted = 1;  // an infinite best has all the mass
    if (isfinite(largest)) {
      weigh = {true, largest, shape.scale, exp2(static_cast<double>(__clzll(count) - 2))};
      unsigned long long mine = 0;
      for (int i = threadIdx.x; i < count; i += SelectThreads()) mine += weigh(RankOf(scores[i]));
      atomicAdd(&shared.total, mine);
      __syncthreads();
      wanted = min(__double2ull_ru(double{shape.top_p} * static_cast<double>(shared.total)), shared.total);
      wanted = max(wanted, 1ULL);
    }
  }
  unsigned long long above = 0, equal = 0;
  std::uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int digit = threadIdx.x; digit < kDigits; digit += SelectThreads()) shared.weights[digit] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += SelectThreads()) {
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

// The marked candidates of one list in ascending order. Leaves no marks.
__device__ void Unite(unsigned* marks, int words, const std::int32_t* candidates, std::int32_t* chosen,
                      std::int32_t* chosen_count, int room, SelectShared& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int written = 0;
  for (int first = 0; first < words; first += SelectThreads()) {
    const int word = first + static_cast<int>(threadIdx.x);
    unsigned bits = word < words ? __ldcg(marks + word) : 0;
    if (bits != 0) marks[word] = 0;
    const int own = __popc(bits), through = WarpSumThrough(own);
    __syncthreads();
    if (lane == kWarp - 1) shared.sums[warp] = through;
    __syncthreads();
    const WarpSums sums = SumOfWarpsBefore(warp, SelectWarps(), shared);
    int at = through - own + sums.before;
    const auto put = [&](int place, int i) { chosen[written + place] = candidates == nullptr ? i : candidates[i]; };
    const bool fit = sums.all <= room;  // as a rule: then neighbours are written together
    for (; bits != 0; bits &= bits - 1, ++at) {
      const int i = word * kWarp + __ffs(static_cast<int>(bits)) - 1;
      if (fit) {
        shared.list()[at] = i;
      } else {
        put(at, i);
      }
    }
    __syncthreads();
    for (int n = threadIdx.x; fit && n < sums.all; n += SelectThreads()) put(n, shared.list()[n]);
    written += sums.all;
  }
  if (threadIdx.x == 0) *chosen_count = written;
}

struct SelectInputs {
  const float *scores, *best;
  Candidates candidates;
  SelectShape shape;
  unsigned *finished, *marks;  // of each list a count of heads and MarkWords: zero before and after
  std::int32_t *chosen, *counts;

  __host__ __device__ Index MarkWords() const { return CeilDiv(shape.gists, kWarp); }
};

// One head of one row a block.
template <int kMost>
__global__ void __launch_bounds__(kMostSelectThreads)
    SelectKernel(const __grid_constant__ Together<SelectInputs, kMost> requests, int room) {
  extern __shared__ __align__(16) unsigned char memory[];
  SelectShared& shared = *reinterpret_cast<SelectShared*>(memory);
  ClearForParts(shared);
  for (int word = threadIdx.x; word < kMarkWords; word += SelectThreads()) shared.marks[word] = 0;
  __syncthreads();
  const auto& [scores, best, candidates, shape, finished, all_marks, chosen, counts] = requests();
  const unsigned row = blockIdx.x;
  const unsigned group = static_cast<unsigned>(shape.heads) / static_cast<unsigned>(shape.kv_heads), list = row / group;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const float* mine = scores + row * shape.gists;
  const float* my_best = best == nullptr ? nullptr : best + row * CeilDiv(shape.gists, kScoresOfBest);
  unsigned* marks = all_marks + list * requests().MarkWords();
  WaitForWorkBefore();
  const int count = candidates.gists == nullptr ? static_cast<int>(shape.gists) : candidates.counts[list];
  const int words = (count + kWarp - 1) / kWarp;
  const bool marks_fit = words <= kMarkWords;
  const auto keep = [&](int i) {
    const unsigned bit = 1U << (i % kWarp);
    if (marks_fit) {
      atomicOr(&shared.marks[i / kWarp], bit);
    } else {
      atomicOr(marks + i / kWarp, bit);
    }
  };
  const auto wanted = static_cast<int>(min(shape.top_k, Index{count}));
  const bool by_parts =
      shape.top_p == 0 && count > 0 && KeepByParts(Scores(mine, my_best, count, wanted), wanted, shared, keep);
  if (!by_parts && count > 0) {
    __syncthreads();
    const Cut cut = FindCut(mine, count, shape, shared.radix);
    int ties_before = 0;
    for (int first = 0; first < count; first += SelectThreads()) {
      const int i = first + static_cast<int>(threadIdx.x);
      const std::uint32_t rank = i < count ? RankOf(mine[i]) : 0;
      const unsigned ties = __ballot_sync(kAllLanes, i < count && rank == cut.rank);
      __syncthreads();
      if (lane == 0) shared.sums[warp] = __popc(ties);
      __syncthreads();
      int place = ties_before + __popc(ties & ((1U << lane) - 1));
      for (int w = 0; w < SelectWarps(); ++w) {
        if (w < warp) place += shared.sums[w];
        ties_before += shared.sums[w];
      }
      if (i < count && (rank > cut.rank || (rank == cut.rank && place < cut.ties))) keep(i);
    }
  }
  __syncthreads();
  for (int word = threadIdx.x; marks_fit && word < words; word += SelectThreads()) {
    if (shared.marks[word] != 0) atomicOr(marks + word, shared.marks[word]);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared.last = atomicInc(finished + list, group - 1) == group - 1;
  __syncthreads();
  if (!shared.last) return;
  __threadfence();
  Unite(marks, words, candidates.gists == nullptr ? nullptr : candidates.gists + list * shape.gists,
        chosen + list * shape.gists, counts + list, room, shared);
}

// Whether one launch can take all: of one row each, and as many heads.
bool AreAlike(std::span<const SelectChunksArgs> requests) {
  const SelectChunksArgs& first = requests.front();
  return std::all_of(requests.begin(), requests.end(), [&](const SelectChunksArgs& args) {
    return args.scores.dims[0] == 1 && args.scores.dims[1] == first.scores.dims[1] && args.kv_heads == first.kv_heads &&
           (args.parents.gists.rank == 0) == (first.parents.gists.rank == 0);
  });
}

constexpr ListFaults kParentFaults = {FaultKind::kSelectParentCounts, FaultKind::kSelectParents,
                                      FaultKind::kSelectParentOrder, FaultKind::kSelectChild};

Status SelectAll(CudaContext& context, std::span<const SelectChunksArgs> requests) {
  const Index rows = requests.front().scores.dims[0], heads = requests.front().scores.dims[1],
              lists = rows * requests.front().kv_heads;
  if (lists == 0) return Status::Ok();
  CallMemory memory(context, "SelectChunks");
  std::vector<CandidateRequest> lists_of;
  for (const SelectChunksArgs& args : requests) {
    const bool narrowed = args.parents.gists.rank != 0;
    lists_of.push_back(
        {args.parents, narrowed ? args.context->gists[args.level + 1].child : Tensor(), args.scores.dims[2]});
  }
  const std::vector<Candidates> candidates = CollectCandidates(context, memory, lists_of, kParentFaults);
  std::vector<SelectInputs> inputs;
  Index counters = 0, most_gists = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const SelectChunksArgs& args = requests[i];
    inputs.push_back({args.scores.as<float>(),
                      args.best.as<float>(),
                      candidates[i],
                      {heads, args.kv_heads, args.scores.dims[2], args.top_k, args.top_p, args.scale},
                      nullptr,
                      nullptr,
                      args.chosen.gists.as<std::int32_t>(),
                      args.chosen.counts.as<std::int32_t>()});
    counters += lists * (1 + inputs.back().MarkWords());
    most_gists = std::max(most_gists, args.scores.dims[2]);
  }
  UNFOLD_TRY(memory.status());
  UNFOLD_TRY_ASSIGN(unsigned* counter, context.Counters(counters, "SelectChunks"));
  for (SelectInputs& request : inputs) {
    request.finished = std::exchange(counter, counter + lists);
    request.marks = std::exchange(counter, counter + lists * request.MarkWords());
  }
  UNFOLD_TRY(LaunchTogether(inputs, [&]<int kMost>(const Together<SelectInputs, kMost>& some, int count) {
    const int threads = most_gists <= kShortList  ? kLeastSelectThreads
                        : most_gists <= kLongList ? kUsualSelectThreads
                                                  : kMostSelectThreads;
    const Index room = std::max(kLeastRoom, NumBest(most_gists));
    return context.Launch(SelectKernel<kMost>,
                          {rows * heads, threads, sizeof(SelectShared) + static_cast<std::size_t>(room) * sizeof(int),
                           "SelectChunks", false, count},
                          some, static_cast<int>(room));
  }));
  std::vector<CandidateRequest> chosen;
  for (const SelectChunksArgs& args : requests) {
    if (args.chosen.children.rank == 0) continue;
    const ContextView& view = *args.context;
    chosen.push_back({args.chosen, view.gists[args.level].child, args.chosen.children.dims[2]});
  }
  ListChildren(context, memory, chosen, kParentFaults);
  return memory.status();
}

}  // namespace

Status CudaBackend::DoSelectChunks(std::span<const SelectChunksArgs> requests) {
  if (requests.size() > 1 && AreAlike(requests)) return SelectAll(*context_, requests);
  for (std::size_t i = 0; i < requests.size(); ++i) UNFOLD_TRY(SelectAll(*context_, requests.subspan(i, 1)));
  return Status::Ok();
}

}  // namespace unfold
