// SPDX-License-Identifier: Apache-2.0
// SparseAttention in f32 (method.md 4.5): flash decoding of each row and key/value head over its items
// (attention_items.cuh), split into runs of kItemsOfSplit, merged in order. Which items a split has depends on the
// row's own lists alone.
//
// Bytes: every visible key and value once for each kHeadsAtOnce heads of a group.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/attention_items.cuh"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.h"

namespace unfold {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kHeadsAtOnce = 4;  // share a key that is in registers
constexpr Index kItemsOfSplit = 64;
constexpr Index kItemsOfWarp = kItemsOfSplit / kWarps;
// A row of D elements over the lanes of a warp: lane l holds dims l, l + 32, ...
template <int kVectors>
struct LaneRow {
  float at[kVectors];

  __device__ void Load(const float* from, Index d) {
#pragma unroll
    for (int n = 0; n < kVectors; ++n) {
      const Index e = threadIdx.x % kWarp + n * kWarp;
      at[n] = e < d ? from[e] : 0.0F;
    }
  }
  __device__ float Dot(const LaneRow& other) const {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kVectors; ++n) sum = fmaf(at[n], other.at[n], sum);
    return WarpSum(sum);
  }
};

// What a softmax over some keys has come to: sums = total weighted values, both relative to exp(largest).
template <int kVectors>
struct Softmax {
  float largest = -INFINITY, total = 0;
  LaneRow<kVectors> sums = {};

  __device__ void Add(float logit, const LaneRow<kVectors>& value) {
    const float now = fmaxf(largest, logit);
    const float shrink = largest == now ? 1.0F : expf(largest - now), weight = expf(logit - now);
    largest = now;
    total = fmaf(total, shrink, weight);
#pragma unroll
    for (int n = 0; n < kVectors; ++n) sums.at[n] = fmaf(weight, value.at[n], sums.at[n] * shrink);
  }
};

// Query rows of up to kHeadsAtOnce heads, as `document` wants them.
template <int kVectors>
struct HeadQueries {
  LaneRow<kVectors> q[kHeadsAtOnce];

  __device__ void Load(const AttentionInputs& in, Index t, Index document, Index first_head, int heads) {
    const float* from = in.queries.at + ((t * (in.documents + 1) + document) * in.heads + first_head) * in.head_dim;
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (h < heads) q[h].Load(from + h * in.head_dim, in.head_dim);
    }
  }
};

// Where a block works: row t, key/value head, the first of its heads, a split.
struct Place {
  Index t, kv_head, first_head, split;
  int heads;

  __device__ Place(const AttentionInputs& in, Index splits) {
    const Index group = in.heads / in.kv_heads, batches = CeilDiv(group, kHeadsAtOnce);
    Index rest = blockIdx.x;
    split = rest % splits, rest /= splits;
    const Index batch = rest % batches;
    rest /= batches;
    kv_head = rest % in.kv_heads, t = rest / in.kv_heads;
    first_head = kv_head * group + batch * kHeadsAtOnce;
    heads = static_cast<int>(min(Index{kHeadsAtOnce}, group - batch * kHeadsAtOnce));
  }
};

// What splits leave: [T, H, splits] of largest and total, and of D sums.
struct Partials {
  float2* state;
  float* sums;
  Index splits;

  __device__ Index At(const AttentionInputs& in, Index t, Index head, Index split) const {
    return (t * in.heads + head) * splits + split;
  }
};

