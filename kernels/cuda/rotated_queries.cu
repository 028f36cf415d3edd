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

struct Rotation {
  QueryInputs in;
  int rows, heads_at_once, kv_heads;
  uint4* rotated;
};

// One row, document and key/value head a block; a thread turns a pair of dims.
template <int kMost>
__global__ void __launch_bounds__(kThreads) RotateKernel(const __grid_constant__ Together<Rotation, kMost> requests) {
  WaitForWorkBefore();
  const QueryInputs& in = requests().in;
  const int heads_at_once = requests().heads_at_once, kv_heads = requests().kv_heads;
  const int d = static_cast<int>(in.head_dim), half = d / 2, group = static_cast<int>(in.heads) / kv_heads;
  const unsigned slots = static_cast<unsigned>(in.documents) + 1;
  const unsigned kv_head = blockIdx.x % kv_heads, document = blockIdx.x / kv_heads % slots;
  const Index t = blockIdx.x / kv_heads / slots;
  if (kMost > 1 && t >= requests().rows) return;
  Index position = 0;
  const bool good = PositionIn(in, t, document, &position);
  auto* to = reinterpret_cast<__nv_bfloat16*>(requests().rotated) + Index{blockIdx.x} * heads_at_once * d * 2;
  const auto put = [&](int head, int dim, float value) {
    const int step = dim / 16, inside = dim % 16;  // pairs of dims: 4 lanes, then 4 lanes again
    __nv_bfloat16* place = to + ((step * heads_at_once + head) * 4 + inside % 8 / 2) * 8 + inside / 8 * 2 + inside % 2;
    const __nv_bfloat16 coarse = __float2bfloat16_rn(value);
    place[0] = coarse;
    place[4] = __float2bfloat16_rn(value - __bfloat162float(coarse));
  };
  for (int i = threadIdx.x; i < heads_at_once * half; i += kThreads) {
    const int head = i / half, e = i % half;
    float a = 0, b = 0;
    if (head < group && good) {
      const float* from = in.q + (t * in.heads + kv_head * group + head) * d + e;
      const float c = in.cos[position * half + e], s = in.sin[position * half + e];
      a = fmaf(from[0], c, -__fmul_rn(from[half], s));
      b = fmaf(from[half], c, __fmul_rn(from[0], s));
    }
    put(head, e, a);
    put(head, e + half, b);
  }
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
