// SPDX-License-Identifier: Apache-2.0
// Logits on tensor cores: 16 keys, the left operand, by 8 heads of a row, the right one, so that no row is padding
// (mma.cuh). Keys come from memory to a warp's own shared memory, while it works on those before; a lane 4 * g + c then
// has logits of keys g and g + 8, heads 2 c and 2 c + 1.
#ifndef UNFOLD_KERNELS_CUDA_QUERY_FRAGMENTS_CUH_
#define UNFOLD_KERNELS_CUDA_QUERY_FRAGMENTS_CUH_

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/queries.cuh"

namespace unfold {

constexpr int kTileHeads = 8;
constexpr int kFragmentDims = 8;

constexpr int kTileKeys = 16;

// Eight bf16 values, two a word.
struct Fragment {
  unsigned word[4];
};

struct FloatFragment {
  float at[kFragmentDims];
};
static __device__ __noinline__ void LoadFloatsOneByOne(const float* from, FloatFragment* all) {
  for (int e = 0; e < kFragmentDims; ++e) all->at[e] = from[e];
}
__device__ __forceinline__ FloatFragment LoadFloats(const float* from, bool vectors) {
  FloatFragment all;
  if (vectors) {
    const float4 low = __ldg(reinterpret_cast<const float4*>(from));
    const float4 high = __ldg(reinterpret_cast<const float4*>(from) + 1);
    all = {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
  } else {
    LoadFloatsOneByOne(from, &all);
  }
  return all;
}

// A query's values as sums of two bf16: with both, a product with bf16 keys is as good as in f32.
struct QueryFragment {
  Fragment high, low;
};

// Dims [8 * group, 8 * group + 8) of one head of one row on their way to be rotated. What is loaded late waits behind
// the keys that are on their way already, so it is begun before those, and ended after.
struct PendingFragment {
  FloatFragment own, other, cos, sin;
  bool upper, used;

  __device__ __forceinline__ void Begin(const QueryInputs& in, Index t, Index head, Index position, int group,
                                        bool is_used) {
    const int half = static_cast<int>(in.head_dim / 2), first = group * kFragmentDims;
    upper = first >= half;
    used = is_used;
    if (!used) return;
    const float* x = in.q + (t * in.heads + head) * in.head_dim + first;
    const Index table = position * half + (upper ? first - half : first);
    own = LoadFloats(x, in.vectors), other = LoadFloats(upper ? x - half : x + half, in.vectors);
    cos = LoadFloats(in.cos + table, in.vectors), sin = LoadFloats(in.sin + table, in.vectors);
  }
  __device__ __forceinline__ QueryFragment End() const {
    QueryFragment out{};
    if (!used) return out;
    float turned[kFragmentDims];
#pragma unroll
    for (int e = 0; e < kFragmentDims; ++e) {
      const float across = __fmul_rn(other.at[e], sin.at[e]);
      turned[e] = fmaf(own.at[e], cos.at[e], upper ? across : -across);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float a = turned[2 * i], b = turned[2 * i + 1];
      out.high.word[i] = PackBf16(a, b);
      out.low.word[i] =
          PackBf16(a - __uint_as_float(out.high.word[i] << 16), b - __uint_as_float(out.high.word[i] & 0xffff0000U));
    }
    return out;
  }
};

// Query heads of one row, rotated for one document, in shared memory: the right operand of a tile's products, as it is
// loaded. Heads past the last are zeros.
template <int kDim, int kHeadTiles>
struct SharedQueries {
  static constexpr int kSteps = kDim / 16;
  // For head and step, of four lanes: dims 2 c, 2 c + 1 and the same + 8, coarse, then fine. The last entries are none:
  // lanes of different heads then meet different banks.
  uint4 at[kHeadTiles * kTileHeads][4 * kSteps + 4];

  static constexpr int kGroups = kDim / kFragmentDims;
  static constexpr int kFragments = kHeadTiles * kTileHeads * kGroups;

  // Thread `thread` of the `threads` that take part. A barrier for them stands before and after.
  __device__ void Load(const QueryInputs& in, Index t, Index document, Index first_head, int heads, int thread,
                       int threads) {
    Index position = 0;
    const bool good = PositionIn(in, t, document, &position);
    for (int i = thread; i < kFragments; i += threads) {
      PendingFragment pending;
      Begin(in, t, position, good, first_head, heads, i, &pending);
      End(i, pending);
    }
  }
  // Fragment i of all, in two steps.
  static __device__ __forceinline__ void Begin(const QueryInputs& in, Index t, Index position, bool good,
                                               Index first_head, int heads, int i, PendingFragment* pending) {
    pending->Begin(in, t, first_head + i / kGroups, position, i % kGroups, good && i / kGroups < heads);
  }
  __device__ __forceinline__ void End(int i, const PendingFragment& pending) {
    const int head = i / kGroups, group = i % kGroups;
    const QueryFragment fragment = pending.End();
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      auto* word = reinterpret_cast<unsigned*>(&at[head][group / 2 * 4 + c]);
      word[group % 2] = fragment.high.word[c];
      word[2 + group % 2] = fragment.low.word[c];
    }
  }
};

// Rows of 16 keys, or of their values. Eight elements more than there are dims: rows then begin in different banks.
template <int kDim>
struct TileRows {
  static constexpr int kPieces = kDim / 8;  // of 16 bytes
  __nv_bfloat16 row[kTileKeys][kDim + 8];

  // Begins to copy the rows that `from` points to, in shared memory. All lanes of a warp take part.
  template <typename RowAt>
  __device__ __forceinline__ void Copy(RowAt from) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int n = 0; n < kTileKeys * kPieces / kWarp; ++n) {
      const int key = (lane + n * kWarp) / kPieces, piece = (lane + n * kWarp) % kPieces;
      CopyAsync16(&row[key][piece * 8], from(key) + piece * 8, true);
    }
  }

  // dots = the keys x heads of tile n. Two sums side by side, since a product waits for the one before it.
  template <int kHeadTiles>
  __device__ __forceinline__ void Dot(const SharedQueries<kDim, kHeadTiles>& queries, int n, float (&dots)[4]) const {
    const int lane = threadIdx.x % kWarp;
    float coarse[4] = {}, fine[4] = {};
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      unsigned keys[4];
      LoadMatrices(keys, &row[lane % 16][step * 16 + lane / 16 * 8]);
      const uint4 query = queries.at[n * kTileHeads + lane / 4][step * 4 + lane % 4];
      Mma(coarse, keys, query.x, query.y);
      Mma(fine, keys, query.z, query.w);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) dots[i] = coarse[i] + fine[i];
  }
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_QUERY_FRAGMENTS_CUH_
