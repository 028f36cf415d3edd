// SPDX-License-Identifier: Apache-2.0
// Products in bf16 of one to kFewRows rows with weight matrices, at the speed at which weights come from memory. Tensor
// cores have the weights as their left operand, 16 rows of them by 64 dims a step, and the rows of x, padded to eight,
// as the right one. What a lane multiplies of the weights it has loaded itself, 16 bytes of a row each, with the dims
// of a step in an order that makes it so; sums over dims do not mind. x is in the block's shared memory, in bf16.
//
// Eight warps of a block share a tile of 16 weight rows, or 8 of each matrix of a gated product, each with a run of its
// dims, and add what they have in their order; a block takes every so many-th tile. A lane's next weights are on their
// way to its own shared memory, the first before the work before has ended: weights are older than all work.
//
// Bytes: N * K weights, T * K of x for each block, from L2. Flops: 2 * 8 * N * K. A layer of Qwen2-7B at 4.55 TB/s: q,
// k and v 7.3 us, o 5.6, gate and up 59.7, down 29.8.
//
// Tried (H200, one row, the same four at the clock that Nsight holds; now 13, 11, 69 and 40 us): x from L2 at each
// step: 15, 16, 91 and 56; steps of x copied beside those of the weights: 14, 15, 75 and 40. What is left: copies hold
// the registers of their addresses until they have gone out, and warps that add their sums wait for the last one.
#include <algorithm>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/products.h"
#include "kernels/cuda/tiled_products.cuh"

namespace unfold {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBlocksOfMultiprocessor = 3;  // and a block of the work after, which has its first weights on their way
constexpr int kTileColumns = kMmaRows;
constexpr int kLaneStep = 8;          // dims of a step that a lane has: 16 bytes of a row of weights
constexpr int kHalf = 4 * kLaneStep;  // those of the lanes of a row
constexpr int kStep = 2 * kHalf;      // a step is two of them, so that a warp reads 128 bytes of a row
constexpr int kStepsAhead = 3;        // that a warp has on their way, of 2 KiB

constexpr Index kMostX = 48 << 10;  // elements of x, in shared memory: 96 KiB

template <typename X>
using FewRowsInputs = TiledProducts<X, kTileColumns>;

// What the lanes of a warp have of the weights in a step, each as it has copied it: of rows g and g + 8 of a tile.
struct WeightStep {
  uint4 low[2][kWarp], high[2][kWarp];
};

// Where a lane copies weights from, step by step and tile by tile. Without kWhole, where the dims do not fill their
// steps, what is past the last dim is zeros.
template <typename X, bool kWhole>
class WeightCursor {
 public:
  __device__ __forceinline__ WeightCursor(const FewRowsInputs<X>& in, int first_dim, int steps)
      : in_(in), first_dim_(first_dim), steps_(steps), tile_(steps > 0 ? static_cast<int>(blockIdx.x) : in.tiles) {
    Aim();
  }
  // To the step after, if there was one here.
  __device__ __forceinline__ void Copy(WeightStep& to) {
    if (tile_ >= in_.tiles) return;
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool inside = kWhole || first_dim_ + (steps_ - left_) * kStep + half * kHalf < in_.inner;
      CopyAsync16(&to.low[half][lane], low_ + (inside ? half * kHalf : 0), inside);
      CopyAsync16(&to.high[half][lane], high_ + (inside ? half * kHalf : 0), inside);
    }
    low_ += kStep, high_ += kStep;
    if (--left_ > 0) return;
    tile_ += static_cast<int>(gridDim.x);
    Aim();
  }

