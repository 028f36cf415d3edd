// SPDX-License-Identifier: Apache-2.0
// The op suite, dense part: every candidate against `ref`, on the bounds stated in backend.h.
#include <array>

#include "op_testing.h"

namespace unfold {
namespace {

constexpr std::int64_t kRowCounts[] = {0, 1, 2, 7, 37, 64};
constexpr std::int64_t kWidths[] = {1, 15, 16, 17, 64, 100, 512};
constexpr DType kWeightTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

TEST_P(OpSuite, EmbedWidensEveryHalf) {
  for (DType type : {DType::kF16, DType::kBF16}) {
    constexpr std::int64_t kRows = 4096, kWidth = 16;
    Guarded table(type, {kRows, kWidth});
    for (std::int64_t i = 0; i < kRows * kWidth; ++i) table.u16()[i] = static_cast<std::uint16_t>(i);
    Guarded ids(DType::kInt32, {kRows}), out(DType::kF32, {kRows, kWidth});
    for (std::int64_t t = 0; t < kRows; ++t) ids.i32()[t] = static_cast<std::int32_t>(t);
    ASSERT_TRUE(Succeeds(backend_->Embed({table, ids, out})));
    for (std::int64_t i = 0; i < out.size(); ++i) {
      const auto want = static_cast<float>(Widened(table, i));
      ASSERT_TRUE(std::isnan(want) ? std::isnan(out[i]) : SameBits(&want, out.f32() + i, 4)) << "bits " << i;
    }
    ASSERT_TRUE(out.Intact());
  }
}

TEST_P(OpSuite, EmbedPicksRows) {
  Random random(1);
  for (DType type : kWeightTypes) {
    for (std::int64_t width : kWidths) {
      for (std::int64_t rows : kRowCounts) {
        const Guarded table = random.Make(type, {50, width});
        Guarded ids(DType::kInt32, {rows}), out(DType::kF32, {rows, width}), want(DType::kF32, {rows, width});
        for (std::int64_t t = 0; t < rows; ++t) ids.i32()[t] = static_cast<std::int32_t>(random.Below(50));
        ASSERT_TRUE(Succeeds(backend_->Embed({table, ids, out})));
        ASSERT_TRUE(Succeeds(ref_->Embed({table, ids, want})));
        ASSERT_TRUE(Near(out, want, [](std::int64_t) { return 0.0; }));
      }
    }
  }
}

TEST_P(OpSuite, RmsNorm) {
  Random random(2);
  for (DType type : kWeightTypes) {
    for (std::int64_t width : kWidths) {
      for (std::int64_t rows : kRowCounts) {
        const Guarded x = random.Make(DType::kF32, {rows, width}, 3), weight = random.Make(type, {width});
        Guarded out(DType::kF32, {rows, width}), want(DType::kF32, {rows, width});
        ASSERT_TRUE(Succeeds(backend_->RmsNorm({x, weight, 1e-5F, out})));
        ASSERT_TRUE(Succeeds(ref_->RmsNorm({x, weight, 1e-5F, want})));
        const double factor = (static_cast<double>(width) / 2 + 8) * kEps;
        ASSERT_TRUE(Near(out, want, [&](std::int64_t i) { return factor * std::abs(want[i]) + 0x1p-149; }));
        ASSERT_TRUE(Succeeds(backend_->RmsNorm({x, weight, 1e-5F, x})));
        ASSERT_TRUE(SameBits(x, out)) << "in place";
      }
    }
  }
}

// A row's bits from a large batch equal those of the same row in any smaller one, at any place.
TEST_P(OpSuite, RmsNormRowsStandAlone) {
  Random random(3);
  const Guarded x = random.Make(DType::kF32, {64, 100}), weight = random.Make(DType::kBF16, {100});
  Guarded all(DType::kF32, {64, 100});
  ASSERT_TRUE(Succeeds(backend_->RmsNorm({x, weight, 1e-6F, all})));
  for (std::int64_t begin = 0; begin < 64; ++begin) {
    Guarded one(DType::kF32, {1, 100});
    ASSERT_TRUE(Succeeds(backend_->RmsNorm({(*x).Rows(begin, begin + 1), weight, 1e-6F, one})));
    ASSERT_TRUE(SameBits(one, (*all).Rows(begin, begin + 1)));
  }
}

// More rows than a chip works on at once, narrow and wide: as one by one, and nothing read past the last.
TEST_P(OpSuite, RmsNormOfManyRows) {
  Random random(12);
  for (const auto& [rows, width] : {std::array<std::int64_t, 2>{7000, 100}, {2100, 100}, {2100, 4200}}) {
    const Guarded x = random.Make(DType::kF32, {rows, width}), weight = random.Make(DType::kBF16, {width});
    Guarded all(DType::kF32, {rows, width});
    ASSERT_TRUE(Succeeds(backend_->RmsNorm({x, weight, 1e-6F, all})));
    ASSERT_TRUE(all.Intact());
    for (std::int64_t row = 0; row < rows; row += 1 + random.Below(100)) {
      Guarded one(DType::kF32, {1, width});
      ASSERT_TRUE(Succeeds(backend_->RmsNorm({(*x).Rows(row, row + 1), weight, 1e-6F, one})));
      ASSERT_TRUE(SameBits(one, (*all).Rows(row, row + 1))) << "row " << row << " of " << rows << " x " << width;
    }
  }
}

constexpr DType kComputeTypes[] = {DType::kF32, DType::kBF16};

void CheckMatMul(Backend& backend, Backend& ref, Random& random, const MatMulArgs& shape, bool accumulate,
                 float magnitude) {
  const std::int64_t rows = shape.x.dims[0], inner = shape.x.dims[1], columns = shape.weight.dims[0];
  const Guarded x = random.Make(DType::kF32, {rows, inner}, magnitude);
  const Guarded weight = random.Make(shape.weight.dtype, {columns, inner});
  const Guarded before = random.Make(DType::kF32, {rows, columns}, 10);
  Guarded out(DType::kF32, {rows, columns}), want(DType::kF32, {rows, columns});
  if (accumulate) {
    std::memcpy(out.f32(), before.f32(), (*out).bytes());
    std::memcpy(want.f32(), before.f32(), (*want).bytes());
  }
  ASSERT_TRUE(Succeeds(backend.MatMul({x, weight, accumulate, out, shape.compute, shape.query})));
  ASSERT_TRUE(Succeeds(ref.MatMul({x, weight, accumulate, want, shape.compute})));
  const Guarded seen = shape.compute == DType::kBF16 ? Narrowed(x) : x;
  ASSERT_TRUE(Near(out, want,
                   [&](std::int64_t i) {
                     return MatMulBound(seen, weight, i / columns, i % columns, shape.compute) +
                            (accumulate ? kEps * std::abs(before[i]) : 0);
                   }))
      << rows << " x " << inner << " x " << columns;
}

// A product of this shape: x [rows, inner], weight [columns, inner] of `type`.
MatMulArgs Shape(DType type, DType compute, std::int64_t rows, std::int64_t inner, std::int64_t columns) {
  return {Tensor(nullptr, DType::kF32, {rows, inner}), Tensor(nullptr, type, {columns, inner}), false, {}, compute};
}

TEST_P(OpSuite, MatMul) {
  Random random(4);
  for (DType compute : kComputeTypes) {
    for (DType type : kWeightTypes) {
      for (std::int64_t inner : kWidths) {
        for (std::int64_t rows : kRowCounts) {
          for (std::int64_t columns : {1, 3, 4, 6, 33, 40}) {
            CheckMatMul(*backend_, *ref_, random, Shape(type, compute, rows, inner, columns), columns % 2 == 0, 1);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

// Over several row blocks and column blocks; over a row too long for the widened panel; with large magnitudes.
TEST_P(OpSuite, MatMulManyTasks) {
  Random random(5);
  for (DType compute : kComputeTypes) {
    for (DType type : kWeightTypes) {
      CheckMatMul(*backend_, *ref_, random, Shape(type, compute, 131, 33, 301), false, 1);
      CheckMatMul(*backend_, *ref_, random, Shape(type, compute, 14, 2777, 7), true, 1);
      CheckMatMul(*backend_, *ref_, random, Shape(type, compute, 20, 64, 40), false, 1e18F);
      if (compute == DType::kBF16) {
        CheckMatMul(*backend_, *ref_, random, Shape(type, compute, 20, 64, 40), false, 1e-38F);  // subnormal products
      }
      if (HasFatalFailure()) return;
    }
  }
}

// Times one: the rounding of x itself, at ties, at the largest and smallest values, and at random.
TEST_P(OpSuite, MatMulInBf16RoundsToNearestEven) {
  Random random(32);
  std::vector<std::uint32_t> bits = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0xbf808000, 0x7f7fffff, 0x7f7f7fff,
                                     0x00800000, 0x00808000, 0x7f800000, 0xff800000, 0x7f800001, 0x7fc00000, 0};
  while (bits.size() < 4000) bits.push_back(static_cast<std::uint32_t>(random.Below(std::int64_t{1} << 32)));
  const auto rows = static_cast<std::int64_t>(bits.size());
  Guarded x(DType::kF32, {rows, 1}), one(DType::kBF16, {1, 1}), out(DType::kF32, {rows, 1});
  std::memcpy(x.f32(), bits.data(), (*x).bytes());
  one.u16()[0] = F32ToBF16(1.0F);
  ASSERT_TRUE(Succeeds(backend_->MatMul({x, one, false, out, DType::kBF16})));
  for (std::int64_t t = 0; t < rows; ++t) {
    const float want = BF16ToF32(F32ToBF16(x[t]));
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(out[t])) << std::hex << bits[t];
    } else if (std::abs(want) < 0x1p-126F) {
      ASSERT_LE(std::abs(out[t]), 0x1p-126F) << std::hex << bits[t];  // subnormal: zero is allowed
    } else {
      ASSERT_EQ(out[t], want) << std::hex << bits[t];
    }
  }
}

// Products done together have the bits they have alone: shared x, other x, other shapes, empty ones.
TEST_P(OpSuite, MatMulsTogetherEqualMatMulsAlone) {
  Random random(33);
  for (DType compute : kComputeTypes) {
    for (std::int64_t rows : {1, 37, 200}) {
      const Guarded x = random.Make(DType::kF32, {rows, 100}), other = random.Make(DType::kF32, {rows, 64});
      const Guarded a = random.Make(DType::kBF16, {301, 100}), b = random.Make(DType::kF16, {7, 100});
      const Guarded c = random.Make(DType::kBF16, {40, 64}), d = random.Make(DType::kBF16, {65, 100});
      std::vector<Guarded> together, alone;
      for (std::int64_t columns : {301, 7, 40, 65, 0}) {
        together.emplace_back(DType::kF32, std::initializer_list<std::int64_t>{rows, columns});
        alone.emplace_back(DType::kF32, std::initializer_list<std::int64_t>{rows, columns});
      }
      const auto products = [&](const std::vector<Guarded>& out) {
        return std::vector<MatMulArgs>{{x, a, false, out[0], compute},
                                       {x, b, false, out[1], compute},
                                       {other, c, false, out[2], compute},
                                       {x, d, false, out[3], compute},
                                       {x, (*a).Rows(0, 0), false, out[4], compute}};
      };
      ASSERT_TRUE(Succeeds(backend_->MatMuls(products(together))));
      for (const MatMulArgs& product : products(alone)) ASSERT_TRUE(Succeeds(backend_->MatMul(product)));
      for (std::size_t i = 0; i < alone.size(); ++i) {
        ASSERT_TRUE(SameBits(together[i], alone[i]) && together[i].Intact()) << rows << " rows, product " << i;
      }
    }
  }
  ASSERT_TRUE(Succeeds(backend_->MatMuls({})));
}

TEST_P(OpSuite, MatMulOfSubnormalHalves) {
  Random random(6);
  const Guarded x = random.Make(DType::kF32, {7, 64});
  Guarded weight(DType::kF16, {5, 64}), out(DType::kF32, {7, 5}), want(DType::kF32, {7, 5});
  for (std::int64_t i = 0; i < weight.size(); ++i) {
    weight.u16()[i] = static_cast<std::uint16_t>(random.Below(0x400) | random.Below(2) << 15);
  }
  ASSERT_TRUE(Succeeds(backend_->MatMul({x, weight, false, out})));
  ASSERT_TRUE(Succeeds(ref_->MatMul({x, weight, false, want})));
  ASSERT_GT(LargestMagnitude(want), 0);
  ASSERT_TRUE(
      Near(out, want, [&](std::int64_t i) { return 66 * kEps * Norm(x, i / 5, 64) * Norm(weight, i % 5, 64); }));
}

// The form for a query's rows, few and many, keeps the bound.
TEST_P(OpSuite, MatMulOfQueries) {
  Random random(11);
  for (DType compute : kComputeTypes) {
    for (DType type : kWeightTypes) {
      for (std::int64_t rows : {1, 2, 3, 4, 5, 8, 9, 17, 40, 65}) {
        for (std::int64_t inner : {8, 24, 100, 2048, 5000}) {
          MatMulArgs shape = Shape(type, compute, rows, inner, rows % 2 == 0 ? 7 : 48);
          shape.query = true;
          CheckMatMul(*backend_, *ref_, random, shape, rows % 2 == 0, 1);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

void CheckRowsAndColumnsStandAlone(Backend& backend, DType type, DType compute, bool columns_too) {
  Random random(7);
  constexpr std::int64_t kRows = 131, kColumns = 40;
  for (std::int64_t inner : {17, 24, 512}) {
    const Guarded x = random.Make(DType::kF32, {kRows, inner}), weight = random.Make(type, {kColumns, inner});
    Guarded all(DType::kF32, {kRows, kColumns});
    ASSERT_TRUE(Succeeds(backend.MatMul({x, weight, false, all, compute})));
    for (std::int64_t rows : {1, 2, 3, 5, 6, 7, 12, 13, 37, 97}) {
      const std::int64_t begin = random.Below(kRows - rows + 1);
      Guarded part(DType::kF32, {rows, kColumns});
      ASSERT_TRUE(Succeeds(backend.MatMul({(*x).Rows(begin, begin + rows), weight, false, part, compute})));
      ASSERT_TRUE(SameBits(part, (*all).Rows(begin, begin + rows))) << rows << " rows from " << begin;
    }
    for (std::int64_t column = 0; columns_too && column < kColumns; ++column) {
      Guarded one(DType::kF32, {kRows, 1});
      ASSERT_TRUE(Succeeds(backend.MatMul({x, (*weight).Rows(column, column + 1), false, one, compute})));
      for (std::int64_t t = 0; t < kRows; ++t) {
        ASSERT_TRUE(SameBits(one.f32() + t, all.f32() + t * kColumns + column, 4)) << "column " << column;
      }
    }
  }
}

TEST_P(OpSuite, MatMulRowsAndColumnsStandAlone) {
  for (DType compute : kComputeTypes) {
    for (DType type : kWeightTypes) {
      CheckRowsAndColumnsStandAlone(*backend_, type, compute, GetParam().columns_stand_alone);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OpSuite, Rope) {
  Random random(8);
  for (std::int64_t head_dim : {2, 6, 64, 96, 128}) {
    const RopeFixture rope(300, head_dim);
    const std::int64_t half = head_dim / 2;
    for (std::int64_t rows : kRowCounts) {
      const Guarded x = random.Make(DType::kF32, {rows, 3, head_dim}, 5);
      Guarded positions(DType::kInt32, {rows}), out(DType::kF32, {rows, 3, head_dim}),
          want(DType::kF32, {rows, 3, head_dim});
      for (std::int64_t t = 0; t < rows; ++t) positions.i32()[t] = static_cast<std::int32_t>(random.Below(300));
      ASSERT_TRUE(Succeeds(backend_->Rope({x, positions, rope.table(), out})));
      ASSERT_TRUE(Succeeds(ref_->Rope({x, positions, rope.table(), want})));
      ASSERT_TRUE(Near(out, want, [&](std::int64_t i) {
        const std::int64_t other = i % head_dim < half ? i + half : i - half;
        return 2 * kEps * (std::abs(x[i]) + std::abs(x[other]));
      }));
      ASSERT_TRUE(Succeeds(backend_->Rope({x, positions, rope.table(), x})));
      ASSERT_TRUE(SameBits(x, out)) << "in place";
    }
  }
}

TEST_P(OpSuite, SwiGlu) {
  Random random(9);
  for (std::int64_t width : kWidths) {
    for (std::int64_t rows : kRowCounts) {
      for (float magnitude : {1.0F, 120.0F, 1e30F}) {
        const Guarded gate = random.Make(DType::kF32, {rows, width}, magnitude);
        const Guarded up = random.Make(DType::kF32, {rows, width}, 3);
        Guarded out(DType::kF32, {rows, width}), want(DType::kF32, {rows, width});
        ASSERT_TRUE(Succeeds(backend_->SwiGlu({gate, up, out})));
        ASSERT_TRUE(Succeeds(ref_->SwiGlu({gate, up, want})));
        ASSERT_TRUE(Near(out, want, [&](std::int64_t i) {
          return 6 * kEps * std::abs(want[i]) + 0x1p-119 * std::abs(up[i]) + 0x1p-149;
        }));
        ASSERT_TRUE(Succeeds(backend_->SwiGlu({gate, up, gate})));
        ASSERT_TRUE(SameBits(gate, out)) << "in place";
      }
    }
  }
}

// Rows [begin, begin + rows) of a [Hk, rows, D] cache as [T, Hk, D].
Guarded ToTokens(const Guarded& cache, std::int64_t begin, std::int64_t rows) {
  const auto [heads, cache_rows, head_dim, unused] = (*cache).dims;
  Guarded tokens(DType::kF32, {rows, heads, head_dim});
  for (std::int64_t row = 0; row < rows * heads; ++row) {
    const float* from = cache.f32() + (row % heads * cache_rows + begin + row / heads) * head_dim;
    std::memcpy(tokens.f32() + row * head_dim, from, static_cast<std::size_t>(head_dim) * sizeof(float));
  }
  return tokens;
}

TEST_P(OpSuite, Unfold) {
  Random random(10);
  constexpr std::int64_t kHeads = 3, kOutRows = 70;
  for (DType type : {DType::kF32, DType::kBF16, DType::kInt8}) {
    for (std::int64_t head_dim : {64, 96, 128}) {
      const RopeFixture rope(100, head_dim);
      const Guarded k_scale = random.Make(DType::kBF16, {kHeads, head_dim});
      const Guarded v_scale = random.Make(DType::kBF16, {kHeads, head_dim});
      // What a stored element stands for.
      const auto value = [&](const Guarded& rows, const Guarded& scale, std::int64_t i) {
        return Widened(rows, i) * (type == DType::kInt8 ? Widened(scale, i % (kHeads * head_dim)) : 1);
      };
      for (std::int64_t rows : kRowCounts) {
        const std::int64_t row_begin = random.Below(kOutRows - rows + 1);
        const Guarded k = random.Make(type, {rows, kHeads, head_dim}), v = random.Make(type, {rows, kHeads, head_dim});
        Guarded positions(DType::kInt32, {rows});
        for (std::int64_t t = 0; t < rows; ++t) positions.i32()[t] = static_cast<std::int32_t>(random.Below(100));
        Guarded out_k(DType::kF32, {kHeads, kOutRows, head_dim}), out_v(DType::kF32, {kHeads, kOutRows, head_dim});
        Guarded wide(DType::kF32, {rows, kHeads, head_dim}), turned(DType::kF32, {rows, kHeads, head_dim});
        for (std::int64_t i = 0; i < k.size(); ++i) wide.f32()[i] = static_cast<float>(value(k, k_scale, i));
        const UnfoldArgs args{k, v, k_scale, v_scale, positions, rope.table(), row_begin, -1, out_k, out_v};
        ASSERT_TRUE(Succeeds(backend_->Unfold(args)));
        ASSERT_TRUE(Succeeds(backend_->Rope({wide, positions, rope.table(), turned})));
        ASSERT_TRUE(out_k.Intact() && out_v.Intact());
        // Written rows equal Rope of the widened key bit for bit, and the value itself; others are as before.
        for (std::int64_t i = 0; i < out_k.size(); ++i) {
          const std::int64_t head = i / head_dim / kOutRows, t = i / head_dim % kOutRows - row_begin;
          const std::int64_t from = (t * kHeads + head) * head_dim + i % head_dim;
          if (t < 0 || t >= rows) {
            ASSERT_TRUE(std::isnan(out_k[i]) && std::isnan(out_v[i])) << "row outside was written";
          } else {
            ASSERT_TRUE(SameBits(out_k.f32() + i, turned.f32() + from, 4));
            ASSERT_EQ(out_v[i], value(v, v_scale, from));
          }
        }
        Guarded ref_k(DType::kF32, {kHeads, kOutRows, head_dim}), ref_v(DType::kF32, {kHeads, kOutRows, head_dim});
        std::memcpy(ref_k.f32(), out_k.f32(), (*out_k).bytes());
        std::memcpy(ref_v.f32(), out_v.f32(), (*out_v).bytes());
        UnfoldArgs ref_args = args;
        ref_args.out_k = ref_k;
        ref_args.out_v = ref_v;
        ASSERT_TRUE(Succeeds(ref_->Unfold(ref_args)));
        ASSERT_TRUE(SameBits(ref_v, out_v));
        ASSERT_TRUE(Near(turned, ToTokens(ref_k, row_begin, rows), [&](std::int64_t i) {
          const std::int64_t other = i % head_dim < head_dim / 2 ? i + head_dim / 2 : i - head_dim / 2;
          return 2 * kEps * (std::abs(wide[i]) + std::abs(wide[other]));
        }));
      }
    }
  }
}

// Rows go where their positions say.
TEST_P(OpSuite, UnfoldAtPositions) {
  Random random(12);
  constexpr std::int64_t kHeads = 2, kRows = 3, kOutRows = 9, kDim = 64;
  const RopeFixture rope(100, kDim);
  const Guarded k = random.Make(DType::kF32, {kRows, kHeads, kDim}),
                v = random.Make(DType::kF32, {kRows, kHeads, kDim});
  Guarded positions(DType::kInt32, {kRows});
  for (std::int64_t t = 0; t < kRows; ++t) positions.i32()[t] = static_cast<std::int32_t>(44 + t);
  const Guarded out_k(DType::kF32, {kHeads, kOutRows, kDim}), out_v = out_k, want_k = out_k, want_v = out_k;
  UnfoldArgs args{k, v, {}, {}, positions, rope.table(), 0, 40, out_k, out_v};
  ASSERT_TRUE(Succeeds(backend_->Unfold(args)));
  args.first_position = -1, args.row_begin = 4, args.out_k = want_k, args.out_v = want_v;
  ASSERT_TRUE(Succeeds(backend_->Unfold(args)));
  EXPECT_TRUE(out_k.Intact() && out_v.Intact());
  EXPECT_TRUE(SameBits(out_k, want_k) && SameBits(out_v, want_v));
}

// In bf16 the rows are those in f32, rounded. A backend that attends f32 alone says so.
TEST_P(OpSuite, UnfoldToBf16) {
  Random random(11);
  constexpr std::int64_t kHeads = 3, kRows = 9, kDim = 64;
  const RopeFixture rope(100, kDim);
  const Guarded k = random.Make(DType::kBF16, {kRows, kHeads, kDim}),
                v = random.Make(DType::kF32, {kRows, kHeads, kDim});
  Guarded positions(DType::kInt32, {kRows});
  for (std::int64_t t = 0; t < kRows; ++t) positions.i32()[t] = static_cast<std::int32_t>(random.Below(100));
  for (const Guarded& stored : {k, v}) {
    Guarded wide_k(DType::kF32, {kHeads, kRows, kDim}), wide_v(DType::kF32, {kHeads, kRows, kDim});
    Guarded out_k(DType::kBF16, {kHeads, kRows, kDim}), out_v(DType::kBF16, {kHeads, kRows, kDim});
    UnfoldArgs args{stored, stored, {}, {}, positions, rope.table(), 0, -1, wide_k, wide_v};
    ASSERT_TRUE(Succeeds(backend_->Unfold(args)));
    args.out_k = out_k;
    args.out_v = out_v;
    const Status status = backend_->Unfold(args);
    if (backend_->WorkingType(DType::kBF16) != DType::kBF16) {
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_NE(status.message().find("Unfold"), std::string::npos) << status.message();
      continue;
    }
    ASSERT_TRUE(Succeeds(status));
    ASSERT_TRUE(out_k.Intact() && out_v.Intact());
    for (std::int64_t i = 0; i < out_k.size(); ++i) {
      ASSERT_EQ(out_k.u16()[i], F32ToBF16(wide_k[i]));
      ASSERT_EQ(out_v.u16()[i], F32ToBF16(wide_v[i]));
    }
  }
}

TEST_P(OpSuite, XorWordsReadsEveryWord) {
  Random random(60);
  for (const std::int64_t count : {0, 1, 3, 127, 128, 129, 4099, 2'500'001}) {
    Guarded words = random.Make(DType::kF32, {count});  // any bits
    const Tensor bits((*words).data, DType::kInt32, {count});
    const Guarded out(DType::kInt32, {1}), ref_out(DType::kInt32, {1});
    ASSERT_TRUE(Succeeds(backend_->XorWords({bits, out})));
    ASSERT_TRUE(Succeeds(ref_->XorWords({bits, ref_out})));
    ASSERT_TRUE(out.Intact() && SameBits(ref_out, out)) << count;
    if (count == 0) continue;
    // The last word counts.
    words.f32()[count - 1] += 1;
    ASSERT_TRUE(Succeeds(backend_->XorWords({bits, out})));
    ASSERT_FALSE(SameBits(ref_out, out)) << count;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, OpSuite, ::testing::ValuesIn(Candidates()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace unfold
