// SPDX-License-Identifier: Apache-2.0
// GistPrefill in bf16 on tensor cores (method.md section 3): flash attention of kTileRows rows of one head over the
// keys of their plan, gathered kKeys at a time into two buffers, so that one is filled while the other is used.
// q, k and v are rounded to bf16 before, the softmax terms for the product with the values; sums are f32.
//
// Flops: 4 * D for each pair of the plan. L2 to shared memory: 4 * D bytes for each key of a tile and head.
#include <cstdint>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/prefill.cuh"
#include "kernels/cuda/products.h"

namespace unfold {
namespace {

constexpr int kTileRows = kTensorCoreTileRows;
constexpr int kWarps = kTileRows / kMmaRows;
constexpr int kThreads = kWarps * kWarp;
// Keys of a tile: as many as leave two blocks room on a multiprocessor.
template <int kDim>
constexpr int kTileKeys = kDim > 128 ? 32 : 64;
constexpr float kLog2E = 1.4426950408889634F;

// Keys and values of kKeys rows, and who the keys are. Rows are padded by 16 bytes: eight of them lie in different
// banks.
template <int kDim>
struct alignas(16) KeyTile {
  static constexpr int kKeys = kTileKeys<kDim>, kStride = kDim + 8;
  __nv_bfloat16 k[kKeys][kStride];
  __nv_bfloat16 v[kKeys][kStride];
  GistToken tokens[kKeys];
  std::int32_t rows[kKeys];
};

template <int kDim>
struct alignas(16) Shared {
  __nv_bfloat16 q[kTileRows][KeyTile<kDim>::kStride];
  KeyTile<kDim> tiles[2];
};

struct Bf16Inputs {
  const __nv_bfloat16 *q, *k, *v;  // [T, heads, D]
  PrefillShape shape;
};

// Starts the copies of keys [first, ...) of `tile`; past the last key there are zeros.
template <int kDim>
__device__ void StartCopies(const Bf16Inputs& in, const PrefillTile& tile, Index kv_head, Index first, Index keys,
                            KeyTile<kDim>& to) {
  constexpr int kPieces = kDim / 8;  // of 16 bytes
  for (int i = threadIdx.x; i < kTileKeys<kDim> * kPieces; i += kThreads) {
    const int key = i / kPieces, piece = i % kPieces;
    const bool inside = first + key < keys;
    const Index row = inside ? in.shape.KeyRow(tile, first + key) : tile.first_row;
    const Index from = (row * in.shape.kv_heads + kv_head) * kDim + piece * 8;
    CopyAsync16(&to.k[key][piece * 8], in.k + from, inside);
    CopyAsync16(&to.v[key][piece * 8], in.v + from, inside);
  }
  if (threadIdx.x < kTileKeys<kDim>) {
    const bool inside = first + threadIdx.x < keys;
    const Index row = inside ? in.shape.KeyRow(tile, first + threadIdx.x) : 0;
    to.rows[threadIdx.x] = inside ? static_cast<std::int32_t>(row) : INT32_MAX;  // seen by none: j > i
    to.tokens[threadIdx.x] = in.shape.tokens[row];
  }
  CommitCopies();
}

// A warp's 16 rows of one tile: the running softmax, and the sums, in the layout of a product's result: a lane has rows
// lane / 4 and lane / 4 + 8, and in every group of eight columns the two from lane % 4 * 2 on.
template <int kDim>
struct WarpRows {
  static constexpr int kGroups = kTileKeys<kDim> / kMmaColumns;
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  float sums[kDim / kMmaColumns][4] = {};

  // logits = q * k^T of the tile's keys.
  __device__ static void Logits(const Shared<kDim>& shared, const KeyTile<kDim>& tile, float (&logits)[kGroups][4]) {
    const int lane = threadIdx.x % kWarp, first_row = threadIdx.x / kWarp * kMmaRows;
#pragma unroll
    for (int n = 0; n < kGroups; ++n) logits[n][0] = logits[n][1] = logits[n][2] = logits[n][3] = 0;
#pragma unroll
    for (int d = 0; d < kDim; d += 32) {
      unsigned q[2][4];
      LoadMatrices(q[0], &shared.q[first_row + lane % 16][d + lane / 16 * 8]);
      LoadMatrices(q[1], &shared.q[first_row + lane % 16][d + 16 + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        unsigned k[4];  // 8 keys x 32 dims
        LoadMatrices(k, &tile.k[n * kMmaColumns + lane % 8][d + lane / 8 * 8]);
        Mma(logits[n], q[0], k[0], k[1]);
        Mma(logits[n], q[1], k[2], k[3]);
      }
    }
  }

  // Scales to powers of two, masks, and turns logits into terms; what was summed shrinks with the largest.
  __device__ void Weigh(float scale, float (&logits)[kGroups][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = largest[half];
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        now = fmaxf(now, fmaxf(logits[n][2 * half], logits[n][2 * half + 1]));
      }
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 1));
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 2));
      const float base = now == -INFINITY ? 0.0F : now * scale;
      const float shrink = exp2f(largest[half] * scale - base);
      largest[half] = now;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int c = 2 * half; c < 2 * half + 2; ++c) {
          logits[n][c] = exp2f(fmaf(logits[n][c], scale, -base));
          sum += logits[n][c];
        }
      }
      total[half] = fmaf(total[half], shrink, sum);  // of this lane's columns; lanes are added at the end
