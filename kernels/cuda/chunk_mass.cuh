// SPDX-License-Identifier: Apache-2.0
// The attention mass on chunks: for citations, and for what explains an answer.
#ifndef UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_
#define UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_

#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {

constexpr int kMassThreads = 128;

// The attention mass on each chosen chunk, from logits that attention kept: an item a warp. `mass` is [lists, C].
static __global__ void __launch_bounds__(kMassThreads)
    KeptMassKernel(const __grid_constant__ AttentionInputs<__nv_bfloat16> in, Index splits, Index at_once,
                   KeyLogits kept, Index heads_at_once, const float2* state, float* mass) {
  __shared__ SplitItems<__nv_bfloat16> items;
  Place place(in, at_once, heads_at_once);
  place.t += kept.first_row;
  const ItemsOfRow<__nv_bfloat16> row(in, place.t, place.kv_head);
  const float2* whole = state + place.t * in.queries.heads + place.first_head;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (Index split = place.split; split * kItemsOfSplit < row.count(); split += at_once) {
    __syncthreads();
    items.Load(row, split * kItemsOfSplit, row.count());
    const float* logits = kept.logits + (place.list * splits + split) * kItemsOfSplit * kept.most * heads_at_once;
    for (int i = warp; i < kItemsOfSplit; i += (kMassThreads / kWarp)) {
      const Item<__nv_bfloat16>& item = items.items[i];
      if (item.chunk < 0) continue;
      float sum = 0;
      for (int at = lane; at < item.keys() * place.heads; at += kWarp) {
        const int key = at / place.heads, h = at % place.heads;
        const float logit = logits[(i * kept.most + key) * heads_at_once + h];
        sum += expf(logit - whole[h].x) / whole[h].y;
      }
      sum = WarpSum(sum);
      if (lane == 0) mass[place.list * in.levels[0].rows.stride + item.chunk] = sum;
    }
  }
}

// mass[c] += the sum over `lists`, in their order, of lists[l, c].
static __global__ void AddMassKernel(const float* parts, Index lists, Index chunks, float* mass) {
  const Index c = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= chunks) return;
  double sum = 0;
  for (Index list = 0; list < lists; ++list) sum += double{parts[list * chunks + c]};
  mass[c] += static_cast<float>(sum);
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_
