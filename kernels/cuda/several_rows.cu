// SPDX-License-Identifier: Apache-2.0
// Products in bf16 of up to kSeveralRows rows with weight matrices, at the speed at which weights come from memory:
// the decoding step of several answers, and a question. Tensor cores have 128 rows of the weights, or 64 of each matrix
// of a gated product, as their left operand, and up to 64 rows of x as the right one, 128 dims a step. Weights and x
// come through shared memory, several steps ahead, the first weights before the work before has ended.
//
// The steps of all tiles, tile by tile, are cut into as many even runs as there are multiprocessors, and a block takes
// one: whatever the matrices' sizes, all blocks read as much. A tile that two or more blocks have a part of is added
// up, in the blocks' order, by the one that comes last. Runs depend on the matrices alone, so a row's bits depend
// neither on its company nor on how many rows there are.
//
// Bytes: N * K weights; T * K of x for each tile, from L2; the parts of tiles, 512 T, twice for each block. Flops:
// 2 * T * N * K. A layer of Qwen2-7B at 4.55 TB/s: q, k and v 7.3 us, o 5.6, gate and up 59.7, down 29.8.
//
// One after another, H200, 32 rows: 16, 15, 72 and 41 us (cuBLASLt, q, k and v apart, gate and up without their
// product: 28, 11, 73 and 40); 16 rows: 13, 12, 69 and 37; 64: 22, 21, 83 and 50. Tried (32 rows, all four; now 146):
// steps of 64 dims, seven stages, 147; two blocks a multiprocessor with four of them 157; one block with four, so that
// the work after finds room beside it, 166; stages that begin 16 bytes behind a bank's line 178. Of a tile, 64 dims
// take 0.53 us where their bytes alone would take 0.47; what each launch takes beside its steps, 5 to 9 us, is the
// larger part of what is left. device_bench's `step` times them as a decoding step has them.
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
constexpr int kTileColumns = 128;
constexpr int kWarpColumns = 32;  // four warps have a tile's columns; the other four the other half of a step's dims
constexpr int kStep = 128;        // dims
constexpr int kPiece = 8;         // elements of a copy, 16 bytes
constexpr int kPieces = kStep / kPiece;
constexpr int kCopiedAtOnce = kThreads / kPieces;  // rows, by all threads
constexpr int kTileCopies = kTileColumns / kCopiedAtOnce;

using Inputs = TiledProducts<Bf16, kTileColumns>;

// Rows of a step, whose pieces stand so that eight rows' same pieces are in different banks.
struct StepRow {
  Bf16 dims[kStep];
  __device__ __forceinline__ Bf16* Piece(int row, int piece) { return dims + (piece ^ row % 8) * kPiece; }
};

template <int kRows>
struct Stage {
  StepRow weights[kTileColumns], x[kRows];
};

// Behind the stages, whose rows begin where banks do.
template <int kRows>
struct SeveralRowsShared {
  float sums[kRows][kTileColumns + 4];  // so that what a warp writes at once is in different banks
  bool last;
};

// The steps of all tiles, and those of a block.
struct StepRun {
  Index of_tile, all, begin, end;

  __device__ StepRun(const Inputs& in, unsigned block)
      : of_tile((in.inner + kStep - 1) / kStep),
        all(of_tile * in.tiles),
        begin(all * block / gridDim.x),
        end(all * (block + 1) / gridDim.x) {}
  __device__ unsigned BlockOf(Index step) const { return static_cast<unsigned>(((step + 1) * gridDim.x - 1) / all); }
};

// Copies a block's steps to shared memory, the weights and x each in their turn.
template <int kRows>
class StepCopier {
 public:
  __device__ __forceinline__ StepCopier(const Inputs& in, const StepRun& run)
      : in_(in),
        left_(static_cast<int>(run.end - run.begin)),
        tile_(static_cast<int>(run.begin / run.of_tile)),
        weight_dim_(static_cast<int>(run.begin % run.of_tile) * kStep + Piece() * kPiece),
        x_dim_(weight_dim_) {
    Aim();
  }

