// SPDX-License-Identifier: Apache-2.0
// The row kernels in terms of Lanes. Included once by each simd_*.cc, behind its Lanes, F32Row, F16Row, BF16Row,
// tile constants, and UNFOLD_SIMD_TABLE and UNFOLD_SIMD_NAME (UNFOLD_SIMD_PAIRS: rows of bf16 pairs). All names stay in
// the anonymous namespace of that source.

#if !defined(UNFOLD_SIMD_TABLE) || !defined(UNFOLD_SIMD_NAME)
#error "included by simd_*.cc only"
#endif

namespace unfold {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kMostRowsAhead = 32;  // more x rows take longer than what comes next, without being fetched
constexpr std::int64_t kAheadBytes = 16384;  // how far ahead of its loads a stream of rows is fetched

// The last n < kStep elements of a row; the other lanes are zero.
template <typename Row>
inline typename Row::Vector LoadPart(const typename Row::Element* p, std::int64_t n) {
  typename Row::Element part[Row::kStep] = {};
  std::memcpy(part, p, static_cast<std::size_t>(n) * sizeof(*p));
  return Row::Load(part);
}
template <typename Row>
inline Lanes LoadUpTo(const typename Row::Element* p, std::int64_t n) {
  return n >= kLanes ? Row::Load(p) : LoadPart<Row>(p, n);
}
inline void StoreUpTo(Lanes a, float* p, std::int64_t n) {
  if (n >= kLanes) return Store(a, p);
  float part[kLanes];
  Store(a, part);
  std::memcpy(p, part, static_cast<std::size_t>(n) * sizeof(float));
}
inline float SumOf(Lanes a) {
  float sum;
  SumLanes<1>(&a, &sum);
  return sum;
}

// ---- Dot products -------------------------------------------------------------------------------------------------

// sums[r * cols + c] = <x[r], w[c]>. All sums of the tile stay in registers along k.
template <int rows, int cols, typename X, typename W>
inline void DotTile(const typename X::Element* const* x, const typename W::Element* const* w, std::int64_t k,
                    float* sums) {
  static_assert(X::kStep == W::kStep);
  Lanes acc[rows * cols];
#pragma GCC unroll 32
  for (int i = 0; i < rows * cols; ++i) acc[i] = Splat(0.0F);
  const auto step = [&](auto load_x, auto load_w) __attribute__((always_inline)) {
    typename W::Vector b[cols];
#pragma GCC unroll 8
    for (int c = 0; c < cols; ++c) b[c] = load_w(w[c]);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const typename X::Vector a = load_x(x[r]);
#pragma GCC unroll 8
      for (int c = 0; c < cols; ++c) acc[r * cols + c] = MulAdd(a, b[c], acc[r * cols + c]);
    }
  };
  std::int64_t i = 0;
  for (; i + X::kStep <= k; i += X::kStep) {
    step([i](const typename X::Element* p) { return X::Load(p + i); },
         [i](const typename W::Element* p) { return W::Load(p + i); });
  }
  if (i < k) {
    step([i, k](const typename X::Element* p) { return LoadPart<X>(p + i, k - i); },
         [i, k](const typename W::Element* p) { return LoadPart<W>(p + i, k - i); });
  }
  SumLanes<rows * cols>(acc, sums);
}

// The same sums for tiles that wait for memory: one weight row after the other, as they lie, while `next`, rows that
// come later, are fetched into L2. (Measured on a Zen 4 core, K 512, bf16 from DRAM in large pages: 16 GB/s without, 30
// with four rows at a time, 42 so; 8 KiB ahead 37, 4 KiB 25.)
template <int rows, int cols, typename X, typename W>
inline void DotStream(const typename X::Element* const* x, const typename W::Element* const* w,
                      const typename W::Element* const* next, std::int64_t k, float* sums) {
  constexpr std::int64_t kLine = 64 / sizeof(typename W::Element);
  Lanes acc[rows * cols];
#pragma GCC unroll 8
  for (int c = 0; c < cols; ++c) {
    Lanes sum[rows];
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r) sum[r] = Splat(0.0F);
    std::int64_t i = 0;
    for (; i + kLine <= k; i += kLine) {
      __builtin_prefetch(next[c] + i, 0, 2);
#pragma GCC unroll 2
      for (std::int64_t j = i; j < i + kLine; j += W::kStep) {
        const typename W::Vector b = W::Load(w[c] + j);
#pragma GCC unroll 2
        for (int r = 0; r < rows; ++r) sum[r] = MulAdd(X::Load(x[r] + j), b, sum[r]);
      }
    }
    for (; i < k; i += W::kStep) {
      const std::int64_t n = k - i < W::kStep ? k - i : W::kStep;
      const typename W::Vector b = LoadPart<W>(w[c] + i, n);
#pragma GCC unroll 2
      for (int r = 0; r < rows; ++r) sum[r] = MulAdd(LoadPart<X>(x[r] + i, n), b, sum[r]);
    }
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r) acc[r * cols + c] = sum[r];
  }
  SumLanes<rows * cols>(acc, sums);
}

// A column of tiles: kTileCols weight rows, of which num_w count and the others repeat the last; `next` as in
// DotStream.
template <typename W>
struct TileColumn {
  const typename W::Element* w[kTileCols];
  const typename W::Element* next[kTileCols];
  std::int64_t num_w;
  std::int64_t k;
};

