// SPDX-License-Identifier: Apache-2.0
// TensorCoreProducts: x * weight^T in bf16 on tensor cores, by cuBLASLt. For each (N, K) one algorithm is chosen, once,
// and used whatever the number of rows: one tile, one order over K, no split of K, so a row's bits do not depend on its
// batch (held by the op suite).
//
// Thread-compatible. Included by .cu files only.
#ifndef UNFOLD_KERNELS_CUDA_PRODUCTS_H_
#define UNFOLD_KERNELS_CUDA_PRODUCTS_H_

#include <cuda_bf16.h>

#include <map>
#include <utility>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace unfold {

// `x`, f32, rounded to nearest, ties to even: memory of the call. Null after a failure, which memory.status() tells.
const __nv_bfloat16* RoundToBf16(CudaContext& context, CallMemory& memory, const Tensor& x);

// Products of a decoding step's few rows, at the speed at which the weights come from memory (gemv.cu).
bool TakesDecodeProduct(const MatMulArgs& args);
Status RunDecodeProduct(CudaContext& context, const MatMulArgs& args);

class TensorCoreProducts {
 public:
  explicit TensorCoreProducts(CudaContext& context) : context_(context) {}

  // Whether Run takes this product: bf16 by bf16, N and K multiples of 8 (for others an algorithm chosen for many rows
  // may not take few: seen with N = 1).
  static bool Takes(const MatMulArgs& args);
  Status Run(const MatMulArgs& args);

 private:
  Status Multiply(const void* weight, const void* x, float* out, const MatMulArgs& args);
  Result<cublasLtMatmulAlgo_t> AlgorithmFor(std::int64_t columns, std::int64_t inner, cublasLtMatmulDesc_t operation);

  CudaContext& context_;
  std::map<std::pair<std::int64_t, std::int64_t>, cublasLtMatmulAlgo_t> algorithms_;  // by (N, K)
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_PRODUCTS_H_