  __device__ __forceinline__ void CopyWeights(Stage<kRows>& to) {
    if (left_ == 0) return;
    --left_;
    const bool inside = weight_dim_ < in_.inner;
#pragma unroll
    for (int i = 0; i < kTileCopies; ++i) {
      const int row = Row() + i * kCopiedAtOnce;
      CopyOnce16(to.weights[row].Piece(row, Piece()), weights_[i] + (inside ? weight_dim_ : 0), inside);
    }
    weight_dim_ += kStep;
    if (weight_dim_ - Piece() * kPiece < in_.inner) return;
    weight_dim_ = Piece() * kPiece;
    ++tile_;
    Aim();
  }
  // Rows past the last stand for the last. Steps past the block's last are copied as well, and not used.
  __device__ __forceinline__ void CopyX(Stage<kRows>& to) {
    const bool inside = x_dim_ < in_.inner;
#pragma unroll
    for (int first = 0; first < kRows; first += kCopiedAtOnce) {
      const int row = first + Row();
      const Bf16* from = in_.x + Index{min(row, in_.rows - 1)} * in_.inner + (inside ? x_dim_ : 0);
      if (row < kRows) CopyAsync16(to.x[row].Piece(row, Piece()), from, inside);
    }
    x_dim_ += kStep;
    if (x_dim_ - Piece() * kPiece >= in_.inner) x_dim_ = Piece() * kPiece;
  }

 private:
  __device__ __forceinline__ static int Piece() { return static_cast<int>(threadIdx.x) % kPieces; }
  __device__ __forceinline__ static int Row() { return static_cast<int>(threadIdx.x) / kPieces; }

  // Rows past the last stand for the last. Of a gated product a warp's columns are 16 of `weight` and the same of `up`.
  __device__ __forceinline__ void Aim() {
    if (tile_ >= in_.tiles) return;
    const TiledProduct<kTileColumns>& product = in_.ProductOf(tile_);
    const Index first = Index{tile_ - product.first_tile} * product.TileColumns();
#pragma unroll
    for (int i = 0; i < kTileCopies; ++i) {
      const int row = Row() + i * kCopiedAtOnce, of_warp = row % kWarpColumns, half = kWarpColumns / 2;
      const bool gated = product.up != nullptr;
      const Index own = first + (gated ? row / kWarpColumns * half + of_warp % half : row);
      weights_[i] =
          (gated && of_warp >= half ? product.up : product.weight) + min(own, product.columns - 1) * in_.inner;
    }
  }

  const Inputs& in_;
  int left_, tile_, weight_dim_, x_dim_;
  const Bf16* weights_[kTileCopies] = {};
};

// What a warp adds up: 32 columns by all rows, of half of the dims.
template <int kRows>
struct WarpSums {
  static constexpr int kRowTiles = kRows / kMmaColumns;
  float sums[2][kRowTiles][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (auto& tile : sums) {
#pragma unroll
      for (auto& four : tile) four[0] = four[1] = four[2] = four[3] = 0;
    }
  }
  __device__ __forceinline__ void Multiply(Stage<kRows>& stage) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, column = warp % 4 * kWarpColumns + lane % 16;
    constexpr int kHalfSteps = kStep / 2 / 16;
#pragma unroll
    for (int step = 0; step < kHalfSteps; ++step) {
      const int first = (warp / 4 * kHalfSteps + step) * 2;  // piece
      unsigned left[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const int row = column + m * kMmaRows;
        LoadMatrices(left[m], stage.weights[row].Piece(row, first + lane / 16));
      }
#pragma unroll
      for (int two = 0; two < kRowTiles / 2; ++two) {
        const int row = two * 16 + lane / 16 * 8 + lane % 8;
        unsigned right[4];
        LoadMatrices(right, stage.x[row].Piece(row, first + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          Mma(sums[m][2 * two], left[m], right[0], right[1]);
          Mma(sums[m][2 * two + 1], left[m], right[2], right[3]);
        }
      }
    }
  }
  // Those of both halves of the dims to shared.sums, which all threads can read on return.
  __device__ __forceinline__ void Put(SeveralRowsShared<kRows>& shared) const {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    for (int half = 1; half >= 0; --half) {
      if (half == 0) __syncthreads();
      if (warp / 4 != half) continue;
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& at = shared.sums[n * kMmaColumns + lane % 4 * 2 + i % 2]
                                   [warp % 4 * kWarpColumns + m * kMmaRows + lane / 4 + i / 2 * 8];
            at = half == 1 ? sums[m][n][i] : sums[m][n][i] + at;
          }
        }
      }
    }
    __syncthreads();
  }
};

