// SPDX-License-Identifier: Apache-2.0
// The attention mass on chunks: for citations, and for what explains an answer.
#ifndef UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_
#define UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_

#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {

// The attention mass of the last row on each chosen chunk, from logits that attention kept: an item and head a thread,
// the heads of an item side by side. `mass` is [Hk, C]; no other thread adds to a chunk of a head.
static __global__ void KeptMassKernel(const __grid_constant__ AttentionInputs<__nv_bfloat16> in, Index splits,
                                      Index at_once, KeyLogits kept, unsigned heads_at_once, const float2* state,
                                      float* mass) {
  constexpr int kLoadsAtOnce = 4;
  __shared__ SplitItems<__nv_bfloat16> items;
  WaitForWorkBefore();
  Place place(in, at_once, heads_at_once);
  place.t += kept.first_row;
  const ItemsOfRow<__nv_bfloat16> row(in, place.t, place.kv_head);
  const auto head = static_cast<int>(threadIdx.x % heads_at_once), i = static_cast<int>(threadIdx.x / heads_at_once);
  const float2 whole =
      head < place.heads ? state[place.t * in.queries.heads + place.first_head + head] : make_float2(0, 1);
  const int used = SplitsOf(row.count());
  for (Index split = place.split; split < used; split += at_once) {
    __syncthreads();
    items.Load(row, static_cast<unsigned>(split), used);
    const int keys = i < kItemsOfSplit && items.items[i].chunk >= 0 && head < place.heads ? items.items[i].keys() : 0;
    const float* logits =
        kept.logits + ((place.list * splits + split) * kItemsOfSplit + i) * kept.most * heads_at_once + head;
    float sum = 0;
    for (int first = 0; first < keys; first += kLoadsAtOnce) {
      float own[kLoadsAtOnce];
#pragma unroll
      for (int n = 0; n < kLoadsAtOnce; ++n) {
        own[n] = first + n < keys ? logits[(first + n) * heads_at_once] : -INFINITY;
      }
#pragma unroll
      for (int n = 0; n < kLoadsAtOnce; ++n) sum += expf(own[n] - whole.x);
    }
    sum /= whole.y;
    for (unsigned step = heads_at_once / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (keys > 0 && head == 0) mass[place.kv_head * in.levels[0].rows.stride + items.items[i].chunk] += sum;
  }
}

// mass[hk, c] += the sum over `batches` of the heads of hk, in their order, of parts[hk, batch, c].
static __global__ void AddMassKernel(const float* parts, Index batches, Index chunks, float* mass, Index count) {
  const Index at = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= count) return;
  const Index head = at / chunks, c = at % chunks;
  float sum = 0;
  for (Index batch = 0; batch < batches; ++batch) sum += parts[(head * batches + batch) * chunks + c];
  mass[at] += sum;
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_
