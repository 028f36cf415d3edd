// SPDX-License-Identifier: Apache-2.0
// Products in bf16 of one to kFewRows rows with weight matrices, at the speed at which weights come from memory. Tensor
// cores have the weights as their left operand, 16 rows of them by 64 dims of a warp, and the rows of x, padded to
// eight, as the right one. What a lane multiplies of the weights it has loaded itself, 16 bytes of a row each, with the
// dims in an order that makes it so; sums over dims do not mind. x is in the block's shared memory, in bf16.
//
// A tile is 16 weight rows, or 8 of each matrix of a gated product; a step is 512 dims of a tile, 64 for each of eight
// warps. Where tiles are few, the steps of all, tile by tile, are cut into as many even runs as blocks find a place at
// once; a run's part of a tile that began in another is left for that one. Of many tiles, blocks claim the next one. A
// sum's order depends neither on who makes it nor on when, but on the matrices, the chip and the size of x. A lane's
// next weights are on their way to its own shared memory, the first before the work before has ended: weights are older
// than all work.
//
// Bytes: N * K weights, T * K of x for each block, from L2. Flops: 2 * 8 * N * K. A layer of Qwen2-7B at 4.55 TB/s: q,
// k and v 7.3 us, o 5.6, gate and up 59.7, down 29.8.
//
// In a decoding step (H200, one row), from the end of the wait to the last block's: gate and up 66 us, down 36; blocks
// end within the last 12 and 9 of them, since they do not get the same share of the memory's rate: a dozen
// multiprocessors, always the same, take a fifth more tiles than the others. x as a whole for one row as well: 4.86 at
// 8K for 4.78, 5.50 at 128K for 5.47 (means of five and six pairs). Tried, in ms a token of Qwen2-7B at 8K tokens,
// beside the form before on the same machine, one tile a block and RmsNorm a launch: norms and claims, but no
// runs: 4.85 (4.92). A block a multiprocessor with 128 to 192 KiB on their way: with runs alone 4.87 (4.92), on another
// machine 5.10 (4.83); of 96 KiB 5.54; with claims 5.44 (4.87). Blocks that end bring what the next launch reads to L2
// (cp.async.bulk.prefetch.L2): nothing 4.85, 12 MB 4.90, 24 MB 5.04 (4.92). As it is, with all kernels letting the work
// after come up when the work before is done: 4.85 (4.96). Parts of tiles, three steps or four, that are claimed, the
// last block of a tile adding up: 5.70 (4.75); with a warp of its own for what ends a part: 5.80 (4.90), and so with
// whole tiles: 4.99; claims of whole tiles late, at the step before the last: 4.96 (both beside other changes, which
// were worth nothing there).
#include <algorithm>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/portions.cuh"
#include "kernels/cuda/products.h"
#include "kernels/cuda/tiled_products.cuh"

namespace unfold {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTileColumns = kMmaRows;
constexpr int kLaneStep = 8;          // dims of a step that a lane has, twice: 16 bytes of a row of weights
constexpr int kHalf = 4 * kLaneStep;  // those of the lanes of a row
constexpr int kWarpStep = 2 * kHalf;  // so that a warp reads 128 bytes of a row
constexpr int kStep = kWarps * kWarpStep;

constexpr int kMostBlocks = 3;  // of a multiprocessor
constexpr int kStepsAhead = 3;  // that a warp has on their way, of 2 KiB

constexpr Index kMostX = 48 << 10;  // elements of x, in shared memory: 96 KiB

template <typename X>
using FewRowsInputs = TiledProducts<X, kTileColumns>;
using Ends = TileEnds<kTileColumns * kFewRows>;

// What the lanes of a warp have of the weights in a step, each as it has copied it: of rows g and g + 8 of a tile.
struct WeightStep {
  uint4 low[2][kWarp], high[2][kWarp];
};

// Eight neighbours as pairs of bf16.
__device__ __forceinline__ uint4 Pairs(const float4& low, const float4& high) {
  return make_uint4(PackBf16(low.x, low.y), PackBf16(low.z, low.w), PackBf16(high.x, high.y), PackBf16(high.z, high.w));
}

// What a lane of the first four has of the only row of x in a step: for both halves of its dims. The other lanes'
// columns of the right operand are those nobody reads.
template <typename X>
struct XStep {
  static constexpr int kLanes = 4;
  X half[2][kLanes][kLaneStep];

