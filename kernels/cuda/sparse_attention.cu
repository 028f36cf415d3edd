// SPDX-License-Identifier: Apache-2.0
// SparseAttention in f32 (method.md 4.5): flash decoding of each row and key/value head over its items
// (attention_items.cuh), split into runs of kItemsOfSplit, merged in order. Which items a split has depends on the
// row's own lists alone. A block takes kTileKeys keys at a time: one a thread for the logits of up to kHeadsAtOnce
// heads, then one dim a thread for their weighted values.
//
// Bytes: every visible key and value once for each kHeadsAtOnce heads of a group. Flops: 4 * kHeadsAtOnce * D a key.
// Tried (H200, 28/4 heads x 128, launches included; 8K, 128K, 512K tokens of context): a warp an item, rows one after
// another, four heads at a time, queries rotated by a kernel of their own: 91, 237, 795 us. So, by items of a split:
// 10: 32, 113, 505; 14: 36, 97, 381; 20: 42, 96, 338; 28: 47, 111, 285. It waits for keys: a quarter of the memory's
// speed.
#include <algorithm>

#include "kernels/cuda/attention_items.cuh"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.cuh"

namespace unfold {
namespace {

constexpr int kTileKeys = 128;
constexpr int kThreads = kTileKeys;
constexpr int kWarps = kThreads / kWarp;
constexpr int kItemsOfSplit = 28;  // two tiles when each is a chunk of 8 tokens
constexpr int kDimsOfThread = static_cast<int>(kMaxQueryDim) / kThreads;
constexpr int kHeadsOfWarp = kHeadsAtOnce / kWarps;
constexpr std::size_t kPlainSharedBytes = 47 << 10;  // that a kernel has without being asked for more
constexpr Index kCallBytes = Index{256} << 20;       // that the splits of one pass over rows may take

// Where a block works.
struct Place {
  Index t, kv_head, batch, first_head, split;
  int heads;

