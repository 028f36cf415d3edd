// SPDX-License-Identifier: Apache-2.0
// 16 lanes in two AVX2 registers. Compiled for x86-64-v3; reached only through the table.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace unfold {
namespace {

constexpr int kTileRows = 2;  // 12 registers of sums; x and weight vectors are used half by half
constexpr int kTileCols = 3;
constexpr int kSumHeads = 3;
constexpr int kSumVectors = 2;
constexpr int kPanelFloats = 8192;
constexpr std::int64_t kPanelMinRows = 8;

struct Lanes {
  __m256 low;   // lanes 0 to 7
  __m256 high;  // lanes 8 to 15
};

struct F32Row {
  using Element = float;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static Lanes Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
};

struct F16Row {
  using Element = std::uint16_t;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static __m256 Half(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Lanes Load(const std::uint16_t* p) { return {Half(p), Half(p + 8)}; }
};

struct BF16Row {
  using Element = std::uint16_t;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static __m256 Half(const std::uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static Lanes Load(const std::uint16_t* p) { return {Half(p), Half(p + 8)}; }
};

inline Lanes Splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline void Store(Lanes a, float* p) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
inline Lanes Add(Lanes a, Lanes b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Lanes Sub(Lanes a, Lanes b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Lanes Mul(Lanes a, Lanes b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Lanes Div(Lanes a, Lanes b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Lanes MulAdd(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Lanes Max(Lanes a, Lanes b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
// The second operand when either is NaN, so a NaN in `a` goes through.
inline Lanes Clamp(Lanes a, float low, float high) {
  const __m256 bottom = _mm256_set1_ps(low), top = _mm256_set1_ps(high);
  return {_mm256_min_ps(top, _mm256_max_ps(bottom, a.low)), _mm256_min_ps(top, _mm256_max_ps(bottom, a.high))};
}
// 2^n for an integer n in [-126, 127], given as n + 1.5 * 2^23: the low bits of that float are n.
inline __m256 PowerOfTwoHalf(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_castps_si256(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Lanes PowerOfTwo(Lanes n) { return {PowerOfTwoHalf(n.low), PowerOfTwoHalf(n.high)}; }

// sums[i] = the lanes of a[i] added, for n vectors.
template <int n>
inline void SumLanes(const Lanes* a, float* sums) {
  for (int i = 0; i < n; ++i) {
    const __m256 eight = _mm256_add_ps(a[i].low, a[i].high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    sums[i] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
}

}  // namespace
}  // namespace unfold

#define UNFOLD_SIMD_TABLE kAvx2Kernels
#define UNFOLD_SIMD_NAME "avx2"
#include "kernels/cpu/simd_kernels.h"