 private:
  // Rows past the last stand for the last. A lane past the last dim reads nothing.
  __device__ __forceinline__ void Aim() {
    left_ = steps_;
    if (tile_ >= in_.tiles) return;
    const TiledProduct<kTileColumns>& product = in_.ProductOf(tile_);
    const Index row = Index{tile_ - product.first_tile} * product.TileColumns() + threadIdx.x % kWarp / 4;
    const Index low = min(row, product.columns - 1), high = min(row + 8, product.columns - 1);
    const int first = min(first_dim_, in_.inner - kLaneStep);
    low_ = product.weight + low * in_.inner + first;
    high_ = (product.up == nullptr ? product.weight + high * in_.inner : product.up + low * in_.inner) + first;
  }

  const FewRowsInputs<X>& in_;
  const int first_dim_, steps_;
  int tile_, left_ = 0;
  const Bf16 *low_ = nullptr, *high_ = nullptr;
};

// Eight neighbours of x as pairs of bf16.
__device__ __forceinline__ uint4 LoadRight(const Bf16* from) { return __ldcg(reinterpret_cast<const uint4*>(from)); }
__device__ __forceinline__ uint4 LoadRight(const float* from) {
  const float4 low = __ldcg(reinterpret_cast<const float4*>(from));
  const float4 high = __ldcg(reinterpret_cast<const float4*>(from) + 1);
  return make_uint4(PackBf16(low.x, low.y), PackBf16(low.z, low.w), PackBf16(high.x, high.y), PackBf16(high.z, high.w));
}

// x in shared memory, in bf16, its dims filled up with zeros to whole steps. Past the caches of a multiprocessor, which
// may have what was there before the work before.
template <typename X>
__device__ __forceinline__ void LoadX(const FewRowsInputs<X>& in, int row, int dims, Bf16* to) {
  constexpr int kAtOnce = 4;
  for (int first = threadIdx.x * kLaneStep; first < dims; first += kAtOnce * kThreads * kLaneStep) {
    uint4 pairs[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int k = first + n * kThreads * kLaneStep;
      pairs[n] = k < in.inner ? LoadRight(in.x + Index{row} * in.inner + k) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int k = first + n * kThreads * kLaneStep;
      if (k < dims) *reinterpret_cast<uint4*>(to + k) = pairs[n];
    }
  }
}

template <int kRows>
struct FewRowsShared {
  WeightStep ahead[kWarps][kStepsAhead];
  float sums[2][kWarps][kTileColumns][kRows];

  // [rows, dims + half a step], the last so that rows begin in different banks.
  __device__ Bf16* x() { return reinterpret_cast<Bf16*>(this + 1); }
};
__host__ __device__ constexpr int XStride(int inner) { return (inner + kStep - 1) / kStep * kStep + kHalf; }

template <typename X, int kRows, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksOfMultiprocessor + 1)
    FewRowsKernel(const __grid_constant__ FewRowsInputs<X> in) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<FewRowsShared<kRows>*>(memory);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, group = lane / 4;
  // The warp's steps; the lane's dims in them.
  const int all_steps = (in.inner + kStep - 1) / kStep, each = (all_steps + kWarps - 1) / kWarps;
  const int steps = max(0, min(each, all_steps - warp * each));
  const int first_dim = warp * each * kStep + lane % 4 * kLaneStep;
  WeightStep* ahead = shared.ahead[warp];
  WeightCursor<X, kWhole> cursor(in, first_dim, steps);