  // Dims `dim` and those kHalf behind it, a lane's; zeros past the last.
  __device__ __forceinline__ void Copy(const FewRowsInputs<X>& in, int dim) {
    constexpr int kOfCopy = 16 / sizeof(X);
    const int lane = threadIdx.x % kWarp;
    if (lane >= kLanes) return;
#pragma unroll
    for (int h = 0; h < 2; ++h, dim += kHalf) {
      const bool inside = dim < in.inner;
#pragma unroll
      for (int i = 0; i < kLaneStep; i += kOfCopy) {
        CopyAsync16(&half[h][lane][i], in.x + (inside ? dim + i : 0), inside);
      }
    }
  }
  __device__ __forceinline__ uint4 Right(int h) const {
    const int lane = threadIdx.x % kWarp;
    if (lane >= kLanes) return make_uint4(0, 0, 0, 0);
    if constexpr (sizeof(X) == sizeof(Bf16)) return *reinterpret_cast<const uint4*>(half[h][lane]);
    const auto* from = reinterpret_cast<const float4*>(half[h][lane]);
    return Pairs(from[0], from[1]);
  }
};

// Where a lane copies weights from, step by step. What is past the last dim is zeros.
template <typename X>
class WeightCursor {
 public:
  __device__ __forceinline__ WeightCursor(const FewRowsInputs<X>& in, const Portions& portions)
      : in_(in), place_(portions) {
    Aim();
  }
  // Of a step that a lane has.
  __device__ __forceinline__ static int FirstDim() {
    return static_cast<int>(threadIdx.x) / kWarp * kWarpStep + static_cast<int>(threadIdx.x) % 4 * kLaneStep;
  }
  // To the step after, if there was one here. Returns the lane's first dim of it.
  __device__ __forceinline__ int Copy(WeightStep& to, const int* told) {
    if (!place_.Inside()) {
      if (through_) return in_.inner;
      place_.Next(told);
      through_ = !place_.Inside();
      if (through_) return in_.inner;
      Aim();
    }
    const int lane = threadIdx.x % kWarp, first_dim = place_.first * kStep + FirstDim();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int dim = first_dim + half * kHalf;
      const bool inside = dim < in_.inner;
      CopyOnce16(&to.low[half][lane], low_ + (inside ? dim : 0), inside);
      CopyOnce16(&to.high[half][lane], high_ + (inside ? dim : 0), inside);
    }
    ++place_.first;
    return first_dim;
  }

 private:
  // Rows past the last stand for the last.
  __device__ __forceinline__ void Aim() {
    const TiledProduct<kTileColumns>& product = in_.ProductOf(place_.tile);
    const Index row = Index{place_.tile - product.first_tile} * product.TileColumns() + threadIdx.x % kWarp / 4;
    const Index low = min(row, product.columns - 1), high = min(row + 8, product.columns - 1);
    low_ = product.weight + low * in_.inner;
    high_ = product.up == nullptr ? product.weight + high * in_.inner : product.up + low * in_.inner;
  }

  const FewRowsInputs<X>& in_;
  BlockPortion place_;
  bool through_ = false;
  const Bf16 *low_ = nullptr, *high_ = nullptr;
};

// Of x, past the caches of a multiprocessor, which may have what was there before the work before.
__device__ __forceinline__ uint4 LoadRight(const Bf16* from) { return __ldcg(reinterpret_cast<const uint4*>(from)); }
__device__ __forceinline__ uint4 LoadRight(const float* from) {
  return Pairs(__ldcg(reinterpret_cast<const float4*>(from)), __ldcg(reinterpret_cast<const float4*>(from) + 1));
}

