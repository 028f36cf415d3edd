// SPDX-License-Identifier: Apache-2.0
// The kernel of few_rows.cu, run on the host: every way in which blocks share tiles, and rows that are normed with
// their products, against sums in f64.
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/on_host/on_host.h"

namespace unfold {
namespace {
alignas(128) unsigned char memory[227 << 10];  // a block's shared memory, by the name that kernels know it by
}
}  // namespace unfold

#include "kernels/cuda/few_rows.cu"

namespace unfold {
namespace {

struct Case {
  std::int64_t inner;
  std::vector<std::int64_t> columns;  // of each product of x
  std::int64_t rows = 1;
  bool gated = false, normed = false;
  DType x_type = DType::kBF16;
  int multiprocessors = 5;
};

// Operands of a case, made from a seed; normed x is what RmsNorm rounds.
struct Operands {
  std::vector<float> x;
  std::vector<Bf16> narrow_x, norm_weight;
  std::vector<double> rounded;             // x as products take it
  std::vector<std::vector<Bf16>> weights;  // of a gated product both
  std::vector<std::vector<float>> outs;

  explicit Operands(const Case& c) {
    std::mt19937 engine(7);
    std::normal_distribution<float> normal;
    const auto bf16 = [&](std::int64_t count) {
      std::vector<Bf16> values(static_cast<std::size_t>(count));
      for (Bf16& value : values) value = __float2bfloat16_rn(normal(engine));
      return values;
    };
    x.resize(static_cast<std::size_t>(c.rows * c.inner));
    for (float& value : x) value = 3 * normal(engine);
    for (const float value : x) narrow_x.push_back(__float2bfloat16_rn(value));
    norm_weight = bf16(c.inner);
    double squares = 0;
    for (const float value : x) squares += double{value} * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(c.inner) + kEpsilon);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double value = c.normed ? x[i] * scale * __bfloat162float(norm_weight[i]) : x[i];
      rounded.push_back(__bfloat162float(__float2bfloat16_rn(static_cast<float>(value))));
    }
    for (std::size_t p = 0; p < (c.gated ? 2 : c.columns.size()); ++p) {
      const std::int64_t columns = c.columns[c.gated ? 0 : p];
      weights.push_back(bf16(columns * c.inner));
      outs.emplace_back(static_cast<std::size_t>(c.rows * columns));
    }
  }
  static constexpr float kEpsilon = 1e-5F;
};

class FewRowsOnHost : public ::testing::TestWithParam<Case> {};

TEST_P(FewRowsOnHost, AreTheProducts) {
  const Case& c = GetParam();
  Operands operands(c);
  CudaContext context(c.multiprocessors, memory);
  std::vector<Bf16> normed(operands.x.size());
  const RmsNormArgs norm{Tensor(operands.x.data(), DType::kF32, {c.rows, c.inner}),
                         Tensor(operands.norm_weight.data(), DType::kBF16, {c.inner}), Operands::kEpsilon,
                         Tensor(normed.data(), DType::kBF16, {c.rows, c.inner})};
  Tensor x(operands.narrow_x.data(), DType::kBF16, {c.rows, c.inner});
  if (c.x_type == DType::kF32) x = norm.x;
  if (c.normed) x = norm.out;
  std::vector<MatMulArgs> products;
  for (std::size_t p = 0; p < operands.weights.size(); ++p) {
    const auto columns = static_cast<std::int64_t>(operands.outs[p].size()) / c.rows;
    products.push_back({x, Tensor(operands.weights[p].data(), DType::kBF16, {columns, c.inner}), false,
                        Tensor(operands.outs[p].data(), DType::kF32, {c.rows, columns}), DType::kBF16, true});
    ASSERT_TRUE(TakesFewRows(products.back()));
  }
  ASSERT_TRUE(!c.normed || TakesNorm(norm));
  for (int call = 0; call < 2; ++call) {  // the second finds what the first has left
    for (std::vector<float>& out : operands.outs) std::fill(out.begin(), out.end(), NAN);
    const RmsNormArgs* with = c.normed ? &norm : nullptr;
    const Status status = c.gated ? RunGatedFewRows(context, {products[0], products[1], products[0].out}, with)
                                  : RunFewRows(context, products, with);
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_TRUE(context.CountersAreZero());
    for (std::size_t p = 0; p < (c.gated ? 1 : products.size()); ++p) {
      const std::int64_t columns = products[p].out.dims[1];
      for (std::int64_t i = 0; i < c.rows * columns; ++i) {
        const std::int64_t row = i / columns * c.inner, column = i % columns * c.inner;
        const auto sum = [&](const std::vector<Bf16>& weights, double* magnitude) {
          double all = 0, squares = 0;
          for (std::int64_t k = 0; k < c.inner; ++k) {
            const double term = operands.rounded[row + k] * __bfloat162float(weights[column + k]);
            all += term, squares += term * term;
          }
          *magnitude = std::sqrt(squares);
          return all;
        };
        double magnitude = 0, other = 0;
        double want = sum(operands.weights[p], &magnitude);
        if (c.gated) {
          const double up = sum(operands.weights[1], &other);
          magnitude = 1.1 * magnitude * std::abs(up) + std::abs(want) * other;
          want = want / (1 + std::exp(-want)) * up;
        }
        // Far above the rounding of f32 sums; far below a term that is missing or there twice. A normed element may be
        // rounded to the other side: 2^-8 of one term of thousands.
        ASSERT_NEAR(operands.outs[p][static_cast<std::size_t>(i)], want, 2e-4 * magnitude + 1e-6) << p << ", " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ways, FewRowsOnHost,
    ::testing::Values(Case{3584, {40}},                                            // a tile is many blocks'
                      Case{3592, {50, 7, 300}, 3, false, false, DType::kBF16, 2},  // last tiles are not full
                      Case{3584, {40, 24, 100}, 1, false, true},
                      Case{18944, {40}, 2, false, false, DType::kBF16, 3},  // few blocks have room for x
                      Case{2000, {1}, 1, false, false, DType::kF32, 132},   // more places than steps
                      Case{1104, {430}, 1, false, true, DType::kBF16, 2},   // tiles are claimed
                      Case{1104, {220}, 1, true, true, DType::kBF16, 2},    // of both matrices
                      Case{512, {200}, 8, true}, Case{72, {400}, 8, false, false, DType::kF32, 2},  // a step is a tile
                      Case{9000, {33}, 1, false, true}));  // a thread norms more than it keeps

}  // namespace
}  // namespace unfold
