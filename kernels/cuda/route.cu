// SPDX-License-Identifier: Apache-2.0
// RouteScores (method.md section 7): all heads of a collection in one launch. bf16 keys go to tensor cores
// (route_bf16.cu); here are the others, tiles of chunks against tiles of query rows in f32, with the best of each unit
// and the sums for the standardised score made where the scores are.
//
// Bytes: the keys once for every kRows query rows. Flops: 2 * T * C * D a head.
#include <vector>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/route.cuh"

namespace unfold {
namespace {

constexpr int kChunks = 64;  // of a tile, which is a range of its own
constexpr int kRows = 32;
constexpr int kDepth = 32;  // of D at a time
constexpr int kThreads = 256;
constexpr int kRowsOfThread = 4, kChunksOfThread = 2;  // 8 x 32 threads cover the tile

__global__ void NoneKernel(const RouteHead* heads, Index count) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) reinterpret_cast<unsigned*>(heads[blockIdx.y].best)[i] = OrderedBits(-INFINITY);
}

__global__ void BestKernel(const RouteHead* heads, Index count) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const unsigned ordered = reinterpret_cast<const unsigned*>(heads[blockIdx.y].best)[i];
  heads[blockIdx.y].best[i] = __uint_as_float((ordered >> 31) != 0 ? ordered & 0x7fffffffU : ~ordered);
}

__device__ __forceinline__ float KeyAt(const RouteHead& head, Index i) {
  return head.keys_f32 != nullptr ? head.keys_f32[i] : Widen(head.keys_bf16[i]);
}