// x in shared memory, in bf16, its dims filled up with zeros to whole steps.
template <typename X>
__device__ __forceinline__ void LoadX(const FewRowsInputs<X>& in, int row, int dims, Bf16* to) {
  constexpr int kAtOnce = 10;
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

// x = RmsNorm of the only row of in.x, as RmsNorm rounds it: each block norms it once more, rather than wait for a
// launch that does.
struct RowNorm {
  const Bf16* weight = nullptr;
  float epsilon = 0;
};

// A thread has every kThreads-th piece of eight elements, and keeps the first ones.
class NormedRow {
 public:
  // Loads weights, which are older than the work before.
  __device__ __forceinline__ NormedRow(const FewRowsInputs<float>& in, const RowNorm& norm) : in_(in), norm_(norm) {
#pragma unroll
    for (int n = 0; n < kKept; ++n) weights_[n] = WeightsAt(DimOf(n));
  }
  // As LoadX does. `shared` is as BlockSum wants it.
  __device__ __forceinline__ void Load(int dims, Bf16* to, float* shared) const {
    Piece kept[kKept];
#pragma unroll
    for (int n = 0; n < kKept; ++n) kept[n] = PieceAt(DimOf(n));
    float squares = 0;
#pragma unroll
    for (int n = 0; n < kKept; ++n) Add(kept[n], squares);
    for (int n = kKept; DimOf(n) < in_.inner; ++n) Add(PieceAt(DimOf(n)), squares);
    const float scale = NormScale(BlockSum(squares, shared), in_.inner, norm_.epsilon);
#pragma unroll
    for (int n = 0; n < kKept; ++n) Put(DimOf(n), kept[n], weights_[n], scale, dims, to);
    for (int n = kKept; DimOf(n) < dims; ++n) Put(DimOf(n), PieceAt(DimOf(n)), WeightsAt(DimOf(n)), scale, dims, to);
  }

 private:
  static constexpr int kKept = 4;
  struct Piece {
    float4 low, high;
  };
  __device__ __forceinline__ static int DimOf(int n) {
    return (static_cast<int>(threadIdx.x) + n * kThreads) * kLaneStep;
  }
  __device__ __forceinline__ uint4 WeightsAt(int dim) const {
    return dim < in_.inner ? *reinterpret_cast<const uint4*>(norm_.weight + dim) : make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ Piece PieceAt(int dim) const {
    if (dim >= in_.inner) return {};
    const auto* from = reinterpret_cast<const float4*>(in_.x + dim);
    return {__ldcg(from), __ldcg(from + 1)};
  }
  __device__ __forceinline__ static void Add(const Piece& piece, float& squares) {
    for (const float4& four : {piece.low, piece.high}) {
      squares = fmaf(four.x, four.x, fmaf(four.y, four.y, fmaf(four.z, four.z, fmaf(four.w, four.w, squares))));
    }
  }
  // The two of `pair`, bf16, times x and scale.
  __device__ __forceinline__ static unsigned Normed(float x, float y, float scale, unsigned pair) {
    return PackBf16(x * scale * __uint_as_float(pair << 16), y * scale * __uint_as_float(pair & 0xffff0000U));
  }
  __device__ __forceinline__ static void Put(int dim, const Piece& x, const uint4& by, float scale, int dims,
                                             Bf16* to) {
    if (dim >= dims) return;
    *reinterpret_cast<uint4*>(to + dim) =
        make_uint4(Normed(x.low.x, x.low.y, scale, by.x), Normed(x.low.z, x.low.w, scale, by.y),
                   Normed(x.high.x, x.high.y, scale, by.z), Normed(x.high.z, x.high.w, scale, by.w));
  }

  const FewRowsInputs<float>& in_;
  const RowNorm& norm_;
  uint4 weights_[kKept];
};

template <int kRows>
struct FewRowsShared {
  WeightStep ahead[kWarps][kStepsAhead];
  float sums[2][kWarps][kTileColumns][kRows];
  int told[Portions::kPlaces];

  __device__ Bf16* x() { return reinterpret_cast<Bf16*>(this + 1); }  // [rows, XStride], where it is there as a whole
  template <typename X>
  __device__ XStep<X>* StepsOf(int warp) {
    return reinterpret_cast<XStep<X>*>(this + 1) + warp * kStepsAhead;
  }
};
// Whole steps, and half a warp's more, so that rows begin in different banks.
__host__ __device__ constexpr int XStride(int inner) { return (inner + kStep - 1) / kStep * kStep + kHalf; }

// One row of x comes step by step, as weights do, so that shared memory is for those; of several rows, or with kNormed,
// which norms the only one, x is there as a whole.
template <int kRows, bool kNormed>
constexpr bool kXBySteps = kRows == 1 && !kNormed;

template <typename X, int kRows, bool kNormed>
__global__ void __launch_bounds__(kThreads, kMostBlocks)
    FewRowsKernel(const __grid_constant__ FewRowsInputs<X> in, const __grid_constant__ RowNorm norm,
                  const __grid_constant__ Portions portions, Ends ends) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<FewRowsShared<kRows>*>(memory);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, group = lane / 4;
  constexpr bool kBySteps = kXBySteps<kRows, kNormed>;
  WeightStep* ahead = shared.ahead[warp];
  XStep<X>* x_ahead = shared.template StepsOf<X>(warp);
  WeightCursor<X> cursor(in, portions);
  int dims_ahead[kStepsAhead];
#pragma unroll
  for (int n = 0; n < kStepsAhead; ++n) {
    dims_ahead[n] = cursor.Copy(ahead[n], shared.told);
    CommitCopies();
  }
  const int x_stride = XStride(in.inner), dims = x_stride - kHalf;
  if constexpr (kBySteps) {
    WaitForWorkBefore<WorkAfter::kWithThis>();
#pragma unroll
    for (int n = 0; n < kStepsAhead; ++n) x_ahead[n].Copy(in, dims_ahead[n]);
    CommitCopies();
    WaitForCopies<0>();
  } else if constexpr (kNormed) {
    const NormedRow row(in, norm);
    WaitForWorkBefore<WorkAfter::kWithThis>();
    row.Load(dims, shared.x(), &shared.sums[0][0][0][0]);
    __syncthreads();
  } else {
    WaitForWorkBefore<WorkAfter::kWithThis>();
    for (int row = 0; row < in.rows; ++row) LoadX(in, row, dims, shared.x() + row * x_stride);
    __syncthreads();
  }
  // Columns of the right operand past the last row are copies of it, which nobody reads.
  const Bf16* x = shared.x() + min(group, in.rows - 1) * x_stride + WeightCursor<X>::FirstDim();
  int slot = 0, side = 0;
  int known = portions.LastKnown();
  for (BlockPortion at(portions); at.Inside(); at.Next(shared.told)) {
    // Told at the barrier below, before copies come to it.
    if (threadIdx.x == 0 && portions.claims != nullptr) known = portions.Claim(known);
    float sums[4] = {}, others[4] = {};  // two, since a product waits for the one before it
    for (int step = at.first; step < at.end; ++step) {
      WaitForCopies<kStepsAhead - 1>();
      const auto right_of = [&](int half) {
        if constexpr (kBySteps) return x_ahead[slot].Right(half);
        return *reinterpret_cast<const uint4*>(x + step * kStep + half * kHalf);
      };
      const uint4 right = right_of(0), right1 = right_of(1);
      WeightStep& own = ahead[slot];
      XStep<X>& own_x = x_ahead[slot];
      slot = slot + 1 == kStepsAhead ? 0 : slot + 1;
      const uint4 low = own.low[0][lane], high = own.high[0][lane];
      const uint4 low1 = own.low[1][lane], high1 = own.high[1][lane];
      const int first_dim = cursor.Copy(own, shared.told);
      if constexpr (kBySteps) own_x.Copy(in, first_dim);
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
    if (threadIdx.x == 0) shared.told[(at.number() + 1 + portions.ahead) % Portions::kPlaces] = known;
    __syncthreads();
    const int column = static_cast<int>(threadIdx.x) / kRows, row = static_cast<int>(threadIdx.x) % kRows;
    const auto own_sum = [&](int c) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += shared.sums[side][w][c][row];
      return sum;
    };
    // With those of the runs that have the rest of the tile.
    const auto whole_sum = [&](int c) {
      float sum = own_sum(c);
      const int tile_end = (at.tile + 1) * portions.of_tile;
      if (at.end == portions.of_tile) return sum;
      for (int run = portions.RunOfBlock() + 1; portions.BeginOf(run) < tile_end; ++run) {
        sum += ends.Take(run, c * kRows + row);
      }
      return sum;
    };
    const TiledProduct<kTileColumns>& product = in.ProductOf(at.tile);
    const int columns = product.TileColumns();
    if (column < kTileColumns && row < in.rows) {
      if (at.first > 0) {
        ends.Give(portions.RunOfBlock(), column * kRows + row, own_sum(column));
      } else if (column < columns) {
        const Index n = Index{at.tile - product.first_tile} * columns + column;
        float sum = whole_sum(column);
        if (product.up != nullptr) sum = Silu(sum) * whole_sum(column + columns);
        if (n < product.columns) product.out.Put(row * product.columns + n, n, sum);
      }
    }
    side ^= 1;  // the next tile's sums find the place of the tile before read: a barrier is between
  }
}

template <typename X, int kRows, bool kNormed>
Status Launch(CudaContext& context, const FewRowsInputs<X>& in, const RowNorm& norm) {
  if (in.tiles == 0) return Status::Ok();
  const std::size_t x_bytes =
      kXBySteps<kRows, kNormed> ? kWarps * kStepsAhead * sizeof(XStep<X>) : in.rows * XStride(in.inner) * sizeof(Bf16);
  const std::size_t bytes = sizeof(FewRowsShared<kRows>) + x_bytes;
  constexpr std::size_t kTaken = 1024;  // of a multiprocessor's shared memory, by each block
  const auto fitting = static_cast<Index>((context.most_shared_bytes() + kTaken) / (bytes + kTaken));
  const Index at_once = std::clamp<Index>(fitting, 1, kMostBlocks) * context.num_multiprocessors();
  const auto of_tile = static_cast<int>(CeilDiv(in.inner, kStep));
  const Index blocks = std::min(Index{of_tile} * in.tiles, at_once);
  UNFOLD_TRY_ASSIGN(unsigned* counters, context.Counters(2 * blocks * kTileColumns * kFewRows, "MatMul"));
  Portions portions(in.tiles, of_tile, kStepsAhead, blocks);
  if (portions.AreManyFor(blocks)) portions.claims = counters;
  return context.Launch(FewRowsKernel<X, kRows, kNormed>, {blocks, kThreads, bytes, "MatMul"}, in, norm, portions,
                        Ends(counters));
}

template <typename X>
Status Run(CudaContext& context, std::span<const MatMulArgs> products, const Bf16* up) {
  const FewRowsInputs<X> in(products, products[0].x.as<const X>(), up);
  return in.rows == 1 ? Launch<X, 1, false>(context, in, {}) : Launch<X, kFewRows, false>(context, in, {});
}

Status Run(CudaContext& context, std::span<const MatMulArgs> products, const Bf16* up, const RmsNormArgs* norm) {
  if (norm != nullptr) {
    const FewRowsInputs<float> in(products, norm->x.as<const float>(), up);
    return Launch<float, 1, true>(context, in, {norm->weight.as<const Bf16>(), norm->epsilon});
  }
  if (products[0].x.dtype == DType::kBF16) return Run<Bf16>(context, products, up);
  return Run<float>(context, products, up);
}

}  // namespace

bool TakesFewRows(const MatMulArgs& args) {
  const Index rows = args.x.dims[0], inner = args.x.dims[1];
  const bool vectors = inner % kLaneStep == 0 && HasVectors(args.x.data) && HasVectors(args.weight.data);
  return args.query && args.compute == DType::kBF16 && args.weight.dtype == DType::kBF16 && rows >= 1 &&
         rows <= kFewRows && inner > 0 && rows * inner <= kMostX && vectors;
}

bool TakesNorm(const RmsNormArgs& norm) {
  return norm.x.dims[0] == 1 && norm.x.dtype == DType::kF32 && norm.weight.dtype == DType::kBF16 &&
         norm.out.dtype == DType::kBF16 && HasVectors(norm.x.data) && HasVectors(norm.weight.data);
}

Status RunFewRows(CudaContext& context, std::span<const MatMulArgs> products, const RmsNormArgs* norm) {
  return Run(context, products, nullptr, norm);
}

Status RunGatedFewRows(CudaContext& context, const GatedProductArgs& args, const RmsNormArgs* norm) {
  MatMulArgs product = args.gate;
  product.out = args.out;
  return Run(context, std::span(&product, 1), args.up.weight.as<const Bf16>(), norm);
}

}  // namespace unfold
