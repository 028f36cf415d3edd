// SPDX-License-Identifier: Apache-2.0
// Where kernels of products put their sums, as MatMulArgs says: f32 or bf16, added to what was there or to a bias.
#ifndef UNFOLD_KERNELS_CUDA_PRODUCT_OUTPUT_CUH_
#define UNFOLD_KERNELS_CUDA_PRODUCT_OUTPUT_CUH_

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace unfold {

class ProductOutput {
 public:
  ProductOutput() = default;
  explicit ProductOutput(const MatMulArgs& args)
      : out_(args.out.data),
        bias_(args.bias.rank == 0 ? nullptr : args.bias.data),
        out_type_(args.out.dtype),
        bias_type_(args.bias.dtype),
        accumulate_(args.accumulate) {}

  // The sum of element `at`, which is in `column`.
  __device__ void Put(Index at, Index column, float sum) const { Put(at, sum + Bias(column), Before(at)); }
  // In parts, so that loads of several elements can be under way together: what the elements of a column have added,
  // what an element had before, and its sum without that.
  __device__ __forceinline__ float Bias(Index column) const {
    if (bias_ == nullptr) return 0;
    if (bias_type_ == DType::kBF16) return Widen(static_cast<const __nv_bfloat16*>(bias_)[column]);
    if (bias_type_ == DType::kF16) return Widen(static_cast<const __half*>(bias_)[column]);
    return static_cast<const float*>(bias_)[column];
  }
  __device__ __forceinline__ float Before(Index at) const {
    return accumulate_ ? static_cast<const float*>(out_)[at] : 0.0F;
  }
  __device__ __forceinline__ void Put(Index at, float sum, float before) const {
    if (out_type_ == DType::kBF16) {
      static_cast<__nv_bfloat16*>(out_)[at] = __float2bfloat16_rn(sum);
    } else {
      static_cast<float*>(out_)[at] = accumulate_ ? before + sum : sum;
    }
  }

 private:
  void* out_ = nullptr;
  const void* bias_ = nullptr;
  DType out_type_ = DType::kF32, bias_type_ = DType::kF32;
  bool accumulate_ = false;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_PRODUCT_OUTPUT_CUH_
