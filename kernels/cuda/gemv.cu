// SPDX-License-Identifier: Apache-2.0
// Products of one to kMaxRows rows of a query with a weight matrix, of the types that tensor cores do not take
// (few_rows.cu): every weight is read once, 16 bytes a load. A block has
// kColumns rows of the weights; its threads go along K together, so that even a small matrix keeps the whole chip busy.
// x is read from cache, once for kColumns weights.
//
// Bytes: N * K weights. Flops: 2 * T * N * K, a hundredth of what the chip could do in that time.
#include <type_traits>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/product_output.cuh"
#include "kernels/cuda/products.h"

namespace unfold {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kColumns = 4;
constexpr Index kMaxRows = 4;

// As many elements as 16 bytes hold, widened.
template <typename Element>
struct Vector {
  static constexpr int kSize = 16 / sizeof(Element);
  uint4 bits;

  __device__ void Load(const Element* from) { bits = __ldg(reinterpret_cast<const uint4*>(from)); }
  __device__ float operator[](int i) const { return Widen(reinterpret_cast<const Element*>(&bits)[i]); }
};

template <typename X, typename Element, bool kRoundX, int kRows>
__global__ void __launch_bounds__(kThreads)
    DecodeProductKernel(const X* x, const Element* weight, Index inner, Index columns, ProductOutput out) {
  constexpr int kSize = Vector<Element>::kSize;
  __shared__ float shared[kWarps][kColumns][kRows];
  const Index first = Index{blockIdx.x} * kColumns;
  float sums[kColumns][kRows] = {};
#pragma unroll 2
  for (Index k = Index{threadIdx.x} * kSize; k < inner; k += Index{kThreads} * kSize) {
    Vector<Element> weights[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) weights[c].Load(weight + min(first + c, columns - 1) * inner + k);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int quarter = 0; quarter < kSize; quarter += 4) {
        float values[4];
        LoadFour(x + r * inner + k + quarter, true, 4, values);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (kRoundX) values[i] = __bfloat162float(__float2bfloat16_rn(values[i]));
#pragma unroll
          for (int c = 0; c < kColumns; ++c) sums[c][r] = fmaf(values[i], weights[c][quarter + i], sums[c][r]);
        }
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = WarpSum(sums[c][r]);
      if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp][c][r] = sum;
    }
  }
  __syncthreads();
  const int c = threadIdx.x / kRows, r = threadIdx.x % kRows;
  if (c >= kColumns || first + c >= columns) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += shared[w][c][r];
  out.Put(r * columns + first + c, first + c, sum);
}

template <typename X, typename Element, int kRows>
void Launch(CudaContext& context, const MatMulArgs& args) {
  const bool round = args.compute == DType::kBF16 && args.x.dtype == DType::kF32;
  const auto kernel =
      round ? DecodeProductKernel<X, Element, true, kRows> : DecodeProductKernel<X, Element, false, kRows>;
  kernel<<<Blocks(args.weight.dims[0], kColumns), kThreads, 0, context.stream()>>>(
      args.x.as<const X>(), args.weight.as<const Element>(), args.weight.dims[1], args.weight.dims[0],
      ProductOutput(args));
}

}  // namespace

bool TakesDecodeProduct(const MatMulArgs& args) {
  const Index rows = args.x.dims[0], inner = args.x.dims[1];
  const bool vectors = inner % 8 == 0 && HasVectors(args.x.data) && HasVectors(args.weight.data);
  return args.query && rows >= 1 && rows <= kMaxRows && vectors;
}

Status RunDecodeProduct(CudaContext& context, const MatMulArgs& args) {
  const auto run = [&]<typename X, typename Element>(X*, const Element*) {
    switch (args.x.dims[0]) {
      case 1: return Launch<X, Element, 1>(context, args);
      case 2: return Launch<X, Element, 2>(context, args);
      case 3: return Launch<X, Element, 3>(context, args);
      default: return Launch<X, Element, 4>(context, args);
    }
  };
  WithActivationType(args.x.dtype,
                     [&](auto* x) { WithWeightType(args.weight.dtype, [&](auto* element) { run(x, element); }); });
  return context.Launched("MatMul");
}

}  // namespace unfold
