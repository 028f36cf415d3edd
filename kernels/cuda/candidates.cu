// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda/candidates.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/together.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ bool IsGist(std::int32_t gist, Index count) { return gist >= 0 && gist < count; }

struct CandidateInputs {
  const std::int32_t *parents, *parent_counts, *child;
  Index lists, num_parents, gists;
  FaultSink faults;
  std::int32_t *candidates, *counts;
};

// One list a block: checks it, then writes the children of its gists one after another.
template <int kMost>
__global__ void __launch_bounds__(kThreads)
    CandidatesKernel(const __grid_constant__ Together<CandidateInputs, kMost> requests, ListFaults kinds) {
  __shared__ std::int32_t sums[kWarp];
  __shared__ bool bad;
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
  if (threadIdx.x == 0) bad = false;
  __syncthreads();
  for (std::int32_t i = threadIdx.x; i < count; i += kThreads) {
    bool good = InRange(faults, kinds.gists, list * num_parents + i, chosen[i], num_parents);
    if (good && i > 0 && chosen[i - 1] >= chosen[i]) {
      NoteFault(faults, kinds.order, list * num_parents + i, chosen[i], num_parents - 1);
      good = false;
    }
    // Children that ascend from parent to parent fit into the list, whatever else is wrong.
    if (good && (child[chosen[i]] < 0 || child[chosen[i]] > child[chosen[i] + 1] || child[chosen[i] + 1] > gists ||
                 (i > 0 && IsGist(chosen[i - 1], num_parents) && child[chosen[i - 1] + 1] > child[chosen[i]]))) {
      NoteFault(faults, kinds.child, chosen[i], child[chosen[i]], gists);
      good = false;
    }
    if (!good) bad = true;
  }
  __syncthreads();
  const std::int32_t used = bad ? 0 : count;

  std::int32_t written = 0;
  for (std::int32_t first = 0; first < used; first += kThreads) {
    const std::int32_t i = first + static_cast<std::int32_t>(threadIdx.x);
    const std::int32_t begin = i < used ? child[chosen[i]] : 0, end = i < used ? child[chosen[i] + 1] : 0;
    // Where this parent's children begin: the sum over those before it.
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const std::int32_t through = WarpSumThrough(end - begin);
    __syncthreads();
    if (lane == kWarp - 1) sums[warp] = through;
    __syncthreads();
    std::int32_t at = written + through - (end - begin);
    for (int w = 0; w < warp; ++w) at += sums[w];
    for (std::int32_t gist = begin; gist < end; ++gist) candidates[list * gists + at++] = gist;
    for (int w = 0; w < kThreads / kWarp; ++w) written += sums[w];
  }
  if (threadIdx.x == 0) counts[list] = written;
}

}  // namespace

std::vector<Candidates> CollectCandidates(CudaContext& context, CallMemory& memory,
                                          const std::vector<CandidateRequest>& requests, const ListFaults& faults) {
  std::vector<Candidates> all(requests.size());
  std::vector<CandidateInputs> inputs;
  Index blocks = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto& [parents, child, gists] = requests[i];
    if (parents.gists.rank == 0) continue;
    const Index lists = parents.counts.size();
    auto* candidates = memory.Array<std::int32_t>(lists * gists);
    auto* counts = memory.Array<std::int32_t>(lists);
    all[i] = {candidates, counts};
    inputs.push_back({parents.gists.as<std::int32_t>(), parents.counts.as<std::int32_t>(), child.as<std::int32_t>(),
                      lists, parents.gists.dims[2], gists, context.NextCall(), candidates, counts});
    blocks = std::max(blocks, lists);
  }
  if (!memory.status().ok() || blocks == 0) return all;
  memory.Note(LaunchTogether(inputs, [&]<int kMost>(const Together<CandidateInputs, kMost>& some, int count) {
    return context.Launch(CandidatesKernel<kMost>, {blocks, kThreads, 0, "CollectCandidates", false, count}, some,
                          faults);
  }));
  return all;
}

}  // namespace unfold
