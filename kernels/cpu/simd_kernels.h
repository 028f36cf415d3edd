// SPDX-License-Identifier: Apache-2.0
// The row kernels in terms of Lanes. Included once by each simd_*.cc, behind its Lanes, F32Row, F16Row, BF16Row,
// tile constants, and UNFOLD_SIMD_TABLE and UNFOLD_SIMD_NAME (UNFOLD_SIMD_PAIRS: rows of bf16 pairs). All names stay in
// the anonymous namespace of that source.

#if !defined(UNFOLD_SIMD_TABLE) || !defined(UNFOLD_SIMD_NAME)
#error "included by simd_*.cc only"
#endif

#include "kernels/cpu/simd_dots.h"

namespace unfold {
namespace {

// To nearest, ties to even; NaN stays NaN.
void RoundBF16(const float* x, std::uint16_t* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16, nan = (bits >> 16) | 0x40U;
    out[i] = static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
  }
}

// ---- Elementwise --------------------------------------------------------------------------------------------------

template <typename Row>
void ScaleRows(const float* x, float scale, const void* weight, float* out, std::int64_t n) {
  const auto* w = static_cast<const typename Row::Element*>(weight);
  const Lanes factor = Splat(scale);
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const Lanes scaled = Mul(LoadUpTo<F32Row>(x + i, n - i), factor);
    StoreUpTo(Mul(scaled, LoadUpTo<Row>(w + i, n - i)), out + i, n - i);
  }
}

template <typename Row>
void Rotate(const void* x, const float* cos, const float* sin, float* out, std::int64_t half) {
  const auto* in = static_cast<const typename Row::Element*>(x);
  const Lanes zero = Splat(0.0F);
  for (std::int64_t i = 0; i < half; i += kLanes) {
    const std::int64_t n = half - i;
    const Lanes a = LoadUpTo<Row>(in + i, n), b = LoadUpTo<Row>(in + half + i, n);
    const Lanes c = LoadUpTo<F32Row>(cos + i, n), s = LoadUpTo<F32Row>(sin + i, n);
    StoreUpTo(MulAdd(a, c, Sub(zero, Mul(b, s))), out + i, n);
    StoreUpTo(MulAdd(b, c, Mul(a, s)), out + half + i, n);
  }
}

// e^x = 2^n * e^r with n = round(x / ln 2), so |r| <= ln(2) / 2; e^r by its series to r^7, whose rest is below
// 6e-9. 2^n comes in two factors, so that subnormal results and the last step to infinity are reached.
inline Lanes Exp(Lanes x) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  x = Clamp(x, -104.0F, 89.0F);
  const Lanes n = Sub(MulAdd(x, Splat(1.44269504F), Splat(kMagic)), Splat(kMagic));
  Lanes r = MulAdd(n, Splat(-0.693359375F), x);  // ln 2 in two parts; the first has 10 bits, so n * it is exact
  r = MulAdd(n, Splat(2.12194440e-4F), r);
  Lanes p = Splat(1.0F / 5040.0F);
  p = MulAdd(p, r, Splat(1.0F / 720.0F));
  p = MulAdd(p, r, Splat(1.0F / 120.0F));
  p = MulAdd(p, r, Splat(1.0F / 24.0F));
  p = MulAdd(p, r, Splat(1.0F / 6.0F));
  p = MulAdd(p, r, Splat(0.5F));
  p = MulAdd(p, r, Splat(1.0F));
  p = MulAdd(p, r, Splat(1.0F));
  const Lanes half = MulAdd(n, Splat(0.5F), Splat(kMagic));
  const Lanes rest = Add(Sub(n, Sub(half, Splat(kMagic))), Splat(kMagic));
  return Mul(Mul(p, PowerOfTwo(half)), PowerOfTwo(rest));
}

void ExpRow(const float* x, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) StoreUpTo(Exp(LoadUpTo<F32Row>(x + i, n - i)), out + i, n - i);
}

void SwiGlu(const float* gate, const float* up, float* out, std::int64_t n) {
  const Lanes zero = Splat(0.0F), one = Splat(1.0F);
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const Lanes g = LoadUpTo<F32Row>(gate + i, n - i);
    const Lanes silu = Div(g, Add(one, Exp(Sub(zero, g))));
    StoreUpTo(Mul(silu, LoadUpTo<F32Row>(up + i, n - i)), out + i, n - i);
  }
}

// ---- Attention ----------------------------------------------------------------------------------------------------

float SoftmaxTerms(float* values, float scale, std::int64_t n, float* result) {
  const Lanes factor = Splat(scale);
  float& largest = *result;
  largest = values[0] * scale;
  std::int64_t i = 0;
  if (n >= kLanes) {
    Lanes best = Mul(F32Row::Load(values), factor);
    for (i = kLanes; i + kLanes <= n; i += kLanes) best = Max(best, Mul(F32Row::Load(values + i), factor));
    float lanes[kLanes];
    Store(best, lanes);
    for (float lane : lanes) largest = lane > largest ? lane : largest;
  }
  for (; i < n; ++i) largest = values[i] * scale > largest ? values[i] * scale : largest;

  const Lanes top = Splat(largest);
  Lanes sum = Splat(0.0F);
  for (i = 0; i < n; i += kLanes) {
    const Lanes term = Exp(Sub(Mul(LoadUpTo<F32Row>(values + i, n - i), factor), top));
    StoreUpTo(term, values + i, n - i);
    sum = Add(sum, LoadUpTo<F32Row>(values + i, n - i));  // read back: lanes past the end count nothing
  }
  return SumOf(sum);
}

