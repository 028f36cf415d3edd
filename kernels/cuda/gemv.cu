// SPDX-License-Identifier: Apache-2.0
// Products of one to kMaxRows rows with a weight matrix: every weight is read once, 16 bytes a load. A block has
// kColumns rows of the weights; its threads go along K together, so that even a small matrix keeps the whole chip busy.
// x is read from cache, once for kColumns weights.
//
// Bytes: N * K weights. Flops: 2 * T * N * K, a hundredth of what the chip could do in that time.
#include <type_traits>

#include "kernels/cuda/common.cuh"
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

template <typename Element, bool kRoundX, int kRows>
__global__ void __launch_bounds__(kThreads) DecodeProductKernel(const float* x, const Element* weight, Index inner,
                                                                Index columns, bool accumulate, float* out) {
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
        const float4 four = *reinterpret_cast<const float4*>(x + r * inner + k + quarter);
        float values[4] = {four.x, four.y, four.z, four.w};
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
  float& place = out[r * columns + first + c];
  place = accumulate ? place + sum : sum;
}

template <typename Element, int kRows>
void Launch(CudaContext& context, const MatMulArgs& args) {
  const auto kernel = args.compute == DType::kBF16 ? DecodeProductKernel<Element, true, kRows>
                                                   : DecodeProductKernel<Element, false, kRows>;
  kernel<<<Blocks(args.weight.dims[0], kColumns), kThreads, 0, context.stream()>>>(
      args.x.as<float>(), args.weight.as<const Element>(), args.weight.dims[1], args.weight.dims[0], args.accumulate,
      args.out.as<float>());
}

}  // namespace

bool TakesDecodeProduct(const MatMulArgs& args) {
  const Index rows = args.x.dims[0], inner = args.x.dims[1];
  const bool vectors = inner % 8 == 0 && HasVectors(args.x.data) && HasVectors(args.weight.data);
  return args.decode && rows >= 1 && rows <= kMaxRows && vectors;
}

Status RunDecodeProduct(CudaContext& context, const MatMulArgs& args) {
  WithWeightType(args.weight.dtype, [&](auto* element) {
    using Element = std::remove_cvref_t<decltype(*element)>;
    switch (args.x.dims[0]) {
      case 1: return Launch<Element, 1>(context, args);
      case 2: return Launch<Element, 2>(context, args);
      case 3: return Launch<Element, 3>(context, args);
      default: return Launch<Element, 4>(context, args);
    }
  });
  return context.Launched("MatMul");
}

}  // namespace unfold