template <int rows, typename X, typename W>
inline void DotTileAt(const typename X::Element* const* x, const TileColumn<W>& column, float* out,
                      std::int64_t out_stride, bool accumulate) {
  float sums[rows * kTileCols];
  if constexpr (rows <= 2) {
    DotStream<rows, kTileCols, X, W>(x, column.w, column.next, column.k, sums);
  } else {
    DotTile<rows, kTileCols, X, W>(x, column.w, column.k, sums);
  }
  for (int r = 0; r < rows; ++r) {
    float* row = out + r * out_stride;
    for (int c = 0; c < kTileCols && c < column.num_w; ++c) {
      row[c] = accumulate ? row[c] + sums[r * kTileCols + c] : sums[r * kTileCols + c];
    }
  }
}

// Of `num_x` rows, up to `most`, all as one tile.
template <int most, typename X, typename W>
inline void DotRest(const typename X::Element* const* x, std::int64_t num_x, const TileColumn<W>& column, float* out,
                    std::int64_t out_stride, bool accumulate) {
  if constexpr (most > 0) {
    if (num_x == most) return DotTileAt<most, X, W>(x, column, out, out_stride, accumulate);
    DotRest<most - 1, X, W>(x, num_x, column, out, out_stride, accumulate);
  }
}

// Rows that make no full tile are one more where the column is in L1; elsewhere pairs, which fetch what comes next.
template <bool in_l1, typename X, typename W>
inline void DotColumn(const typename X::Element* const* x, std::int64_t num_x, const TileColumn<W>& column, float* out,
                      std::int64_t out_stride, bool accumulate) {
  std::int64_t r = 0;
  for (; r + kTileRows <= num_x; r += kTileRows) {
    DotTileAt<kTileRows, X, W>(x + r, column, out + r * out_stride, out_stride, accumulate);
  }
  if (in_l1)
    return DotRest<kTileRows - 1, X, W>(x + r, num_x - r, column, out + r * out_stride, out_stride, accumulate);
  for (; r + 2 <= num_x; r += 2) DotTileAt<2, X, W>(x + r, column, out + r * out_stride, out_stride, accumulate);
  if (r < num_x) DotTileAt<1, X, W>(x + r, column, out + r * out_stride, out_stride, accumulate);
}

// The columns of w one after another, in their stored type.
template <typename X, typename W>
void DotColumns(const typename X::Element* const* x, std::int64_t num_x, const void* const* w, std::int64_t num_w,
                std::int64_t k, float* out, std::int64_t out_stride, bool accumulate) {
  const std::int64_t ahead = kAheadBytes / (k * static_cast<std::int64_t>(sizeof(typename W::Element))) + 1;
  for (std::int64_t j = 0; j < num_w; j += kTileCols) {
    const auto row = [&](std::int64_t n) {
      return static_cast<const typename W::Element*>(w[n < num_w ? n : num_w - 1]);
    };
    TileColumn<W> column{{}, {}, num_w - j, k};
    for (int c = 0; c < kTileCols; ++c) {
      column.w[c] = row(j + c);
      column.next[c] = row(j + c + ahead);
    }
    DotColumn<false, X, W>(x, num_x, column, out + j, out_stride, accumulate);
  }
}

template <typename Row>
void WidenRow(const void* row, float* out, std::int64_t n) {
  const auto* in = static_cast<const typename Row::Element*>(row);
  for (std::int64_t i = 0; i < n; i += kLanes) StoreUpTo(LoadUpTo<Row>(in + i, n - i), out + i, n - i);
}

// Into L2, a row of which something is read later.
template <typename Row>
inline void FetchRow(const void* row, std::int64_t n) {
  constexpr std::int64_t kLine = 64 / sizeof(typename Row::Element);
  const auto* from = static_cast<const typename Row::Element*>(row);
  for (std::int64_t i = 0; i < n; i += kLine) __builtin_prefetch(from + i, 0, 2);
}

// With many x rows a 16-bit column is widened once into a panel in L1: the same values, so the same sums. (Measured on
// a Zen 4 core of two, a decoding step of gist-mini in f32: 16 answers 9.9 ms, with rows fetched ahead and what makes
// no full tile as one 8.1; 13 answers 8.3 and 6.9.)
template <typename Row>
void Dots(const float* const* x, std::int64_t num_x, const void* const* w, std::int64_t num_w, std::int64_t k,
          float* out, std::int64_t out_stride, bool accumulate) {
  using Element = typename Row::Element;
  if (sizeof(Element) == sizeof(float) || num_x < kPanelMinRows || k * kTileCols > kPanelFloats) {
    DotColumns<F32Row, Row>(x, num_x, w, num_w, k, out, out_stride, accumulate);
    return;
  }
  alignas(64) float panel[kPanelFloats];
  const std::int64_t ahead = kAheadBytes / (k * static_cast<std::int64_t>(sizeof(Element))) + 1;
  const auto row = [&](std::int64_t n) { return w[n < num_w ? n : num_w - 1]; };
  for (std::int64_t j = 0; j < num_w; j += kTileCols) {
    TileColumn<F32Row> column{{}, {}, num_w - j, k};
    for (int c = 0; c < kTileCols; ++c) {
      if (num_x <= kMostRowsAhead) FetchRow<Row>(row(j + c + ahead), k);
      WidenRow<Row>(row(j + c), panel + c * k, k);
      column.w[c] = column.next[c] = panel + c * k;
    }
    DotColumn<true, F32Row, F32Row>(x, num_x, column, out + j, out_stride, accumulate);
  }
}

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
