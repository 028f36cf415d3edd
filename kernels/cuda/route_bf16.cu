// SPDX-License-Identifier: Apache-2.0
// RouteScore of bf16 keys on tensor cores (method.md section 7). A query element is the sum of two bf16 numbers and at
// most 2^-18 of itself, so two products with the same key are the product in f32 to within 2^-18 * |q| * |key|: a
// quarter of the operation's bound at D = 128, half of it at D = 64. Each warp has a range of keys and copies them,
// kTile at a time, into two tiles of its own in shared memory: one is filled while the other is used.
//
// Bytes: the keys once for every kRows query rows, 2 * D each. Flops: 2 * 2 * kRows * D for each key.
// Tried (H100, 1.25M chunks, 16 heads x 128, 32 rows): keys straight into registers, 64 bytes of a row at a time, three
// parts: 2.60 ms; the same with two parts and twice the warps: 2.60, bound by L2 requests of half a line. Through
// shared memory, 4 warps and three tiles each: 2.36; two tiles, 8 or 12 warps on a multiprocessor: 2.12 (the kernel
// alone 1.85, 84 % of what its memory gives); three tiles of 16 keys: 2.13.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/route.cuh"

namespace unfold {
namespace {

constexpr int kRows = 32;  // query rows of a block: two of the tensor core's
constexpr int kParts = 2;  // of a query element
constexpr int kTile = 32;  // keys of a warp at a time
constexpr int kStages = 2;
constexpr int kGroups = kTile / kMmaColumns;
constexpr int kTilesOfWarp = 32;
constexpr int kWarps = 4;  // share the queries' operands
constexpr int kThreads = kWarps * kWarp;
constexpr int kRowsOfLane = 4;  // lane / 4, + 8, + 16, + 24
static_assert(kTile * kTilesOfWarp == kRouteRange);

// The first operand of one product, as each lane holds it.
using Fragments = unsigned[kWarp][4];

// What the warps of a block have in shared memory. Keys are padded by 16 bytes: eight of them lie in different banks.
template <int kDim>
struct alignas(16) Shared {
  static constexpr int kSteps = kDim / 16;  // of a product along D
  Fragments queries[2][kParts][kSteps];
  __nv_bfloat16 keys[kWarps][kStages][kTile][kDim + 8];
};

// Writes the operands of all products of these rows.
template <int kDim>
__device__ void LayOutQueries(const RouteHead& head, Index rows, Index first_row, Shared<kDim>& shared) {
  constexpr int kSteps = Shared<kDim>::kSteps;
  for (int i = threadIdx.x; i < 2 * kSteps * kWarp * 4; i += kThreads) {
    const int reg = i % 4, lane = i / 4 % kWarp, step = i / 4 / kWarp % kSteps, half = i / 4 / kWarp / kSteps;
    const Index row = first_row + half * kMmaRows + lane / 4 + reg % 2 * 8;
    const int e = step * 16 + reg / 2 * 8 + lane % 4 * 2;
    float left[2];
    for (int n = 0; n < 2; ++n) left[n] = row < rows ? head.q[row * kDim + e + n] : 0.0F;
    for (int part = 0; part < kParts; ++part) {
      shared.queries[half][part][step][lane][reg] = PackBf16(left[0], left[1]);
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

// Starts the copies of keys [first, first + kTile) before `end`, zeros after it, and ends their group.
template <int kDim>
__device__ __forceinline__ void StartCopies(const RouteHead& head, Index first, Index end,
                                            __nv_bfloat16 (*to)[kDim + 8]) {
  constexpr int kPieces = kDim / 8;  // of 16 bytes
#pragma unroll
  for (int i = threadIdx.x % kWarp; i < kTile * kPieces; i += kWarp) {
    const Index key = first + i / kPieces;
    const bool inside = key < end;
    CopyAsync16(&to[i / kPieces][i % kPieces * 8], head.keys_bf16 + (inside ? key : 0) * kDim + i % kPieces * 8,
                inside);
  }
  CommitCopies();
}

// scores += queries * keys^T of one tile.
template <int kDim>
__device__ __forceinline__ void Multiply(const Shared<kDim>& shared, const __nv_bfloat16 (*keys)[kDim + 8],
                                         float (&scores)[2][kGroups][4]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int d = 0; d < kDim; d += 32) {
    unsigned key[kGroups][4];  // 8 keys x 32 dims each
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      LoadMatrices(key[n], &keys[n * kMmaColumns + lane % 8][d + lane / 8 * 8]);
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint4 all = *reinterpret_cast<const uint4*>(shared.queries[half][part][d / 16 + step][lane]);
          const unsigned q[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
          for (int n = 0; n < kGroups; ++n) Mma(scores[half][n], q, key[n][2 * step], key[n][2 * step + 1]);
        }
      }
    }
  }
}

// Takes the scores of the tile's keys [from, to) into the largest of the unit at hand; of all keys with `kAll`.
template <bool kAll>
__device__ __forceinline__ void NoteLargest(const float (&scores)[2][kGroups][4], int from, int to, LaneRows& state) {
#pragma unroll
  for (int r = 0; r < kRowsOfLane; ++r) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = n * kMmaColumns + threadIdx.x % 4 * 2 + c;
        const float score = scores[r / 2][n][r % 2 * 2 + c];
        if (kAll || (column >= from && column < to)) state.largest[r] = fmaxf(state.largest[r], score);
      }
    }
  }
}

