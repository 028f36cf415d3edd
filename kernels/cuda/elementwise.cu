// SPDX-License-Identifier: Apache-2.0
// Operations whose outputs are independent elements or rows: Embed, RmsNorm, Rope, SwiGlu, Unfold. All are bound by
// memory: each reads and writes every byte once. A layer of 16,384 rows of Qwen2-7B with activations in bf16, at 4.55
// TB/s: RmsNorm 352 MB, 77 us; Rope of the queries 235 MB, 52 us; SwiGlu 1.86 GB, 410 us.
#include <algorithm>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/together.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 256;
constexpr int kThreadsOfMultiprocessor = 1536;  // that find registers, about
constexpr Index kFewBlocks = Index{1} << 11;    // of work that is over before more loads on their way would help
bool Streams(Index blocks) { return blocks > kFewBlocks; }

constexpr int kNormFours = 2;  // of a row that a thread keeps
constexpr Index kMostNormThreads = 512;

// One row a block: its id decides what is read.
template <typename Element>
__global__ void EmbedKernel(const Element* table, Index vocabulary, Index width, const std::int32_t* ids, float* out,
                            FaultSink faults) {
  WaitForWorkBefore();
  const Index row = blockIdx.x;
  const std::int32_t id = ids[row];
  if (!InRange(faults, FaultKind::kEmbedIds, row, id, vocabulary)) return;
  for (Index i = threadIdx.x; i < width; i += blockDim.x) out[row * width + i] = Widen(table[id * width + i]);
}

// One row a block at a time, four neighbours a thread and again a block's width on, of which it keeps the first; those
// of the block's next row are under way meanwhile. `out` may be `x`: a thread writes only what it alone has read.
// `vectors`: all rows can be read and written four at a time; the order of the sum is the same without.
template <typename X, typename Element, typename Out>
__global__ void __launch_bounds__(kMostNormThreads)
    RmsNormKernel(const X* x, Index rows, Index width, const Element* weight, float epsilon, bool vectors, Out* out) {
  __shared__ float shared[kWarp];
  const Index own = 4 * threadIdx.x, stride = 4 * blockDim.x, rest = own + kNormFours * stride;
  const auto load = [&](const auto* from, Index i) { return LoadFour(from + i, vectors, width - i); };
  Four<X> kept[kNormFours], next[kNormFours];
  Four<Element> weights[kNormFours];
#pragma unroll
  for (int n = 0; n < kNormFours; ++n) weights[n] = load(weight, own + n * stride);  // older than the work before
  WaitForWorkBefore();
#pragma unroll
  for (int n = 0; n < kNormFours; ++n) next[n] = load(x + blockIdx.x * width, own + n * stride);
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const X* row = x + r * width;
#pragma unroll
    for (int n = 0; n < kNormFours; ++n) {
      kept[n] = next[n];
      if (r + gridDim.x < rows) next[n] = load(row + gridDim.x * width, own + n * stride);
    }
    float squares = 0;
    const auto add = [&](const Four<X>& four) {
      for (const X value : four.values) squares = fmaf(Widen(value), Widen(value), squares);
    };
    for (const Four<X>& four : kept) add(four);
    for (Index i = rest; i < width; i += stride) add(load(row, i));
    const float scale = NormScale(BlockSum(squares, shared), width, epsilon);
    const auto put = [&](Index i, const Four<X>& four, const Four<Element>& by) {
      float normed[4];
      for (int e = 0; e < 4; ++e) normed[e] = Widen(four.values[e]) * scale * Widen(by.values[e]);
      if (i < width) StoreFour(normed, vectors, width - i, out + r * width + i);
    };
#pragma unroll
    for (int n = 0; n < kNormFours; ++n) put(own + n * stride, kept[n], weights[n]);
    for (Index i = rest; i < width; i += stride) put(i, load(row, i), load(weight, i));
  }
}

// The pair (a, b) = dims i and i + D/2, turned by cos and sin.
struct Pair {
  float a, b;
};
__device__ __forceinline__ Pair Turn(Pair x, float c, float s) {
  return {fmaf(x.a, c, -__fmul_rn(x.b, s)), fmaf(x.b, c, __fmul_rn(x.a, s))};
}

