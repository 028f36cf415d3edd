// SPDX-License-Identifier: Apache-2.0
// The row kernels under the cpu backend, one table for each instruction set, chosen at run time.
//
// The lane law: every sum over a row runs in 16 lanes (lane i takes elements i, i + 16, ...; a short end is filled up
// with zeros), and the lanes are added in one fixed tree: i with i + 8, then i + 4, i + 2, i + 1. So a result depends
// on its two rows alone, never on tile, thread or batch. The avx2 and avx512 tables give the same bits as each other
// (but for dots_bf16); portable has no fused multiply-add and rounds products on the way.
//
// This header is read by sources that are compiled for newer CPUs than the program needs. It must stay free of
// templates and inline functions: the linker could keep the newer code for everyone.
//
// Thread-safe: tables are constant, kernels keep no state.
#ifndef UNFOLD_KERNELS_CPU_SIMD_H_
#define UNFOLD_KERNELS_CPU_SIMD_H_

#include <cstdint>

namespace unfold {

struct SimdKernels {
  const char* name;  // "portable", "avx2", "avx512", "avx512_bf16"

  // out[i * out_stride + j] = <x[i], w[j]> over k elements, added to what is there when `accumulate`.
  // One entry each for w in f32, f16 and bf16: the index is the DType.
  void (*dots[3])(const float* const* x, std::int64_t num_x, const void* const* w, std::int64_t num_w, std::int64_t k,
                  float* out, std::int64_t out_stride, bool accumulate);
  // The same for x and w in bf16, a lane taking pairs of elements: lane i those at 2 i and 2 i + 1 of every 32. Null
  // where the CPU has no such product; `dots` on widened rows then keeps the bound, with other bits.
  void (*dots_bf16)(const std::uint16_t* const* x, std::int64_t num_x, const void* const* w, std::int64_t num_w,
                    std::int64_t k, float* out, std::int64_t out_stride, bool accumulate);
  // out[i] = x[i] in bf16: to nearest, ties to even, NaN stays NaN.
  void (*round_bf16)(const float* x, std::uint16_t* out, std::int64_t n);
  // out[i] = row[i], widened. By DType like `dots`.
  void (*widen[3])(const void* row, float* out, std::int64_t n);
  // out[i] = x[i] * scale * weight[i]; weight by DType. out may be x.
  void (*scale_rows[3])(const float* x, float scale, const void* weight, float* out, std::int64_t n);
  // out = x turned: dims i and i + half together, by cos[i] and sin[i]. x by DType; out may be x.
  void (*rotate[3])(const void* x, const float* cos, const float* sin, float* out, std::int64_t half);
  // out[i] = silu(gate[i]) * up[i]. out may be gate.
  void (*swiglu)(const float* gate, const float* up, float* out, std::int64_t n);
  // values[i] = exp(values[i] * scale - *largest), *largest the largest values[i] * scale; returns their sum. n >= 1.
  float (*softmax_terms)(float* values, float scale, std::int64_t n, float* largest);
  // out[h * d + e] += sum over j of weights[h * weight_stride + j] * rows[j][e], j ascending; h < heads, e < d.
  void (*weighted_sum)(const float* weights, std::int64_t weight_stride, std::int64_t heads, const float* const* rows,
                       std::int64_t num_rows, std::int64_t d, float* out);
  // out[i] = out[i] * scale + other[i] * other_scale.
  void (*merge)(float* out, float scale, const float* other, float other_scale, std::int64_t n);
  // out[i] *= scale.
  void (*scale)(float* out, float scale, std::int64_t n);
  // Largest of n >= 1 values; *sum and *sum_squares grow by theirs, in double and in order of i.
  float (*max_and_moments)(const float* values, std::int64_t n, double* sum, double* sum_squares);
  // exp over n values: at most 2 ulp off, 0 below the smallest subnormal, infinity above the largest float.
  void (*exp)(const float* x, float* out, std::int64_t n);
};

// One for each simd_*.cc; all but the first are built on x86-64 only (UNFOLD_CPU_X86).
extern const SimdKernels kPortableKernels;
extern const SimdKernels kAvx2Kernels;
extern const SimdKernels kAvx512Kernels;
extern const SimdKernels kAvx512Bf16Kernels;

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CPU_SIMD_H_
