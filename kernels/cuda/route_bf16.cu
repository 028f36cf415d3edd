// SPDX-License-Identifier: Apache-2.0
// RouteScore of bf16 keys on tensor cores (method.md section 7). A query element is the exact sum of three bf16
// numbers, so three products with the same key are the product in f32. A warp takes kTile keys at a time straight from
// memory into registers: each lane 16 bytes of a key, and the queries' elements are laid out to meet them.
//
// Bytes: the keys once for every kRows query rows, 2 * D each. Flops: 3 * 2 * kRows * D for each key.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/route.cuh"

namespace unfold {
namespace {

constexpr int kRows = 32;  // query rows of a block: two of the tensor core's
constexpr int kParts = 3;  // of a query element
constexpr int kTile = 64;  // keys of a warp at a time
constexpr int kGroups = kTile / kMmaColumns;
constexpr int kTilesOfWarp = 4;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRowsOfLane = 4;  // lane / 4, + 8, + 16, + 24
static_assert(kTile * kTilesOfWarp == kRouteRange);

// The first operand of one product, as each lane holds it.
using Fragments = unsigned[kWarp][4];

// Writes the operands of all products of these rows. Lane l of step s of block i has the elements that lane l of the
// key operand has: from 32 * i + l % 4 * 8 + 4 * s on two, and the two after them.
template <int kBlocks>
__device__ void LayOutQueries(const RouteHead& head, Index rows, Index first_row,
                              Fragments (&to)[2][kParts][kBlocks * 2]) {
  constexpr int kDim = kBlocks * 32;
  for (int i = threadIdx.x; i < 2 * kBlocks * 2 * kWarp * 4; i += kThreads) {
    const int reg = i % 4, lane = i / 4 % kWarp, step = i / 4 / kWarp % (kBlocks * 2),
              half = i / 4 / kWarp / (kBlocks * 2);
    const Index row = first_row + half * kMmaRows + lane / 4 + reg % 2 * 8;
    const int e = step / 2 * 32 + lane % 4 * 8 + step % 2 * 4 + reg / 2 * 2;
    float left[2];
    for (int n = 0; n < 2; ++n) left[n] = row < rows ? head.q[row * kDim + e + n] : 0.0F;
    for (int part = 0; part < kParts; ++part) {
      to[half][part][step][lane][reg] = PackBf16(left[0], left[1]);
      for (int n = 0; n < 2; ++n) left[n] -= __bfloat162float(__float2bfloat16_rn(left[n]));
    }
  }
}

// What a lane knows of its rows' scores so far.
struct LaneRows {
  double sums[kRowsOfLane] = {}, squares[kRowsOfLane] = {};
  float largest[kRowsOfLane];  // in the unit at hand
};

// Passes the largest of a unit on, and begins the next.
__device__ void CloseUnit(const RouteHead& head, Index rows, Index units, Index first_row, Index unit, LaneRows& lane) {
#pragma unroll
  for (int r = 0; r < kRowsOfLane; ++r) {
    float value = lane.largest[r];
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
    const Index row = first_row + threadIdx.x % kWarp / 4 + r * 8;
    if (threadIdx.x % 4 == 0 && row < rows && value > -INFINITY) {
      atomicMax(reinterpret_cast<unsigned*>(head.best) + row * units + unit, OrderedBits(value));
    }
    lane.largest[r] = -INFINITY;
  }
}

// One range of keys a warp; a block's warps share the queries' operands.
template <int kBlocks>
__global__ void __launch_bounds__(kThreads)
    RouteBf16Kernel(const RouteHead* heads, const Index* unit_begin, Index rows, Index chunks, Index units) {
  constexpr int kDim = kBlocks * 32;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& queries = *reinterpret_cast<Fragments(*)[2][kParts][kBlocks * 2]>(memory);
  const RouteHead head = heads[blockIdx.y];
  const Index ranges = CeilDiv(chunks, kRouteRange), blocks_of_rows = CeilDiv(ranges, kWarps);
  const Index first_row = blockIdx.x / blocks_of_rows * kRows;
  LayOutQueries<kBlocks>(head, rows, first_row, queries);
  __syncthreads();
  const Index range = blockIdx.x % blocks_of_rows * kWarps + threadIdx.x / kWarp;
  if (range >= ranges) return;
  const int lane = threadIdx.x % kWarp;
  Index unit = UnitOf(unit_begin, units, range * kRouteRange);
  LaneRows state;
  for (float& largest : state.largest) largest = -INFINITY;

  const auto load = [&](Index tile, int block, uint4(&to)[kGroups]) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const Index key = tile + n * kMmaColumns + lane / 4;
      to[n] = make_uint4(0, 0, 0, 0);
      if (key < chunks) {
        to[n] = __ldg(reinterpret_cast<const uint4*>(head.keys_bf16 + key * kDim + block * 32 + lane % 4 * 8));
      }
    }
  };
  const Index end = min((range + 1) * kRouteRange, chunks);
  uint4 keys[2][kGroups];
  load(range * kRouteRange, 0, keys[0]);
  for (Index tile = range * kRouteRange; tile < end; tile += kTile) {
    float scores[2][kGroups][4] = {};
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      uint4(&now)[kGroups] = keys[block % 2];
      if (block + 1 < kBlocks) {
        load(tile, block + 1, keys[(block + 1) % 2]);
      } else if (tile + kTile < end) {
        load(tile + kTile, 0, keys[(block + 1) % 2]);
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          unsigned q[2][4];
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint4 all = *reinterpret_cast<const uint4*>(queries[half][part][block * 2 + step][lane]);
            q[half][0] = all.x, q[half][1] = all.y, q[half][2] = all.z, q[half][3] = all.w;
          }
#pragma unroll
          for (int n = 0; n < kGroups; ++n) {
            const unsigned low = step == 0 ? now[n].x : now[n].z, high = step == 0 ? now[n].y : now[n].w;
            Mma(scores[0][n], q[0], low, high);
            Mma(scores[1][n], q[1], low, high);
          }
        }
      }
    }
    if (kBlocks % 2 == 1) {  // the next tile's first block stands in the other buffer
#pragma unroll
      for (int n = 0; n < kGroups; ++n) keys[0][n] = keys[1][n];
    }

    const int used = static_cast<int>(min(Index{kTile}, end - tile));
