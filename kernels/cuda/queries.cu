// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.h"

namespace unfold {
namespace {

constexpr int kThreads = 256;
constexpr Index kCallBytes = Index{256} << 20;  // that the rows of one pass may take

struct QueryShape {
  Index rows, documents, heads, half, table_rows;
};

// One block. Offsets are from 0 to the lowest position; a row's own check stands in RotateKernel.
__global__ void CheckOffsetsKernel(const std::int32_t* positions, Index rows, const std::int32_t* offsets,
                                   Index documents, FaultKind kind, FaultSink faults) {
  __shared__ std::int32_t lowest;
  if (threadIdx.x == 0) lowest = INT32_MAX;
  __syncthreads();
  for (Index t = threadIdx.x; t < rows; t += blockDim.x) atomicMin(&lowest, positions[t]);
  __syncthreads();
  for (Index j = threadIdx.x; j < documents; j += blockDim.x) {
    if (offsets[j] < 0 || offsets[j] > lowest) NoteFault(faults, kind, j, offsets[j], lowest);
  }
}

// One pair of one head of one row in one document a thread.
__global__ void RotateKernel(const float* q, const std::int32_t* positions, const std::int32_t* offsets,
                             const float* cos, const float* sin, QueryShape shape, FaultKind kind, FaultSink faults,
                             float* out) {
  const Index at = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= shape.rows * (shape.documents + 1) * shape.heads * shape.half) return;
  const Index i = at % shape.half, head = at / shape.half % shape.heads, place = at / shape.half / shape.heads;
  const Index document = place % (shape.documents + 1), t = place / (shape.documents + 1);
  const std::int32_t global = positions[t];
  const Index from = (t * shape.heads + head) * 2 * shape.half + i,
              to = (place * shape.heads + head) * 2 * shape.half + i;
  const Index position = document == shape.documents ? global : Index{global} - offsets[document];
  if (!InRange(faults, kind, t, global, shape.table_rows) || position < 0 || position >= shape.table_rows) {
    out[to] = out[to + shape.half] = 0;
    return;
  }
  const float a = q[from], b = q[from + shape.half];
  const float c = cos[position * shape.half + i], s = sin[position * shape.half + i];
  out[to] = fmaf(a, c, -__fmul_rn(b, s));
  out[to + shape.half] = fmaf(b, c, __fmul_rn(a, s));
}

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
    std::int32_t through = end - begin;
    for (int step = 1; step < kWarp; step *= 2) {
      const std::int32_t before = __shfl_up_sync(kAllLanes, through, step);
      if (lane >= step) through += before;
    }
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

RotatedQueries RotateQueries(CudaContext& context, CallMemory& memory, const Tensor& q, const Tensor& positions,
                             const RopeTable& rope, const Tensor& segment_offset, const QueryFaults& faults) {
  const Index documents = segment_offset.rank == 0 ? 0 : segment_offset.dims[0];
  const auto* offsets = segment_offset.as<const std::int32_t>();
  const QueryShape shape{q.dims[0], documents, q.dims[1], q.dims[2] / 2, rope.cos.dims[0]};
  const Index pairs = shape.rows * (documents + 1) * shape.heads * shape.half;
  auto* out = memory.Array<float>(2 * pairs);
  if (out == nullptr || pairs == 0) return {out, documents};
  const FaultSink sink = context.NextCall();
  if (documents > 0) {
    CheckOffsetsKernel<<<1, kThreads, 0, context.stream()>>>(positions.as<std::int32_t>(), shape.rows, offsets,
                                                             documents, faults.offsets, sink);
  }
  RotateKernel<<<Blocks(pairs, kThreads), kThreads, 0, context.stream()>>>(
      q.as<float>(), positions.as<std::int32_t>(), offsets, rope.cos.as<float>(), rope.sin.as<float>(), shape,
      faults.positions, sink, out);
  return {out, documents};
}

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

std::int64_t RowsAtOnce(std::int64_t rows, std::int64_t bytes) {
  return std::clamp<Index>(kCallBytes / std::max<Index>(bytes, 1), 1, std::max<Index>(rows, 1));
}

}  // namespace unfold
