// SPDX-License-Identifier: Apache-2.0
// Rotates query rows once for every document, so that the blocks that score and attend need no tables, no positions and
// no barrier for them.
//
// Bytes: 4 * D written for a head and document; they stay in L2.
#include <algorithm>

#include "kernels/cuda/query_fragments.cuh"
#include "kernels/cuda/together.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 128;

// Four values as sums of two bf16: the coarse parts, then the fine ones.
__device__ __forceinline__ uint4 CoarseAndFine(const float (&values)[4]) {
  float fine[4];
#pragma unroll
  for (int n = 0; n < 4; ++n) fine[n] = values[n] - __bfloat162float(__float2bfloat16_rn(values[n]));
  return make_uint4(PackBf16(values[0], values[1]), PackBf16(values[2], values[3]), PackBf16(fine[0], fine[1]),
                    PackBf16(fine[2], fine[3]));
}

struct Rotation {
  QueryInputs in;
  int rows, heads_at_once, kv_heads;
  uint4* rotated;
};

// One row, document and key/value head a block. A thread turns four pairs of dims: those of a lane in a step of the
// first half of the dims and in the same of the second. All but the queries is older than the work before.
template <int kMost>
__global__ void __launch_bounds__(kThreads) RotateKernel(const __grid_constant__ Together<Rotation, kMost> requests) {
  LetWorkAfterComeUp();
  const QueryInputs& in = requests().in;
  const int heads_at_once = requests().heads_at_once, kv_heads = requests().kv_heads;
  const int d = static_cast<int>(in.head_dim), half = d / 2, group = static_cast<int>(in.heads) / kv_heads;
  const unsigned slots = static_cast<unsigned>(in.documents) + 1;
  const unsigned kv_head = blockIdx.x % kv_heads, document = blockIdx.x / kv_heads % slots;
  const Index t = blockIdx.x / kv_heads / slots;
  if (kMost > 1 && t >= requests().rows) return WaitForWorkBefore();
  Index position = 0;
  const bool good = PositionIn(in, t, document, &position);
  const float *cos = in.cos + position * half, *sin = in.sin + position * half;
  const int of_step = 4 * heads_at_once, of_half = half / 16 * of_step;
  uint4* to = requests().rotated + Index{blockIdx.x} * 2 * of_half;
  int i = threadIdx.x;
  do {
    const int head = i % of_step / 4, first = i / of_step * 16 + i % 4 * 2;  // dims first, first + 1 and the same + 8
    float c[4], s[4], low[4] = {}, high[4] = {};
    const bool turns = i < of_half && head < group && good;
    if (turns) {
#pragma unroll
      for (int n = 0; n < 4; ++n) c[n] = cos[first + n / 2 * 8 + n % 2], s[n] = sin[first + n / 2 * 8 + n % 2];
    }
    if (i == threadIdx.x) WaitForWorkBefore();
    if (turns) {
      const float* from = in.q + (t * in.heads + kv_head * group + head) * d + first;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int e = n / 2 * 8 + n % 2;
        const float a = from[e], b = from[e + half];
        low[n] = fmaf(a, c[n], -__fmul_rn(b, s[n]));
        high[n] = fmaf(b, c[n], __fmul_rn(a, s[n]));
      }
    }
    if (i >= of_half) return;
    to[i] = CoarseAndFine(low);
    to[i + of_half] = CoarseAndFine(high);
  } while ((i += kThreads) < of_half);
}

}  // namespace

std::vector<RotatedQueries> RotateQueries(CudaContext& context, CallMemory& memory,
                                          const std::vector<RowsToRotate>& requests) {
  std::vector<RotatedQueries> rotated;
  std::vector<Rotation> missing;
  Index blocks = 0;
  for (const auto& [in, rows, kv_heads, turned, is_turned] : requests) {
    const Index group = in.heads / kv_heads, heads = TensorCoreHeads(group);
    void* to = turned;
    if (to == nullptr) to = memory.Array<char>(RotatedQueryBytes(rows, in.documents, kv_heads, group, in.head_dim));
    if (!memory.status().ok()) return {};
    rotated.push_back({static_cast<uint4*>(to), static_cast<int>(in.documents), static_cast<int>(kv_heads),
                       static_cast<int>(heads), static_cast<int>(in.head_dim / 16)});
    if (is_turned) continue;
    missing.push_back(
        {in, static_cast<int>(rows), static_cast<int>(heads), static_cast<int>(kv_heads), static_cast<uint4*>(to)});
    blocks = std::max(blocks, rows * (in.documents + 1) * kv_heads);
  }
  if (missing.empty()) return rotated;
  memory.Note(LaunchTogether(missing, [&]<int kMost>(const Together<Rotation, kMost>& some, int count) {
    return context.Launch(RotateKernel<kMost>, {blocks, kThreads, 0, "RotateQueries", false, count}, some);
  }));
  return rotated;
}

}  // namespace unfold
