// SPDX-License-Identifier: Apache-2.0
// One row of raw KV of a head, as stored, to what is attended: scaled, the key rotated (method.md 4.5).
#ifndef UNFOLD_KERNELS_CUDA_UNFOLD_ROW_CUH_
#define UNFOLD_KERNELS_CUDA_UNFOLD_ROW_CUH_

#include "kernels/cuda/common.cuh"

namespace unfold {

template <typename Element>
__device__ __forceinline__ bool AreFours(const Element* memory) {
  return reinterpret_cast<std::uintptr_t>(memory) % (4 * sizeof(Element)) == 0;
}

// One row of a head of a page a warp.
template <typename Element, typename Kv>
struct RowToUnfold {
  const Element *from_k, *from_v;
  const __nv_bfloat16 *k_scale = nullptr, *v_scale = nullptr;
  const float *cos, *sin;
  Kv *k, *v;
  int half;

  __device__ __forceinline__ void Unfold() const {
    if (half % 4 == 0 && half / 2 <= kWarp) return ByFours();
    for (int i = threadIdx.x % kWarp; i < half; i += kWarp) {
      const float a = Scaled(from_k[i], k_scale, i), b = Scaled(from_k[i + half], k_scale, i + half);
      Narrow(fmaf(a, cos[i], -__fmul_rn(b, sin[i])), k[i]);
      Narrow(fmaf(b, cos[i], __fmul_rn(a, sin[i])), k[i + half]);
      Narrow(Scaled(from_v[i], v_scale, i), v[i]);
      Narrow(Scaled(from_v[i + half], v_scale, i + half), v[i + half]);
    }
  }

 private:
  __device__ __forceinline__ static float Scaled(Element value, const __nv_bfloat16* scale, int i) {
    return scale == nullptr ? Widen(value) : Widen(value) * Widen(scale[i]);
  }

  // A lane has four neighbours, so that a row crosses the bus in as few pieces as it can; the other half of their pairs
  // is half a row of lanes away.
  __device__ __forceinline__ void ByFours() const {
    const int lane = threadIdx.x % kWarp, lanes = half / 2, first = 4 * lane;
    const bool inside = lane < lanes, low = first < half;
    const int turn = low ? first : first - half, other = low ? lane + lanes / 2 : lane - lanes / 2;
    float key[4] = {}, value[4] = {}, c[4] = {}, s[4] = {};
    if (inside) {
      LoadFour(from_k + first, AreFours(from_k), 4, key);
      LoadFour(from_v + first, AreFours(from_v), 4, value);
      LoadFour(cos + turn, AreFours(cos), 4, c);
      LoadFour(sin + turn, AreFours(sin), 4, s);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (inside && k_scale != nullptr) key[e] *= Widen(k_scale[first + e]), value[e] *= Widen(v_scale[first + e]);
    }
    float turned[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float part = __fmul_rn(__shfl_sync(kAllLanes, key[e], other), s[e]);
      turned[e] = fmaf(key[e], c[e], low ? -part : part);
    }
    if (!inside) return;
    StoreFour(turned, AreFours(k), 4, k + first);
    StoreFour(value, AreFours(v), 4, v + first);
  }
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_UNFOLD_ROW_CUH_
