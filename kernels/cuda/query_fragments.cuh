// SPDX-License-Identifier: Apache-2.0
// Logits on tensor cores: 16 keys, the left operand, by 8 heads of a row, the right one, so that no row is padding
// (mma.cuh). Keys come from memory to a warp's own shared memory, while it works on those before; a lane 4 * g + c then
// has logits of keys g and g + 8, heads 2 c and 2 c + 1.
#ifndef UNFOLD_KERNELS_CUDA_QUERY_FRAGMENTS_CUH_
#define UNFOLD_KERNELS_CUDA_QUERY_FRAGMENTS_CUH_

#include <vector>

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/queries.cuh"

namespace unfold {

constexpr int kTileHeads = 8;

constexpr int kTileKeys = 16;

// Of a head, over the keys of a tile: lanes that have the same lane % 4 have its logits.
__device__ __forceinline__ float TileMax(float value) {
#pragma unroll
  for (int step = 4; step < kWarp; step *= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}
__device__ __forceinline__ float TileSum(float value) {
#pragma unroll
  for (int step = 4; step < kWarp; step *= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Query rows, rotated to their position inside each document and, last, to their global one: the right operand of a
// tile's products, as a lane loads it. A value is the sum of two bf16: with both, a product with bf16 keys is as good
// as in f32. Made by rotated_queries.cu.
struct RotatedQueries {
  // [T, documents + 1, Hk, D / 16, heads at once, 4]: for four lanes, dims 2 c, 2 c + 1 and the same + 8 of a step,
  // coarse, then fine. Heads past a group's last are zeros.
  const uint4* at = nullptr;
  int documents = 0, kv_heads = 0, heads_at_once = 0, steps = 0;

  __device__ __forceinline__ const uint4* For(Index t, int document, Index kv_head) const {
    const Index place = (t * (documents + 1) + document) * kv_heads + kv_head;
    return at + place * (4 * steps * heads_at_once);
  }
};

// How many heads of a group are taken at once: 8 or 16.
inline Index TensorCoreHeads(Index group) { return group <= kTileHeads ? kTileHeads : 2 * kTileHeads; }
// Groups and dims that the forms on tensor cores take.
inline bool TakesTensorCores(Index group, Index head_dim) {
  return group <= 2 * kTileHeads && (head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256);
}
// Memory of `rows` rows.
inline Index RotatedQueryBytes(Index rows, Index documents, Index kv_heads, Index group, Index head_dim) {
  return rows * (documents + 1) * kv_heads * TensorCoreHeads(group) * head_dim * 4;
}
// Rows to rotate: into `turned`, which has that much memory, or, where it is null, into memory of the call. With
// `is_turned` they are there.
struct RowsToRotate {
  QueryInputs in;
  Index rows, kv_heads;
  void* turned;
  bool is_turned;
};
// Of each request, in one launch; what memory.status() tells has failed.
std::vector<RotatedQueries> RotateQueries(CudaContext& context, CallMemory& memory,
                                          const std::vector<RowsToRotate>& requests);

// The documents of a tile's keys one after another: calls each(document, whether key g of this lane is of it, whether
// key g + 8 is). Lane i has the document of key i % 16.
template <typename Each>
__device__ __forceinline__ void ForDocuments(int document, Each each) {
  const int group = static_cast<int>(threadIdx.x) % kWarp / 4;
  const int own = __shfl_sync(kAllLanes, document, group), own8 = __shfl_sync(kAllLanes, document, group + 8);
  unsigned open = (1U << kTileKeys) - 1;
  while (open != 0) {
    const int now = __shfl_sync(kAllLanes, document, __ffs(static_cast<int>(open)) - 1);
    each(now, own == now, own8 == now);
    open &= ~__ballot_sync(kAllLanes, document == now);
  }
}

// The queries of one document for a row and key/value head, in registers as far as they have room.
template <int kDim, int kHeadTiles>
struct HeldQueries {
  static constexpr int kSteps = kDim / 16;
  static constexpr bool kHeld = kDim * kHeadTiles <= 256;
  const RotatedQueries& queries;
  Index t, kv_head;
  int document = -1;
  const uint4* from = nullptr;
  uint4 held[kHeld ? kSteps * kHeadTiles : 1];

  __device__ __forceinline__ void Take(int of) {
    if (of == document) return;
    document = of;
    from = queries.For(t, of, kv_head) + threadIdx.x % kWarp;
    if constexpr (kHeld) {
#pragma unroll
      for (int i = 0; i < kSteps * kHeadTiles; ++i) held[i] = __ldg(from + i * kWarp);
    }
  }
  __device__ __forceinline__ uint4 operator()(int step, int tile) const {
    if constexpr (kHeld) return held[step * kHeadTiles + tile];
    return __ldg(from + (step * kHeadTiles + tile) * kWarp);
  }
};

// Rows of 16 keys, or of their values. Eight elements more than there are dims: rows then begin in different banks.
template <int kDim>
struct TileRows {
  static constexpr int kPieces = kDim / 8;  // of 16 bytes
  alignas(16) __nv_bfloat16 row[kTileKeys][kDim + 8];

  // Begins to copy the rows that `from` points to, in shared memory. All lanes of a warp take part.
  template <typename RowAt>
  __device__ __forceinline__ void Copy(RowAt from) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int n = 0; n < kTileKeys * kPieces / kWarp; ++n) {
      const int key = (lane + n * kWarp) / kPieces, piece = (lane + n * kWarp) % kPieces;
      CopyOnce16(&row[key][piece * 8], from(key) + piece * 8, true);
    }
  }

  // dots = the keys x the heads of a tile, whose queries query(step) gives a lane as RotatedQueries has them. Two sums
  // side by side, since a product waits for the one before it.
  template <typename QueryAt>
  __device__ __forceinline__ void Dot(QueryAt query_at, float (&dots)[4]) const {
    const int lane = threadIdx.x % kWarp;
    float coarse[4] = {}, fine[4] = {};
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      unsigned keys[4];
      LoadMatrices(keys, &row[lane % 16][step * 16 + lane / 16 * 8]);
      const uint4 query = query_at(step);
      Mma(coarse, keys, query.x, query.y);
      Mma(fine, keys, query.z, query.w);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) dots[i] = coarse[i] + fine[i];
  }
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_QUERY_FRAGMENTS_CUH_
