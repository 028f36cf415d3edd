// SPDX-License-Identifier: Apache-2.0
// How the blocks of few_rows.cu share tiles, of as many steps each: which block works on what, and how the parts of a
// tile come together.
#ifndef UNFOLD_KERNELS_CUDA_PORTIONS_CUH_
#define UNFOLD_KERNELS_CUDA_PORTIONS_CUH_

#include "kernels/cuda/common.cuh"

namespace unfold {

// What each block works on, portion by portion: steps of one tile.
//
// Runs: the steps of all tiles, tile by tile, cut evenly. Blocks that come up first have the last ones: a block waits
// for those with the runs after its own, which thus never wait for a place. Claims, where there are many tiles: first
// every so many-th, then, since multiprocessors do not get the same share of the memory's rate, whichever is next.
struct Portions {
  static constexpr int kTilesToClaim = 4;  // of a block
  static constexpr int kPlaces = 16;       // of tiles that a block was told

  int tiles, of_tile;
  int each, more;              // steps of a run; the first `more` have another
  int ahead;                   // portions that copies may be ahead
  unsigned* claims = nullptr;  // claimed so far; null: runs. Zero before a launch, and after it

  Portions(int tiles, int of_tile, int steps_ahead, Index blocks)
      : tiles(tiles),
        of_tile(of_tile),
        each(static_cast<int>(Index{tiles} * of_tile / blocks)),
        more(static_cast<int>(Index{tiles} * of_tile % blocks)),
        ahead((steps_ahead + of_tile - 1) / of_tile) {}
  bool AreManyFor(Index blocks) const { return tiles >= kTilesToClaim * blocks; }

  __device__ __forceinline__ int RunOfBlock() const { return static_cast<int>(gridDim.x - 1 - blockIdx.x); }
  __device__ __forceinline__ int BeginOf(int run) const { return run * each + min(run, more); }
  // The last tile that a block knows without a claim.
  __device__ __forceinline__ int LastKnown() const { return static_cast<int>(blockIdx.x + ahead * gridDim.x); }
  // The tile after one that was told. Each block is told once that there are no more, so that the last claim of all
  // leaves a zero.
  __device__ __forceinline__ int Claim(int before) const {
    if (before >= tiles) return before;
    const unsigned known = (ahead + 1) * gridDim.x, last = static_cast<unsigned>(tiles) - ahead * gridDim.x - 1;
    return static_cast<int>(known + atomicInc(claims, last));
  }
};

// Where a block is: steps [first, end) of a tile, none when it is through.
class BlockPortion {
 public:
  int tile, first, end;

  __device__ __forceinline__ explicit BlockPortion(const Portions& portions) : portions_(portions) {
    if (portions.claims != nullptr) {
      first = left_ = 0;
      tile = static_cast<int>(blockIdx.x);
    } else {
      const int run = portions.RunOfBlock(), begin = portions.BeginOf(run);
      left_ = portions.BeginOf(run + 1) - begin;
      tile = static_cast<int>(static_cast<unsigned>(begin) / static_cast<unsigned>(portions.of_tile));
      first = begin - tile * portions.of_tile;
    }
    SetEnd();
  }
  __device__ __forceinline__ bool Inside() const { return first < end; }
  __device__ __forceinline__ void Next(const int* told) {
    ++number_;
    if (portions_.claims == nullptr) {
      ++tile;
    } else if (number_ <= portions_.ahead) {
      tile += static_cast<int>(gridDim.x);
    } else {
      tile = told[number_ % Portions::kPlaces];
    }
    first = 0;
    SetEnd();
  }
  __device__ __forceinline__ int number() const { return number_; }

 private:
  __device__ __forceinline__ void SetEnd() {
    if (portions_.claims != nullptr) {
      end = tile < portions_.tiles ? portions_.of_tile : 0;
      return;
    }
    end = min(portions_.of_tile, first + left_);
    left_ -= end - first;
  }
  const Portions& portions_;
  int left_, number_ = 0;
};

// Sums of the first portion of each run, where it is not the beginning of a tile, for the block that has that: [runs,
// most sums of a tile], a sum in the low half and a mark above it. Zeros before a launch, and after it.
template <int kMostSums>
class TileEnds {
 public:
  explicit TileEnds(unsigned* at) : at_(reinterpret_cast<unsigned long long*>(at)) {}

  __device__ __forceinline__ void Give(int run, int of_tile, float sum) const {
    __stcg(Place(run, of_tile), 1ULL << 32 | __float_as_uint(sum));
  }
  // Waits until it is there.
  __device__ __forceinline__ float Take(int run, int of_tile) const {
    unsigned long long given = 0;
    while (given == 0) given = atomicExch(Place(run, of_tile), 0ULL);
    return __uint_as_float(static_cast<unsigned>(given));
  }

 private:
  __device__ __forceinline__ unsigned long long* Place(int run, int of_tile) const {
    return at_ + Index{run} * kMostSums + of_tile;
  }
  unsigned long long* at_;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_PORTIONS_CUH_
