// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda/candidates.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/together.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 1024;
constexpr int kAtOnce = 8;  // parents of a thread, whose loads are under way together

__device__ __forceinline__ bool IsGist(std::int32_t gist, Index count) { return gist >= 0 && gist < count; }

struct CandidateInputs {
  const std::int32_t *parents, *parent_counts, *child;
  Index lists, num_parents, gists;
  FaultSink faults;
  std::int32_t *candidates, *counts;
};

// One list a block: checks it, and writes the children of its gists one after another.
template <int kMost>
__global__ void __launch_bounds__(kThreads)
    CandidatesKernel(const __grid_constant__ Together<CandidateInputs, kMost> requests, ListFaults kinds) {
  __shared__ std::int32_t sums[kAtOnce][kWarp];  // children of a warp's parents, then those before them
  __shared__ std::int32_t all[kAtOnce];
  __shared__ bool bad;
  static_assert(kThreads == kWarp * kWarp);
  WaitForWorkBefore();
  const auto& [parents, parent_counts, child, lists, num_parents, gists, faults, candidates, counts] = requests();
  const Index list = blockIdx.x;
  if (list >= lists) return;
  const std::int32_t count = parent_counts[list];
  if (!InRange(faults, kinds.counts, list, count, num_parents + 1)) {
    if (threadIdx.x == 0) counts[list] = 0;
    return;
  }
  const std::int32_t* chosen = parents + list * num_parents;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (threadIdx.x == 0) bad = false;

  std::int32_t written = 0;
  for (std::int32_t first = 0; first < count; first += kAtOnce * kThreads) {
    std::int32_t parent[kAtOnce], before[kAtOnce], begin[kAtOnce], end[kAtOnce], end_before[kAtOnce], through[kAtOnce];
    const auto place = [&](int n) { return first + n * kThreads + static_cast<std::int32_t>(threadIdx.x); };
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const std::int32_t i = place(n);
      parent[n] = i < count ? chosen[i] : 0;
      before[n] = i < count && i > 0 ? chosen[i - 1] : -1;
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const bool there = place(n) < count && IsGist(parent[n], num_parents);
      begin[n] = there ? child[parent[n]] : 0;
      end[n] = there ? child[parent[n] + 1] : 0;
      end_before[n] = there && IsGist(before[n], num_parents) ? child[before[n] + 1] : begin[n];
    }
    __syncthreads();  // the sums of the parents before are read
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const std::int32_t i = place(n);
      bool good = i >= count || InRange(faults, kinds.gists, list * num_parents + i, parent[n], num_parents);
      if (i < count && good && before[n] >= parent[n]) {
        NoteFault(faults, kinds.order, list * num_parents + i, parent[n], num_parents - 1);
        good = false;
      }
      // Children that ascend from parent to parent fit into the list, whatever else is wrong.
      if (i < count && good && (begin[n] < 0 || begin[n] > end[n] || end[n] > gists || end_before[n] > begin[n])) {
        NoteFault(faults, kinds.child, parent[n], begin[n], gists);
        good = false;
      }
      if (!good) bad = true, begin[n] = end[n] = 0;
      through[n] = WarpSumThrough(end[n] - begin[n]);
      if (lane == kWarp - 1) sums[n][warp] = through[n];
    }
    __syncthreads();
    if (warp < kAtOnce) {
      const std::int32_t own = sums[warp][lane], so_far = WarpSumThrough(own);
      sums[warp][lane] = so_far - own;
      if (lane == kWarp - 1) all[warp] = so_far;
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      std::int32_t at = written + sums[n][warp] + through[n] - (end[n] - begin[n]);
      for (std::int32_t gist = begin[n]; gist < end[n] && at < gists; ++gist) candidates[list * gists + at++] = gist;
      written += all[n];
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) counts[list] = bad ? 0 : written;
}

CandidateInputs ListOf(CudaContext& context, const CandidateRequest& request, std::int32_t* candidates,
                       std::int32_t* counts) {
  const auto& [parents, child, gists] = request;
  return {parents.gists.as<std::int32_t>(),
          parents.counts.as<std::int32_t>(),
          child.as<std::int32_t>(),
          parents.counts.size(),
          parents.gists.dims[2],
          gists,
          context.NextCall(),
          candidates,
          counts};
}

void Collect(CudaContext& context, CallMemory& memory, const std::vector<CandidateInputs>& lists,
             const ListFaults& faults) {
  Index blocks = 0;
  for (const CandidateInputs& own : lists) blocks = std::max(blocks, own.lists);
  if (!memory.status().ok() || blocks == 0) return;
  memory.Note(LaunchTogether(lists, [&]<int kMost>(const Together<CandidateInputs, kMost>& some, int count) {
    return context.Launch(CandidatesKernel<kMost>, {blocks, kThreads, 0, "CollectCandidates", false, count}, some,
                          faults);
  }));
}

}  // namespace

std::vector<Candidates> CollectCandidates(CudaContext& context, CallMemory& memory,
                                          const std::vector<CandidateRequest>& requests, const ListFaults& faults) {
  std::vector<Candidates> all(requests.size());
  std::vector<CandidateInputs> lists;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const ChosenGists& parents = requests[i].parents;
    if (parents.gists.rank == 0) continue;
    if (parents.children.rank != 0) {
      all[i] = {parents.children.as<std::int32_t>(), parents.child_counts.as<std::int32_t>()};
      continue;
    }
    auto* candidates = memory.Array<std::int32_t>(parents.counts.size() * requests[i].gists);
    auto* counts = memory.Array<std::int32_t>(parents.counts.size());
    all[i] = {candidates, counts};
    lists.push_back(ListOf(context, requests[i], candidates, counts));
  }
  Collect(context, memory, lists, faults);
  return all;
}

void ListChildren(CudaContext& context, CallMemory& memory, const std::vector<CandidateRequest>& requests,
                  const ListFaults& faults) {
  std::vector<CandidateInputs> lists;
  for (const CandidateRequest& request : requests) {
    const ChosenGists& parents = request.parents;
    if (parents.children.rank == 0) continue;
    lists.push_back(
        ListOf(context, request, parents.children.as<std::int32_t>(), parents.child_counts.as<std::int32_t>()));
  }
  Collect(context, memory, lists, faults);
}

}  // namespace unfold
