// SPDX-License-Identifier: Apache-2.0
// How the blocks of few_rows.cu share tiles, of as many steps each: which block works on what, and how the parts of a
// tile come together.
#ifndef UNFOLD_KERNELS_CUDA_PORTIONS_CUH_
#define UNFOLD_KERNELS_CUDA_PORTIONS_CUH_

#include "kernels/cuda/common.cuh"

namespace unfold {

// What each block works on, portion by portion: steps of one tile.
//
// Runs, where there are few steps: those of all tiles, tile by tile, cut evenly. Blocks that come up first have the
// last ones: a block waits for those with the runs after its own, which thus never wait for a place.
//
// Claims: tiles are cut into parts of few steps; a block takes first every so many-th part, then, since
// multiprocessors do not get the same share of the memory's rate, whichever is next. Parts are small: what the slowest
// block has claimed is what all wait for.
struct Portions {
  static constexpr int kPartsToClaim = 4;  // of a block

  int tiles, of_tile;
  int each, more;  // steps of a run, or of a part of a tile; the first `more` have another
  int ahead = 0;   // parts that copies may be ahead
  int parts = 1;   // of a tile
  bool claimed = false;
  unsigned* claims = nullptr;  // claimed so far; null: runs. Zero before a launch, and after it

  Portions(int tiles, int of_tile, int steps_ahead, Index blocks) : tiles(tiles), of_tile(of_tile) {
    const int most_parts = std::max(of_tile / steps_ahead, 1);
    claimed = Index{tiles} * most_parts >= kPartsToClaim * blocks;
    if (claimed) parts = most_parts;
    const Index steps = claimed ? of_tile : Index{tiles} * of_tile, cuts = claimed ? parts : blocks;
    each = static_cast<int>(steps / cuts);
    more = static_cast<int>(steps % cuts);
    if (claimed) ahead = (steps_ahead + each - 1) / each;
  }

  __device__ __forceinline__ int RunOfBlock() const { return static_cast<int>(gridDim.x - 1 - blockIdx.x); }
  // Of a run among all steps, or of a part among those of its tile.
  __device__ __forceinline__ int BeginOf(int cut) const { return cut * each + min(cut, more); }
  // The last part that a block knows without a claim.
  __device__ __forceinline__ int LastKnown() const { return static_cast<int>(blockIdx.x + ahead * gridDim.x); }
  // The part after one that was told. Each block is told once that there are no more, so that the last claim of all
  // leaves a zero.
  __device__ __forceinline__ int Claim(int before) const {
    if (before >= tiles * parts) return before;
    const unsigned known = (ahead + 1) * gridDim.x, last = static_cast<unsigned>(tiles * parts) - ahead * gridDim.x - 1;
    return static_cast<int>(known + atomicInc(claims, last));
  }
};

// Where a block is: steps [first, end) of a tile, none when it is through.
class BlockPortion {
 public:
  int tile, first, end;

  __device__ __forceinline__ explicit BlockPortion(const Portions& portions) : portions_(portions) {
    if (portions.claims != nullptr) {
      Take(static_cast<int>(blockIdx.x));
      return;
    }
    const int run = portions.RunOfBlock(), begin = portions.BeginOf(run);
    left_ = portions.BeginOf(run + 1) - begin;
    tile = static_cast<int>(static_cast<unsigned>(begin) / static_cast<unsigned>(portions.of_tile));
    first = begin - tile * portions.of_tile;
    TakeOfRun();
  }
  __device__ __forceinline__ bool Inside() const { return first < end; }
  // `told`: the parts that a block was told, by their number.
  template <typename Told>
  __device__ __forceinline__ void Next(Told told) {
    ++number_;
    if (portions_.claims == nullptr) {
      ++tile, first = 0;
      TakeOfRun();
    } else if (number_ <= portions_.ahead) {
      Take(static_cast<int>(blockIdx.x + number_ * gridDim.x));
    } else {
      Take(told(number_));
    }
  }
  __device__ __forceinline__ int number() const { return number_; }
  // Of the tile, with claims.
  __device__ __forceinline__ int part() const { return part_; }

 private:
  __device__ __forceinline__ void Take(int part) {
    tile = static_cast<int>(static_cast<unsigned>(part) / static_cast<unsigned>(portions_.parts));
    part_ = part - tile * portions_.parts;
    first = portions_.BeginOf(part_);
    end = tile < portions_.tiles ? portions_.BeginOf(part_ + 1) : first;
  }
  __device__ __forceinline__ void TakeOfRun() {
    end = min(portions_.of_tile, first + left_);
    left_ -= end - first;
  }
  const Portions& portions_;
  int left_ = 0, part_ = 0, number_ = 0;
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

// Sums of the parts of tiles that are claimed, for the block that is the last of a tile: [tiles, parts, most sums].
template <int kMostSums>
class TileParts {
 public:
  // `arrived`: of each tile a count, zero before a launch, and after it.
  TileParts(float* sums, unsigned* arrived, int parts) : sums_(sums), arrived_(arrived), parts_(parts) {}

  __device__ __forceinline__ void Give(int tile, int part, int of_tile, float sum) const {
    __stcg(Place(tile, part) + of_tile, sum);
  }
  // By a whole warp that has given all sums of a part: whether those of all others are there.
  __device__ __forceinline__ bool AreAllThere(int tile) const {
    __syncwarp();
    int last = 0;
    if (threadIdx.x % kWarp == 0) {
      __threadfence();
      last = atomicInc(arrived_ + tile, parts_ - 1) == parts_ - 1 ? 1 : 0;
      __threadfence();
    }
    return __shfl_sync(kAllLanes, last, 0) != 0;
  }
  // In the order of the parts, whichever came first.
  __device__ __forceinline__ float Sum(int tile, int of_tile) const {
    float sum = 0;
    for (int first = 0; first < static_cast<int>(parts_); first += kAtOnce) {
      float own[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        own[n] = first + n < static_cast<int>(parts_) ? __ldcg(Place(tile, first + n) + of_tile) : 0.0F;
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) sum += own[n];
    }
    return sum;
  }

 private:
  static constexpr int kAtOnce = 4;  // loads under way
  __device__ __forceinline__ float* Place(int tile, int part) const {
    return sums_ + (Index{tile} * parts_ + part) * kMostSums;
  }
  float* sums_;
  unsigned *arrived_, parts_;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_PORTIONS_CUH_