  __device__ Place(const AttentionInputs& in, Index splits) {
    const Index group = in.queries.heads / in.kv_heads, batches = CeilDiv(group, kHeadsAtOnce);
    Index rest = blockIdx.x;
    split = rest % splits, rest /= splits;
    batch = rest % batches, rest /= batches;
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
};

struct Shared {
  Item items[kItemsOfSplit];
  std::int32_t ends[kItemsOfSplit];  // keys up to and with each item
  const float* values[kTileKeys];
  float logits[kHeadsAtOnce][kTileKeys];
  alignas(16) float weights[kTileKeys][kHeadsAtOnce];
  float largest[kHeadsAtOnce], total[kHeadsAtOnce], shrink[kHeadsAtOnce];
  int next_document;
};

// Items [first, first + kItemsOfSplit) of the row, before `last`. Returns how many keys they have.
__device__ std::int32_t LoadItems(const ItemsOfRow& row, Index first, Index last, Shared& shared) {
  static_assert(kItemsOfSplit <= kWarp);
  if (threadIdx.x < kWarp) {
    const Index i = first + threadIdx.x;
    Item item;
    if (threadIdx.x < kItemsOfSplit && i < last) item = row.At(i);
    const std::int32_t through = WarpSumThrough(item.keys());
    if (threadIdx.x < kItemsOfSplit) {
      shared.items[threadIdx.x] = item;
      shared.ends[threadIdx.x] = through;
    }
  }
  __syncthreads();
  return shared.ends[kItemsOfSplit - 1];
}

// Fills shared.logits and shared.values with keys [first, first + kTileKeys) of the items. The queries in shared memory
// are those of `loaded`, a document; it changes as keys need others.
template <bool kVectors>
__device__ void TileLogits(const AttentionInputs& in, const Place& place, std::int32_t first, std::int32_t keys,
                           Shared& shared, float* queries, int* loaded) {
  const int d = static_cast<int>(in.queries.head_dim), documents = static_cast<int>(in.documents());
  const std::int32_t key = first + static_cast<std::int32_t>(threadIdx.x);
  const float* k = nullptr;
  int document = INT_MAX;
  if (key < keys) {
    const auto which = static_cast<int>(FirstNotBelow(shared.ends, kItemsOfSplit, key + 1));
    const Item& item = shared.items[which];
    const std::int32_t at = key - (which == 0 ? 0 : shared.ends[which - 1]);
    const bool raw = at >= item.rows;
    const Index row = raw ? at - item.rows : at;
    k = (raw ? item.raw_k : item.k) + row * d;
    shared.values[threadIdx.x] = (raw ? item.raw_v : item.v) + row * d;
    document = static_cast<int>(item.Document(at, documents));
  }
  // The documents of the tile's keys one after another, the one whose queries are there first.
  bool open = key < keys;
  int now = *loaded;
  while (true) {
    if (open && document == now) {
      float dots[kHeadsAtOnce];
      DotHeads<kVectors>(queries, k, d, dots);
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) shared.logits[h][threadIdx.x] = in.scale * dots[h];
      open = false;
    }
    if (threadIdx.x == 0) shared.next_document = INT_MAX;
    __syncthreads();
    if (open) atomicMin(&shared.next_document, document);
    __syncthreads();
    if (shared.next_document == INT_MAX) break;
    now = shared.next_document;
    LoadQueries(in.queries, place.t, now, place.first_head, place.heads, queries);
    __syncthreads();
  }
  *loaded = now;
}

// One split a block.
template <bool kVectors>
__global__ void __launch_bounds__(kThreads)
    AttendKernel(const __grid_constant__ AttentionInputs in, Partials partials) {
  extern __shared__ __align__(16) float queries[];  // [kHeadsAtOnce, D]
  __shared__ Shared shared;
  const Place place(in, partials.splits);
  const ItemsOfRow row(in, place.t, place.kv_head);
  if (place.split * kItemsOfSplit >= row.count()) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, d = static_cast<int>(in.queries.head_dim);
  if (threadIdx.x < kHeadsAtOnce) shared.largest[threadIdx.x] = -INFINITY, shared.total[threadIdx.x] = 0;
  const std::int32_t keys = LoadItems(row, place.split * kItemsOfSplit, row.count(), shared);

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
        const float value = shared.values[key][e];
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

// One row and head a block: its splits in their order. Leaves the softmax's largest logit and total in `state`.
__global__ void __launch_bounds__(kThreads)
    MergeKernel(const __grid_constant__ AttentionInputs in, Partials partials, float* out, float2* state) {
  extern __shared__ float shares[];  // [splits]
  __shared__ float shared[kWarp];
  const Index t = blockIdx.x / in.queries.heads, head = blockIdx.x % in.queries.heads;
  const Index kv_head = head / (in.queries.heads / in.kv_heads), d = in.queries.head_dim;
  const Index splits = CeilDiv(ItemsOfRow(in, t, kv_head).count(), kItemsOfSplit);
  const Index first = Index{blockIdx.x} * partials.splits;
  float largest = -INFINITY;
  for (Index s = threadIdx.x; s < splits; s += kThreads) largest = fmaxf(largest, partials.state[first + s].x);
  for (int step = kWarp / 2; step > 0; step /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = largest;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, shared[w]);
  float total = 0;
  for (Index s = threadIdx.x; s < splits; s += kThreads) {
    const float2 one = partials.state[first + s];
    const float share = one.y == 0 ? 0.0F : expf(one.x - largest);
    shares[s] = share;
    total = fmaf(one.y, share, total);
  }
  total = BlockSum(total, shared);
  if (threadIdx.x == 0) state[blockIdx.x] = make_float2(largest, total);
  for (Index e = threadIdx.x; e < d; e += kThreads) {
    const float* column = partials.sums + first * d + e;
    float sum = 0;
    Index s = 0;
    // By hand: unrolled by the compiler, shares are loaded from beyond the last.
#pragma unroll 1
    for (; s + 4 <= splits; s += 4) {
      const float a = column[s * d], b = column[(s + 1) * d], c = column[(s + 2) * d], f = column[(s + 3) * d];
      sum = fmaf(shares[s], a, sum);
      sum = fmaf(shares[s + 1], b, sum);
      sum = fmaf(shares[s + 2], c, sum);
      sum = fmaf(shares[s + 3], f, sum);
    }
#pragma unroll 1
    for (; s < splits; ++s) sum = fmaf(shares[s], column[s * d], sum);
    out[blockIdx.x * d + e] = sum / total;
  }
}

// The attention mass on each chosen chunk, from the finished softmax: the keys' weights, summed over heads, then over
// the keys of an item in their order, an item a thread. `mass` is [T, Hk, batches of heads, C].
template <bool kVectors>
__global__ void __launch_bounds__(kThreads)
    MassKernel(const __grid_constant__ AttentionInputs in, Index splits, const float2* state, float* mass) {
  extern __shared__ __align__(16) float queries[];  // [kHeadsAtOnce, D]
  __shared__ Shared shared;
  const Place place(in, splits);
  const ItemsOfRow row(in, place.t, place.kv_head);
  const Index begin = row.begin[kGistItems] + place.split * kItemsOfSplit, end = row.begin[kGistItems + 1];
  if (begin >= end) return;
  const std::int32_t keys = LoadItems(row, begin, end, shared);
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
      const std::int32_t own = threadIdx.x == 0 ? 0 : shared.ends[threadIdx.x - 1];
      for (std::int32_t key = max(own, first); key < min(shared.ends[threadIdx.x], first + used); ++key) {
        sum += shared.weights[key - first][0];
      }
    }
    __syncthreads();
  }
  if (threadIdx.x < kItemsOfSplit && shared.items[threadIdx.x].chunk >= 0) {
    mass[blockIdx.x / splits * in.levels[0].rows.stride + shared.items[threadIdx.x].chunk] = sum;
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

AttentionInputs MakeInputs(const SparseAttentionArgs& args, const FaultSink& faults) {
  AttentionInputs in;
  in.queries =
      MakeQueries(args.q, args.positions, args.rope, args.context == nullptr ? Tensor() : args.context->segment_offset,
                  faults, FaultKind::kAttentionPositions, FaultKind::kAttentionOffsets);
  in.kv_heads = args.tail_k.dims[0];
  in.scale = args.scale;
  in.prefix = args.prefix_tokens > 0 ? RowsOfHeads(args.prefix_k, args.prefix_v) : HeadRows{};
  in.tail = RowsOfHeads(args.tail_k, args.tail_v);
  in.prefix_tokens = args.prefix_tokens;
  in.tail_position = args.tail_position;
  if (args.context != nullptr) SetContext(args, &in);
  return in;
}

// Whether all keys that a call can read can be loaded 16 bytes at a time.
bool KeysHaveVectors(const SparseAttentionArgs& args) {
  bool vectors = args.q.dims[2] % 4 == 0;
  const auto check = [&](const Tensor& keys) { vectors = vectors && HasVectors(keys.data); };
  check(args.tail_k);
  if (args.prefix_tokens > 0) check(args.prefix_k);
  if (args.context == nullptr) return vectors;
  check(args.context->sink_k);
  check(args.context->page_k);
  for (int n = 0; n < args.context->num_levels; ++n) check(args.context->gists[n].k);
  return vectors;
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
  Index most = CeilDiv(args.prefix_tokens, kItemRows) + CeilDiv(args.tail_k.dims[1], kItemRows);
  if (args.context == nullptr) return most;
  most += CeilDiv(args.context->sink_k.dims[1], kItemRows);
  for (int n = 0; n < args.context->num_levels; ++n) most += args.context->gists[n].k.dims[1];
  return most;
}

Status AddMass(CudaContext& context, CallMemory& memory, const SparseAttentionArgs& args, const AttentionInputs& in,
               const float2* state) {
  if (args.chunk_mass.rank == 0) return Status::Ok();
  const Index rows = args.q.dims[0], chunks = args.chunk_mass.size();
  const Index lists_of_row = in.kv_heads * CeilDiv(in.queries.heads / in.kv_heads, kHeadsAtOnce);
  if (args.mass_from >= rows || chunks == 0) return Status::Ok();
  auto* parts = memory.Zeros<float>(rows * lists_of_row * chunks);
  UNFOLD_TRY(memory.status());
  const Index splits = CeilDiv(chunks, kItemsOfSplit);
  const auto kernel = KeysHaveVectors(args) ? MassKernel<true> : MassKernel<false>;
  kernel<<<static_cast<unsigned>(rows * lists_of_row * splits), kThreads,
           kHeadsAtOnce * in.queries.head_dim * sizeof(float), context.stream()>>>(in, splits, state, parts);
  const Index first = args.mass_from * lists_of_row;
  AddMassKernel<<<Blocks(chunks, kThreads), kThreads, 0, context.stream()>>>(
      parts + first * chunks, rows * lists_of_row - first, chunks, args.chunk_mass.as<float>());
  return context.Launched("SparseAttention");
}

Status AttendRows(CudaContext& context, const SparseAttentionArgs& args, Index splits) {
  CallMemory memory(context, "SparseAttention");
  const AttentionInputs in = MakeInputs(args, context.NextCall());
  const Index rows = args.q.dims[0], d = in.queries.head_dim, rows_of_heads = rows * in.queries.heads;
  const Partials partials{memory.Array<float2>(rows_of_heads * splits), memory.Array<float>(rows_of_heads * splits * d),
                          splits};
  auto* state = memory.Array<float2>(rows_of_heads);
  UNFOLD_TRY(memory.status());
  const Index blocks = rows * in.kv_heads * CeilDiv(in.queries.heads / in.kv_heads, kHeadsAtOnce) * splits;
  const auto kernel = KeysHaveVectors(args) ? AttendKernel<true> : AttendKernel<false>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, kHeadsAtOnce * d * sizeof(float), context.stream()>>>(in, partials);
  const auto share_bytes = static_cast<std::size_t>(splits) * sizeof(float);
  if (share_bytes > kPlainSharedBytes) {
    UNFOLD_TRY(context.Explain(
        cudaFuncSetAttribute(MergeKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(share_bytes)),
        "SparseAttention"));
  }
  MergeKernel<<<static_cast<unsigned>(rows_of_heads), kThreads, share_bytes, context.stream()>>>(
      in, partials, args.out.as<float>(), state);
  UNFOLD_TRY(context.Launched("SparseAttention"));
  return AddMass(context, memory, args, in, state);
}

}  // namespace

Status CudaBackend::DoSparseAttention(const SparseAttentionArgs& args) {
  const auto [rows, heads, head_dim, unused] = args.q.dims;
  if (head_dim > kMaxQueryDim) return Status::InvalidArgument("SparseAttention: cuda takes D up to 256");
  const Index splits = CeilDiv(MostItems(args), kItemsOfSplit);
  const Index mass = args.chunk_mass.rank == 0 ? 0 : args.chunk_mass.size();
  const Index row_bytes = heads * (splits * (head_dim + 2) + mass) * static_cast<Index>(sizeof(float));
  const Index at_once = std::clamp<Index>(kCallBytes / std::max<Index>(row_bytes, 1), 1, std::max<Index>(rows, 1));
  for (Index begin = 0; begin < rows; begin += at_once) {
    UNFOLD_TRY(AttendRows(*context_, RowsOf(args, begin, std::min(begin + at_once, rows)), splits));
  }
  return Status::Ok();
}

}  // namespace unfold
