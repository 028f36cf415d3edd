// SPDX-License-Identifier: Apache-2.0
// GistPrefill in bf16 on tensor cores (method.md section 3): flash attention of kTileRows rows of one head over the
// keys of their plan, gathered kKeys at a time into two buffers, so that one is filled while the other is used.
// q, k and v are rounded to bf16 before, where they are not, the softmax terms for the product with the values; sums
// are f32.
//
// Flops: 4 * D for each pair of the plan. L2 to shared memory: 4 * D bytes for each key of a tile and head.
// Tried (H100, 28/4 heads x 128, 8 documents of 2,048 tokens, whole operation): MaySee for each pair in the kernel,
// tokens beside the keys: 1.15 ms; masks made once for a pass: 0.90 with tiles of 64 keys and two blocks on a
// multiprocessor, 0.87 with 32 and three, 0.85 with 32 and four.
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
constexpr int kKeys = 32;  // of a tile
constexpr int kGroups = kKeys / kMmaColumns;
constexpr float kLog2E = 1.4426950408889634F;

// Keys and values of kKeys rows. Rows are padded by 16 bytes: eight of them lie in different banks.
template <int kDim>
struct alignas(16) KeyTile {
  static constexpr int kStride = kDim + 8;
  __nv_bfloat16 k[kKeys][kStride];
  __nv_bfloat16 v[kKeys][kStride];
};

template <int kDim>
struct alignas(16) Shared {
  __nv_bfloat16 q[kTileRows][KeyTile<kDim>::kStride];
  KeyTile<kDim> tiles[2];
  std::int32_t rows[2][kKeys];  // of the call: the keys of a tile
};

struct Bf16Inputs {
  const __nv_bfloat16 *q, *k, *v;  // [T, heads, D]
  PrefillShape shape;
};

// Starts the copies of keys [first, first + kKeys), whose rows are in `rows`, and of the rows of the kKeys after them.
// Past the last key there are zeros.
template <int kDim>
__device__ void StartCopies(const Bf16Inputs& in, const PrefillTile& tile, Index kv_head, Index first, Index keys,
                            const std::int32_t* rows, std::int32_t* next_rows, KeyTile<kDim>& to) {
  constexpr int kPieces = kDim / 8;  // of 16 bytes
#pragma unroll 4
  for (int i = threadIdx.x; i < kKeys * kPieces; i += kThreads) {
    const int key = i / kPieces, piece = i % kPieces;
    const bool inside = first + key < keys;
    const Index row = inside ? rows[key] : tile.first_row;
    const Index from = (row * in.shape.kv_heads + kv_head) * kDim + piece * 8;
    CopyAsync16(&to.k[key][piece * 8], in.k + from, inside);
    CopyAsync16(&to.v[key][piece * 8], in.v + from, inside);
  }
  const Index next = first + kKeys + threadIdx.x;
  if (threadIdx.x < kKeys && next < keys) CopyAsync4(next_rows + threadIdx.x, in.shape.KeyRow(tile, next));
  CommitCopies();
}

// A warp's 16 rows of one tile: the running softmax, and the sums, in the layout of a product's result: a lane has rows
// lane / 4 and lane / 4 + 8, and in every group of eight columns the two from lane % 4 * 2 on.
template <int kDim>
struct WarpRows {
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
    for (int key = 0; key < kKeys; key += 16) {
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

template <int kDim, typename Out>
__global__ void __launch_bounds__(kThreads, kDim > 128 ? 1 : 4) PrefillBf16Kernel(Bf16Inputs in, Out* out) {
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
  if (threadIdx.x < kKeys && threadIdx.x < keys) shared.rows[0][threadIdx.x] = *in.shape.KeyRow(tile, threadIdx.x);
  __syncthreads();
  StartCopies(in, tile, kv_head, 0, keys, shared.rows[0], shared.rows[1], shared.tiles[0]);

  const float scale = kLog2E / sqrtf(static_cast<float>(kDim));
  WarpRows<kDim> state;
  for (Index first = 0, use = 0; first < keys; first += kKeys, use ^= 1) {
    const bool masked = first >= tile.seen_keys;
    unsigned long long seen[2] = {};
    if (masked) {
      const Index open = first - tile.seen_keys, block = tile.mask_begin + open / CudaPrefillPlan::kMaskKeys;
      const auto* bits = in.shape.masks + block * kTileRows + warp * kMmaRows + lane / 4;
      for (int half = 0; half < 2; ++half) {
        seen[half] = bits[half * 8] >> (open % CudaPrefillPlan::kMaskKeys + lane % 4 * 2);
      }
    }
    WaitForCopies<0>();
    __syncthreads();  // this tile is there, and nobody uses the one before any more
    if (first + kKeys < keys) {
      StartCopies(in, tile, kv_head, first + kKeys, keys, shared.rows[use ^ 1], shared.rows[use],
                  shared.tiles[use ^ 1]);
    }
    float logits[kGroups][4];
    WarpRows<kDim>::Logits(shared, shared.tiles[use], logits);
    if (masked) {
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if ((seen[c / 2] >> (n * kMmaColumns + c % 2) & 1) == 0) logits[n][c] = -INFINITY;
        }
      }
    }
    state.Weigh(scale, logits);
    state.AddValues(shared.tiles[use], logits);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = state.total[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    const int r = warp * kMmaRows + lane / 4 + half * 8;
    if (r >= tile.rows) continue;
    Out* to = out + ((Index{tile.first_row} + r) * in.shape.heads + head) * kDim + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kDim / kMmaColumns; ++n) {
      Narrow(state.sums[n][2 * half] / total, to[n * kMmaColumns]);
      Narrow(state.sums[n][2 * half + 1] / total, to[n * kMmaColumns + 1]);
    }
  }
}

template <int kDim, typename Out>
Status Run(CudaContext& context, const Bf16Inputs& in, Out* out) {
  constexpr int kBytes = static_cast<int>(sizeof(Shared<kDim>));
  UNFOLD_TRY(context.Explain(
      cudaFuncSetAttribute(PrefillBf16Kernel<kDim, Out>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "GistPrefill"));
  const auto blocks = static_cast<unsigned>(in.shape.num_tiles * in.shape.heads);
  PrefillBf16Kernel<kDim><<<blocks, kThreads, kBytes, context.stream()>>>(in, out);
  return context.Launched("GistPrefill");
}

template <typename Out>
Status RunAt(CudaContext& context, Index head_dim, const Bf16Inputs& in, Out* out) {
  switch (head_dim) {
    case 64: return Run<64>(context, in, out);
    case 96: return Run<96>(context, in, out);
    case 128: return Run<128>(context, in, out);
    default: return Run<256>(context, in, out);
  }
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
  const Index head_dim = args.q.dims[2];
  return args.out.dtype == DType::kBF16 ? RunAt(context, head_dim, in, args.out.as<__nv_bfloat16>())
                                        : RunAt(context, head_dim, in, args.out.as<float>());
}

}  // namespace unfold
