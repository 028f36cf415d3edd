// SPDX-License-Identifier: Apache-2.0
// The splits of a row and head as one, in their order, by a block.
#ifndef UNFOLD_KERNELS_CUDA_MERGE_SPLITS_CUH_
#define UNFOLD_KERNELS_CUDA_MERGE_SPLITS_CUH_

#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {

// Of a block; of the fewer splits of several requests, half as many, so that more blocks share a multiprocessor.
constexpr int kMergeThreads = 512;
constexpr int kMergeAtOnce = 8;  // loads of a thread under way

struct MergeShared {
  float sums[kMergeThreads / kWarp], parts[kMergeThreads];
};

// One row and head a block, as many splits side by side as it has threads for D dims. Leaves the softmax's largest
// logit and total in `state`. `shares` has room for the splits.
template <typename Kv>
__device__ void MergeHead(const AttentionInputs<Kv>& in, const Partials& partials, float* out, float2* state,
                          float* shares, MergeShared& shared) {
  const auto heads = static_cast<unsigned>(in.queries.heads), kv_heads = static_cast<unsigned>(in.kv_heads);
  const unsigned t = blockIdx.x / heads, kv_head = blockIdx.x % heads / (heads / kv_heads);
  const int threads = static_cast<int>(blockDim.x);
  const int d = static_cast<int>(in.queries.head_dim), side_by_side = threads / d;
  const int splits = __ldcg(partials.used + t * kv_heads + kv_head);
  const Index first = Index{blockIdx.x} * partials.splits;
  const int side = static_cast<int>(threadIdx.x) / d, e = static_cast<int>(threadIdx.x) % d;
  float part[kMergeAtOnce];
  const auto load = [&](int s) {
#pragma unroll
    for (int n = 0; n < kMergeAtOnce; ++n) {
      const int own = s + n * side_by_side;
      part[n] = own < splits ? partials.sums[(first + own) * d + e] : 0.0F;
    }
  };
  if (side < side_by_side) load(side);  // the first ones are on their way while the shares are found
  float largest = -INFINITY;
  for (int s = threadIdx.x; s < splits; s += threads) largest = fmaxf(largest, partials.state[first + s].x);
  for (int step = kWarp / 2; step > 0; step /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  }
  if (threadIdx.x % kWarp == 0) shared.sums[threadIdx.x / kWarp] = largest;
  __syncthreads();
  for (int w = 0; w < threads / kWarp; ++w) largest = fmaxf(largest, shared.sums[w]);
  float total = 0;
  for (int s = threadIdx.x; s < splits; s += threads) {
    const float2 one = partials.state[first + s];
    const float share = one.y == 0 ? 0.0F : expf(one.x - largest);
    shares[s] = share;
    total = fmaf(one.y, share, total);
  }
  total = BlockSum(total, shared.sums);
  if (threadIdx.x == 0 && state != nullptr) state[blockIdx.x] = make_float2(largest, total);
  float sum = 0;
  for (int s = side; side < side_by_side && s < splits; s += kMergeAtOnce * side_by_side) {
    if (s > side) load(s);
#pragma unroll
    for (int n = 0; n < kMergeAtOnce; ++n) {
      const int own = s + n * side_by_side;
      if (own < splits) sum = fmaf(shares[own], part[n], sum);
    }
  }
  shared.parts[threadIdx.x] = sum;
  __syncthreads();
  if (side > 0) return;
  for (int other = 1; other < side_by_side; ++other) sum += shared.parts[other * d + e];
  out[Index{blockIdx.x} * d + e] = sum / total;
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_MERGE_SPLITS_CUH_