// One tile of one head a block.
__global__ void __launch_bounds__(kThreads) RouteKernel(RouteCall call, Index head_dim) {
  __shared__ float q_tile[kDepth][kRows + 1], key_tile[kDepth][kChunks + 1], scores[kRows][kChunks + 1];
  const RouteHead head = call.heads[blockIdx.y];
  const Index row_tiles = CeilDiv(call.rows, kRows);
  const Index first_row = blockIdx.x % row_tiles * kRows, first_chunk = blockIdx.x / row_tiles * kChunks;
  const int tx = threadIdx.x % kWarp, ty = threadIdx.x / kWarp;
  float dots[kRowsOfThread][kChunksOfThread] = {};
  for (Index k = 0; k < head_dim; k += kDepth) {
    for (int i = threadIdx.x; i < kRows * kDepth; i += kThreads) {
      const int depth = i % kDepth, line = i / kDepth;
      const bool inside = k + depth < head_dim && first_row + line < call.rows;
      q_tile[depth][line] = inside ? head.q[(first_row + line) * head_dim + k + depth] : 0.0F;
    }
    for (int i = threadIdx.x; i < kChunks * kDepth; i += kThreads) {
      const int depth = i % kDepth, line = i / kDepth;
      const bool inside = k + depth < head_dim && first_chunk + line < call.chunks;
      key_tile[depth][line] = inside ? KeyAt(head, (first_chunk + line) * head_dim + k + depth) : 0.0F;
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
  const int used = static_cast<int>(min(Index{kChunks}, call.chunks - first_chunk));
  if (threadIdx.x >= kRows || first_row + threadIdx.x >= call.rows) return;
  const Index t = first_row + threadIdx.x;
  Index unit = UnitOf(call.unit_begin, call.units, first_chunk);
  double sum = 0, sum_squares = 0;
  float largest = -INFINITY;
  const auto close = [&] {
    if (largest > -INFINITY) {
      atomicMax(reinterpret_cast<unsigned*>(head.best) + t * call.units + unit, OrderedBits(largest));
    }
    largest = -INFINITY;
  };
  for (int c = 0; c < used; ++c) {
    for (; first_chunk + c >= call.unit_begin[unit + 1]; ++unit) close();
    const float score = scores[threadIdx.x][c];
    sum += double{score};
    sum_squares += double{score} * double{score};
    if (score > largest) largest = score;
  }
  close();
  const Index at = t * (gridDim.x / row_tiles) + blockIdx.x / row_tiles;
  head.sums[at] = sum;
  head.squares[at] = sum_squares;
}

// One row of one head a block: the ranges' sums, each thread every blockDim-th range, then over the block.
__global__ void SumRangesKernel(const RouteHead* heads, Index ranges, Index rows, double* sums, double* squares) {
  __shared__ double shared[kWarp];
  const RouteHead head = heads[blockIdx.y];
  double sum = 0, square = 0;
  for (Index range = threadIdx.x; range < ranges; range += blockDim.x) {
    sum += head.sums[blockIdx.x * ranges + range];
    square += head.squares[blockIdx.x * ranges + range];
  }
  sum = BlockSum(sum, shared);
  square = BlockSum(square, shared);
  if (threadIdx.x != 0) return;
  sums[blockIdx.y * rows + blockIdx.x] = sum;
  squares[blockIdx.y * rows + blockIdx.x] = square;
}

// Keys where tensor cores can load them: as they are, or a copy that is aligned.
const __nv_bfloat16* AlignedKeys(CudaContext& context, CallMemory& memory, const Tensor& keys) {
  if (HasVectors(keys.data)) return keys.as<const __nv_bfloat16>();
  auto* copy = memory.Array<__nv_bfloat16>(keys.size());
  if (copy != nullptr) {
    (void)cudaMemcpyAsync(copy, keys.data, keys.bytes(), cudaMemcpyDeviceToDevice, context.stream());
  }
  return copy;
}

}  // namespace

Status CudaBackend::DoRouteScores(std::span<const RouteScoreArgs> heads) {
  if (heads.empty() || heads[0].q.dims[0] == 0) return Status::Ok();
  const Index head_dim = heads[0].q.dims[1], num_heads = static_cast<Index>(heads.size());
  RouteCall call{nullptr, num_heads, nullptr, heads[0].q.dims[0], heads[0].keys.dims[0], heads[0].best.dims[1]};
  const bool on_tensor_cores = heads[0].keys.dtype == DType::kBF16 && TakesRouteOnTensorCores(head_dim);
  const Index ranges = CeilDiv(call.chunks, on_tensor_cores ? kRouteRange : Index{kChunks});
  CallMemory memory(*context_, "RouteScore");
  call.unit_begin = memory.Copy(heads[0].unit_begin);
  auto* parts = memory.Array<double>(2 * num_heads * ranges * call.rows);
  auto* sums = memory.Array<double>(2 * num_heads * call.rows);
  std::vector<RouteHead> all;
  for (const RouteScoreArgs& head : heads) {
    const bool bf16 = head.keys.dtype == DType::kBF16;
    double* own = parts + 2 * static_cast<Index>(all.size()) * ranges * call.rows;
    all.push_back({head.q.as<float>(), bf16 ? nullptr : head.keys.as<float>(),
                   bf16 ? AlignedKeys(*context_, memory, head.keys) : nullptr, head.best.as<float>(), own,
                   own + ranges * call.rows});
  }
  call.heads = memory.Copy(std::span<const RouteHead>(all));
  UNFOLD_TRY(memory.status());

  const auto grid = [&](Index blocks) { return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(num_heads)); };
  const Index notes = call.rows * call.units;
  if (notes > 0) NoneKernel<<<grid(CeilDiv(notes, kThreads)), kThreads, 0, context_->stream()>>>(call.heads, notes);
  if (ranges > 0 && on_tensor_cores) {
    UNFOLD_TRY(RouteOnTensorCores(*context_, call, head_dim));
  } else if (ranges > 0) {
    RouteKernel<<<grid(ranges * CeilDiv(call.rows, kRows)), kThreads, 0, context_->stream()>>>(call, head_dim);
  }
  SumRangesKernel<<<grid(call.rows), kThreads, 0, context_->stream()>>>(call.heads, ranges, call.rows, sums,
                                                                        sums + num_heads * call.rows);
  if (notes > 0) BestKernel<<<grid(CeilDiv(notes, kThreads)), kThreads, 0, context_->stream()>>>(call.heads, notes);
  UNFOLD_TRY(context_->Launched("RouteScore"));
  std::vector<double> found(static_cast<std::size_t>(2 * num_heads * call.rows));
  UNFOLD_TRY(context_->CopyOut(found.data(), sums, found.size() * sizeof(double)));
  for (Index h = 0; h < num_heads; ++h) {
    for (Index t = 0; t < call.rows; ++t) {
      heads[h].sum[t] = found[h * call.rows + t];
      heads[h].sum_squares[t] = found[(num_heads + h) * call.rows + t];
    }
  }
  return Status::Ok();
}

}  // namespace unfold
