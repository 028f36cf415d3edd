// SPDX-License-Identifier: Apache-2.0
// The attention mass on chunks: for citations, and for what explains an answer.
#ifndef UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_
#define UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_

#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {

struct MassShared {
  float2 whole[2 * kTileHeads];
};

// Adds a block's part of the mass of the last row, from sums that attention kept; `at_once` blocks a list. An item and
// head a thread, the heads of an item side by side. No other thread adds to a chunk of a key/value head. The softmax is
// merged here again: nothing then waits for those that merge the values. `wait` is called before what the work before
// has written.
template <typename Wait>
__device__ void AddKeptMass(const AttendRequest& request, unsigned at_once, unsigned block, MassShared& shared,
                            Wait wait) {
  const AttentionInputs<__nv_bfloat16>& in = request.in;
  const Partials& partials = request.partials;
  const ItemSums& kept = request.kept;
  const auto heads_at_once = static_cast<unsigned>(request.queries.heads_at_once);
  Place place(in, at_once, heads_at_once, block);
  place.t += kept.first_row;
  wait();
  const int used = __ldcg(partials.used + place.t * in.kv_heads + place.kv_head), lane = threadIdx.x % kWarp;
  for (int h = static_cast<int>(threadIdx.x) / kWarp; h < place.heads; h += static_cast<int>(blockDim.x) / kWarp) {
    const float2* state = partials.state + (place.t * in.queries.heads + place.first_head + h) * partials.splits;
    float largest = -INFINITY, total = 0;
    for (int s = lane; s < used; s += kWarp) largest = fmaxf(largest, state[s].x);
    largest = WarpMax(largest);
    for (int s = lane; s < used; s += kWarp) total = fmaf(state[s].y, expf(state[s].x - largest), total);
    total = WarpSum(total);
    if (lane == 0) shared.whole[h] = make_float2(largest, total);
  }
  const auto head = static_cast<int>(threadIdx.x % heads_at_once), i = static_cast<int>(threadIdx.x / heads_at_once);
  __syncthreads();
  const float2 whole = head < place.heads ? shared.whole[head] : make_float2(0, 1);
  for (Index split = place.split; split < used; split += at_once) {
    const Index at = kept.First(place.list, partials.splits, split) + min(i, kItemsOfSplit - 1);
    const int2 item = i < kItemsOfSplit ? kept.items[at] : make_int2(-1, 0);
    float sum = 0;
    for (int tile = 0; tile < item.y && item.x >= 0 && head < place.heads; ++tile) {
      const float2 one = kept.sums[(at * kept.tiles + tile) * heads_at_once + head];
      sum = fmaf(one.y, expf(one.x - whole.x), sum);
    }
    sum /= whole.y;
    for (unsigned step = heads_at_once / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (item.x >= 0 && head == 0) request.mass[place.kv_head * in.levels[0].rows.stride + item.x] += sum;
  }
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_CHUNK_MASS_CUH_