#pragma unroll
      for (int n = 0; n < kDim / kMmaColumns; ++n) {
        sums[n][2 * half] *= shrink;
        sums[n][2 * half + 1] *= shrink;
      }
    }
  }

  // sums += terms * v.
  __device__ void AddValues(const KeyTile<kDim>& tile, const float (&terms)[kGroups][4]) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int key = 0; key < kTileKeys<kDim>; key += 16) {
      const float(&low)[4] = terms[key / kMmaColumns], (&high)[4] = terms[key / kMmaColumns + 1];
      const unsigned p[4] = {PackBf16(low[0], low[1]), PackBf16(low[2], low[3]), PackBf16(high[0], high[1]),
                             PackBf16(high[2], high[3])};
#pragma unroll
      for (int d = 0; d < kDim; d += 16) {
        unsigned v[4];  // 16 keys x 16 dims
        LoadMatricesTransposed(v, &tile.v[key + lane % 16][d + lane / 16 * 8]);
        Mma(sums[d / kMmaColumns], p, v[0], v[1]);
        Mma(sums[d / kMmaColumns + 1], p, v[2], v[3]);
      }
    }
  }
};

template <int kDim>
__global__ void __launch_bounds__(kThreads) PrefillBf16Kernel(Bf16Inputs in, float* out) {
  constexpr int kKeys = kTileKeys<kDim>, kGroups = WarpRows<kDim>::kGroups;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<kDim>*>(memory);
  // The last tiles of a long document have most keys: they go first.
  const PrefillTile tile = in.shape.tiles[in.shape.num_tiles - 1 - blockIdx.x / in.shape.heads];
  const Index head = blockIdx.x % in.shape.heads, kv_head = head / (in.shape.heads / in.shape.kv_heads);
  const Index keys = tile.far_count + tile.near_count;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;

  for (int i = threadIdx.x; i < kTileRows * kDim / 8; i += kThreads) {
    const int r = i / (kDim / 8), piece = i % (kDim / 8);
    const bool inside = r < tile.rows;
    const Index row = tile.first_row + (inside ? r : 0);
    CopyAsync16(&shared.q[r][piece * 8], in.q + (row * in.shape.heads + head) * kDim + piece * 8, inside);
  }
  StartCopies(in, tile, kv_head, 0, keys, shared.tiles[0]);

  Index rows[2];
  GistToken own[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = warp * kMmaRows + lane / 4 + half * 8;
    rows[half] = tile.first_row + min(r, tile.rows - 1);
    own[half] = in.shape.tokens[rows[half]];
  }
  const float scale = kLog2E / sqrtf(static_cast<float>(kDim));
  WarpRows<kDim> state;
  for (Index first = 0, use = 0; first < keys; first += kKeys, use ^= 1) {
    KeyTile<kDim>& now = shared.tiles[use];
    if (first + kKeys < keys) {
      StartCopies(in, tile, kv_head, first + kKeys, keys, shared.tiles[use ^ 1]);
      WaitForCopies<1>();
    } else {
      WaitForCopies<0>();
    }
    __syncthreads();
    float logits[kGroups][4];
    WarpRows<kDim>::Logits(shared, now, logits);
    const bool all_seen = first + kKeys <= tile.far_count && now.rows[kKeys - 1] <= tile.first_row;
    if (!all_seen) {
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int key = n * kMmaColumns + lane % 4 * 2 + c % 2, half = c / 2;
          const Index begin = tile.sequence_begin;
          if (!MaySee(in.shape.rules, rows[half] - begin, now.rows[key] - begin, own[half], now.tokens[key])) {
            logits[n][c] = -INFINITY;
          }
        }
      }
    }
    state.Weigh(scale, logits);
    state.AddValues(now, logits);
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = state.total[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    const int r = warp * kMmaRows + lane / 4 + half * 8;
    if (r >= tile.rows) continue;
    float* to = out + (rows[half] * in.shape.heads + head) * kDim + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kDim / kMmaColumns; ++n) {
      to[n * kMmaColumns] = state.sums[n][2 * half] / total;
      to[n * kMmaColumns + 1] = state.sums[n][2 * half + 1] / total;
    }
  }
}

template <int kDim>
Status Run(CudaContext& context, const Bf16Inputs& in, float* out) {
  constexpr int kBytes = static_cast<int>(sizeof(Shared<kDim>));
  UNFOLD_TRY(context.Explain(
      cudaFuncSetAttribute(PrefillBf16Kernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "GistPrefill"));
  const auto blocks = static_cast<unsigned>(in.shape.num_tiles * in.shape.heads);
  PrefillBf16Kernel<kDim><<<blocks, kThreads, kBytes, context.stream()>>>(in, out);
  return context.Launched("GistPrefill");
}

}  // namespace

bool TakesPrefillOnTensorCores(const GistPrefillArgs& args) {
  const Index d = args.q.dims[2];
  return args.compute == DType::kBF16 && (d == 64 || d == 96 || d == 128 || d == 256);
}

Status PrefillOnTensorCores(CudaContext& context, const GistPrefillArgs& args, const PrefillShape& shape) {
  CallMemory memory(context, "GistPrefill");
  const Bf16Inputs in{RoundToBf16(context, memory, args.q), RoundToBf16(context, memory, args.k),
                      RoundToBf16(context, memory, args.v), shape};
  UNFOLD_TRY(memory.status());
  switch (args.q.dims[2]) {
    case 64: return Run<64>(context, in, args.out.as<float>());
    case 96: return Run<96>(context, in, args.out.as<float>());
    case 128: return Run<128>(context, in, args.out.as<float>());
    default: return Run<256>(context, in, args.out.as<float>());
  }
}

}  // namespace unfold
