// SPDX-License-Identifier: Apache-2.0
// TensorCoreProducts: x * weight^T in bf16 on tensor cores, by cuBLASLt. For each kind of product (N, K, type of the
// output, with a bias or without) one algorithm is chosen, once, and used whatever the number of rows: one tile, one
// order over K, no split of K, so a row's bits do not depend on its batch (held by the op suite). For a query's rows
// one is chosen for about as many rows, which may split K.
//
// Thread-compatible. Included by .cu files only.
#ifndef UNFOLD_KERNELS_CUDA_PRODUCTS_H_
#define UNFOLD_KERNELS_CUDA_PRODUCTS_H_

#include <cuda_bf16.h>

#include <map>
#include <span>
#include <tuple>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace unfold {

// `x`, f32 or bf16, as bf16 at an address of 16 bytes, rounded to nearest, ties to even: itself, or memory of the call.
// Null after a failure, which memory.status() tells.
const __nv_bfloat16* RoundToBf16(CudaContext& context, CallMemory& memory, const Tensor& x);
// Likewise as f32.
const float* WidenToF32(CudaContext& context, CallMemory& memory, const Tensor& x);
// `from`, f32 or bf16, as the type of `to`, of equal size.
Status Convert(CudaContext& context, const Tensor& from, const Tensor& to);

// Products of a query's few rows, at the speed at which the weights come from memory: bf16 by bf16 on tensor cores
// (few_rows.cu, several_rows.cu), and other types (gemv.cu).
constexpr int kFewRows = 8, kSeveralRows = 64, kMostProductsAtOnce = 3;
bool TakesFewRows(const MatMulArgs& args);
bool TakesSeveralRows(const MatMulArgs& args);
// Up to so many rows several_rows.cu is faster than cuBLASLt with a product that is alone, and with a gated one; with
// two or three at once it is for all that it takes.
constexpr int kSeveralRowsAlone = 16, kSeveralRowsGated = 32;
// Products of one x, up to kMostProductsAtOnce. With `norm`, which TakesNorm takes, x is norm->out, which is not read.
Status RunFewRows(CudaContext& context, std::span<const MatMulArgs> products, const RmsNormArgs* norm = nullptr);
Status RunSeveralRows(CudaContext& context, std::span<const MatMulArgs> products);
bool TakesNorm(const RmsNormArgs& norm);
// Both products without a bias.
Status RunGatedFewRows(CudaContext& context, const GatedProductArgs& args, const RmsNormArgs* norm = nullptr);
Status RunGatedSeveralRows(CudaContext& context, const GatedProductArgs& args);
bool TakesDecodeProduct(const MatMulArgs& args);
Status RunDecodeProduct(CudaContext& context, const MatMulArgs& args);

class TensorCoreProducts {
 public:
  explicit TensorCoreProducts(CudaContext& context) : context_(context) {}

  // Whether Run takes this product: bf16 by bf16, a bias in bf16, N and K multiples of 8 (for others an algorithm
  // chosen for many rows may not take few: seen with N = 1).
  static bool Takes(const MatMulArgs& args);
  Status Run(const MatMulArgs& args);

 private:
  // Memory of a product as the chosen algorithms want it: at addresses of 16 bytes, the bias in the type of the output.
  struct Operands {
    const void *weight, *x, *bias;  // bias: null for none
    void* out;
  };
  Status Multiply(CallMemory& memory, const Operands& operands, const MatMulArgs& args);
  struct Algorithm {
    cublasLtMatmulAlgo_t algorithm;
    std::size_t workspace_bytes;
  };
  Result<Algorithm> AlgorithmFor(const MatMulArgs& args, cublasLtMatmulDesc_t operation);

  CudaContext& context_;
  // N, K, type of the output, with a bias, rows that it is chosen for
  using Kind = std::tuple<std::int64_t, std::int64_t, DType, bool, std::int64_t>;
  std::map<Kind, Algorithm> algorithms_;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_PRODUCTS_H_
