// SPDX-License-Identifier: Apache-2.0
// RouteScore (method.md section 7): tiles of chunks against tiles of query rows, with the best of each unit and the
// sums for the standardised score made where the scores are.
//
// Bytes: the keys once for every kRows query rows. Flops: 2 * T * C * D.
#include "kernels/cuda_backend.h"
#include "kernels/cuda_common.cuh"

namespace unfold {
namespace {

constexpr int kChunks = 64;  // of a tile
constexpr int kRows = 32;
constexpr int kDepth = 32;  // of D at a time
constexpr int kThreads = 256;
constexpr int kRowsOfThread = 4, kChunksOfThread = 2;  // 8 x 32 threads cover the tile

// Floats as integers in the same order, so that atomicMax finds the largest. NaN is never put in.
__device__ __forceinline__ unsigned Ordered(float value) {
  const unsigned bits = __float_as_uint(value);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ __forceinline__ float FromOrdered(unsigned ordered) {
  return __uint_as_float((ordered >> 31) != 0 ? ordered & 0x7fffffffU : ~ordered);
}

__global__ void NoneKernel(unsigned* best, Index count) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) best[i] = Ordered(-INFINITY);
}

__global__ void BestKernel(const unsigned* best, Index count, float* out) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) out[i] = FromOrdered(best[i]);
}

// One tile a block. `sums` and `squares` are [tiles of chunks, T]: each tile's own, added later in order.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    RouteKernel(const float* q, const Element* keys, const Index* unit_begin, Index rows, Index chunks, Index head_dim,
                Index units, unsigned* best, double* sums, double* squares) {
  __shared__ float q_tile[kDepth][kRows + 1], key_tile[kDepth][kChunks + 1], scores[kRows][kChunks + 1];
  const Index row_tiles = CeilDiv(rows, kRows);
  const Index first_row = blockIdx.x % row_tiles * kRows, first_chunk = blockIdx.x / row_tiles * kChunks;
  const int tx = threadIdx.x % kWarp, ty = threadIdx.x / kWarp;
  float dots[kRowsOfThread][kChunksOfThread] = {};
  for (Index k = 0; k < head_dim; k += kDepth) {
    for (int i = threadIdx.x; i < kRows * kDepth; i += kThreads) {
      const int depth = i % kDepth, line = i / kDepth;
      const bool inside = k + depth < head_dim && first_row + line < rows;
      q_tile[depth][line] = inside ? q[(first_row + line) * head_dim + k + depth] : 0.0F;
    }
    for (int i = threadIdx.x; i < kChunks * kDepth; i += kThreads) {
      const int depth = i % kDepth, line = i / kDepth;
      const bool inside = k + depth < head_dim && first_chunk + line < chunks;
      key_tile[depth][line] = inside ? Widen(keys[(first_chunk + line) * head_dim + k + depth]) : 0.0F;
    }
    __syncthreads();
    for (int depth = 0; depth < kDepth; ++depth) {
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r) {
#pragma unroll
        for (int c = 0; c < kChunksOfThread; ++c) {
          dots[r][c] = fmaf(q_tile[depth][ty * kRowsOfThread + r], key_tile[depth][tx + c * kWarp], dots[r][c]);
        }
      }
    }
    __syncthreads();
  }
  for (int r = 0; r < kRowsOfThread; ++r) {
    for (int c = 0; c < kChunksOfThread; ++c) scores[ty * kRowsOfThread + r][tx + c * kWarp] = dots[r][c];
  }
  __syncthreads();

  // One row a thread: its chunks in order, one note for each unit that the tile touches.
  const int used = static_cast<int>(min(Index{kChunks}, chunks - first_chunk));
  if (threadIdx.x >= kRows || first_row + threadIdx.x >= rows) return;
  const Index t = first_row + threadIdx.x;
  Index low = 0, high = units;  // the unit that holds the first chunk: the last that begins at or before it
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    (unit_begin[middle] <= first_chunk ? low : high) = middle;
  }
  double sum = 0, sum_squares = 0;
  float largest = -INFINITY;
  for (int c = 0; c < used; ++c) {
    for (; first_chunk + c >= unit_begin[low + 1]; ++low) {
      if (largest > -INFINITY) atomicMax(best + t * units + low, Ordered(largest));
      largest = -INFINITY;
    }
    const float score = scores[threadIdx.x][c];
    sum += double{score};
    sum_squares += double{score} * double{score};
    if (score > largest) largest = score;
  }
  if (largest > -INFINITY) atomicMax(best + t * units + low, Ordered(largest));
  sums[blockIdx.x / row_tiles * rows + t] = sum;
  squares[blockIdx.x / row_tiles * rows + t] = sum_squares;
}

// One row a block: the tiles' sums, each thread every blockDim-th tile, then over the block.
__global__ void SumTilesKernel(const double* parts, Index tiles, Index rows, double* sums) {
  __shared__ double shared[kWarp];
  double sum = 0;
  for (Index tile = threadIdx.x; tile < tiles; tile += blockDim.x) sum += parts[tile * rows + blockIdx.x];
  sum = BlockSum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

Status CudaBackend::DoRouteScore(const RouteScoreArgs& args) {
  const Index rows = args.q.dims[0], head_dim = args.q.dims[1], chunks = args.keys.dims[0], units = args.best.dims[1];
  if (rows == 0) return Status::Ok();
  const Index tiles = CeilDiv(chunks, kChunks), row_tiles = CeilDiv(rows, kRows);
  CallMemory memory(*context_, "RouteScore");
  const Index* unit_begin = memory.Copy(args.unit_begin);
  auto* best = memory.Array<unsigned>(rows * units);
  auto* parts = memory.Array<double>(2 * tiles * rows);
  auto* sums = memory.Array<double>(2 * rows);
  UNFOLD_TRY(memory.status());
  if (units > 0) {
    NoneKernel<<<Blocks(rows * units, kThreads), kThreads, 0, context_->stream()>>>(best, rows * units);
  }
  if (tiles > 0) {
    const auto run = [&]<typename Element>(const Element*) {
      RouteKernel<<<static_cast<unsigned>(tiles * row_tiles), kThreads, 0, context_->stream()>>>(
          args.q.as<float>(), args.keys.as<const Element>(), unit_begin, rows, chunks, head_dim, units, best, parts,
          parts + tiles * rows);
    };
    WithWeightType(args.keys.dtype, run);
  }
  for (int i = 0; i < 2; ++i) {
    SumTilesKernel<<<static_cast<unsigned>(rows), kThreads, 0, context_->stream()>>>(parts + i * tiles * rows, tiles,
                                                                                     rows, sums + i * rows);
  }
  if (units > 0) {
    BestKernel<<<Blocks(rows * units, kThreads), kThreads, 0, context_->stream()>>>(best, rows * units,
                                                                                    args.best.as<float>());
  }
  UNFOLD_TRY(context_->Launched("RouteScore"));
  UNFOLD_TRY(context_->CopyOut(args.sum.data(), sums, args.sum.size_bytes()));
  return context_->CopyOut(args.sum_squares.data(), sums + rows, args.sum_squares.size_bytes());
}

}  // namespace unfold
