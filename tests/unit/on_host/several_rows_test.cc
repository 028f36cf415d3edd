// SPDX-License-Identifier: Apache-2.0
// The kernel of several_rows.cu, run on the host: each number of rows that it is made for, and each way in which blocks
// share tiles.
#include "kernels/cuda/several_rows.cu"

#include "tests/unit/on_host/product_case.h"

namespace unfold {

// matmul.cu's, of x that is bf16 already.
const __nv_bfloat16* RoundToBf16(CudaContext&, CallMemory&, const Tensor& x) { return x.as<const __nv_bfloat16>(); }

namespace {

using on_host::ProductCase;

class SeveralRowsOnHost : public ::testing::TestWithParam<ProductCase> {};

TEST_P(SeveralRowsOnHost, AreTheProducts) {
  const bool gated = GetParam().gated;
  on_host::ExpectProducts(GetParam(), memory,
                          [&](CudaContext& context, const std::vector<MatMulArgs>& products, const RmsNormArgs*) {
                            for (const MatMulArgs& product : products) EXPECT_TRUE(TakesSeveralRows(product));
                            return gated ? RunGatedSeveralRows(context, {products[0], products[1], products[0].out})
                                         : RunSeveralRows(context, products);
                          });
}

INSTANTIATE_TEST_SUITE_P(Ways, SeveralRowsOnHost,
                         ::testing::Values(ProductCase{1000, {130}, 2},         // a tile is two blocks'
                                           ProductCase{136, {40, 300, 7}, 16},  // a block has several tiles
                                           ProductCase{776, {30}, 17},          // a tile is all blocks'
                                           ProductCase{264, {200}, 32, true},   //
                                           ProductCase{264, {150}, 64}));

}  // namespace
}  // namespace unfold
