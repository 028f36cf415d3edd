// SPDX-License-Identifier: Apache-2.0
// Query rows as the keys of documents want them: rotated to their position inside each document, by the block that
// needs them. What scoring and attention share: a thread takes one key and meets kHeadsAtOnce heads with it.
#ifndef UNFOLD_KERNELS_CUDA_QUERIES_CUH_
#define UNFOLD_KERNELS_CUDA_QUERIES_CUH_

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace unfold {

constexpr int kHeadsAtOnce = 8;
constexpr Index kMaxQueryDim = 256;

struct QueryInputs {
  const float* q = nullptr;  // [T, H, D], not rotated
  const std::int32_t* positions = nullptr;
  const float *cos = nullptr, *sin = nullptr;
  const std::int32_t* segment_offset = nullptr;
  Index heads = 0, head_dim = 0, documents = 0, table_rows = 0;
  FaultSink faults;
  FaultKind position_fault, offset_fault;
};

inline QueryInputs MakeQueries(const Tensor& q, const Tensor& positions, const RopeTable& rope,
                               const Tensor& segment_offset, const FaultSink& faults, FaultKind position_fault,
                               FaultKind offset_fault) {
  return {q.as<float>(),
          positions.as<std::int32_t>(),
          rope.cos.as<float>(),
          rope.sin.as<float>(),
          segment_offset.as<std::int32_t>(),
          q.dims[1],
          q.dims[2],
          segment_offset.rank == 0 ? 0 : segment_offset.dims[0],
          rope.cos.dims[0],
          faults,
          position_fault,
          offset_fault};
}

// The first of ascending values that is not below `value`.
__device__ inline Index FirstNotBelow(const std::int32_t* sorted, Index count, std::int32_t value) {
  Index low = 0;
  while (low < count) {
    const Index middle = (low + count) / 2;
    if (sorted[middle] < value)
      low = middle + 1;
    else
      count = middle;
  }
  return low;
}

// The same by a warp, whose lanes all look for the same values: a load for every factor of 32 instead of every factor
// of 2, and those of all values together.
template <int kValues>
__device__ inline void WarpFirstNotBelow(const std::int32_t* sorted, int count, const std::int32_t (&values)[kValues],
                                         int (&found)[kValues]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int end[kValues], part = count;
#pragma unroll
  for (int n = 0; n < kValues; ++n) found[n] = 0, end[n] = count;
  for (int left = count; left > 0; left = part - 1) {
    // Each lane has a part, and asks its last.
    part = (left + kWarp - 1) / kWarp;
    bool below[kValues];
#pragma unroll
    for (int n = 0; n < kValues; ++n) {
      const int own = found[n] + lane * part;
      below[n] = own < end[n] && sorted[min(own + part, end[n]) - 1] < values[n];
    }
#pragma unroll
    for (int n = 0; n < kValues; ++n) {
      found[n] = min(found[n] + __popc(__ballot_sync(kAllLanes, below[n])) * part, end[n]);
      end[n] = min(found[n] + part - 1, end[n]);
    }
  }
}
__device__ inline int WarpFirstNotBelow(const std::int32_t* sorted, int count, std::int32_t value) {
  int found[1];
  WarpFirstNotBelow(sorted, count, {value}, found);
  return found[0];
}

// The documents of a tile's keys: lane i has that of the key whose row lanes i and i + 16 tell. `ends`: the row at
// which each document ends; `known`: a document that none of the keys is before. `documents` for a row past the last
// end.
__device__ inline int DocumentsOfTile(const std::int32_t* ends, int documents, int known, std::int32_t row) {
  constexpr int kKeys = 16;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int32_t end = known + lane < documents ? ends[known + lane] : INT32_MAX;
  int passed = 0;
#pragma unroll
  for (int key = 0; key < kKeys; ++key) {
    const unsigned before = __ballot_sync(kAllLanes, end <= __shfl_sync(kAllLanes, row, key));
    if (lane % kKeys == key) passed = __popc(before);
  }
  return passed < kWarp ? known + passed : static_cast<int>(FirstNotBelow(ends, documents, row + 1));
}

// Where row t stands as `document` counts (in.documents: globally). False, and a note, for a position that the table
// does not have.
__device__ inline bool PositionIn(const QueryInputs& in, Index t, Index document, Index* position) {
  const std::int32_t global = in.positions[t];
  *position = global;
  if (!InRange(in.faults, in.position_fault, t, global, in.table_rows)) return false;
  if (document >= in.documents) return true;
  const std::int32_t offset = in.segment_offset[document];
  *position = global - offset;
  if (offset >= 0 && offset <= global) return true;
  NoteFault(in.faults, in.offset_fault, document, offset, global);
  return false;
}

// Fills to [kHeadsAtOnce, D] with heads [first_head, first_head + heads) of row t, rotated for `document`
// (in.documents: at the global position); zeros for heads past them and for a position that is not in the table. All
// threads of the block take part; a barrier must stand before and after.
__device__ inline void LoadQueries(const QueryInputs& in, Index t, Index document, Index first_head, int heads,
                                   float* to) {
  const int half = static_cast<int>(in.head_dim / 2);
  Index position = 0;
  const bool good = PositionIn(in, t, document, &position);
  for (int i = threadIdx.x; i < kHeadsAtOnce * half; i += blockDim.x) {
    const int h = i / half, e = i % half;
    float a = 0, b = 0;
    if (h < heads && good) {
      const float* from = in.q + (t * in.heads + first_head + h) * in.head_dim + e;
      const float c = in.cos[position * half + e], s = in.sin[position * half + e];
      a = fmaf(from[0], c, -__fmul_rn(from[half], s));
      b = fmaf(from[half], c, __fmul_rn(from[0], s));
    }
    to[h * 2 * half + e] = a;
    to[h * 2 * half + half + e] = b;
  }
}

// Four elements of keys, widened.
__device__ __forceinline__ float4 LoadKeyDims(const float* from) {
  return __ldg(reinterpret_cast<const float4*>(from));
}
__device__ __forceinline__ float4 LoadKeyDims(const __nv_bfloat16* from) {
  const uint2 bits = __ldg(reinterpret_cast<const uint2*>(from));
  return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000U),
                     __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000U));
}

// dots[h] = <queries[h], key>, in the order of the dims. With kVectors the key is aligned to 16 bytes, and D a multiple
// of 4; the bits are the same without.
template <bool kVectors, typename Kv>
__device__ __forceinline__ void DotHeads(const float* queries, const Kv* key, int d, float (&dots)[kHeadsAtOnce]) {
#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h) dots[h] = 0;
  if (kVectors) {
#pragma unroll 4
    for (int e = 0; e < d; e += 4) {
      const float4 k = LoadKeyDims(key + e);
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) {
        const float4 q = *reinterpret_cast<const float4*>(queries + h * d + e);
        dots[h] = fmaf(q.x, k.x, dots[h]);
        dots[h] = fmaf(q.y, k.y, dots[h]);
        dots[h] = fmaf(q.z, k.z, dots[h]);
        dots[h] = fmaf(q.w, k.w, dots[h]);
      }
    }
  } else {
    for (int e = 0; e < d; ++e) {
      const float k = Widen(key[e]);
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) dots[h] = fmaf(queries[h * d + e], k, dots[h]);
    }
  }
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_QUERIES_CUH_