struct RopeShape {
  int heads, half, fours;  // fours: of half a head
  Index table_rows;
  bool vectors;  // halves of heads, of the tables too, can be read and written four at a time
};

// One row a block, four neighbouring pairs of a head a thread. `out` may be `x`.
template <typename X, typename Out>
__global__ void RopeKernel(const X* x, RopeShape shape, const std::int32_t* positions, const float* cos,
                           const float* sin, Out* out, FaultSink faults) {
  WaitForWorkBefore();
  const Index t = blockIdx.x;
  const std::int32_t position = positions[t];
  if (position < 0 || position >= shape.table_rows) {
    if (threadIdx.x == 0) InRange(faults, FaultKind::kRopePositions, t, position, shape.table_rows);
    return;
  }
  for (int four = threadIdx.x; four < shape.heads * shape.fours; four += blockDim.x) {
    const int head = four / shape.fours, i = four % shape.fours * 4, count = shape.half - i;
    const Index first = (t * shape.heads + head) * 2 * shape.half + i;
    const Index turn = Index{position} * shape.half + i;
    float a[4], b[4], c[4], s[4];
    LoadFour(x + first, shape.vectors, count, a);
    LoadFour(x + first + shape.half, shape.vectors, count, b);
    LoadFour(cos + turn, shape.vectors, count, c);
    LoadFour(sin + turn, shape.vectors, count, s);
    for (int e = 0; e < 4; ++e) {
      const Pair turned = Turn({a[e], b[e]}, c[e], s[e]);
      a[e] = turned.a;
      b[e] = turned.b;
    }
    StoreFour(a, shape.vectors, count, out + first);
    StoreFour(b, shape.vectors, count, out + first + shape.half);
  }
}

__device__ __forceinline__ float SiluTimes(float gate, float up, float*) { return Silu(gate) * up; }
// The approximations err by less than 2^-16, far below what rounding to bf16 takes away.
__device__ __forceinline__ float SiluTimes(float gate, float up, __nv_bfloat16*) {
  return __fdividef(gate, 1.0F + __expf(-gate)) * up;
}

constexpr int kSwiGluFours = 2;  // of a thread, a block's width apart, so that more loads are on their way

// Tried (H200, 18,334 rows of Qwen2-7B, at the clock that Nsight holds): blocks that go on to the next elements: 664 us
// for 620.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    SwiGluKernel(const Element* gate, const Element* up, Index count, bool vectors, Element* out) {
  WaitForWorkBefore();
  const Index first = 4 * (Index{blockIdx.x} * kSwiGluFours * kThreads + threadIdx.x);
  Four<Element> gates[kSwiGluFours], ups[kSwiGluFours];
#pragma unroll
  for (int f = 0; f < kSwiGluFours; ++f) {
    const Index i = first + 4 * f * kThreads;
    const bool whole = vectors && (i >= count || i + 4 <= count);
    gates[f] = LoadFour(gate + i, whole, count - i);
    ups[f] = LoadFour(up + i, whole, count - i);
  }
#pragma unroll
  for (int f = 0; f < kSwiGluFours; ++f) {
    const Index i = first + 4 * f * kThreads;
    float product[4];
    for (int e = 0; e < 4; ++e) product[e] = SiluTimes(Widen(gates[f].values[e]), Widen(ups[f].values[e]), out);
    if (i < count) StoreFour(product, vectors && i + 4 <= count, count - i, out + i);
  }
}

struct UnfoldShape {
  Index rows, kv_heads, half, out_rows, row_begin, first_position, table_rows;
};

template <typename Element, typename Kv>
struct UnfoldInputs {
  const Element *k, *v;
  const __nv_bfloat16 *k_scale, *v_scale;
  const std::int32_t* positions;
  const float *cos, *sin;
  UnfoldShape shape;
  Kv *out_k, *out_v;
  FaultSink faults;
};