#pragma unroll
  for (int n = 0; n < kStepsAhead; ++n) {
    cursor.Copy(ahead[n]);
    CommitCopies();
  }
  WaitForWorkBefore();
  const int x_stride = XStride(in.inner);
  for (int row = 0; row < in.rows; ++row) LoadX(in, row, x_stride - kHalf, shared.x() + row * x_stride);
  __syncthreads();
  // Columns of the right operand past the last row are copies of it, which nobody reads.
  const Bf16* x = shared.x() + min(group, in.rows - 1) * x_stride + first_dim;
  int slot = 0, side = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < in.tiles; tile += static_cast<int>(gridDim.x)) {
    float sums[4] = {}, others[4] = {};  // two, since a product waits for the one before it
    for (int step = 0; step < steps; ++step) {
      const uint4 right = *reinterpret_cast<const uint4*>(x + step * kStep),
                  right1 = *reinterpret_cast<const uint4*>(x + step * kStep + kHalf);
      WaitForCopies<kStepsAhead - 1>();
      WeightStep& own = ahead[slot];
      slot = slot + 1 == kStepsAhead ? 0 : slot + 1;
      const uint4 low = own.low[0][lane], high = own.high[0][lane];
      const uint4 low1 = own.low[1][lane], high1 = own.high[1][lane];
      cursor.Copy(own);
      CommitCopies();
      Mma(sums, {low.x, high.x, low.y, high.y}, right.x, right.y);
      Mma(others, {low.z, high.z, low.w, high.w}, right.z, right.w);
      Mma(sums, {low1.x, high1.x, low1.y, high1.y}, right1.x, right1.y);
      Mma(others, {low1.z, high1.z, low1.w, high1.w}, right1.z, right1.w);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane % 4 * 2 + i % 2;
      if (row < kRows) shared.sums[side][warp][group + i / 2 * 8][row] = sums[i] + others[i];
    }
    __syncthreads();
    const int column = static_cast<int>(threadIdx.x) / kRows, row = static_cast<int>(threadIdx.x) % kRows;
    const TiledProduct<kTileColumns>& product = in.ProductOf(tile);
    const int columns = product.TileColumns();
    if (column < columns && row < in.rows) {
      const auto sum_of = [&](int c) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += shared.sums[side][w][c][row];
        return sum;
      };
      const Index n = Index{tile - product.first_tile} * columns + column;
      float sum = sum_of(column);
      if (product.up != nullptr) sum = Silu(sum) * sum_of(column + columns);
      if (n < product.columns) product.out.Put(row * product.columns + n, n, sum);
    }
    side ^= 1;  // the next tile's sums find the place of the tile before read: a barrier is between
  }
}

template <typename X, int kRows>
Status Launch(CudaContext& context, const FewRowsInputs<X>& in) {
  const Index blocks = std::min<Index>(in.tiles, kBlocksOfMultiprocessor * context.num_multiprocessors());
  const std::size_t bytes = sizeof(FewRowsShared<kRows>) + in.rows * XStride(in.inner) * sizeof(Bf16);
  const auto kernel = in.inner % kStep == 0 ? FewRowsKernel<X, kRows, true> : FewRowsKernel<X, kRows, false>;
  return context.Launch(kernel, {blocks, kThreads, bytes, "MatMul"}, in);
}

template <typename X>
Status Run(CudaContext& context, std::span<const MatMulArgs> products, const Bf16* up) {
  const FewRowsInputs<X> in(products, products[0].x.as<const X>(), up);
  return in.rows == 1 ? Launch<X, 1>(context, in) : Launch<X, kFewRows>(context, in);
}

}  // namespace

bool TakesFewRows(const MatMulArgs& args) {
  const Index rows = args.x.dims[0], inner = args.x.dims[1];
  const bool vectors = inner % kLaneStep == 0 && HasVectors(args.x.data) && HasVectors(args.weight.data);
  return args.query && args.compute == DType::kBF16 && args.weight.dtype == DType::kBF16 && rows >= 1 &&
         rows <= kFewRows && inner > 0 && rows * inner <= kMostX && vectors;
}

Status RunFewRows(CudaContext& context, std::span<const MatMulArgs> products) {
  if (products[0].x.dtype == DType::kBF16) return Run<Bf16>(context, products, nullptr);
  return Run<float>(context, products, nullptr);
}

Status RunGatedFewRows(CudaContext& context, const GatedProductArgs& args) {
  MatMulArgs product = args.gate;
  product.out = args.out;
  const auto* up = args.up.weight.as<const Bf16>();
  if (product.x.dtype == DType::kBF16) return Run<Bf16>(context, std::span(&product, 1), up);
  return Run<float>(context, std::span(&product, 1), up);
}

}  // namespace unfold
