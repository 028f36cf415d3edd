// SPDX-License-Identifier: Apache-2.0
// Tensor-core building blocks in bf16 with f32 sums (compute capability 8.0): one product of a warp, 16 x 16 by 16 x 8,
// the loads that lay its operands out, and copies from global to shared memory that run beside the arithmetic.
//
// In a result a lane has rows lane / 4 (elements 0, 1) and lane / 4 + 8 (elements 2, 3), columns lane % 4 * 2 and the
// next.
#ifndef UNFOLD_KERNELS_CUDA_MMA_CUH_
#define UNFOLD_KERNELS_CUDA_MMA_CUH_

#include <cuda_bf16.h>

#include <cstdint>

namespace unfold {

constexpr int kMmaRows = 16;
constexpr int kMmaColumns = 8;

// 16 bytes from global to shared memory, both aligned to 16; zeros when not `inside`. Done after a wait.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool inside) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
// The same, of what a step reads once, weights and KV: the first to leave L2, so that what is small and read by every
// layer, and what kernels leave for the next one, stay there. A token of Qwen2-7B at 8K and 128K tokens on an
// H200: 4.84 and 5.45 ms, with CopyAsync16 4.90 and 5.55.
__device__ __forceinline__ void CopyOnce16(void* shared, const void* global, bool inside) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = inside ? 16 : 0;
  unsigned long long policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;\n" ::"r"(to), "l"(global), "r"(bytes),
               "l"(policy)
               : "memory");
}
// As CopyAsync16, of 4 bytes.
__device__ __forceinline__ void CopyAsync4(void* shared, const void* global) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(global) : "memory");
}
// Ends a group of copies.
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits for this thread's copies until at most `kOpen` groups run.
template <int kOpen>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kOpen) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements from shared memory; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void LoadMatrices(unsigned (&to)[4], const void* row) {
  const auto from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void LoadMatricesTransposed(unsigned (&to)[4], const void* row) {
  const auto from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

// sums += a * b; `b0` holds rows 0 to 7 of b, `b1` rows 8 to 15.
__device__ __forceinline__ void Mma(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two values side by side, the first in the low half.
__device__ __forceinline__ unsigned PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_MMA_CUH_