// One split a block, kItemsOfWarp items a warp. The warps' results are merged in their order.
template <int kVectors>
__global__ void __launch_bounds__(kThreads) AttendKernel(AttentionInputs in, Partials partials) {
  extern __shared__ float shared[];  // [kWarps, D]
  __shared__ float2 states[kWarps];
  const Place place(in, partials.splits);
  const ItemsOfRow items(in, place.t, place.kv_head);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const Index d = in.head_dim, first = place.split * kItemsOfSplit + warp * kItemsOfWarp;

  Softmax<kVectors> softmax[kHeadsAtOnce];
  HeadQueries<kVectors> queries;
  Index document = -1;
  const auto attend = [&](const float* k, const float* v, Index rows) {
    for (Index r = 0; r < rows; ++r) {
      LaneRow<kVectors> key, value;
      key.Load(k + r * d, d);
      value.Load(v + r * d, d);
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) {
        if (h < place.heads) softmax[h].Add(in.scale * queries.q[h].Dot(key), value);
      }
    }
  };
  for (Index i = first; i < min(first + kItemsOfWarp, items.count()); ++i) {
    const Item item = items.At(i);
    if (item.rows == 0) continue;
    if (item.document != document) queries.Load(in, place.t, item.document, place.first_head, place.heads);
    document = item.document;
    attend(item.k, item.v, item.rows);
    attend(item.raw_k, item.raw_v, item.raw_rows);
  }

#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h) {
    if (h >= place.heads) break;
    __syncthreads();
    if (lane == 0) states[warp] = make_float2(softmax[h].largest, softmax[h].total);
    for (int n = 0; n < kVectors; ++n) {
      if (lane + n * kWarp < d) shared[warp * d + lane + n * kWarp] = softmax[h].sums.at[n];
    }
    __syncthreads();
    float largest = -INFINITY, total = 0;
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, states[w].x);
    const auto share = [&](int w) { return states[w].y == 0 ? 0.0F : expf(states[w].x - largest); };
    for (int w = 0; w < kWarps; ++w) total += states[w].y * share(w);
    const Index at = partials.At(in, place.t, place.first_head + h, place.split);
    if (threadIdx.x == 0) partials.state[at] = make_float2(largest, total);
    for (Index e = threadIdx.x; e < d && total != 0; e += kThreads) {
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) {
        if (states[w].y != 0) sum = fmaf(share(w), shared[w * d + e], sum);
      }
      partials.sums[at * d + e] = sum;
    }
  }
}

// One row and head a block: its splits in their order. Leaves the softmax's largest logit and total in `state`.
__global__ void MergeKernel(Partials partials, Index head_dim, float* out, float2* state) {
  const Index first = Index{blockIdx.x} * partials.splits;
  float largest = -INFINITY, total = 0;
  for (Index s = 0; s < partials.splits; ++s) largest = fmaxf(largest, partials.state[first + s].x);
  for (Index s = 0; s < partials.splits; ++s) {
    const float2 one = partials.state[first + s];
    if (one.y != 0) total = fmaf(one.y, expf(one.x - largest), total);
  }
  if (threadIdx.x == 0) state[blockIdx.x] = make_float2(largest, total);
  for (Index e = threadIdx.x; e < head_dim; e += blockDim.x) {
    float sum = 0;
    for (Index s = 0; s < partials.splits; ++s) {
      const float2 one = partials.state[first + s];
      if (one.y != 0) sum = fmaf(expf(one.x - largest), partials.sums[(first + s) * head_dim + e], sum);
    }
    out[blockIdx.x * head_dim + e] = sum / total;
  }
}

// The attention mass on each chosen chunk, from the finished softmax: a warp an item, heads and rows in order. `mass`
// is [T, Hk, batches of heads, C].
template <int kVectors>
__global__ void __launch_bounds__(kThreads)
    MassKernel(AttentionInputs in, Index splits, const float2* state, float* mass) {
  const Place place(in, splits);
  const ItemsOfRow items(in, place.t, place.kv_head);
  const Index d = in.head_dim, chunks = in.levels[0].rows.stride;
  const Index first = items.begin[kGists] + place.split * kItemsOfSplit + threadIdx.x / kWarp * kItemsOfWarp;
  for (Index i = first; i < min(first + kItemsOfWarp, items.begin[kGists + 1]); ++i) {
    const Item item = items.At(i);
    if (item.rows == 0) continue;
    HeadQueries<kVectors> queries;
    queries.Load(in, place.t, item.document, place.first_head, place.heads);
    float sum = 0;
    for (Index r = 0; r < item.rows + item.raw_rows; ++r) {
      LaneRow<kVectors> key;
      key.Load(r < item.rows ? item.k : item.raw_k + (r - item.rows) * d, d);
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) {
        if (h >= place.heads) break;
        const float2 whole = state[place.t * in.heads + place.first_head + h];
        sum += expf(in.scale * queries.q[h].Dot(key) - whole.x) / whole.y;
      }
    }
    if (threadIdx.x % kWarp == 0) mass[blockIdx.x / splits * chunks + item.chunk] = sum;
  }
}

