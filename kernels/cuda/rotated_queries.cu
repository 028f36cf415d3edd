// SPDX-License-Identifier: Apache-2.0
// Rotates query rows once for every document, so that the blocks that score and attend need no tables, no positions and
// no barrier for them.
//
// Bytes: 4 * D written for a head and document; they stay in L2.
#include "kernels/cuda/query_fragments.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 128;

// One row, document and key/value head a block; a thread turns a pair of dims.
__global__ void __launch_bounds__(kThreads)
    RotateKernel(const __grid_constant__ QueryInputs in, int heads_at_once, int kv_heads, uint4* rotated) {
  WaitForWorkBefore();
  const int d = static_cast<int>(in.head_dim), half = d / 2, group = static_cast<int>(in.heads) / kv_heads;
  const unsigned slots = static_cast<unsigned>(in.documents) + 1;
  const unsigned kv_head = blockIdx.x % kv_heads, document = blockIdx.x / kv_heads % slots;
  const Index t = blockIdx.x / kv_heads / slots;
  Index position = 0;
  const bool good = PositionIn(in, t, document, &position);
  auto* to = reinterpret_cast<__nv_bfloat16*>(rotated) + Index{blockIdx.x} * heads_at_once * d * 2;
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

RotatedQueries RotateQueries(CudaContext& context, CallMemory& memory, const QueryInputs& in, Index rows,
                             Index kv_heads, void* turned, bool is_turned) {
  const Index group = in.heads / kv_heads, heads = TensorCoreHeads(group);
  if (turned == nullptr) {
    turned = memory.Array<char>(RotatedQueryBytes(rows, in.documents, kv_heads, group, in.head_dim));
  }
  auto* rotated = static_cast<uint4*>(turned);
  if (rotated == nullptr) return {};
  if (!is_turned) {
    memory.Note(context.Launch(RotateKernel, {rows * (in.documents + 1) * kv_heads, kThreads, 0, "RotateQueries"}, in,
                               static_cast<int>(heads), static_cast<int>(kv_heads), rotated));
  }
  return {rotated, static_cast<int>(in.documents), static_cast<int>(kv_heads), static_cast<int>(heads),
          static_cast<int>(in.head_dim / 16)};
}

}  // namespace unfold
