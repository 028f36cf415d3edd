// SPDX-License-Identifier: Apache-2.0
// GistPrefill in f32 (method.md section 3): flash attention of a tile of rows of one head over the keys of its plan
// (cuda_prefill_plan.h), which are gathered into shared memory kTileKeys at a time.
//
// Flops: 4 * D for each pair of the plan. Keys and values of a tile are read once for each query head of a group.
#include <cfloat>

#include "kernels/cuda_backend.h"
#include "kernels/cuda_common.cuh"
#include "kernels/cuda_prefill_plan.h"

namespace unfold {
namespace {

constexpr int kTileRows = CudaPrefillPlan::kTileRows;
constexpr int kTileKeys = 32;
constexpr int kThreadsOfRow = 4;
constexpr int kThreads = kTileRows * kThreadsOfRow;
constexpr int kKeysOfThread = kTileKeys / kThreadsOfRow;

struct PrefillInputs {
  const float *q, *k, *v;
  const GistToken* tokens;
  const PrefillTile* tiles;
  const std::int32_t *far, *near;
  MaskRules rules;
  Index heads, kv_heads, head_dim;
};

// The row of the call that is key `i` of a tile.
__device__ __forceinline__ Index KeyRow(const PrefillInputs& in, const PrefillTile& tile, Index i) {
  return i < tile.far_count ? in.far[tile.far_begin + i] : in.near[tile.near_begin + i - tile.far_count];
}

// Four threads share a row: in the scores each takes every fourth key, in the output every fourth dim. kMaxDim bounds
// D.
template <int kMaxDim>
__global__ void __launch_bounds__(kThreads) PrefillKernel(PrefillInputs in, float* out) {
  extern __shared__ float shared[];
  const Index d = in.head_dim, stride = d + 1;
  float *q_tile = shared, *k_tile = q_tile + kTileRows * stride, *v_tile = k_tile + kTileKeys * stride;
  float* weights = v_tile + kTileKeys * stride;  // [kTileRows, kTileKeys + 1]
  __shared__ GistToken key_tokens[kTileKeys];
  __shared__ Index key_rows[kTileKeys];

  const PrefillTile tile = in.tiles[blockIdx.x / in.heads];
  const Index head = blockIdx.x % in.heads, kv_head = head / (in.heads / in.kv_heads);
  const int r = threadIdx.x / kThreadsOfRow, part = threadIdx.x % kThreadsOfRow;
  const bool is_row = r < tile.rows;
  const Index row = tile.first_row + (is_row ? r : 0);
  const GistToken own = in.tokens[row];
  const float scale = 1.0F / sqrtf(static_cast<float>(d));
  for (Index e = part; e < d; e += kThreadsOfRow) {
    q_tile[r * stride + e] = is_row ? in.q[(row * in.heads + head) * d + e] : 0.0F;
  }

  float largest = -INFINITY, total = 0, sums[kMaxDim / kThreadsOfRow] = {};
  const Index keys = tile.far_count + tile.near_count;
  for (Index first = 0; first < keys; first += kTileKeys) {
    const int count = static_cast<int>(min(Index{kTileKeys}, keys - first));
    __syncthreads();
    if (threadIdx.x < count) {
      key_rows[threadIdx.x] = KeyRow(in, tile, first + threadIdx.x);
      key_tokens[threadIdx.x] = in.tokens[key_rows[threadIdx.x]];
    }
    __syncthreads();
    for (Index i = threadIdx.x; i < count * d; i += kThreads) {
      const Index key = i / d, e = i % d, from = (key_rows[key] * in.kv_heads + kv_head) * d + e;
      k_tile[key * stride + e] = in.k[from];
      v_tile[key * stride + e] = in.v[from];
    }
    __syncthreads();

    float logits[kKeysOfThread];
    float tile_largest = -INFINITY;
    for (int i = 0; i < kKeysOfThread; ++i) {
      const int key = part + i * kThreadsOfRow;
      logits[i] = -INFINITY;
      if (!is_row || key >= count) continue;
      const Index j = key_rows[key];
      if (!MaySee(in.rules, row - tile.sequence_begin, j - tile.sequence_begin, own, key_tokens[key])) continue;
      float dot = 0;
      for (Index e = 0; e < d; ++e) dot = fmaf(q_tile[r * stride + e], k_tile[key * stride + e], dot);
      logits[i] = dot * scale;
      tile_largest = fmaxf(tile_largest, logits[i]);
    }
    for (int step = 1; step < kThreadsOfRow; step *= 2) {
      tile_largest = fmaxf(tile_largest, __shfl_xor_sync(kAllLanes, tile_largest, step));
    }
    const float now = fmaxf(largest, tile_largest);
    const float shrink = now == -INFINITY ? 1.0F : expf(largest - now);
    float tile_total = 0;
    for (int i = 0; i < kKeysOfThread; ++i) {
      const float weight = logits[i] == -INFINITY ? 0.0F : expf(logits[i] - now);
      weights[r * (kTileKeys + 1) + part + i * kThreadsOfRow] = weight;
      tile_total += weight;
    }
    for (int step = 1; step < kThreadsOfRow; step *= 2) {
      tile_total += __shfl_xor_sync(kAllLanes, tile_total, step);
    }
    total = total * shrink + tile_total;
    largest = now;
    __syncwarp();
    for (int i = 0; i < kMaxDim / kThreadsOfRow; ++i) sums[i] *= shrink;
    for (int key = 0; key < count; ++key) {
      const float weight = weights[r * (kTileKeys + 1) + key];
      if (weight == 0.0F) continue;  // not seen: its value may be anything
#pragma unroll
      for (int i = 0; i < kMaxDim / kThreadsOfRow; ++i) {
        const Index e = part + i * kThreadsOfRow;
        if (e < d) sums[i] = fmaf(weight, v_tile[key * stride + e], sums[i]);
      }
    }
  }
  if (!is_row) return;
  for (int i = 0; i < kMaxDim / kThreadsOfRow; ++i) {
    const Index e = part + i * kThreadsOfRow;
    if (e < d) out[(row * in.heads + head) * d + e] = sums[i] / total;
  }
}

constexpr Index kMaxHeadDim = 256;

}  // namespace

Status CudaBackend::DoGistPrefill(const GistPrefillArgs& args) {
  const auto [rows, heads, head_dim, unused] = args.q.dims;
  if (rows == 0) return Status::Ok();
  if (head_dim > kMaxHeadDim || rows > INT32_MAX) {
    return Status::InvalidArgument("GistPrefill: q is " + args.q.ShapeString() + ", cuda takes D up to " +
                                   std::to_string(kMaxHeadDim));
  }
  const CudaPrefillPlan plan(args);
  CallMemory memory(*context_, "GistPrefill");
  PrefillInputs in{};
  in.q = args.q.as<float>();
  in.k = args.k.as<float>();
  in.v = args.v.as<float>();
  in.tokens = memory.Copy(args.tokens);
  in.tiles = memory.Copy(std::span(plan.tiles));
  in.far = memory.Copy(std::span(plan.far));
  in.near = memory.Copy(std::span(plan.near));
  in.rules = args.rules;
  in.heads = heads;
  in.kv_heads = args.k.dims[1];
  in.head_dim = head_dim;
  UNFOLD_TRY(memory.status());

  const auto kernel = head_dim <= 64 ? PrefillKernel<64> : head_dim <= 128 ? PrefillKernel<128> : PrefillKernel<256>;
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>((kTileRows + 2 * kTileKeys) * (head_dim + 1) +
                                                                     kTileRows * (kTileKeys + 1));
  UNFOLD_TRY(context_->Explain(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
      "GistPrefill"));
  kernel<<<static_cast<unsigned>(static_cast<Index>(plan.tiles.size()) * heads), kThreads, bytes, context_->stream()>>>(
      in, args.out.as<float>());
  return context_->Launched("GistPrefill");
}

}  // namespace unfold
