// SPDX-License-Identifier: Apache-2.0
// In the place of kernels/cuda/mma.cuh, for kernels that run on the host (on_host.h).
#ifndef UNFOLD_KERNELS_CUDA_MMA_CUH_
#define UNFOLD_KERNELS_CUDA_MMA_CUH_

#include "tests/unit/on_host/on_host.h"

namespace unfold {

constexpr int kMmaRows = 16;
constexpr int kMmaColumns = 8;

inline void CopyAsync16(void* shared, const void* global, bool inside) {
  on_host::open_group.push_back({shared, inside ? global : nullptr});
}
inline void CopyOnce16(void* shared, const void* global, bool inside) { CopyAsync16(shared, global, inside); }
inline void CommitCopies() {
  on_host::groups.push_back(std::move(on_host::open_group));
  on_host::open_group.clear();
}
template <int kOpen>
void WaitForCopies() {
  on_host::FinishCopies(kOpen);
}

// Lane l gives the address of row l % 8 of matrix l / 8, and gets its pair of row l / 4 of each.
inline void LoadMatrices(unsigned (&to)[4], const void* row) {
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    const auto* from = static_cast<const unsigned*>(on_host::FromLane(row, matrix * 8 + on_host::Lane() / 4));
    to[matrix] = from[on_host::Lane() % 4];
  }
}

inline void Mma(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  on_host::Warp& warp = on_host::OwnWarp();
  const unsigned lane = on_host::Lane();
  for (int i = 0; i < 4; ++i) warp.words[lane][i] = a[i];
  warp.words[lane][4] = b0, warp.words[lane][5] = b1;
  warp.barrier.arrive_and_wait();
  const auto half = [](unsigned pair, unsigned which) {
    return __uint_as_float((which == 0 ? pair << 16 : pair & 0xffff0000U));
  };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double sum = 0;
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned pair = k % 8 / 2, high = k / 8;  // of the lanes that have dim k, and in which of their words
      const float left = half(warp.words[row % 8 * 4 + pair][row / 8 + 2 * high], k % 2);
      sum += double{left} * half(warp.words[column * 4 + pair][4 + high], k % 2);
    }
    sums[i] += static_cast<float>(sum);
  }
  warp.barrier.arrive_and_wait();
}

inline unsigned PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  unsigned bits;
  std::memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_MMA_CUH_