// One range of keys a warp; a block's warps share the queries' operands.
template <int kDim>
__global__ void __launch_bounds__(kThreads)
    RouteBf16Kernel(const RouteHead* heads, const Index* unit_begin, Index rows, Index chunks, Index units) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<kDim>*>(memory);
  const RouteHead head = heads[blockIdx.y];
  const Index ranges = CeilDiv(chunks, kRouteRange), blocks_of_rows = CeilDiv(ranges, kWarps);
  const Index first_row = blockIdx.x / blocks_of_rows * kRows;
  const int lane = threadIdx.x % kWarp;
  const Index range = blockIdx.x % blocks_of_rows * kWarps + threadIdx.x / kWarp;
  const Index begin = range * kRouteRange, end = min(begin + kRouteRange, chunks);
  auto& ring = shared.keys[threadIdx.x / kWarp];
#pragma unroll
  for (int stage = 0; stage + 1 < kStages; ++stage) {
    StartCopies<kDim>(head, begin + stage * kTile, end, ring[stage]);
  }
  LayOutQueries(head, rows, first_row, shared);
  __syncthreads();
  if (range >= ranges) return;
  Index unit = UnitOf(unit_begin, units, begin);
  Index unit_end = unit_begin[unit + 1];
  LaneRows state;
  for (float& largest : state.largest) largest = -INFINITY;

  int stage = 0;
  for (Index tile = begin; tile < end; tile += kTile, stage = (stage + 1) % kStages) {
    WaitForCopies<kStages - 2>();
    __syncwarp();  // the tile is there, and no lane reads the one before any more
    StartCopies<kDim>(head, tile + (kStages - 1) * kTile, end, ring[(stage + kStages - 1) % kStages]);
    float scores[2][kGroups][4] = {};
    Multiply<kDim>(shared, ring[stage], scores);

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
    if (tile + kTile <= unit_end) {
      NoteLargest<true>(scores, 0, kTile, state);
    } else {
      for (int from = 0; from < used;) {
        const int to = static_cast<int>(min(Index{used}, unit_end - tile));
        NoteLargest<false>(scores, from, to, state);
        from = to;
        if (tile + to < unit_end) break;
        CloseUnit(head, rows, units, first_row, unit, state);
        do {
          ++unit;
        } while (unit < units && unit_begin[unit + 1] == unit_end);
        unit_end = unit < units ? unit_begin[unit + 1] : chunks;
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
      head.sums[row * ranges + range] = sum;
      head.squares[row * ranges + range] = squares;
    }
  }
}

template <int kDim>
Status Run(CudaContext& context, const RouteCall& call) {
  constexpr int kBytes = static_cast<int>(sizeof(Shared<kDim>));
  UNFOLD_TRY(context.Explain(
      cudaFuncSetAttribute(RouteBf16Kernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), "RouteScore"));
  const Index blocks = CeilDiv(CeilDiv(call.chunks, kRouteRange), kWarps) * CeilDiv(call.rows, kRows);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(call.num_heads));
  RouteBf16Kernel<kDim>
      <<<grid, kThreads, kBytes, context.stream()>>>(call.heads, call.unit_begin, call.rows, call.chunks, call.units);
  return context.Launched("RouteScore");
}

}  // namespace

bool TakesRouteOnTensorCores(Index head_dim) { return head_dim == 64 || head_dim == 96 || head_dim == 128; }

Status RouteOnTensorCores(CudaContext& context, const RouteCall& call, Index head_dim) {
  switch (head_dim) {
    case 64: return Run<64>(context, call);
    case 96: return Run<96>(context, call);
    default: return Run<128>(context, call);
  }
}

}  // namespace unfold
