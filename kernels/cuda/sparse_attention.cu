// SPDX-License-Identifier: Apache-2.0
// SparseAttention (method.md 4.5): flash decoding of each row and key/value head over its items (attention_items.cuh),
// split as SplitsOf says, merged in order. Which items a split has depends on the row's own lists alone.
//
// Here is the form for all types and dims (sparse_attention_bf16.cu has the one on tensor cores): a block takes
// kTileKeys keys at a time, one a thread for the logits of up to kHeadsAtOnce heads, then one dim a thread for their
// weighted values. Bytes: every visible key and value once for each kHeadsAtOnce heads of a group.
// Tried (f32, H200, 28/4 heads x 128, launches included; 8K, 128K, 512K tokens of context): a warp an item, rows one
// after another, four heads at a time, queries rotated by a kernel of their own: 91, 237, 795 us. So, by items of a
// split: 10: 32, 113, 505; 14: 36, 97, 381; 20: 42, 96, 338; 28: 47, 111, 285. It waits for keys: a quarter of the
// memory's speed.
#include <algorithm>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/chunk_mass.cuh"
#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {
namespace {

constexpr int kTileKeys = 128;
constexpr int kThreads = kTileKeys;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDimsOfThread = static_cast<int>(kMaxQueryDim) / kThreads;
constexpr int kHeadsOfWarp = kHeadsAtOnce / kWarps;
constexpr Index kCallBytes = Index{384} << 20;  // that the splits of one pass over rows may take

template <typename Kv>
struct Shared {
  SplitItems<Kv> split;
  const Kv* values[kTileKeys];
  float logits[kHeadsAtOnce][kTileKeys];
  alignas(16) float weights[kTileKeys][kHeadsAtOnce];
  float largest[kHeadsAtOnce], total[kHeadsAtOnce], shrink[kHeadsAtOnce];
  int next_document;
};

// Fills shared.logits and shared.values with keys [first, first + kTileKeys) of the items. The queries in shared memory
// are those of `loaded`, a document; it changes as keys need others.
template <bool kVectors, typename Kv>
__device__ void TileLogits(const AttentionInputs<Kv>& in, const Place& place, std::int32_t first, std::int32_t keys,
                           Shared<Kv>& shared, float* queries, int* loaded) {
  const int d = static_cast<int>(in.queries.head_dim);
  const std::int32_t at = first + static_cast<std::int32_t>(threadIdx.x);
  typename SplitItems<Kv>::Key key{nullptr, nullptr, INT_MAX};
  if (at < keys) key = shared.split.At(at, d, in.documents());
  shared.values[threadIdx.x] = key.v;
  // The documents of the tile's keys one after another, the one whose queries are there first.
  bool open = at < keys;
  int now = *loaded;
  while (true) {
    if (open && key.document == now) {
      float dots[kHeadsAtOnce];
      DotHeads<kVectors>(queries, key.k, d, dots);
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) shared.logits[h][threadIdx.x] = in.scale * dots[h];
      open = false;
    }
    if (threadIdx.x == 0) shared.next_document = INT_MAX;
    __syncthreads();
    if (open) atomicMin(&shared.next_document, key.document);
    __syncthreads();
    if (shared.next_document == INT_MAX) break;
    now = shared.next_document;
    LoadQueries(in.queries, place.t, now, place.first_head, place.heads, queries);
    __syncthreads();
  }
  *loaded = now;
}