// mass[c] += the sum over `lists`, in their order, of lists[l, c].
__global__ void AddMassKernel(const float* parts, Index lists, Index chunks, float* mass) {
  const Index c = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= chunks) return;
  double sum = 0;
  for (Index list = 0; list < lists; ++list) sum += double{parts[list * chunks + c]};
  mass[c] += static_cast<float>(sum);
}

HeadRows RowsOfHeads(const Tensor& k, const Tensor& v) { return {k.as<float>(), v.as<float>(), k.dims[1]}; }

// The context's part of the inputs.
void SetContext(const SparseAttentionArgs& args, AttentionInputs* in) {
  const ContextView& context = *args.context;
  in->documents = context.num_documents();
  in->row_documents = args.row_documents.as<std::int32_t>();
  in->segment_sink = context.segment_sink.as<std::int32_t>();
  in->sinks = RowsOfHeads(context.sink_k, context.sink_v);
  in->choose = args.read == GistRead::kChosen;
  if (in->choose && context.gists[0].k.dims[1] == 0) return;
  in->num_levels = context.num_levels;
  for (int n = 0; n < context.num_levels; ++n) {
    const GistLevel& level = context.gists[n];
    in->levels[n] = {RowsOfHeads(level.k, level.v), level.segment.as<std::int32_t>(),
                     args.chosen[n].gists.as<std::int32_t>(), args.chosen[n].counts.as<std::int32_t>()};
  }
  if (!in->choose) return;
  in->pages = {context.page_k.as<float>(), context.page_v.as<float>(), context.page_k.dims[2]};
  in->num_pages = context.page_k.dims[0];
  in->chunk_page = context.chunk_page.as<std::int32_t>();
  in->chunk_tokens = context.chunk_tokens.as<std::int32_t>();
}

template <typename Run>
void WithVectors(Index head_dim, Run run) {
  if (head_dim <= 64) return run(std::integral_constant<int, 2>());
  if (head_dim <= 96) return run(std::integral_constant<int, 3>());
  if (head_dim <= 128) return run(std::integral_constant<int, 4>());
  run(std::integral_constant<int, 8>());
}

// Rows [begin, end) of a call as a call of their own.
SparseAttentionArgs RowsOf(const SparseAttentionArgs& args, Index begin, Index end) {
  SparseAttentionArgs part = args;
  part.q = args.q.Rows(begin, end);
  part.positions = args.positions.Rows(begin, end);
  for (ChosenGists& chosen : part.chosen) {
    if (chosen.gists.rank != 0) chosen = {chosen.gists.Rows(begin, end), chosen.counts.Rows(begin, end)};
  }
  if (args.row_documents.rank != 0) part.row_documents = args.row_documents.Rows(begin, end);
  part.mass_from = std::max<Index>(args.mass_from - begin, 0);
  part.out = args.out.Rows(begin, end);
  return part;
}

Index MostItems(const SparseAttentionArgs& args) {
  Index most = CeilDiv(args.prefix_tokens, kWarp) + CeilDiv(args.tail_k.dims[1], kWarp);
  if (args.context == nullptr) return most;
  for (int n = 0; n < args.context->num_levels; ++n) most += args.context->gists[n].k.dims[1];
  return most + args.context->num_documents();
}