#pragma unroll
    for (int r = 0; r < kRowsOfLane; ++r) {
      float sum = 0, squares = 0;
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {  // a key past the last has score 0 and counts nothing
          const float score = scores[r / 2][n][r % 2 * 2 + c];
          sum += score;
          squares = fmaf(score, score, squares);
        }
      }
      state.sums[r] += double{sum};
      state.squares[r] += double{squares};
    }
    for (int from = 0; from < used;) {
      const int to = static_cast<int>(min(Index{used}, unit_begin[unit + 1] - tile));
#pragma unroll
      for (int r = 0; r < kRowsOfLane; ++r) {
#pragma unroll
        for (int n = 0; n < kGroups; ++n) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int column = n * kMmaColumns + lane % 4 * 2 + c;
            const float score = scores[r / 2][n][r % 2 * 2 + c];
            if (column >= from && column < to) state.largest[r] = fmaxf(state.largest[r], score);
          }
        }
      }
      from = to;
      if (tile + to == unit_begin[unit + 1]) {
        CloseUnit(head, rows, units, first_row, unit, state);
        ++unit;
        while (unit < units && unit_begin[unit + 1] == unit_begin[unit]) ++unit;
      }
    }
  }
  if (unit < units) CloseUnit(head, rows, units, first_row, unit, state);
#pragma unroll
  for (int r = 0; r < kRowsOfLane; ++r) {
    double sum = state.sums[r], squares = state.squares[r];
    for (int step = 1; step < 4; step *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, step);
      squares += __shfl_xor_sync(kAllLanes, squares, step);
    }
    const Index row = first_row + lane / 4 + r * 8;
    if (lane % 4 == 0 && row < rows) {
      head.sums[range * rows + row] = sum;
      head.squares[range * rows + row] = squares;
    }
  }
}

template <int kBlocks>
Status Run(CudaContext& context, const RouteCall& call) {
  constexpr int kBytes = 2 * kParts * kBlocks * 2 * static_cast<int>(sizeof(Fragments));
  UNFOLD_TRY(context.Explain(
      cudaFuncSetAttribute(RouteBf16Kernel<kBlocks>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "RouteScore"));
  const Index blocks = CeilDiv(CeilDiv(call.chunks, kRouteRange), kWarps) * CeilDiv(call.rows, kRows);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(call.num_heads));
  RouteBf16Kernel<kBlocks>
      <<<grid, kThreads, kBytes, context.stream()>>>(call.heads, call.unit_begin, call.rows, call.chunks, call.units);
  return context.Launched("RouteScore");
}

}  // namespace

bool TakesRouteOnTensorCores(Index head_dim) {
  return head_dim == 32 || head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

Status RouteOnTensorCores(CudaContext& context, const RouteCall& call, Index head_dim) {
  switch (head_dim / 32) {
    case 1: return Run<1>(context, call);
    case 2: return Run<2>(context, call);
    case 3: return Run<3>(context, call);
    case 4: return Run<4>(context, call);
    default: return Run<8>(context, call);
  }
}

}  // namespace unfold
