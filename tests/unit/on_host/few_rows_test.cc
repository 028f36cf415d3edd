// SPDX-License-Identifier: Apache-2.0
// The kernel of few_rows.cu, run on the host: every way in which blocks share tiles, and rows that are normed with
// their products.
#include "kernels/cuda/few_rows.cu"

#include "tests/unit/on_host/product_case.h"

namespace unfold {
namespace {

using on_host::ProductCase;

class FewRowsOnHost : public ::testing::TestWithParam<ProductCase> {};

TEST_P(FewRowsOnHost, AreTheProducts) {
  const bool gated = GetParam().gated;
  on_host::ExpectProducts(GetParam(), memory,
                          [&](CudaContext& context, const std::vector<MatMulArgs>& products, const RmsNormArgs* norm) {
                            for (const MatMulArgs& product : products) EXPECT_TRUE(TakesFewRows(product));
                            EXPECT_TRUE(norm == nullptr || TakesNorm(*norm));
                            return gated ? RunGatedFewRows(context, {products[0], products[1], products[0].out}, norm)
                                         : RunFewRows(context, products, norm);
                          });
}

INSTANTIATE_TEST_SUITE_P(
    Ways, FewRowsOnHost,
    ::testing::Values(ProductCase{3584, {40}},                                            // a tile is many blocks'
                      ProductCase{3592, {50, 7, 300}, 3, false, false, DType::kBF16, 2},  // last tiles are not full
                      ProductCase{3584, {40, 24, 100}, 1, false, true},
                      ProductCase{18944, {40}, 2, false, false, DType::kBF16, 3},  // few blocks have room for x
                      ProductCase{2000, {1}, 1, false, false, DType::kF32, 132},   // more places than steps
                      ProductCase{1104, {430}, 1, false, true, DType::kBF16, 2},   // tiles are claimed
                      ProductCase{1104, {220}, 1, true, true, DType::kBF16, 2},    // of both matrices
                      ProductCase{512, {200}, 8, true},
                      ProductCase{72, {400}, 8, false, false, DType::kF32, 2},  // a step is a tile
                      ProductCase{9000, {33}, 1, false, true}));                // a thread norms more than it keeps

}  // namespace
}  // namespace unfold