// One pair of one key and of one value a thread. `Element` is what is stored, int8 with a scale for each head and dim;
// `Kv` what is attended.
template <typename Element, typename Kv, int kMost>
__global__ void UnfoldKernel(const __grid_constant__ Together<UnfoldInputs<Element, Kv>, kMost> requests) {
  WaitForWorkBefore();
  const UnfoldInputs<Element, Kv>& in = requests();
  const UnfoldShape& shape = in.shape;
  const Index at = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= shape.rows * shape.kv_heads * shape.half) return;
  const Index i = at % shape.half, row = at / shape.half, t = row / shape.kv_heads, head = row % shape.kv_heads;
  const std::int32_t position = in.positions[t];
  if (!InRange(in.faults, FaultKind::kUnfoldPositions, t, position, shape.table_rows)) return;
  const Index out_row = shape.first_position < 0 ? shape.row_begin + t : position - shape.first_position;
  if (out_row < 0 || out_row >= shape.out_rows) {
    NoteFault(in.faults, FaultKind::kUnfoldOutRows, t, position, shape.first_position + shape.out_rows - 1);
    return;
  }
  const auto load = [&](const Element* from, const __nv_bfloat16* scale, Index e) {
    const float value = Widen(from[row * 2 * shape.half + e]);
    return scale == nullptr ? value : value * Widen(scale[head * 2 * shape.half + e]);
  };
  const Pair key = Turn({load(in.k, in.k_scale, i), load(in.k, in.k_scale, i + shape.half)},
                        in.cos[position * shape.half + i], in.sin[position * shape.half + i]);
  const Index to = (head * shape.out_rows + out_row) * 2 * shape.half + i;
  Narrow(key.a, in.out_k[to]);
  Narrow(key.b, in.out_k[to + shape.half]);
  Narrow(load(in.v, in.v_scale, i), in.out_v[to]);
  Narrow(load(in.v, in.v_scale, i + shape.half), in.out_v[to + shape.half]);
}

}  // namespace

Status CudaBackend::DoEmbed(const EmbedArgs& args) {
  const Index rows = args.ids.dims[0], width = args.table.dims[1];
  if (rows == 0) return Status::Ok();
  Status status;
  WithWeightType(args.table.dtype, [&]<typename Element>(const Element*) {
    status = context_->Launch(EmbedKernel<Element>, {rows, kThreads, 0, "Embed", Streams(rows)},
                              args.table.as<const Element>(), args.table.dims[0], width, args.ids.as<std::int32_t>(),
                              args.out.as<float>(), context_->NextCall());
  });
  return status;
}

Status CudaBackend::DoRmsNorm(const RmsNormArgs& args) {
  const Index rows = args.x.dims[0], width = args.x.dims[1];
  if (rows == 0) return Status::Ok();
  const bool vectors =
      width % 4 == 0 && HasVectors(args.x.data) && HasVectors(args.weight.data) && HasVectors(args.out.data);
  const Index each = width > 4 * kMostNormThreads ? 4 * kNormFours : 4;
  const auto threads = static_cast<int>(std::min(kMostNormThreads, CeilDiv(width, each * kWarp) * kWarp));
  const bool streams = Streams(rows);
  const Index at_once = context_->num_multiprocessors() * (kThreadsOfMultiprocessor / threads);
  const Index blocks = streams ? std::min(rows, at_once) : rows;
  Status status;
  const auto run = [&]<typename X, typename Element, typename Out>(X*, const Element*, Out*) {
    status =
        context_->Launch(RmsNormKernel<X, Element, Out>, {blocks, threads, 0, "RmsNorm", streams}, args.x.as<const X>(),
                         rows, width, args.weight.as<const Element>(), args.epsilon, vectors, args.out.as<Out>());
  };
  WithActivationType(args.x.dtype, [&](auto* x) {
    WithActivationType(args.out.dtype, [&](auto* out) {
      WithWeightType(args.weight.dtype, [&](auto* element) { run(x, element, out); });
    });
  });
  return status;
}

