// SPDX-License-Identifier: Apache-2.0
// Products of rows with matrices, for kernels that run on the host (on_host.h): a case, and what is held against it.
#ifndef UNFOLD_TESTS_UNIT_ON_HOST_PRODUCT_CASE_H_
#define UNFOLD_TESTS_UNIT_ON_HOST_PRODUCT_CASE_H_

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace unfold::on_host {

struct ProductCase {
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
  std::vector<__nv_bfloat16> narrow_x, norm_weight;
  std::vector<double> rounded;                      // x as products take it
  std::vector<std::vector<__nv_bfloat16>> weights;  // of a gated product both
  std::vector<std::vector<float>> outs;

  explicit Operands(const ProductCase& c) {
    std::mt19937 engine(7);
    std::normal_distribution<float> normal;
    const auto bf16 = [&](std::int64_t count) {
      std::vector<__nv_bfloat16> values(static_cast<std::size_t>(count));
      for (__nv_bfloat16& value : values) value = __float2bfloat16_rn(normal(engine));
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

// Holds run(context, products, norm or null) to sums in f64, twice: the second call finds what the first has left. Of a
// gated case there are two products, and the first one's out is the whole's.
template <typename Run>
void ExpectProducts(const ProductCase& c, unsigned char* memory, Run run) {
  Operands operands(c);
  CudaContext context(c.multiprocessors, memory);
  std::vector<__nv_bfloat16> normed(operands.x.size());
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
  }
  for (int call = 0; call < 2; ++call) {
    for (std::vector<float>& out : operands.outs) std::fill(out.begin(), out.end(), NAN);
    const Status status = run(context, products, c.normed ? &norm : nullptr);
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_TRUE(context.CountersAreZero());
    for (std::size_t p = 0; p < (c.gated ? 1 : products.size()); ++p) {
      const std::int64_t columns = products[p].out.dims[1];
      for (std::int64_t i = 0; i < c.rows * columns; ++i) {
        const std::int64_t row = i / columns * c.inner, column = i % columns * c.inner;
        const auto sum = [&](const std::vector<__nv_bfloat16>& weights, double* magnitude) {
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

}  // namespace unfold::on_host

#endif  // UNFOLD_TESTS_UNIT_ON_HOST_PRODUCT_CASE_H_
