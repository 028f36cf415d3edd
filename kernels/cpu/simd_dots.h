// SPDX-License-Identifier: Apache-2.0
// Loads and stores up to a row's end, and dot products, in terms of Lanes: the first part of simd_kernels.h, which
// includes it.
#ifndef UNFOLD_KERNELS_CPU_SIMD_DOTS_H_
#define UNFOLD_KERNELS_CPU_SIMD_DOTS_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace unfold {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kMostRowsAhead = 32;  // more x rows take longer than what comes next, without being fetched
constexpr std::int64_t kLongRow = 256;       // elements: rows of weights, not of keys
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

// sums[r * cols + c] = <x[r], w[c]>. All sums of the tile stay in registers along k. `Ahead` is the type of rows that
// come later, `ahead`, which are fetched into L2 between the products (void: none).
template <int rows, int cols, typename X, typename W, typename Ahead = void>
inline void DotTile(const typename X::Element* const* x, const typename W::Element* const* w, std::int64_t k,
                    float* sums, [[maybe_unused]] const Ahead* const* ahead = nullptr) {
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
    if constexpr (!std::is_void_v<Ahead>) {
#pragma GCC unroll 8
      for (int c = 0; c < cols; ++c) __builtin_prefetch(ahead[c] + i, 0, 2);
    }
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

// A tile's sums into the first `num_w` columns of `out`, or all: a full tile's rows are vectors.
template <int rows>
inline void PutSums(const float* sums, std::int64_t num_w, float* out, std::int64_t out_stride, bool accumulate) {
  const auto put = [&](std::int64_t count) __attribute__((always_inline)) {
    for (int r = 0; r < rows; ++r) {
      float* row = out + r * out_stride;
      const float* own = sums + r * kTileCols;
      if (accumulate) {
        for (std::int64_t c = 0; c < count; ++c) row[c] += own[c];
      } else {
        for (std::int64_t c = 0; c < count; ++c) row[c] = own[c];
      }
    }
  };
  num_w >= kTileCols ? put(kTileCols) : put(num_w);
}

template <int rows, typename X, typename W>
inline void DotTileAt(const typename X::Element* const* x, const TileColumn<W>& column, float* out,
                      std::int64_t out_stride, bool accumulate) {
  float sums[rows * kTileCols];
  if constexpr (rows > 2) {
    DotTile<rows, kTileCols, X, W>(x, column.w, column.k, sums);
  } else if (column.k > kLongRow) {
    DotStream<rows, kTileCols, X, W>(x, column.w, column.next, column.k, sums);
  } else {
    DotTile<rows, kTileCols, X, W>(x, column.w, column.k, sums, column.next);
  }
  PutSums<rows>(sums, column.num_w, out, out_stride, accumulate);
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
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {  // four at a time: between them nothing waits
    const Lanes a = Row::Load(in + i), b = Row::Load(in + i + kLanes), c = Row::Load(in + i + 2 * kLanes),
                d = Row::Load(in + i + 3 * kLanes);
    Store(a, out + i);
    Store(b, out + i + kLanes);
    Store(c, out + i + 2 * kLanes);
    Store(d, out + i + 3 * kLanes);
  }
  for (; i < n; i += kLanes) StoreUpTo(LoadUpTo<Row>(in + i, n - i), out + i, n - i);
}

// With many x rows a 16-bit column is widened once into a panel in L1: the same values, so the same sums. (Measured on
// a Zen 4 core of two, a decoding step of gist-mini in f32: 16 answers 9.9 ms, with rows fetched ahead and what makes
// no full tile as one 8.1; 13 answers 8.3 and 6.9. Tried: widening in the first tile's loop, 8 % fewer tokens a
// second.)
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
    const Element* later[kTileCols];
    for (int c = 0; c < kTileCols; ++c) {
      WidenRow<Row>(row(j + c), panel + c * k, k);
      column.w[c] = column.next[c] = panel + c * k;
      later[c] = static_cast<const Element*>(row(j + c + ahead));
    }
    std::int64_t first = 0;
    if (num_x >= kTileRows && num_x <= kMostRowsAhead) {
      float sums[kTileRows * kTileCols];
      DotTile<kTileRows, kTileCols, F32Row, F32Row>(x, column.w, k, sums, later);
      PutSums<kTileRows>(sums, column.num_w, out + j, out_stride, accumulate);
      first = kTileRows;
    }
    DotColumn<true, F32Row, F32Row>(x + first, num_x - first, column, out + j + first * out_stride, out_stride,
                                    accumulate);
  }
}

}  // namespace
}  // namespace unfold

#endif  // UNFOLD_KERNELS_CPU_SIMD_DOTS_H_
