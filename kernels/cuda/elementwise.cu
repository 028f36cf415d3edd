// SPDX-License-Identifier: Apache-2.0
// Operations whose outputs are independent elements or rows: Embed, RmsNorm, Rope, SwiGlu, Unfold. All are bound by
// memory: each reads and writes every byte once.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 256;

// One row a block: its id decides what is read.
template <typename Element>
__global__ void EmbedKernel(const Element* table, Index vocabulary, Index width, const std::int32_t* ids, float* out,
                            FaultSink faults) {
  const Index row = blockIdx.x;
  const std::int32_t id = ids[row];
  if (!InRange(faults, FaultKind::kEmbedIds, row, id, vocabulary)) return;
  for (Index i = threadIdx.x; i < width; i += blockDim.x) out[row * width + i] = Widen(table[id * width + i]);
}

// One row a block. `out` may be `x`: a thread writes only what it alone has read.
template <typename Element>
__global__ void RmsNormKernel(const float* x, Index width, const Element* weight, float epsilon, float* out) {
  __shared__ float shared[kWarp];
  const float* row = x + blockIdx.x * width;
  float squares = 0;
  for (Index i = threadIdx.x; i < width; i += blockDim.x) squares = fmaf(row[i], row[i], squares);
  const float scale = 1.0F / sqrtf(BlockSum(squares, shared) / static_cast<float>(width) + epsilon);
  for (Index i = threadIdx.x; i < width; i += blockDim.x) {
    out[blockIdx.x * width + i] = row[i] * scale * Widen(weight[i]);
  }
}

// The pair (a, b) = dims i and i + D/2, turned by cos and sin.
struct Pair {
  float a, b;
};
__device__ __forceinline__ Pair Turn(Pair x, float c, float s) {
  return {fmaf(x.a, c, -__fmul_rn(x.b, s)), fmaf(x.b, c, __fmul_rn(x.a, s))};
}

// One pair a thread. `out` may be `x`.
__global__ void RopeKernel(const float* x, Index rows, Index heads, Index half, const std::int32_t* positions,
                           const float* cos, const float* sin, Index table_rows, float* out, FaultSink faults) {
  const Index at = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= rows * heads * half) return;
  const Index i = at % half, head = at / half, t = head / heads;
  const std::int32_t position = positions[t];
  if (!InRange(faults, FaultKind::kRopePositions, t, position, table_rows)) return;
  const Index first = head * 2 * half + i;
  const Pair turned = Turn({x[first], x[first + half]}, cos[position * half + i], sin[position * half + i]);
  out[first] = turned.a;
  out[first + half] = turned.b;
}

__global__ void SwiGluKernel(const float* gate, const float* up, Index count, float* out) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) out[i] = gate[i] / (1.0F + expf(-gate[i])) * up[i];
}

struct UnfoldShape {
  Index rows, kv_heads, half, out_rows, row_begin, table_rows;
};

// One pair of one key and of one value a thread. `Element` is what is stored, int8 with a scale for each head and dim;
// `Kv` what is attended.
template <typename Element, typename Kv>
__global__ void UnfoldKernel(const Element* k, const Element* v, const __nv_bfloat16* k_scale,
                             const __nv_bfloat16* v_scale, const std::int32_t* positions, const float* cos,
                             const float* sin, UnfoldShape shape, Kv* out_k, Kv* out_v, FaultSink faults) {
  const Index at = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= shape.rows * shape.kv_heads * shape.half) return;
  const Index i = at % shape.half, row = at / shape.half, t = row / shape.kv_heads, head = row % shape.kv_heads;
  const std::int32_t position = positions[t];
  if (!InRange(faults, FaultKind::kUnfoldPositions, t, position, shape.table_rows)) return;
  const auto load = [&](const Element* from, const __nv_bfloat16* scale, Index e) {
    const float value = Widen(from[row * 2 * shape.half + e]);
    return scale == nullptr ? value : value * Widen(scale[head * 2 * shape.half + e]);
  };
  const Pair key = Turn({load(k, k_scale, i), load(k, k_scale, i + shape.half)}, cos[position * shape.half + i],
                        sin[position * shape.half + i]);
  const Index to = (head * shape.out_rows + shape.row_begin + t) * 2 * shape.half + i;
  Narrow(key.a, out_k + to);
  Narrow(key.b, out_k + to + shape.half);
  Narrow(load(v, v_scale, i), out_v + to);
  Narrow(load(v, v_scale, i + shape.half), out_v + to + shape.half);
}

}  // namespace