Status AddMass(CudaContext& context, CallMemory& memory, const SparseAttentionArgs& args, const AttentionInputs& in,
               const float2* state) {
  if (args.chunk_mass.rank == 0) return Status::Ok();
  const Index rows = args.q.dims[0], chunks = args.chunk_mass.size();
  const Index lists_of_row = in.kv_heads * CeilDiv(in.heads / in.kv_heads, kHeadsAtOnce);
  if (args.mass_from >= rows || chunks == 0) return Status::Ok();
  auto* parts = memory.Zeros<float>(rows * lists_of_row * chunks);
  UNFOLD_TRY(memory.status());
  const Index splits = CeilDiv(chunks, kItemsOfSplit);
  WithVectors(in.head_dim, [&](auto vectors) {
    MassKernel<vectors.value><<<static_cast<unsigned>(rows * lists_of_row * splits), kThreads, 0, context.stream()>>>(
        in, splits, state, parts);
  });
  const Index first = args.mass_from * lists_of_row;
  AddMassKernel<<<Blocks(chunks, kThreads), kThreads, 0, context.stream()>>>(
      parts + first * chunks, rows * lists_of_row - first, chunks, args.chunk_mass.as<float>());
  return context.Launched("SparseAttention");
}

Status AttendRows(CudaContext& context, const SparseAttentionArgs& args, Index splits) {
  const Index rows = args.q.dims[0];
  CallMemory memory(context, "SparseAttention");
  AttentionInputs in;
  in.heads = args.q.dims[1], in.head_dim = args.q.dims[2], in.kv_heads = args.tail_k.dims[0];
  in.scale = args.scale;
  in.prefix = args.prefix_tokens > 0 ? RowsOfHeads(args.prefix_k, args.prefix_v) : HeadRows{};
  in.tail = RowsOfHeads(args.tail_k, args.tail_v);
  in.prefix_tokens = args.prefix_tokens, in.tail_position = args.tail_position;
  in.positions = args.positions.as<std::int32_t>();
  in.faults = context.NextCall();
  if (args.context != nullptr) SetContext(args, &in);
  in.queries = RotateQueries(context, memory, args.q, args.positions, args.rope,
                             args.context == nullptr ? Tensor() : args.context->segment_offset,
                             {FaultKind::kAttentionPositions, FaultKind::kAttentionOffsets});
  const Index heads_of_rows = rows * in.heads;
  const Partials partials{memory.Array<float2>(heads_of_rows * splits),
                          memory.Array<float>(heads_of_rows * splits * in.head_dim), splits};
  auto* state = memory.Array<float2>(heads_of_rows);
  UNFOLD_TRY(memory.status());
  const Index blocks = rows * in.kv_heads * CeilDiv(in.heads / in.kv_heads, kHeadsAtOnce) * splits;
  const std::size_t shared = static_cast<std::size_t>(kWarps * in.head_dim) * sizeof(float);
  WithVectors(in.head_dim, [&](auto vectors) {
    AttendKernel<vectors.value><<<static_cast<unsigned>(blocks), kThreads, shared, context.stream()>>>(in, partials);
  });
  MergeKernel<<<static_cast<unsigned>(heads_of_rows), 128, 0, context.stream()>>>(partials, in.head_dim,
                                                                                  args.out.as<float>(), state);
  UNFOLD_TRY(context.Launched("SparseAttention"));
  return AddMass(context, memory, args, in, state);
}

}  // namespace

Status CudaBackend::DoSparseAttention(const SparseAttentionArgs& args) {
  const auto [rows, heads, head_dim, unused] = args.q.dims;
  if (head_dim > 256) return Status::InvalidArgument("SparseAttention: cuda takes D up to 256");
  const Index splits = CeilDiv(MostItems(args), kItemsOfSplit);
  const Index documents = args.context == nullptr ? 0 : args.context->num_documents();
  const Index mass = args.chunk_mass.rank == 0 ? 0 : args.chunk_mass.size();
  const Index row_floats = heads * (splits * (head_dim + 2) + (documents + 1) * head_dim + mass);
  const Index at_once = RowsAtOnce(rows, row_floats * static_cast<Index>(sizeof(float)));
  for (Index begin = 0; begin < rows; begin += at_once) {
    UNFOLD_TRY(AttendRows(*context_, RowsOf(args, begin, std::min(begin + at_once, rows)), splits));
  }
  return Status::Ok();
}

}  // namespace unfold