// Columns [first, first + vectors * 16) of `heads` heads, kept in registers while the rows go by. With `part` the last
// vector is cut off at d. Few heads wait for memory: they fetch rows that come later into L2.
constexpr std::int64_t kSumAhead = 16;
template <int heads, int vectors, bool part>
inline void WeightedTile(const float* weights, std::int64_t weight_stride, const float* const* rows,
                         std::int64_t num_rows, std::int64_t first, std::int64_t d, float* out) {
  const auto load = [d](const float* row, std::int64_t e) {
    return part ? LoadUpTo<F32Row>(row + e, d - e) : F32Row::Load(row + e);
  };
  Lanes acc[heads * vectors];
#pragma GCC unroll 8
  for (int h = 0; h < heads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) acc[h * vectors + v] = load(out + h * d, first + v * kLanes);
  }
  for (std::int64_t j = 0; j < num_rows; ++j) {
    if constexpr (heads <= 2) {
      const float* ahead = rows[j + kSumAhead < num_rows ? j + kSumAhead : num_rows - 1] + first;
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) __builtin_prefetch(ahead + v * kLanes, 0, 2);
    }
    Lanes value[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) value[v] = load(rows[j], first + v * kLanes);
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) {
      const Lanes weight = Splat(weights[h * weight_stride + j]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) acc[h * vectors + v] = MulAdd(weight, value[v], acc[h * vectors + v]);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < heads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t e = first + v * kLanes;
      StoreUpTo(acc[h * vectors + v], out + h * d + e, part ? d - e : kLanes);
    }
  }
}

template <int heads>
inline void WeightedHeads(const float* weights, std::int64_t weight_stride, const float* const* rows,
                          std::int64_t num_rows, std::int64_t d, float* out) {
  std::int64_t e = 0;
  for (; e + kSumVectors * kLanes <= d; e += kSumVectors * kLanes) {
    WeightedTile<heads, kSumVectors, false>(weights, weight_stride, rows, num_rows, e, d, out);
  }
  for (; e + kLanes <= d; e += kLanes) {
    WeightedTile<heads, 1, false>(weights, weight_stride, rows, num_rows, e, d, out);
  }
  if (e < d) WeightedTile<heads, 1, true>(weights, weight_stride, rows, num_rows, e, d, out);
}

void WeightedSum(const float* weights, std::int64_t weight_stride, std::int64_t heads, const float* const* rows,
                 std::int64_t num_rows, std::int64_t d, float* out) {
  std::int64_t h = 0;
  const auto take = [&](auto run, std::int64_t step) {
    for (; h + step <= heads; h += step) {
      run(weights + h * weight_stride, weight_stride, rows, num_rows, d, out + h * d);
    }
  };
  take(WeightedHeads<kSumHeads>, kSumHeads);
  take(WeightedHeads<2>, 2);
  take(WeightedHeads<1>, 1);
}

void Merge(float* out, float scale, const float* other, float other_scale, std::int64_t n) {
  const Lanes a = Splat(scale), b = Splat(other_scale);
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const Lanes scaled = Mul(LoadUpTo<F32Row>(out + i, n - i), a);
    StoreUpTo(MulAdd(LoadUpTo<F32Row>(other + i, n - i), b, scaled), out + i, n - i);
  }
}

void Scale(float* out, float scale, std::int64_t n) {
  const Lanes factor = Splat(scale);
  for (std::int64_t i = 0; i < n; i += kLanes) {
    StoreUpTo(Mul(LoadUpTo<F32Row>(out + i, n - i), factor), out + i, n - i);
  }
}

float MaxAndMoments(const float* values, std::int64_t n, double* sum, double* sum_squares) {
  float largest = values[0];
  double total = 0, squares = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double value = values[i];
    largest = values[i] > largest ? values[i] : largest;
    total += value;
    squares += value * value;
  }
  *sum += total;
  *sum_squares += squares;
  return largest;
}

}  // namespace

const SimdKernels UNFOLD_SIMD_TABLE = {
    UNFOLD_SIMD_NAME,
    {Dots<F32Row>, Dots<F16Row>, Dots<BF16Row>},
#if defined(UNFOLD_SIMD_PAIRS)
    DotColumns<UNFOLD_SIMD_PAIRS, UNFOLD_SIMD_PAIRS>,
#else
    nullptr,
#endif
    RoundBF16,
    {WidenRow<F32Row>, WidenRow<F16Row>, WidenRow<BF16Row>},
    {ScaleRows<F32Row>, ScaleRows<F16Row>, ScaleRows<BF16Row>},
    {Rotate<F32Row>, Rotate<F16Row>, Rotate<BF16Row>},
    SwiGlu,
    SoftmaxTerms,
    WeightedSum,
    Merge,
    Scale,
    MaxAndMoments,
    ExpRow,
};

}  // namespace unfold