Status CudaBackend::DoRope(const RopeArgs& args) {
  const auto [rows, heads, head_dim, unused] = args.x.dims;
  if (args.x.size() == 0) return Status::Ok();
  const Index half = head_dim / 2, fours = CeilDiv(half, 4);
  if (heads * fours > INT32_MAX) return Status::InvalidArgument("Rope: x is " + args.x.ShapeString() + ", too wide");
  const RopeShape shape{static_cast<int>(heads), static_cast<int>(half), static_cast<int>(fours), args.rope.cos.dims[0],
                        half % 4 == 0 && HasVectors(args.x.data) && HasVectors(args.out.data) &&
                            HasVectors(args.rope.cos.data) && HasVectors(args.rope.sin.data)};
  const auto threads = static_cast<int>(std::min<Index>(kThreads, CeilDiv(heads * fours, kWarp) * kWarp));
  Status status;
  const auto run = [&]<typename X, typename Out>(X*, Out*) {
    status = context_->Launch(RopeKernel<X, Out>, {rows, threads, 0, "Rope", Streams(rows)}, args.x.as<const X>(),
                              shape, args.positions.as<std::int32_t>(), args.rope.cos.as<float>(),
                              args.rope.sin.as<float>(), args.out.as<Out>(), context_->NextCall());
  };
  WithActivationType(args.x.dtype,
                     [&](auto* x) { WithActivationType(args.out.dtype, [&](auto* out) { run(x, out); }); });
  return status;
}

Status CudaBackend::DoSwiGlu(const SwiGluArgs& args) {
  const Index count = args.gate.size();
  if (count == 0) return Status::Ok();
  const bool vectors = HasVectors(args.gate.data) && HasVectors(args.up.data) && HasVectors(args.out.data);
  const Index blocks = CeilDiv(count, 4 * kSwiGluFours * kThreads);
  Status status;
  WithActivationType(args.gate.dtype, [&]<typename Element>(Element*) {
    status = context_->Launch(SwiGluKernel<Element>, {blocks, kThreads, 0, "SwiGlu", Streams(blocks)},
                              args.gate.as<const Element>(), args.up.as<const Element>(), count, vectors,
                              args.out.as<Element>());
  });
  return status;
}

namespace {

// Of one type, as all requests of a launch are.
template <typename Element, typename Kv>
Status UnfoldAll(CudaContext& context, std::span<const UnfoldArgs> requests) {
  std::vector<UnfoldInputs<Element, Kv>> inputs;
  Index pairs = 0;
  for (const UnfoldArgs& args : requests) {
    const auto [rows, kv_heads, head_dim, unused] = args.k.dims;
    const UnfoldShape shape{
        rows, kv_heads, head_dim / 2, args.out_k.dims[1], args.row_begin, args.first_position, args.rope.cos.dims[0]};
    const bool scaled = args.k.dtype == DType::kInt8;
    inputs.push_back({args.k.as<const Element>(), args.v.as<const Element>(),
                      scaled ? args.k_scale.as<const __nv_bfloat16>() : nullptr,
                      scaled ? args.v_scale.as<const __nv_bfloat16>() : nullptr, args.positions.as<std::int32_t>(),
                      args.rope.cos.as<float>(), args.rope.sin.as<float>(), shape, args.out_k.as<Kv>(),
                      args.out_v.as<Kv>(), context.NextCall()});
    pairs = std::max(pairs, args.k.size() / 2);
  }
  if (pairs == 0) return Status::Ok();
  const Index blocks = CeilDiv(pairs, kThreads);
  return LaunchTogether(inputs, [&]<int kMost>(const Together<UnfoldInputs<Element, Kv>, kMost>& some, int count) {
    return context.Launch(UnfoldKernel<Element, Kv, kMost>,
                          {blocks, kThreads, 0, "Unfold", Streams(blocks * count), count}, some);
  });
}

}  // namespace

Status CudaBackend::DoUnfold(std::span<const UnfoldArgs> requests) {
  // Runs of the same types.
  for (std::size_t begin = 0, end = 0; begin < requests.size(); begin = end) {
    const UnfoldArgs& first = requests[begin];
    while (end < requests.size() && requests[end].k.dtype == first.k.dtype &&
           requests[end].out_k.dtype == first.out_k.dtype) {
      ++end;
    }
    Status status;
    const auto run = [&]<typename Element>(const Element*) {
      WithActivationType(first.out_k.dtype, [&]<typename Kv>(Kv*) {
        status = UnfoldAll<Element, Kv>(*context_, requests.subspan(begin, end - begin));
      });
    };
    if (first.k.dtype == DType::kInt8) {
      run(static_cast<const std::int8_t*>(nullptr));
    } else {
      WithWeightType(first.k.dtype, run);
    }
    UNFOLD_TRY(status);
  }
  return Status::Ok();
}

}  // namespace unfold
