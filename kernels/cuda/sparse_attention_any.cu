// SPDX-License-Identifier: Apache-2.0
// SparseAttention for all types and dims (sparse_attention_bf16.cu has the form on tensor cores): a block takes
// kTileKeys keys at a time, one a thread for the logits of up to kHeadsAtOnce heads, then one dim a thread for their
// weighted values. Bytes: every visible key and value once for each kHeadsAtOnce heads of a group. Tried (f32, H200,
// 28/4 heads x 128, launches included; 8K, 128K, 512K tokens of context): a warp an item, rows one after another, four
// heads at a time, queries rotated by a kernel of their own: 91, 237, 795 us. So, by items of a split: 10: 32, 113,
// 505; 14: 36, 97, 381; 20: 42, 96, 338; 28: 47, 111, 285. It waits for keys: a quarter of the memory's speed.
#include "kernels/cuda/attention_inputs.cuh"
#include "kernels/cuda/merge_splits.cuh"

namespace unfold {
namespace {

constexpr int kTileKeys = 128;
constexpr int kThreads = kTileKeys;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDimsOfThread = static_cast<int>(kMaxQueryDim) / kThreads;
constexpr int kHeadsOfWarp = kHeadsAtOnce / kWarps;

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
  const ItemsOfRow<Kv> row(in, place.t, place.kv_head, NoWait());
  const int used = partials.Tell(place, in.kv_heads, row.count());
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
      largest = WarpMax(largest);
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

template <typename Kv>
__global__ void __launch_bounds__(kMergeThreads)
    MergeKernel(const __grid_constant__ AttentionInputs<Kv> in, Partials partials, float* out, float2* state) {
  __shared__ MergeShared shared;
  MergeHead(in, partials, out, state, 1, shared, WaitHere());
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
  const ItemsOfRow<Kv> row(in, place.t, place.kv_head, NoWait());
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

// mass[hk, c] += the sum over `batches` of the heads of hk, in their order, of parts[hk, batch, c].
__global__ void AddMassKernel(const float* parts, Index batches, Index chunks, float* mass, Index count) {
  const Index at = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= count) return;
  const Index head = at / chunks, c = at % chunks;
  float sum = 0;
  for (Index batch = 0; batch < batches; ++batch) sum += parts[(head * batches + batch) * chunks + c];
  mass[at] += sum;
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

}  // namespace

template <typename Kv>
Status AttendInAnyForm(CudaContext& context, const SparseAttentionArgs& args) {
  CallMemory memory(context, "SparseAttention");
  const AttentionInputs<Kv> in = MakeInputs<Kv>(args, context.NextCall(), AllHaveVectors(args));
  const Index rows = args.q.dims[0], d = in.queries.head_dim, rows_of_heads = rows * in.queries.heads;
  const Partials partials = MakePartials<Kv>(memory, args, kUsualSplits);
  auto* state = memory.Array<float2>(rows_of_heads);
  UNFOLD_TRY(memory.status());
  const Index blocks = rows * in.kv_heads * CeilDiv(in.queries.heads / in.kv_heads, kHeadsAtOnce) * partials.splits;
  const auto kernel = in.vectors ? AttendKernel<true, Kv> : AttendKernel<false, Kv>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, kHeadsAtOnce * d * sizeof(float), context.stream()>>>(in, partials);
  UNFOLD_TRY(context.Launched("SparseAttention"));
  UNFOLD_TRY(context.Launch(MergeKernel<Kv>, {rows_of_heads, kMergeThreads, 0, "SparseAttention"}, in, partials,
                            args.out.as<float>(), state));
  return HasMass(args) ? AddMass(context, memory, args, in, state) : Status::Ok();
}

template Status AttendInAnyForm<float>(CudaContext&, const SparseAttentionArgs&);
template Status AttendInAnyForm<__nv_bfloat16>(CudaContext&, const SparseAttentionArgs&);

}  // namespace unfold
