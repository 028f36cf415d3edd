// SPDX-License-Identifier: Apache-2.0
// The op suite, activations in bf16, and products with a bias. A backend whose working type is bf16 is held to what
// `ref` computes before it rounds; one whose is f32 refuses, by name.
#include <array>

#include "op_testing.h"

namespace unfold {
namespace {

constexpr std::int64_t kRowCounts[] = {0, 1, 7, 37};
constexpr std::int64_t kWidths[] = {1, 15, 64, 100, 512};
constexpr DType kTypes[] = {DType::kF32, DType::kBF16};
// Of what is read and what is written.
constexpr std::array<DType, 2> kMixes[] = {
    {DType::kF32, DType::kBF16}, {DType::kBF16, DType::kF32}, {DType::kBF16, DType::kBF16}};
constexpr DType kWeightTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// What rounding to `type` adds to a bound.
double Rounding(DType type, double want) { return type == DType::kBF16 ? 0x1p-8 * std::abs(want) + 0x1p-134 : 0; }

class Bf16Activations : public OpSuite {
 protected:
  // Whether the backend did what it was asked. One that has no bf16 must have said so.
  bool Done(const Status& status) {
    if (backend_->WorkingType(DType::kBF16) == DType::kBF16) {
      EXPECT_TRUE(Succeeds(status));
      return status.ok();
    }
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("takes f32"), std::string::npos) << status.message();
    return false;
  }
  // `ref` in bf16 is what it computes in f32, rounded once.
  static ::testing::AssertionResult IsRounded(const Guarded& narrow, const Guarded& wide) {
    return SameBits(narrow, (*narrow).dtype == DType::kBF16 ? *Narrowed(wide) : *wide)
               ? ::testing::AssertionSuccess()
               : ::testing::AssertionFailure() << "ref rounds otherwise";
  }
};

TEST_P(Bf16Activations, WorkingTypes) {
  EXPECT_EQ(backend_->WorkingType(DType::kF32), DType::kF32);
  EXPECT_EQ(ref_->WorkingType(DType::kBF16), DType::kF32);
  EXPECT_GE(backend_->FeedForwardRows(), 1);
}

TEST_P(Bf16Activations, RmsNorm) {
  Random random(60);
  for (const auto& [in, out_type] : kMixes) {
    for (DType type : kWeightTypes) {
      for (std::int64_t width : kWidths) {
        for (std::int64_t rows : kRowCounts) {
          const Guarded x = random.Make(in, {rows, width}, 3), weight = random.Make(type, {width});
          Guarded out(out_type, {rows, width}), narrow(out_type, {rows, width}), want(DType::kF32, {rows, width});
          ASSERT_TRUE(Succeeds(ref_->RmsNorm({x, weight, 1e-5F, want})));
          ASSERT_TRUE(Succeeds(ref_->RmsNorm({x, weight, 1e-5F, narrow})));
          ASSERT_TRUE(IsRounded(narrow, want));
          if (!Done(backend_->RmsNorm({x, weight, 1e-5F, out}))) return;
          const double factor = (static_cast<double>(width) / 2 + 8) * kEps;
          ASSERT_TRUE(Near(out, want, [&](std::int64_t i) {
            return factor * std::abs(want[i]) + Rounding(out_type, want[i]) + 0x1p-149;
          }));
          for (std::int64_t t = 0; t < rows; ++t) {
            Guarded one(out_type, {1, width});
            ASSERT_TRUE(Succeeds(backend_->RmsNorm({(*x).Rows(t, t + 1), weight, 1e-5F, one})));
            ASSERT_TRUE(SameBits(one, (*out).Rows(t, t + 1))) << "row " << t << " alone";
          }
          if (in != out_type) continue;
          ASSERT_TRUE(Succeeds(backend_->RmsNorm({x, weight, 1e-5F, x})));
          ASSERT_TRUE(SameBits(x, out)) << "in place";
        }
      }
    }
  }
}

TEST_P(Bf16Activations, Rope) {
  Random random(61);
  for (const auto& [in, out_type] : kMixes) {
    for (std::int64_t head_dim : {2, 6, 64, 96, 128}) {
      const RopeFixture rope(300, head_dim);
      const std::int64_t half = head_dim / 2;
      for (std::int64_t rows : kRowCounts) {
        const Guarded x = random.Make(in, {rows, 3, head_dim}, 5);
        Guarded positions(DType::kInt32, {rows}), out(out_type, {rows, 3, head_dim});
        Guarded narrow(out_type, {rows, 3, head_dim}), want(DType::kF32, {rows, 3, head_dim});
        for (std::int64_t t = 0; t < rows; ++t) positions.i32()[t] = static_cast<std::int32_t>(random.Below(300));
        ASSERT_TRUE(Succeeds(ref_->Rope({x, positions, rope.table(), want})));
        ASSERT_TRUE(Succeeds(ref_->Rope({x, positions, rope.table(), narrow})));
        ASSERT_TRUE(IsRounded(narrow, want));
        if (!Done(backend_->Rope({x, positions, rope.table(), out}))) return;
        ASSERT_TRUE(Near(out, want, [&](std::int64_t i) {
          const std::int64_t other = i % head_dim < half ? i + half : i - half;
          return 2 * kEps * (std::abs(Widened(x, i)) + std::abs(Widened(x, other))) + Rounding(out_type, want[i]);
        }));
        if (in != out_type) continue;
        ASSERT_TRUE(Succeeds(backend_->Rope({x, positions, rope.table(), x})));
        ASSERT_TRUE(SameBits(x, out)) << "in place";
      }
    }
  }
}

TEST_P(Bf16Activations, SwiGlu) {
  Random random(62);
  constexpr DType kType = DType::kBF16;
  for (std::int64_t width : kWidths) {
    for (std::int64_t rows : kRowCounts) {
      for (float magnitude : {1.0F, 120.0F, 1e30F}) {
        const Guarded gate = random.Make(kType, {rows, width}, magnitude), up = random.Make(kType, {rows, width}, 3);
        Guarded out(kType, {rows, width}), narrow(kType, {rows, width}), want(DType::kF32, {rows, width});
        ASSERT_TRUE(Succeeds(ref_->SwiGlu({WidenedTensor(gate), WidenedTensor(up), want})));
        ASSERT_TRUE(Succeeds(ref_->SwiGlu({gate, up, narrow})));
        ASSERT_TRUE(IsRounded(narrow, want));
        if (!Done(backend_->SwiGlu({gate, up, out}))) return;
        ASSERT_TRUE(Near(out, want, [&](std::int64_t i) {
          return 6 * kEps * std::abs(want[i]) + 0x1p-119 * std::abs(Widened(up, i)) + Rounding(kType, want[i]);
        }));
        ASSERT_TRUE(Succeeds(backend_->SwiGlu({gate, up, gate})));
        ASSERT_TRUE(SameBits(gate, out)) << "in place";
      }
    }
  }
}

// A product and what is held against it: `ref`'s sums before they are rounded.
struct ProductCase {
  Guarded x, rounded, weight, bias;
  MatMulArgs args;  // without `out`