// Parts of tiles, two places a block: for the tile that its run begins with, and for the one that it ends with.
struct Parts {
  float* sums;         // [2 blocks, rows, kTileColumns]
  unsigned* finished;  // [tiles]

  __device__ float4* Of(unsigned block, const StepRun& run, Index first_step, int rows) const {
    const unsigned place = 2 * block + (run.all * block / gridDim.x < first_step ? 1U : 0U);
    return reinterpret_cast<float4*>(sums + Index{place} * rows * kTileColumns);
  }
};

// Puts a block's part of a tile, in shared.sums, to the others, and if it is the last one adds them up there. Returns
// whether the tile is complete.
template <int kRows>
__device__ bool AddParts(const Inputs& in, const StepRun& run, int tile, const Parts& parts,
                         SeveralRowsShared<kRows>& shared) {
  constexpr int kFours = kTileColumns / 4, kRowsAtOnce = kThreads / kFours;
  const Index first_step = tile * run.of_tile;
  const unsigned first = run.BlockOf(first_step), last = run.BlockOf(first_step + run.of_tile - 1);
  if (first == last) return true;
  const int four = static_cast<int>(threadIdx.x) % kFours, first_row = static_cast<int>(threadIdx.x) / kFours;
  float4* own = parts.Of(blockIdx.x, run, first_step, in.rows);
  for (int row = first_row; row < in.rows; row += kRowsAtOnce) {
    own[row * kFours + four] = *reinterpret_cast<const float4*>(&shared.sums[row][4 * four]);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared.last = atomicInc(parts.finished + tile, last - first) == last - first;
  __syncthreads();
  if (!shared.last) return false;
  __threadfence();
  constexpr int kEach = kRows / kRowsAtOnce;
  constexpr int kAtOnce = 16 / kEach;  // parts under way
  float4 sums[kEach] = {};
  for (unsigned block = first; block <= last; block += kAtOnce) {
    float4 part[kAtOnce][kEach];
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      const float4* from = parts.Of(min(block + p, last), run, first_step, in.rows);
#pragma unroll
      for (int n = 0; n < kEach; ++n) {
        const int row = first_row + n * kRowsAtOnce;
        const bool inside = block + p <= last && row < in.rows;
        part[p][n] = inside ? __ldcg(from + row * kFours + four) : make_float4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
#pragma unroll
      for (int n = 0; n < kEach; ++n) {
        sums[n].x += part[p][n].x, sums[n].y += part[p][n].y, sums[n].z += part[p][n].z, sums[n].w += part[p][n].w;
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    *reinterpret_cast<float4*>(&shared.sums[first_row + n * kRowsAtOnce][4 * four]) = sums[n];
  }
  __syncthreads();
  return true;
}

// A thread has one column.
template <int kRows>
__device__ void PutTile(const Inputs& in, int tile, const SeveralRowsShared<kRows>& shared) {
  constexpr int kAtOnce = 8;  // loads under way
  const TiledProduct<kTileColumns>& product = in.ProductOf(tile);
  const int columns = product.TileColumns(), rows_at_once = kThreads / columns;
  const int own = static_cast<int>(threadIdx.x) % columns;
  const Index column = Index{tile - product.first_tile} * columns + own;
  if (column >= product.columns) return;
  constexpr int kHalf = kWarpColumns / 2;
  const bool gated = product.up != nullptr;
  const int place = gated ? own / kHalf * kWarpColumns + own % kHalf : own;
  const float bias = product.out.Bias(column);
  for (int first = static_cast<int>(threadIdx.x) / columns; first < in.rows; first += kAtOnce * rows_at_once) {
    float before[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int row = first + n * rows_at_once;
      before[n] = row < in.rows ? product.out.Before(row * product.columns + column) : 0.0F;
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int row = first + n * rows_at_once;
      if (row >= in.rows) continue;
      float sum = shared.sums[row][place];
      if (gated) sum = Silu(sum) * shared.sums[row][place + kHalf];
      product.out.Put(row * product.columns + column, sum + bias, before[n]);
    }
  }
}

template <int kRows, int kStages>
__global__ void __launch_bounds__(kThreads, 1) SeveralRowsKernel(const __grid_constant__ Inputs in, Parts parts) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* stages = reinterpret_cast<Stage<kRows>*>(memory);
  auto& shared = *reinterpret_cast<SeveralRowsShared<kRows>*>(stages + kStages);
  const StepRun run(in, blockIdx.x);
  StepCopier<kRows> copier(in, run);
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) {
    copier.CopyWeights(stages[stage]);
    CommitCopies();
  }
  WaitForWorkBefore();
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) {
    copier.CopyX(stages[stage]);
    CommitCopies();
  }
  WarpSums<kRows> sums;
  sums.Clear();
  auto tile = static_cast<int>(run.begin / run.of_tile);
  Index tile_end = (tile + 1) * run.of_tile;
  int stage = 0, free = kStages - 1;  // free: the one before
  for (Index step = run.begin; step < run.end; ++step) {
    WaitForCopies<kStages - 2>();
    __syncthreads();
    copier.CopyWeights(stages[free]);
    copier.CopyX(stages[free]);
    CommitCopies();
    sums.Multiply(stages[stage]);
    free = stage;
    stage = stage + 1 == kStages ? 0 : stage + 1;
    if (step + 1 < run.end && step + 1 < tile_end) continue;
    sums.Put(shared);
    if (AddParts<kRows>(in, run, tile, parts, shared)) PutTile<kRows>(in, tile, shared);
    sums.Clear();
    ++tile, tile_end += run.of_tile;
  }
}

