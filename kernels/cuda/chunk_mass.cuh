// SPDX-License-Identifier: Apache-2.0
// The attention mass on chunks: for citations, and for what explains an answer.
#ifndef UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_
#define UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_

#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {

struct MassShared {
  float2 whole[2 * kTileHeads];
};

// Where the mass of the last row goes, [Hk, C], from sums that attention kept; `at_once` blocks a list.
struct KeptMass {
  ItemSums kept;
  unsigned heads_at_once = 0, at_once = 0;
  float* mass = nullptr;
};

// Adds a block's part: an item and head a thread, the heads of an item side by side. No other thread adds to a chunk of
// a key/value head. The softmax is merged here again: nothing then waits for those that merge the values.
static __device__ void AddKeptMass(const AttentionInputs<__nv_bfloat16>& in, const Partials& partials,
                                   const KeptMass& to, unsigned block, MassShared& shared) {
  const unsigned heads_at_once = to.heads_at_once;
  Place place(in, to.at_once, heads_at_once, block);
  place.t += to.kept.first_row;
  const int used = __ldcg(partials.used + place.t * in.kv_heads + place.kv_head), lane = threadIdx.x % kWarp;
  for (int h = static_cast<int>(threadIdx.x) / kWarp; h < place.heads; h += static_cast<int>(blockDim.x) / kWarp) {
    const float2* state = partials.state + (place.t * in.queries.heads + place.first_head + h) * partials.splits;
    float largest = -INFINITY, total = 0;
    for (int s = lane; s < used; s += kWarp) largest = fmaxf(largest, state[s].x);
    for (int step = kWarp / 2; step > 0; step /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
    }
    for (int s = lane; s < used; s += kWarp) total = fmaf(state[s].y, expf(state[s].x - largest), total);
    total = WarpSum(total);
    if (lane == 0) shared.whole[h] = make_float2(largest, total);
  }
  const auto head = static_cast<int>(threadIdx.x % heads_at_once), i = static_cast<int>(threadIdx.x / heads_at_once);
  __syncthreads();
  const float2 whole = head < place.heads ? shared.whole[head] : make_float2(0, 1);
  for (Index split = place.split; split < used; split += to.at_once) {
    const Index at = to.kept.First(place.list, partials.splits, split) + min(i, kItemsOfSplit - 1);
    const int2 item = i < kItemsOfSplit ? to.kept.items[at] : make_int2(-1, 0);
    float sum = 0;
    for (int tile = 0; tile < item.y && item.x >= 0 && head < place.heads; ++tile) {
      const float2 one = to.kept.sums[(at * to.kept.tiles + tile) * heads_at_once + head];
      sum = fmaf(one.y, expf(one.x - whole.x), sum);
    }
    sum /= whole.y;
    for (unsigned step = heads_at_once / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (item.x >= 0 && head == 0) to.mass[place.kv_head * in.levels[0].rows.stride + item.x] += sum;
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