  ProductCase(Random& random, DType x_type, DType weight_type, std::int64_t rows, std::int64_t inner,
              std::int64_t columns)
      : x(random.Make(x_type, {rows, inner})),
        rounded(Narrowed(x)),
        weight(random.Make(weight_type, {columns, inner})),
        bias(random.Make(kWeightTypes[random.Below(3)], {columns}, 10)) {
    args.x = x;
    args.weight = weight;
    if (random.Below(4) != 0) args.bias = bias;
  }
  MatMulArgs To(const Tensor& out) const {
    MatMulArgs full = args;
    full.out = out;
    return full;
  }
  double Bound(std::int64_t i, double want, DType out_type) const {
    const std::int64_t columns = (*weight).dims[0], t = i / columns, n = i % columns;
    return MatMulBound(args.compute == DType::kBF16 ? rounded : x, weight, t, n, args.compute) +
           Rounding(out_type, want) + (args.bias.rank != 0 ? kEps * std::abs(Widened(bias, n)) : 0);
  }
};

TEST_P(Bf16Activations, MatMul) {
  Random random(63);
  for (const auto& [x_type, out_type] : kMixes) {
    for (DType type : kWeightTypes) {
      for (std::int64_t rows : {1, 2, 3, 4, 5, 37, 131}) {
        for (const auto& [inner, columns] : {std::array<std::int64_t, 2>{17, 33}, {64, 40}, {100, 7}, {512, 64}}) {
          ProductCase c(random, x_type, type, rows, inner, columns);
          c.args.compute = DType::kBF16;
          c.args.query = random.Below(2) == 0;
          Guarded out(out_type, {rows, columns}), narrow(out_type, {rows, columns}), want(DType::kF32, {rows, columns});
          const Status status = backend_->MatMul(c.To(out));
          ASSERT_TRUE(Succeeds(ref_->MatMul(c.To(want))));
          ASSERT_TRUE(Succeeds(ref_->MatMul(c.To(narrow))));
          ASSERT_TRUE(IsRounded(narrow, want));
          if (!Done(status)) return;
          ASSERT_TRUE(Near(out, want, [&](std::int64_t i) { return c.Bound(i, want[i], out_type); }))
              << rows << " x " << inner << " x " << columns << ", weights " << DTypeName(type);
        }
      }
    }
  }
}

// Products of a query that share their x, as one piece of work: more tiles of columns than a chip has places for, then
// few, and columns that fill no tile.
TEST_P(Bf16Activations, MatMulsOfAQuery) {
  Random random(67);
  for (std::int64_t rows : {1, 3, 8, 13, 32, 64}) {
    for (std::int64_t inner : {40, 512}) {
      const Guarded x = random.Make(DType::kBF16, {rows, inner});
      std::vector<ProductCase> cases;
      std::vector<Guarded> outs, wants;
      std::vector<MatMulArgs> products;
      for (std::int64_t columns : {24, 13001, 40, 7}) {
        ProductCase& c = cases.emplace_back(random, DType::kBF16, DType::kBF16, rows, inner, columns);
        outs.emplace_back(DType::kF32, std::initializer_list<std::int64_t>{rows, columns});
        wants.emplace_back(DType::kF32, std::initializer_list<std::int64_t>{rows, columns});
        std::memcpy(c.x.u16(), x.u16(), (*x).bytes());
        std::memcpy(c.rounded.u16(), x.u16(), (*x).bytes());
        c.args.x = x;
        c.args.compute = DType::kBF16;
        c.args.query = true;
        products.push_back(c.To(outs.back()));
        ASSERT_TRUE(Succeeds(ref_->MatMul(c.To(wants.back()))));
      }
      if (!Done(backend_->MatMuls(products))) return;
      for (std::size_t p = 0; p < cases.size(); ++p) {
        ASSERT_TRUE(
            Near(outs[p], wants[p], [&](std::int64_t i) { return cases[p].Bound(i, wants[p][i], DType::kF32); }))
            << rows << " x " << inner << ", product " << p;
      }
    }
  }
}

// Few rows, which a backend may do in one piece, and more; columns that fill no tile; in place and not.
TEST_P(Bf16Activations, GatedProduct) {
  Random random(68);
  for (const DType out_type : kTypes) {
    for (std::int64_t rows : {1, 3, 8, 9, 32, 40}) {
      for (const auto& [inner, columns] : {std::array<std::int64_t, 2>{40, 13}, {512, 4000}, {1000, 64}}) {
        const DType x_type = out_type == DType::kBF16 || random.Below(2) == 0 ? DType::kBF16 : DType::kF32;
        ProductCase gate(random, x_type, DType::kBF16, rows, inner, columns),
            up(random, x_type, DType::kBF16, rows, inner, columns);
        for (ProductCase* c : {&gate, &up}) {
          c->args.x = gate.x;
          c->args.bias = Tensor();
          c->args.compute = DType::kBF16;
          c->args.query = true;
        }
        std::memcpy(up.rounded.u16(), gate.rounded.u16(), (*gate.rounded).bytes());
        Guarded wide_gate(DType::kF32, {rows, columns}), wide_up(DType::kF32, {rows, columns}),
            want(DType::kF32, {rows, columns});
        ASSERT_TRUE(Succeeds(ref_->GatedProduct({gate.To(wide_gate), up.To(wide_up), want})));
        Guarded gate_out(out_type, {rows, columns}), up_out(out_type, {rows, columns}), out(out_type, {rows, columns});
        const Tensor to = random.Below(2) == 0 ? *gate_out : *out;
        const Status status = backend_->GatedProduct({gate.To(gate_out), up.To(up_out), to});
        if (x_type == DType::kF32 && out_type == DType::kF32) {
          ASSERT_TRUE(Succeeds(status));  // of every backend
        } else if (!Done(status)) {
          continue;
        }
        const Guarded& written = to.data == (*out).data ? out : gate_out;
        ASSERT_TRUE(Near(written, want,
                         [&](std::int64_t i) {
                           const double g = wide_gate[i], u = wide_up[i], silu = std::abs(g / (1 + std::exp(-g)));
                           return 1.1 * std::abs(u) * gate.Bound(i, g, out_type) + silu * up.Bound(i, u, out_type) +
                                  gate.Bound(i, g, out_type) * up.Bound(i, u, out_type) + 6 * kEps * std::abs(want[i]) +
                                  0x1p-119 * std::abs(u) + Rounding(out_type, want[i]);
                         }))
            << rows << " x " << inner << " x " << columns;
        ASSERT_TRUE(written.Intact());
      }
    }
  }
}

// Few rows: matrices whose tiles are cut among many places, and ones with so many tiles that places ask for them; each
// twice, since of every two calls OnDevice makes one with addresses that few_rows.cu does not take.
TEST_P(Bf16Activations, FewRowsOfAQuery) {
  Random random(72);
  for (const auto& [inner, columns] :
       {std::array<std::int64_t, 2>{3584, 40}, {3592, 500}, {18944, 48}, {1104, 26000}, {72, 26000}, {2000, 1}}) {
    for (std::int64_t rows : {1, 2, 8}) {
      ProductCase c(random, rows == 2 ? DType::kF32 : DType::kBF16, DType::kBF16, rows, inner, columns);
      c.args.compute = DType::kBF16;
      c.args.query = true;
      Guarded out(DType::kF32, {rows, columns}), again(DType::kF32, {rows, columns}),
          want(DType::kF32, {rows, columns});
      ASSERT_TRUE(Succeeds(ref_->MatMul(c.To(want))));
      for (const Guarded* to : {&out, &again}) {
        const Status status = backend_->MatMul(c.To(*to));
        if (rows == 2) {
          ASSERT_TRUE(Succeeds(status));  // f32, of every backend
        } else if (!Done(status)) {
          break;
        }
        ASSERT_TRUE(Near(*to, want, [&](std::int64_t i) { return c.Bound(i, want[i], DType::kF32); }))
            << rows << " x " << inner << " x " << columns;
      }
    }
  }
}

// Products of a row that is normed with them. An element of it may be rounded to either side where its bound reaches a
// boundary.
struct NormedCase {
  Guarded hidden, norm_weight, normed, wide;
  RmsNormArgs norm;
  std::vector<double> spread;  // of each element, between the two sides