Status CudaBackend::DoEmbed(const EmbedArgs& args) {
  const Index rows = args.ids.dims[0], width = args.table.dims[1];
  if (rows == 0) return Status::Ok();
  WithWeightType(args.table.dtype, [&](auto* element) {
    using Element = std::remove_cvref_t<decltype(*element)>;
    EmbedKernel<<<static_cast<unsigned>(rows), kThreads, 0, context_->stream()>>>(
        args.table.as<const Element>(), args.table.dims[0], width, args.ids.as<std::int32_t>(), args.out.as<float>(),
        context_->NextCall());
  });
  return context_->Launched("Embed");
}

Status CudaBackend::DoRmsNorm(const RmsNormArgs& args) {
  const Index rows = args.x.dims[0], width = args.x.dims[1];
  if (rows == 0) return Status::Ok();
  WithWeightType(args.weight.dtype, [&](auto* element) {
    using Element = std::remove_cvref_t<decltype(*element)>;
    RmsNormKernel<<<static_cast<unsigned>(rows), kThreads, 0, context_->stream()>>>(
        args.x.as<float>(), width, args.weight.as<const Element>(), args.epsilon, args.out.as<float>());
  });
  return context_->Launched("RmsNorm");
}

Status CudaBackend::DoRope(const RopeArgs& args) {
  const auto [rows, heads, head_dim, unused] = args.x.dims;
  const Index pairs = rows * heads * head_dim / 2;
  if (pairs == 0) return Status::Ok();
  RopeKernel<<<Blocks(pairs, kThreads), kThreads, 0, context_->stream()>>>(
      args.x.as<float>(), rows, heads, head_dim / 2, args.positions.as<std::int32_t>(), args.rope.cos.as<float>(),
      args.rope.sin.as<float>(), args.rope.cos.dims[0], args.out.as<float>(), context_->NextCall());
  return context_->Launched("Rope");
}

Status CudaBackend::DoSwiGlu(const SwiGluArgs& args) {
  const Index count = args.gate.size();
  if (count == 0) return Status::Ok();
  SwiGluKernel<<<Blocks(count, kThreads), kThreads, 0, context_->stream()>>>(args.gate.as<float>(), args.up.as<float>(),
                                                                             count, args.out.as<float>());
  return context_->Launched("SwiGlu");
}

Status CudaBackend::DoUnfold(const UnfoldArgs& args) {
  const auto [rows, kv_heads, head_dim, unused] = args.k.dims;
  const UnfoldShape shape{rows, kv_heads, head_dim / 2, args.out_k.dims[1], args.row_begin, args.rope.cos.dims[0]};
  const Index pairs = rows * kv_heads * head_dim / 2;
  if (pairs == 0) return Status::Ok();
  const auto run = [&]<typename Element>(const Element*, const __nv_bfloat16* k_scale, const __nv_bfloat16* v_scale) {
    WithKvType(args.out_k.dtype, [&]<typename Kv>(const Kv*) {
      UnfoldKernel<<<Blocks(pairs, kThreads), kThreads, 0, context_->stream()>>>(
          args.k.as<const Element>(), args.v.as<const Element>(), k_scale, v_scale, args.positions.as<std::int32_t>(),
          args.rope.cos.as<float>(), args.rope.sin.as<float>(), shape, args.out_k.as<Kv>(), args.out_v.as<Kv>(),
          context_->NextCall());
    });
  };
  if (args.k.dtype == DType::kInt8) {
    run(static_cast<const std::int8_t*>(nullptr), args.k_scale.as<const __nv_bfloat16>(),
        args.v_scale.as<const __nv_bfloat16>());
  } else {
    WithWeightType(args.k.dtype, [&](auto* element) { run(element, nullptr, nullptr); });
  }
  return context_->Launched("Unfold");
}

}  // namespace unfold
