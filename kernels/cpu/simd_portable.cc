// SPDX-License-Identifier: Apache-2.0
// 16 lanes in four vectors of four, in the compiler's own vector types: any CPU, no fused multiply-add.
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace unfold {
namespace {

constexpr int kTileRows = 1;  // 12 of the 16 registers of the x86-64 baseline hold sums
constexpr int kTileCols = 3;
constexpr int kSumHeads = 3;
constexpr int kSumVectors = 1;
constexpr int kPanelFloats = 8192;
constexpr std::int64_t kPanelMinRows = 4;

typedef float F32x4 __attribute__((vector_size(16)));
typedef std::uint32_t U32x4 __attribute__((vector_size(16)));

struct Lanes {
  F32x4 v[4];
};

template <typename Op>
inline Lanes Each(Op op) {
  return {{op(0), op(1), op(2), op(3)}};
}

struct F32Row {
  using Element = float;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static Lanes Load(const float* p) {
    Lanes lanes;
    std::memcpy(lanes.v, p, sizeof(lanes.v));
    return lanes;
  }
};

// Exact for every half, subnormals, infinities and NaN included: the exponent is moved by a product, which a
// subnormal needs, and all-ones exponents are set again.
struct F16Row {
  using Element = std::uint16_t;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static Lanes Load(const std::uint16_t* p) {
    return Each([p](int part) {
      U32x4 half;
      for (int i = 0; i < 4; ++i) half[i] = p[part * 4 + i];
      const U32x4 magnitude = (half & 0x7fffU) << 13;
      U32x4 bits = (U32x4)((F32x4)magnitude * 0x1p112F);
      bits |= (U32x4)(magnitude >= (0x7c00U << 13)) & 0x7f800000U;
      return (F32x4)(bits | ((half & 0x8000U) << 16));
    });
  }
};

struct BF16Row {
  using Element = std::uint16_t;
  using Vector = Lanes;
  static constexpr std::int64_t kStep = 16;
  static Lanes Load(const std::uint16_t* p) {
    return Each([p](int part) {
      U32x4 wide;
      for (int i = 0; i < 4; ++i) wide[i] = p[part * 4 + i];
      return (F32x4)(wide << 16);
    });
  }
};

inline Lanes Splat(float x) {
  return Each([x](int) { return F32x4{x, x, x, x}; });
}
inline void Store(Lanes a, float* p) { std::memcpy(p, a.v, sizeof(a.v)); }
inline Lanes Add(Lanes a, Lanes b) {
  return Each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes Sub(Lanes a, Lanes b) {
  return Each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Lanes Mul(Lanes a, Lanes b) {
  return Each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes Div(Lanes a, Lanes b) {
  return Each([&](int i) { return a.v[i] / b.v[i]; });
}
inline Lanes MulAdd(Lanes a, Lanes b, Lanes c) {
  return Each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Lanes Max(Lanes a, Lanes b) {
  return Each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
// A comparison with NaN is false, so a NaN in `a` goes through.
inline Lanes Clamp(Lanes a, float low, float high) {
  const F32x4 bottom = {low, low, low, low}, top = {high, high, high, high};
  return Each([&](int i) {
    const F32x4 raised = a.v[i] < bottom ? bottom : a.v[i];
    return raised > top ? top : raised;
  });
}
// 2^n for an integer n in [-126, 127], given as n + 1.5 * 2^23: the low bits of that float are n.
inline Lanes PowerOfTwo(Lanes n) {
  return Each([&](int i) { return (F32x4)(((U32x4)n.v[i] + 127U) << 23); });
}

// sums[i] = the lanes of a[i] added, for n vectors.
template <int n>
inline void SumLanes(const Lanes* a, float* sums) {
  for (int i = 0; i < n; ++i) {
    const F32x4 four = (a[i].v[0] + a[i].v[2]) + (a[i].v[1] + a[i].v[3]);
    sums[i] = (four[0] + four[2]) + (four[1] + four[3]);
  }
}

}  // namespace
}  // namespace unfold

#define UNFOLD_SIMD_TABLE kPortableKernels
#define UNFOLD_SIMD_NAME "portable"
#include "kernels/cpu/simd_kernels.h"