  NormedCase(Random& random, DType normed_type, std::int64_t rows, std::int64_t inner)
      : hidden(random.Make(DType::kF32, {rows, inner}, 3)),
        norm_weight(random.Make(DType::kBF16, {inner})),
        normed(normed_type, {rows, inner}),
        wide(DType::kF32, {rows, inner}),
        norm{hidden, norm_weight, 1e-5F, normed},
        spread(static_cast<std::size_t>(rows * inner)) {}
  void SetSpread() {
    Guarded low(DType::kF32, {(*wide).dims[0], (*wide).dims[1]}), high(DType::kF32, {(*wide).dims[0], (*wide).dims[1]});
    for (std::int64_t i = 0; i < wide.size(); ++i) {
      const double bound = (static_cast<double>((*wide).dims[1]) / 2 + 8) * kEps * std::abs(wide[i]);
      low.f32()[i] = static_cast<float>(wide[i] - bound), high.f32()[i] = static_cast<float>(wide[i] + bound);
    }
    const Guarded low_side = Narrowed(low), high_side = Narrowed(high);
    for (std::int64_t i = 0; i < wide.size(); ++i) {
      spread[static_cast<std::size_t>(i)] = Widened(high_side, i) - Widened(low_side, i);
    }
  }
  // What it adds to the bound of element (t, n) of a product.
  double Bound(const Tensor& weight, std::int64_t t, std::int64_t n) const {
    const std::int64_t inner = weight.dims[1];
    double sum = 0;
    for (std::int64_t k = 0; k < inner; ++k) {
      sum += spread[static_cast<std::size_t>(t * inner + k)] * std::abs(Widened(weight, n * inner + k));
    }
    return sum;
  }
};

TEST_P(Bf16Activations, NormedProducts) {
  Random random(73);
  const DType working = backend_->WorkingType(DType::kBF16);
  for (const auto& [inner, columns] : {std::array<std::int64_t, 2>{3584, 120}, {9000, 33}, {72, 14000}}) {
    for (std::int64_t rows : {1, 1, 3}) {
      NormedCase c(random, working, rows, inner);
      ProductCase gate(random, working, DType::kBF16, rows, inner, columns),
          up(random, working, DType::kBF16, rows, inner, columns);
      ASSERT_TRUE(Succeeds(ref_->RmsNorm({c.hidden, c.norm_weight, 1e-5F, c.wide})));
      c.SetSpread();
      const Guarded rounded = Narrowed(c.wide);
      for (ProductCase* product : {&gate, &up}) {
        product->args.x = rounded;
        product->args.bias = Tensor();
        product->args.compute = DType::kBF16;
        product->args.query = true;
        std::memcpy(product->rounded.u16(), rounded.u16(), (*rounded).bytes());
      }
      Guarded wants[] = {Guarded(DType::kF32, {rows, columns}), Guarded(DType::kF32, {rows, columns})};
      Guarded outs[] = {Guarded(DType::kF32, {rows, columns}), Guarded(DType::kF32, {rows, columns})};
      Guarded want(DType::kF32, {rows, columns}), out(DType::kF32, {rows, columns});
      ASSERT_TRUE(Succeeds(ref_->MatMul(gate.To(wants[0]))));
      ASSERT_TRUE(Succeeds(ref_->MatMul(up.To(wants[1]))));
      ASSERT_TRUE(Succeeds(ref_->SwiGlu({wants[0], wants[1], want})));
      gate.args.x = up.args.x = c.normed;
      const MatMulArgs both[] = {gate.To(outs[0]), up.To(outs[1])};
      const auto bound = [&](const ProductCase& product, const Guarded& wanted, std::int64_t i) {
        return product.Bound(i, wanted[i], DType::kF32) + c.Bound(product.weight, i / columns, i % columns);
      };
      ASSERT_TRUE(Succeeds(backend_->NormedMatMuls(c.norm, both)));
      ASSERT_TRUE(Near(outs[0], wants[0], [&](std::int64_t i) { return bound(gate, wants[0], i); }))
          << rows << " x " << inner;
      ASSERT_TRUE(Near(outs[1], wants[1], [&](std::int64_t i) { return bound(up, wants[1], i); }))
          << rows << " x " << inner;
      // Three calls in all: of two cases of one row, each operation is once without skewed addresses.
      for (int call = 0; call < 2; ++call) {
        ASSERT_TRUE(Succeeds(backend_->NormedGatedProduct(c.norm, {both[0], both[1], out})));
        ASSERT_TRUE(Near(out, want,
                         [&](std::int64_t i) {
                           const double g = wants[0][i], u = wants[1][i], silu = std::abs(g / (1 + std::exp(-g)));
                           const double of_gate = bound(gate, wants[0], i), of_up = bound(up, wants[1], i);
                           return 1.1 * std::abs(u) * of_gate + silu * of_up + 1.1 * of_gate * of_up +
                                  6 * kEps * std::abs(want[i]) + 0x1p-119 * std::abs(u);
                         }))
            << rows << " x " << inner;
      }
    }
  }
}

// x that is rounded before and x that the product rounds: the same bits, but of a query, whose form may depend
// on where x lies.
TEST_P(Bf16Activations, MatMulRoundsAsRmsNormDoes) {
  Random random(64);
  for (std::int64_t rows : {1, 37}) {
    const Guarded x = random.Make(DType::kF32, {rows, 64}), weight = random.Make(DType::kBF16, {40, 64});
    Guarded out(DType::kF32, {rows, 40}), other(DType::kF32, {rows, 40});
    ASSERT_TRUE(Succeeds(backend_->MatMul({x, weight, false, out, DType::kBF16})));
    if (!Done(backend_->MatMul({Narrowed(x), weight, false, other, DType::kBF16}))) return;
    ASSERT_TRUE(SameBits(out, other));
  }
}

TEST_P(Bf16Activations, MatMulRowsStandAlone) {
  Random random(65);
  constexpr std::int64_t kRows = 300, kInner = 512, kColumns = 64;
  for (DType out_type : kTypes) {
    for (bool with_bias : {false, true}) {
      ProductCase c(random, DType::kBF16, DType::kBF16, kRows, kInner, kColumns);
      const Guarded bias = random.Make(DType::kBF16, {kColumns}, 10);
      c.args.compute = DType::kBF16;
      c.args.bias = with_bias ? *bias : Tensor();
      Guarded all(out_type, {kRows, kColumns});
      if (!Done(backend_->MatMul(c.To(all)))) return;
      for (std::int64_t rows : {1, 2, 5, 12, 64, 97, 257}) {
        const std::int64_t begin = random.Below(kRows - rows + 1);
        Guarded part(out_type, {rows, kColumns});
        MatMulArgs some = c.To(part);
        some.x = some.x.Rows(begin, begin + rows);
        ASSERT_TRUE(Succeeds(backend_->MatMul(some)));
        ASSERT_TRUE(SameBits(part, (*all).Rows(begin, begin + rows))) << rows << " rows from " << begin;
      }
    }
  }
}

// In f32, for every backend: one row and many, several products at once.
TEST_P(Bf16Activations, MatMulAddsABias) {
  Random random(66);
  for (DType compute : kTypes) {
    for (DType type : kWeightTypes) {
      for (std::int64_t rows : {1, 37, 131}) {
        for (std::int64_t columns : {7, 40, 301}) {
          ProductCase c(random, DType::kF32, type, rows, 100, columns);
          c.args.bias = c.bias;
          c.args.compute = compute;
          Guarded out(DType::kF32, {rows, columns}), second(DType::kF32, {rows, columns});
          Guarded want(DType::kF32, {rows, columns});
          ASSERT_TRUE(Succeeds(ref_->MatMul(c.To(want))));
          const MatMulArgs products[] = {c.To(out), c.To(second)};
          ASSERT_TRUE(Succeeds(backend_->MatMuls(products)));
          ASSERT_TRUE(Near(out, want, [&](std::int64_t i) { return c.Bound(i, want[i], DType::kF32); }));
          ASSERT_TRUE(SameBits(out, second));
        }
      }
    }
  }
}

// What is downloaded is what was there when the download was started, in every type, whatever runs after it.
TEST_P(Bf16Activations, DownloadsRunBesideLaterWork) {
  Random random(67);
  constexpr std::int64_t kRounds = 9;
  for (const std::int64_t size : {0, 1, 1000, 1 << 20}) {
    const Guarded first = random.Make(DType::kF32, {size});
    Result<Buffer> device = backend_->Allocate((*first).bytes());
    Result<Buffer> host = backend_->AllocateHost(static_cast<std::size_t>(kRounds) * (*first).bytes());
    ASSERT_TRUE(device.ok() && host.ok());
    const Tensor place = device->View(DType::kF32, {size});
    std::vector<Guarded> values;
    for (std::int64_t round = 0; round < kRounds; ++round) {
      values.push_back(random.Make(DType::kF32, {size}, 100));
      ASSERT_TRUE(Succeeds(backend_->Upload(place, (*values.back()).data)));
      auto* to = static_cast<std::byte*>(host->data()) + round * static_cast<std::int64_t>((*first).bytes());
      ASSERT_TRUE(Succeeds(backend_->StartDownload(to, place, kTypes[round % 2])));
      if (round % 4 == 3) {
        ASSERT_TRUE(Succeeds(backend_->FinishDownloads()));
      }
    }
    ASSERT_TRUE(Succeeds(backend_->Upload(place, (*first).data)));
    ASSERT_TRUE(Succeeds(backend_->FinishDownloads()));
    for (std::int64_t round = 0; round < kRounds; ++round) {
      const Guarded want = InType(values[round], kTypes[round % 2]);
      const auto* from = static_cast<std::byte*>(host->data()) + round * static_cast<std::int64_t>((*first).bytes());
      ASSERT_TRUE(SameBits(from, (*want).data, (*want).bytes())) << size << " values, round " << round;
    }
  }
  ASSERT_TRUE(Succeeds(backend_->FinishDownloads()));
  float value = 0;
  const Tensor one(&value, DType::kF32, {1});
  EXPECT_EQ(backend_->StartDownload(nullptr, one, DType::kF32).message(), "StartDownload: host has no memory");
  EXPECT_EQ(backend_->StartDownload(&value, one, DType::kInt8).message(), "StartDownload: type must be f32 or bf16");
  EXPECT_EQ(backend_->AllocateHost(SIZE_MAX).status().code(), StatusCode::kResourceExhausted);
}

INSTANTIATE_TEST_SUITE_P(Backends, Bf16Activations, ::testing::ValuesIn(Candidates()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace unfold
