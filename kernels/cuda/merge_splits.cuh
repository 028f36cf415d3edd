// SPDX-License-Identifier: Apache-2.0
// The splits of a row and head as one, in their order.
//
// Tried (H200, a layer of 28/4 heads x 128 at 128K tokens, attention and merging together): a block of 512 threads a
// head, four splits side by side, shares of the softmax by the whole block: 29 us; so: 25.5. A token of Qwen2-7B: 5.51
// ms; so with blocks of 512 threads, beside which few blocks of the work after find a place, 5.50; of 256, 5.43.
#ifndef UNFOLD_KERNELS_CUDA_MERGE_SPLITS_CUH_
#define UNFOLD_KERNELS_CUDA_MERGE_SPLITS_CUH_

#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {

// Of a block, the most.
constexpr int kMergeThreads = 512;
constexpr int kMergeAtOnce = 8;  // loads of a thread under way

struct MergeShared {
  float sums[kMergeThreads / kWarp][kWarp];
};

// `blocks_of_head` blocks a row and head, each with as many of its D dims, 32 a warp and the splits that are left for
// it; each warp finds the whole softmax for itself. Leaves its largest logit and total in `state`. `wait` is called
// before what the work before has written.
template <typename Kv, typename Wait>
__device__ void MergeHead(const AttentionInputs<Kv>& in, const Partials& partials, float* out, float2* state,
                          unsigned blocks_of_head, MergeShared& shared, Wait wait) {
  const auto heads = static_cast<unsigned>(in.queries.heads), kv_heads = static_cast<unsigned>(in.kv_heads);
  const unsigned own = blockIdx.x / blocks_of_head, of_head = blockIdx.x % blocks_of_head;
  const unsigned t = own / heads, kv_head = own % heads / (heads / kv_heads);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  const int d = static_cast<int>(in.queries.head_dim);
  const int runs = (d + kWarp - 1) / kWarp,
            own_runs = (runs + static_cast<int>(blocks_of_head) - 1) / static_cast<int>(blocks_of_head);
  const int sides = warps / own_runs, side = warp / own_runs;
  const int e = (static_cast<int>(of_head) * own_runs + warp % own_runs) * kWarp + lane;
  const Index first = Index{own} * partials.splits;
  const float2* states = partials.state + first;
  const float* sums = partials.sums + first * d + e;
  wait();
  const int splits = __ldcg(partials.used + t * kv_heads + kv_head), end = side < sides ? splits : 0;
  const float2 mine = lane < splits ? __ldcg(states + lane) : make_float2(-INFINITY, 0);
  float2 softmax[kMergeAtOnce];
  float part[kMergeAtOnce];
  const auto load = [&](int s) {
#pragma unroll
    for (int n = 0; n < kMergeAtOnce; ++n) {
      const int split = s + n * sides;
      softmax[n] = split < end ? __ldcg(states + split) : make_float2(0, 0);
      part[n] = split < end && e < d ? __ldcg(sums + Index{split} * d) : 0.0F;
    }
  };
  load(side);  // the first ones are on their way while the whole is found
  float largest = mine.x;
  for (int s = lane + kWarp; s < splits; s += kWarp) largest = fmaxf(largest, __ldcg(states + s).x);
  largest = WarpMax(largest);
  const auto share = [&](const float2& one) { return one.y == 0 ? 0.0F : expf(one.x - largest); };
  float total = mine.y * share(mine);
  for (int s = lane + kWarp; s < splits; s += kWarp) {
    const float2 one = __ldcg(states + s);
    total = fmaf(one.y, share(one), total);
  }
  total = WarpSum(total);
  if (of_head == 0 && threadIdx.x == 0 && state != nullptr) state[own] = make_float2(largest, total);
  float sum = 0;
  for (int s = side; s < end; s += kMergeAtOnce * sides) {
    if (s > side) load(s);
#pragma unroll
    for (int n = 0; n < kMergeAtOnce; ++n) sum = fmaf(share(softmax[n]), part[n], sum);
  }
  shared.sums[warp][lane] = sum;
  __syncthreads();
  if (side > 0 || e >= d) return;
  for (int other = 1; other < sides; ++other) sum += shared.sums[warp + other * own_runs][lane];
  out[Index{own} * d + e] = sum / total;
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_MERGE_SPLITS_CUH_
