// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/candidates.h"
#include "kernels/cuda/common.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ bool IsGist(std::int32_t gist, Index count) { return gist >= 0 && gist < count; }

// One list a block: checks it, then writes the children of its gists one after another.
__global__ void CandidatesKernel(const std::int32_t* parents, const std::int32_t* parent_counts, Index num_parents,
                                 const std::int32_t* child, Index gists, ListFaults kinds, FaultSink faults,
                                 std::int32_t* candidates, std::int32_t* counts) {
  __shared__ std::int32_t sums[kWarp];
  __shared__ bool bad;
  const Index list = blockIdx.x;
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

Candidates CollectCandidates(CudaContext& context, CallMemory& memory, const ChosenGists& parents, const Tensor& child,
                             std::int64_t gists, const ListFaults& faults) {
  if (parents.gists.rank == 0) return {};
  const Index lists = parents.counts.size();
  auto* candidates = memory.Array<std::int32_t>(lists * gists);
  auto* counts = memory.Array<std::int32_t>(lists);
  if (memory.status().ok() && lists > 0) {
    CandidatesKernel<<<static_cast<unsigned>(lists), kThreads, 0, context.stream()>>>(
        parents.gists.as<std::int32_t>(), parents.counts.as<std::int32_t>(), parents.gists.dims[2],
        child.as<std::int32_t>(), gists, faults, context.NextCall(), candidates, counts);
  }
  return {candidates, counts};
}

}  // namespace unfold
