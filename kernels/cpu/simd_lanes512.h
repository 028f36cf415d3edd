// SPDX-License-Identifier: Apache-2.0
// 16 lanes in one AVX-512 register, and the sizes that suit it. Included once by each simd_avx512*.cc; all names
// stay in the anonymous namespace of that source.
#ifndef UNFOLD_KERNELS_CPU_SIMD_LANES512_H_
#define UNFOLD_KERNELS_CPU_SIMD_LANES512_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace unfold {
namespace {

constexpr int kTileRows = 6;  // 24 sums, 4 weight vectors and one x vector fill 29 of 32 registers
constexpr int kTileCols = 4;
constexpr int kSumHeads = 6;  // of a weighted sum: 24 sums again, 4 value vectors, one weight
constexpr int kSumVectors = 4;
constexpr int kPanelFloats = 8192;
constexpr std::int64_t kPanelMinRows = 12;  // fewer rows than this read weights in their stored type

struct Lanes {
  __m512 v;
};

struct F32Row {
  using Element = float;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static Lanes Load(const float* p) { return {_mm512_loadu_ps(p)}; }
};

struct F16Row {
  using Element = std::uint16_t;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static Lanes Load(const std::uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
};

struct BF16Row {
  using Element = std::uint16_t;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static Lanes Load(const std::uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
};

inline Lanes Splat(float x) { return {_mm512_set1_ps(x)}; }
inline void Store(Lanes a, float* p) { _mm512_storeu_ps(p, a.v); }
inline Lanes Add(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes Sub(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Lanes Mul(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes Div(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Lanes MulAdd(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// The second operand when either is NaN, so a NaN in `a` goes through.
inline Lanes Clamp(Lanes a, float low, float high) {
  return {_mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), a.v))};
}
inline Lanes Max(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
// 2^n for an integer n in [-126, 127], given as n + 1.5 * 2^23: the low bits of that float are n.
inline Lanes PowerOfTwo(Lanes n) {
  const __m512i biased = _mm512_add_epi32(_mm512_castps_si512(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}

// Lane sums of 16 vectors at once, one per lane of the result, by the tree of the lane law.
inline __m512 SumHalves(__m512 a, __m512 b) {  // 8 sums of a, then 8 of b
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
inline __m512 SumQuarters(__m512 a, __m512 b) {  // 4 sums each of the two in a and the two in b
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
inline __m512 SumPairs(__m512 a, __m512 b) {  // in each quarter: 2 sums of a, 2 of b
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))));
}
inline __m512 SumSingles(__m512 a, __m512 b) {  // in each quarter: a.0 a.1 b.0 b.1
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
inline __m512 SumFour(const Lanes* a) { return SumQuarters(SumHalves(a[0].v, a[1].v), SumHalves(a[2].v, a[3].v)); }

inline __m512 InOrder(__m512 quarters) {  // quarter q holds vectors q, q + 4, q + 8, q + 12
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), quarters);
}

// sums[i] = the lanes of a[i] added, for n vectors. Groups are filled up by repeating: the tree is the same for all.
template <int n>
inline void SumLanes(const Lanes* a, float* sums) {
  if constexpr (n >= 16) {
    const __m512 low = SumPairs(SumFour(a), SumFour(a + 4));
    const __m512 high = SumPairs(SumFour(a + 8), SumFour(a + 12));
    _mm512_storeu_ps(sums, InOrder(SumSingles(low, high)));
    SumLanes<n - 16>(a + 16, sums + 16);
  } else if constexpr (n >= 8) {
    const __m512 pairs = SumPairs(SumFour(a), SumFour(a + 4));
    _mm256_storeu_ps(sums, _mm512_castps512_ps256(InOrder(SumSingles(pairs, pairs))));
    SumLanes<n - 8>(a + 8, sums + 8);
  } else if constexpr (n >= 4) {
    const __m512 quarters = SumFour(a);
    const __m512 pairs = SumPairs(quarters, quarters);
    _mm_storeu_ps(sums, _mm512_castps512_ps128(InOrder(SumSingles(pairs, pairs))));
    SumLanes<n - 4>(a + 4, sums + 4);
  } else if constexpr (n >= 1) {
    const Lanes same[4] = {a[0], a[0], a[0], a[0]};
    float four[4];
    SumLanes<4>(same, four);
    *sums = four[0];
    SumLanes<n - 1>(a + 1, sums + 1);
  }
}

}  // namespace
}  // namespace unfold

#endif  // UNFOLD_KERNELS_CPU_SIMD_LANES512_H_