// One split a block.
template <bool kVectors, typename Kv>
__global__ void __launch_bounds__(kThreads)
    AttendKernel(const __grid_constant__ AttentionInputs<Kv> in, Partials partials) {
  extern __shared__ __align__(16) float queries[];  // [kHeadsAtOnce, D]
  __shared__ Shared<Kv> shared;
  const Place place(in, partials.splits, kHeadsAtOnce);
  const ItemsOfRow<Kv> row(in, place.t, place.kv_head);
  partials.Tell(place, in.kv_heads, row.count());
  const int used = SplitsOf(row.count());
  if (place.split >= used) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, d = static_cast<int>(in.queries.head_dim);
  if (threadIdx.x < kHeadsAtOnce) shared.largest[threadIdx.x] = -INFINITY, shared.total[threadIdx.x] = 0;
  const std::int32_t keys = shared.split.Load(row, static_cast<unsigned>(place.split), used);

  float sums[kDimsOfThread][kHeadsAtOnce] = {};
  int loaded = -1;
  for (std::int32_t first = 0; first < keys; first += kTileKeys) {
    TileLogits<kVectors>(in, place, first, keys, shared, queries, &loaded);
    const int used = min(kTileKeys, keys - first);
    for (int i = 0; i < kHeadsOfWarp; ++i) {
      const int h = warp * kHeadsOfWarp + i;
      float largest = shared.largest[h];
      for (int key = lane; key < used; key += kWarp) largest = fmaxf(largest, shared.logits[h][key]);
      for (int step = kWarp / 2; step > 0; step /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
      }
      float total = 0;
      for (int key = lane; key < used; key += kWarp) {
        const float weight = expf(shared.logits[h][key] - largest);
        shared.weights[key][h] = weight;
        total += weight;
      }
      total = WarpSum(total);
      if (lane == 0) {
        const float shrink = shared.largest[h] == -INFINITY ? 0.0F : expf(shared.largest[h] - largest);
        shared.total[h] = fmaf(shared.total[h], shrink, total);
        shared.largest[h] = largest;
        shared.shrink[h] = shrink;
      }
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kDimsOfThread; ++n) {
      const int e = threadIdx.x + n * kThreads;
      if (e >= d) break;
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) sums[n][h] *= shared.shrink[h];
#pragma unroll 8
      for (int key = 0; key < used; ++key) {
        const float value = Widen(shared.values[key][e]);
        const float4 low = *reinterpret_cast<const float4*>(&shared.weights[key][0]);
        const float4 high = *reinterpret_cast<const float4*>(&shared.weights[key][4]);
        sums[n][0] = fmaf(low.x, value, sums[n][0]);
        sums[n][1] = fmaf(low.y, value, sums[n][1]);
        sums[n][2] = fmaf(low.z, value, sums[n][2]);
        sums[n][3] = fmaf(low.w, value, sums[n][3]);
        sums[n][4] = fmaf(high.x, value, sums[n][4]);
        sums[n][5] = fmaf(high.y, value, sums[n][5]);
        sums[n][6] = fmaf(high.z, value, sums[n][6]);
        sums[n][7] = fmaf(high.w, value, sums[n][7]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h) {
    if (h >= place.heads) break;
    const Index at = (place.t * in.queries.heads + place.first_head + h) * partials.splits + place.split;
    if (threadIdx.x == 0) partials.state[at] = make_float2(shared.largest[h], shared.total[h]);
#pragma unroll
    for (int n = 0; n < kDimsOfThread; ++n) {
      const int e = threadIdx.x + n * kThreads;
      if (e < d) partials.sums[at * d + e] = sums[n][h];
    }
  }
}

constexpr int kMergeThreads = 512;
constexpr int kMergeAtOnce = 8;  // loads of a thread under way

struct MergeShared {
  float sums[kMergeThreads / kWarp], parts[kMergeThreads];
};

// One row and head a block, kMergeThreads / D splits side by side. Leaves the softmax's largest logit and total in
// `state`. `shares` has room for the splits.
template <typename Kv>
__device__ void MergeHead(const AttentionInputs<Kv>& in, const Partials& partials, float* out, float2* state,
                          float* shares, MergeShared& shared) {
  const auto heads = static_cast<unsigned>(in.queries.heads), kv_heads = static_cast<unsigned>(in.kv_heads);
  const unsigned t = blockIdx.x / heads, kv_head = blockIdx.x % heads / (heads / kv_heads);
  const int d = static_cast<int>(in.queries.head_dim), side_by_side = kMergeThreads / d;
  const int splits = __ldcg(partials.used + t * kv_heads + kv_head);
  const Index first = Index{blockIdx.x} * partials.splits;
  const int side = static_cast<int>(threadIdx.x) / d, e = static_cast<int>(threadIdx.x) % d;
  float part[kMergeAtOnce];
  const auto load = [&](int s) {
#pragma unroll
    for (int n = 0; n < kMergeAtOnce; ++n) {
      const int own = s + n * side_by_side;
      part[n] = own < splits ? partials.sums[(first + own) * d + e] : 0.0F;
    }
  };
  if (side < side_by_side) load(side);  // the first ones are on their way while the shares are found
  float largest = -INFINITY;
  for (int s = threadIdx.x; s < splits; s += kMergeThreads) largest = fmaxf(largest, partials.state[first + s].x);
  for (int step = kWarp / 2; step > 0; step /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  }
  if (threadIdx.x % kWarp == 0) shared.sums[threadIdx.x / kWarp] = largest;
  __syncthreads();
  for (int w = 0; w < kMergeThreads / kWarp; ++w) largest = fmaxf(largest, shared.sums[w]);
  float total = 0;
  for (int s = threadIdx.x; s < splits; s += kMergeThreads) {
    const float2 one = partials.state[first + s];
    const float share = one.y == 0 ? 0.0F : expf(one.x - largest);
    shares[s] = share;
    total = fmaf(one.y, share, total);
  }
  total = BlockSum(total, shared.sums);
  if (threadIdx.x == 0 && state != nullptr) state[blockIdx.x] = make_float2(largest, total);
  float sum = 0;
  for (int s = side; side < side_by_side && s < splits; s += kMergeAtOnce * side_by_side) {
    if (s > side) load(s);
#pragma unroll
    for (int n = 0; n < kMergeAtOnce; ++n) {
      const int own = s + n * side_by_side;
      if (own < splits) sum = fmaf(shares[own], part[n], sum);
    }
  }
  shared.parts[threadIdx.x] = sum;
  __syncthreads();
  if (side > 0) return;
  for (int other = 1; other < side_by_side; ++other) sum += shared.parts[other * d + e];
  out[Index{blockIdx.x} * d + e] = sum / total;
}

template <typename Kv>
__global__ void __launch_bounds__(kMergeThreads)
    MergeKernel(const __grid_constant__ AttentionInputs<Kv> in, Partials partials, float* out, float2* state) {
  extern __shared__ float shares[];
  __shared__ MergeShared shared;
  WaitForWorkBefore();
  MergeHead(in, partials, out, state, shares, shared);
}

constexpr std::size_t kMergeOrMassBytes = sizeof(MergeShared) > sizeof(MassShared) ? sizeof(MergeShared)
                                                                                   : sizeof(MassShared);

// The same for all `merged` rows and heads, and the attention mass of the last row, by the blocks after those.
__global__ void __launch_bounds__(kMergeThreads)
    MergeAndMassKernel(const __grid_constant__ AttentionInputs<__nv_bfloat16> in, Partials partials, unsigned merged,
                       float* out, KeptMass mass) {
  extern __shared__ float shares[];
  __shared__ alignas(16) unsigned char shared[kMergeOrMassBytes];
  WaitForWorkBefore();
  if (blockIdx.x < merged) {
    MergeHead(in, partials, out, nullptr, shares, *reinterpret_cast<MergeShared*>(shared));
  } else {
    AddKeptMass(in, partials, mass, blockIdx.x - merged, *reinterpret_cast<MassShared*>(shared));
  }
}

// The attention mass on each chosen chunk, from the finished softmax: the keys' weights, summed over heads, then over
// the keys of an item in their order, an item a thread. `mass` is [Hk, batches of heads, C], of row t.
template <bool kVectors, typename Kv>
__global__ void __launch_bounds__(kThreads) MassKernel(const __grid_constant__ AttentionInputs<Kv> in, Index splits,
                                                       Index t, const float2* state, float* mass) {
  extern __shared__ __align__(16) float queries[];  // [kHeadsAtOnce, D]
  __shared__ Shared<Kv> shared;
  Place place(in, splits, kHeadsAtOnce);
  place.t = t;
  const ItemsOfRow<Kv> row(in, place.t, place.kv_head);
  const Index begin = row.begin[kGistItems] + place.split * kItemsOfSplit,
              end = min(begin + kItemsOfSplit, row.begin[kGistItems + 1]);
  if (begin >= end) return;
  const std::int32_t keys = shared.split.LoadRun(row, begin, end);
  const float2* whole = state + place.t * in.queries.heads + place.first_head;
  float sum = 0;
  int loaded = -1;
  for (std::int32_t first = 0; first < keys; first += kTileKeys) {
    TileLogits<kVectors>(in, place, first, keys, shared, queries, &loaded);
    const int used = min(kTileKeys, keys - first);
    float weight = 0;
    for (int h = 0; h < place.heads && static_cast<int>(threadIdx.x) < used; ++h) {
      weight += expf(shared.logits[h][threadIdx.x] - whole[h].x) / whole[h].y;
    }
    shared.weights[threadIdx.x][0] = weight;
    __syncthreads();
    if (threadIdx.x < kItemsOfSplit) {
      const std::int32_t own = shared.split.Begin(static_cast<int>(threadIdx.x));
      for (std::int32_t key = max(own, first); key < min(shared.split.ends[threadIdx.x], first + used); ++key) {
        sum += shared.weights[key - first][0];
      }
    }
    __syncthreads();
  }
  if (threadIdx.x < kItemsOfSplit && shared.split.items[threadIdx.x].chunk >= 0) {
    mass[place.list * in.levels[0].rows.stride + shared.split.items[threadIdx.x].chunk] = sum;
  }
}

template <typename Kv>
HeadRows<Kv> RowsOfHeads(const Tensor& k, const Tensor& v) {
  return {k.as<Kv>(), v.as<Kv>(), k.dims[1]};
}

// The context's part of the inputs.
template <typename Kv>
void SetContext(const SparseAttentionArgs& args, AttentionInputs<Kv>* in) {
  const ContextView& context = *args.context;
  in->row_documents = args.row_documents.as<std::int32_t>();
  in->segment_sink = context.segment_sink.as<std::int32_t>();
  in->sinks = RowsOfHeads<Kv>(context.sink_k, context.sink_v);
  in->choose = args.read == GistRead::kChosen;
  if (in->choose && context.gists[0].k.dims[1] == 0) return;
  in->num_levels = context.num_levels;
  for (int n = 0; n < context.num_levels; ++n) {
    const GistLevel& level = context.gists[n];
    in->levels[n] = {RowsOfHeads<Kv>(level.k, level.v), level.segment.as<std::int32_t>(),
                     args.chosen[n].gists.as<std::int32_t>(), args.chosen[n].counts.as<std::int32_t>()};
  }
  if (!in->choose) return;
  in->pages = {args.page_k.as<Kv>(), args.page_v.as<Kv>(), args.page_k.dims[1]};
  in->num_pages = args.page_k.dims[0];
  in->chunks = args.chunks.as<const ChosenChunk>();
}

template <typename Kv>
AttentionInputs<Kv> MakeInputs(const SparseAttentionArgs& args, const FaultSink& faults, bool vectors) {
  AttentionInputs<Kv> in;
  in.queries =
      MakeQueries(args.q, args.positions, args.rope, args.context == nullptr ? Tensor() : args.context->segment_offset,
                  faults, FaultKind::kAttentionPositions, FaultKind::kAttentionOffsets);
  in.kv_heads = args.tail_k.dims[0];
  in.scale = args.scale;
  in.vectors = vectors;
  in.prefix = args.prefix_tokens > 0 ? RowsOfHeads<Kv>(args.prefix_k, args.prefix_v) : HeadRows<Kv>{};
  in.tail = RowsOfHeads<Kv>(args.tail_k, args.tail_v);
  in.prefix_tokens = args.prefix_tokens;
  in.tail_position = args.tail_position;
  if (args.context != nullptr) SetContext(args, &in);
  return in;
}

// Whether all keys and values that a call can read can be loaded 16 bytes at a time.
bool AllHaveVectors(const SparseAttentionArgs& args) {
  bool vectors = args.q.dims[2] % 8 == 0;
  const auto check = [&](std::initializer_list<const Tensor*> tensors) {
    for (const Tensor* tensor : tensors) vectors = vectors && (tensor->size() == 0 || HasVectors(tensor->data));
  };
  check({&args.tail_k, &args.tail_v});
  if (args.prefix_tokens > 0) check({&args.prefix_k, &args.prefix_v});
  if (args.context == nullptr) return vectors;
  check({&args.context->sink_k, &args.context->sink_v, &args.page_k, &args.page_v});
  for (int n = 0; n < args.context->num_levels; ++n) check({&args.context->gists[n].k, &args.context->gists[n].v});
  return vectors;
}

// Rows [begin, end) of a call as a call of their own.
SparseAttentionArgs RowsOf(const SparseAttentionArgs& args, Index begin, Index end) {
  SparseAttentionArgs part = args;
  const Index turned = args.turned.rank == 0 ? 0 : args.turned.dims[0] / args.q.dims[0];
  if (turned > 0) part.turned = args.turned.Rows(begin * turned, end * turned);
  part.q = args.q.Rows(begin, end);
  part.positions = args.positions.Rows(begin, end);
  for (ChosenGists& chosen : part.chosen) {
    if (chosen.gists.rank != 0) chosen = {chosen.gists.Rows(begin, end), chosen.counts.Rows(begin, end)};
  }
  if (args.chunks.rank != 0) part.chunks = args.chunks.Rows(begin, end);
  if (args.row_documents.rank != 0) part.row_documents = args.row_documents.Rows(begin, end);
  if (end < args.q.dims[0]) part.chunk_mass = Tensor();  // of the last row
  part.out = args.out.Rows(begin, end);
  return part;
}

template <typename Kv>
Index MostItems(const SparseAttentionArgs& args) {
  Index most = CeilDiv(args.prefix_tokens, kItemRows<Kv>) + CeilDiv(args.tail_k.dims[1], kItemRows<Kv>);
  if (args.context == nullptr) return most;
  most += CeilDiv(args.context->sink_k.dims[1], kItemRows<Kv>);
  for (int n = 0; n < args.context->num_levels; ++n) most += args.context->gists[n].k.dims[1];
  return most;
}

// Of the last row.
template <typename Kv>
Status AddMass(CudaContext& context, CallMemory& memory, const SparseAttentionArgs& args, const AttentionInputs<Kv>& in,
               const float2* state) {
  const Index chunks = args.chunk_mass.dims[1], batches = CeilDiv(in.queries.heads / in.kv_heads, kHeadsAtOnce);
  const Index lists = in.kv_heads * batches, splits = CeilDiv(chunks, kItemsOfSplit);
  auto* parts = memory.Zeros<float>(lists * chunks);
  UNFOLD_TRY(memory.status());
  const auto kernel = in.vectors ? MassKernel<true, Kv> : MassKernel<false, Kv>;
  kernel<<<static_cast<unsigned>(lists * splits), kThreads, kHeadsAtOnce * in.queries.head_dim * sizeof(float),
           context.stream()>>>(in, splits, args.q.dims[0] - 1, state, parts);
  UNFOLD_TRY(context.Launched("SparseAttention"));
  const Index count = args.chunk_mass.size();
  AddMassKernel<<<Blocks(count, kThreads), kThreads, 0, context.stream()>>>(parts, batches, chunks,
                                                                            args.chunk_mass.as<float>(), count);
  return context.Launched("SparseAttention");
}

Status MergeWithMass(CudaContext& context, const AttentionInputs<__nv_bfloat16>& in, Index rows_of_heads,
                     const Partials& partials, const ItemSums& kept, float* out, float* mass) {
  const auto heads_at_once = static_cast<unsigned>(TensorCoreHeads(in.queries.heads / in.kv_heads));
  static_assert(kItemsOfSplit * 2 * kTileHeads <= kMergeThreads);
  const Index at_once = SplitsAtOnce(context, in.kv_heads, partials.splits);
  const auto share_bytes = static_cast<std::size_t>(partials.splits) * sizeof(float);
  return context.Launch(MergeAndMassKernel,
                        {rows_of_heads + in.kv_heads * at_once, kMergeThreads, share_bytes, "SparseAttention"}, in,
                        partials, static_cast<unsigned>(rows_of_heads), out,
                        KeptMass{kept, heads_at_once, static_cast<unsigned>(at_once), mass});
}

template <typename Kv>
Status MergeSplits(CudaContext& context, const AttentionInputs<Kv>& in, Index rows_of_heads, const Partials& partials,
                   float* out, float2* state) {
  const auto share_bytes = static_cast<std::size_t>(partials.splits) * sizeof(float);
  return context.Launch(MergeKernel<Kv>, {rows_of_heads, kMergeThreads, share_bytes, "SparseAttention"}, in, partials,
                        out, state);
}

template <typename Kv>
Status AttendRows(CudaContext& context, const SparseAttentionArgs& args, Index splits) {
  CallMemory memory(context, "SparseAttention");
  const AttentionInputs<Kv> in = MakeInputs<Kv>(args, context.NextCall(), AllHaveVectors(args));
  const Index rows = args.q.dims[0], d = in.queries.head_dim, rows_of_heads = rows * in.queries.heads;
  const Partials partials{memory.Array<float2>(rows_of_heads * splits), memory.Array<float>(rows_of_heads * splits * d),
                          splits, memory.Array<int>(rows * in.kv_heads)};
  const bool with_mass = args.chunk_mass.rank != 0 && args.chunk_mass.size() > 0;
  ItemSums kept;
  if constexpr (std::is_same_v<Kv, __nv_bfloat16>) {
    if (in.vectors && TakesTensorCores(in.queries.heads / in.kv_heads, d)) {
      if (with_mass) {
        kept.first_row = rows - 1;
        kept.tiles = static_cast<int>(CeilDiv(in.pages.stride + 1, unfold::kTileKeys));
        const Index items = in.kv_heads * splits * kItemsOfSplit;
        kept.items = memory.Array<int2>(items);
        kept.sums = memory.Array<float2>(items * kept.tiles * TensorCoreHeads(in.queries.heads / in.kv_heads));
      }
      UNFOLD_TRY(memory.status());
      UNFOLD_TRY(LaunchTensorCoreAttention(context, in, rows, args.turned.data, partials, kept));
      auto* out = args.out.as<float>();
      if (!with_mass) return MergeSplits(context, in, rows_of_heads, partials, out, nullptr);
      return MergeWithMass(context, in, rows_of_heads, partials, kept, out, args.chunk_mass.as<float>());
    }
  }
  auto* state = memory.Array<float2>(rows_of_heads);
  UNFOLD_TRY(memory.status());
  const Index blocks = rows * in.kv_heads * CeilDiv(in.queries.heads / in.kv_heads, kHeadsAtOnce) * splits;
  const auto kernel = in.vectors ? AttendKernel<true, Kv> : AttendKernel<false, Kv>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, kHeadsAtOnce * d * sizeof(float), context.stream()>>>(in, partials);
  UNFOLD_TRY(context.Launched("SparseAttention"));
  UNFOLD_TRY(MergeSplits(context, in, rows_of_heads, partials, args.out.as<float>(), state));
  return with_mass ? AddMass(context, memory, args, in, state) : Status::Ok();
}

}  // namespace

Status CudaBackend::DoSparseAttention(const SparseAttentionArgs& args) {
  const auto [rows, heads, head_dim, unused] = args.q.dims;
  if (head_dim > kMaxQueryDim) return Status::InvalidArgument("SparseAttention: cuda takes D up to 256");
  const bool bf16 = args.tail_k.dtype == DType::kBF16;
  const Index splits = SplitsOf(bf16 ? MostItems<__nv_bfloat16>(args) : MostItems<float>(args));
  const Index documents = args.context == nullptr ? 0 : args.context->num_documents(), kv_heads = args.tail_k.dims[0];
  const Index row_bytes = heads * splits * (head_dim + 2) * static_cast<Index>(sizeof(float)) +
                          RotatedQueryBytes(1, documents, kv_heads, heads / kv_heads, head_dim);
  const Index at_once = std::clamp<Index>(kCallBytes / std::max<Index>(row_bytes, 1), 1, std::max<Index>(rows, 1));
  for (Index begin = 0; begin < rows; begin += at_once) {
    const SparseAttentionArgs part = RowsOf(args, begin, std::min(begin + at_once, rows));
    UNFOLD_TRY(bf16 ? AttendRows<__nv_bfloat16>(*context_, part, splits) : AttendRows<float>(*context_, part, splits));
  }
  return Status::Ok();
}

}  // namespace unfold