// With as many stages as a block of an H100 has room for, or one fewer: an A100.
template <int kRows>
Status Launch(CudaContext& context, CallMemory& memory, const Inputs& in) {
  constexpr int kStages = kRows <= 32 ? 4 : 3;
  const Index steps = CeilDiv(in.inner, kStep) * in.tiles,
              blocks = std::min<Index>(steps, context.num_multiprocessors());
  auto* sums = memory.Array<float>(2 * blocks * in.rows * kTileColumns);
  UNFOLD_TRY(memory.status());
  UNFOLD_TRY_ASSIGN(unsigned* finished, context.Counters(in.tiles, "MatMul"));
  const auto bytes = [](int stages) { return sizeof(SeveralRowsShared<kRows>) + stages * sizeof(Stage<kRows>); };
  const bool all = bytes(kStages) <= static_cast<std::size_t>(context.most_shared_bytes());
  return context.Launch(all ? SeveralRowsKernel<kRows, kStages> : SeveralRowsKernel<kRows, kStages - 1>,
                        {blocks, kThreads, bytes(all ? kStages : kStages - 1), "MatMul"}, in, Parts{sums, finished});
}

Status Run(CudaContext& context, std::span<const MatMulArgs> products, const Bf16* up) {
  CallMemory memory(context, "MatMul");
  const Bf16* x = RoundToBf16(context, memory, products[0].x);
  UNFOLD_TRY(memory.status());
  const Inputs in(products, x, up);
  if (in.tiles == 0) return Status::Ok();
  if (in.rows <= 16) return Launch<16>(context, memory, in);
  if (in.rows <= 32) return Launch<32>(context, memory, in);
  return Launch<kSeveralRows>(context, memory, in);
}

}  // namespace

bool TakesSeveralRows(const MatMulArgs& args) {
  const Index rows = args.x.dims[0], inner = args.x.dims[1];
  return args.query && args.compute == DType::kBF16 && args.weight.dtype == DType::kBF16 && rows >= 2 &&
         rows <= kSeveralRows && inner > 0 && inner % kPiece == 0 && HasVectors(args.weight.data);
}

Status RunSeveralRows(CudaContext& context, std::span<const MatMulArgs> products) {
  return Run(context, products, nullptr);
}

Status RunGatedSeveralRows(CudaContext& context, const GatedProductArgs& args) {
  MatMulArgs product = args.gate;
  product.out = args.out;
  return Run(context, std::span(&product, 1), args.up.weight.as<const Bf16>());
}

}  // namespace unfold
