// SPDX-License-Identifier: Apache-2.0
// What the two RouteScore kernels share.
#ifndef UNFOLD_KERNELS_CUDA_ROUTE_CUH_
#define UNFOLD_KERNELS_CUDA_ROUTE_CUH_

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/context.h"

namespace unfold {

// One head of a call. `best` holds OrderedBits while kernels run.
struct RouteHead {
  const float* q;  // [T, D]
  const float* keys_f32;
  const __nv_bfloat16* keys_bf16;  // [C, D], aligned to 16 bytes
  float* best;                     // [T, units]
  double *sums, *squares;          // [T, ranges]: of each range's chunks
};

struct RouteCall {
  const RouteHead* heads;  // device memory
  Index num_heads;
  const Index* unit_begin;  // device memory
  Index rows, chunks, units;
};

// Floats as integers in the same order, so that atomicMax finds the largest. NaN is never put in.
__device__ __forceinline__ unsigned OrderedBits(float value) {
  const unsigned bits = __float_as_uint(value);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}

// The unit that holds `chunk`: the last that begins at or before it.
__device__ __forceinline__ Index UnitOf(const Index* unit_begin, Index units, Index chunk) {
  Index low = 0, high = units;
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    (unit_begin[middle] <= chunk ? low : high) = middle;
  }
  return low;
}

// bf16 keys on tensor cores, kRouteRange chunks a range.
constexpr Index kRouteRange = 1024;
bool TakesRouteOnTensorCores(Index head_dim);
Status RouteOnTensorCores(CudaContext& context, const RouteCall& call, Index head_dim);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_ROUTE_CUH_
