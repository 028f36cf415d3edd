// SPDX-License-Identifier: Apache-2.0
// The avx512 set with dot products of bf16 pairs. Compiled for x86-64-v4 and AVX512-BF16; reached only through the
// table.
#include "kernels/cpu/simd_lanes512.h"

namespace unfold {
namespace {

// 32 elements a step: lane i takes the pair 2 i, 2 i + 1. The instruction rounds after each of its two products to
// nearest even, takes subnormal inputs as zero and gives zero for subnormal sums, whatever the mode of the thread.
struct BF16Pairs {
  using Element = std::uint16_t;
  using Vector = __m512bh;
  static constexpr std::int64_t kStep = 32;
  static Vector Load(const std::uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
};

inline Lanes MulAdd(__m512bh a, __m512bh b, Lanes c) { return {_mm512_dpbf16_ps(c.v, a, b)}; }

}  // namespace
}  // namespace unfold

#define UNFOLD_SIMD_TABLE kAvx512Bf16Kernels
#define UNFOLD_SIMD_NAME "avx512_bf16"
#define UNFOLD_SIMD_PAIRS BF16Pairs
#include "kernels/cpu/simd_kernels.h"
