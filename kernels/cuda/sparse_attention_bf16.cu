// SPDX-License-Identifier: Apache-2.0
// SparseAttention with KV in bf16 on tensor cores (method.md 4.5). A block takes a split as in sparse_attention.cu, its
// warps an item at a time, up to 16 keys of it, each warp with a softmax of its own; at the end the block merges them
// in the warps' order. A chosen chunk, its gist and raw tokens, fills a tile by half or more; that its rows lie one
// behind the other, and are of one document, makes up for what stays empty.
//
// A warp's next keys and values are on their way to its own shared memory while it works on those before. Keys are the
// left operand of (keys x dims) * (dims x heads), values, transposed as they are loaded, of (dims x keys) * (keys x
// heads), so nothing is padded for up to 8 heads of a group. Each key and value is read once for up to 16.
// Tried (H100, 28/4 heads x 128, 128K and 512K tokens of context; rotation and merging included: 33 and 100 us; the
// bytes alone 13 and 52): keys and values from memory to registers, dims in an order that suits the loads, values
// interleaved by byte permutations: 36 and 112; queries rotated by each block, in shared memory: 42 and 123. On an
// H200, merging included: splits of 28 items in the list's order, with all sinks in the first: 39 and 154 us, so: 31
// and 90 (at 8K tokens 16 and 12.6); rows by the copy engine, an instruction each, which a warp issues one after
// another: 41 and 157 for 39 and 154; three tiles of a warp and two blocks: 39 and 173; queries in one bf16: 39 and
// 154; tiles of 16 keys of the split, whatever their items, each key with an address of its own: 31 and 90 for 32 and
// 85, and a question's first token over 128K, with its 32 rows, 50 ms for 47; for 32 requests of 16K blocks of a warp,
// one for each split that a list can have: 86 and 88 for 77 on another machine. What is left at 128K, by samples: a
// quarter until the first keys are asked for, half in the loop, a sixth where warps wait for the last one. For those 32
// requests: 18.2 million instructions of warps, of each warp one in 10 cycles, and registers for no more warps.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/query_fragments.cuh"
#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr float kLog2E = 1.4426950408889634F, kLn2 = 0.69314718055994531F;
constexpr float kNoLogit = -1e30F;  // below all logits; differences to it are numbers

// Tiles of a warp: so many that three blocks share a multiprocessor, or one on an A100 at large dims.
constexpr int StagesFor(int dim) { return dim > 128 ? 1 : 2; }

// Two to a power; 0 for minus infinity and for what would be smaller than the least normal number.
__device__ __forceinline__ float Exp2(float power) {
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(value) : "f"(power));
  return value;
}

// The transpose of an 8 x 8 matrix of 16-bit elements, a row of pairs in every four lanes.
__device__ __forceinline__ unsigned Transposed(unsigned pair) {
  unsigned turned;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(turned) : "r"(pair));
  return turned;
}

// Up to 16 keys of one item and their values.
template <int kDim>
struct ItemTile {
  static constexpr int kPieces = kDim / 8, kRowsAtOnce = kWarp / kPieces;  // that a warp copies with one instruction
  TileRows<kDim> keys, values;
  int document[kTileKeys];  // of each key, where the item has several

  // Rows that no copy has reached are multiplied by weights of zero, so they must be numbers.
  __device__ __forceinline__ void Clear() {
    auto* to = reinterpret_cast<uint4*>(&values);
#pragma unroll
    for (int i = threadIdx.x % kWarp; i < static_cast<int>(sizeof(values) / sizeof(uint4)); i += kWarp) {
      to[i] = make_uint4(0, 0, 0, 0);
    }
  }

  // Begins to copy the first `count` rows, up to 16, each from its place in the table, of which lane i % 16 has row
  // i's.
  __device__ __forceinline__ void CopyPlaces(const Item<Bf16>& item, std::int32_t own_place, std::int32_t count) {
    const int lane = threadIdx.x % kWarp, piece = lane % kPieces * 8;
#pragma unroll
    for (int first = 0; first < kTileKeys; first += kRowsAtOnce) {
      const int row = first + lane / kPieces;
      const Index at = Index{__shfl_sync(kAllLanes, own_place, row % kTileKeys)} * kDim + piece;
      if (row >= count || lane / kPieces >= kRowsAtOnce) continue;
      CopyOnce16(&keys.row[row][piece], item.k + at, true);
      CopyOnce16(&values.row[row][piece], item.v + at, true);
    }
  }

  // Begins to copy keys [first, first + 16) of an item, or what is left of it.
  __device__ __forceinline__ void Copy(const Item<Bf16>& item, std::int32_t first, Index documents) {
    const int lane = threadIdx.x % kWarp, row = lane / kPieces, piece = lane % kPieces * 8;
    const std::int32_t count = item.keys() - first;
    if (item.ends != nullptr) {
      const auto all = static_cast<int>(documents);
      const std::int32_t own_row = item.RowOf(first + min(lane % kTileKeys, count - 1));
      const std::int32_t at = item.first + own_row;
      const int known = WarpFirstNotBelow(item.ends, all, __shfl_sync(kAllLanes, at, 0) + 1);
      const int own = DocumentsOfTile(item.ends, all, known, at);
      if (lane < kTileKeys) document[lane] = min(own, all - 1);
      if (item.places != nullptr) {
        CopyPlaces(item, own_row, count);
        return;
      }
    }
    // A chunk's first row is its gist, the others are its page's; all of another item are one table's. Behind the first
    // row, addresses are constants apart.
    const bool raw = item.raw_rows > 0;
    const Index at = static_cast<Index>(raw ? first + row - 1 : first + row) * kDim + piece;
    const Bf16 *k = (raw ? item.raw_k : item.k) + at, *v = (raw ? item.raw_v : item.v) + at;
    const bool gist = raw && first + row == 0;
    const int left = row < kRowsAtOnce ? count - row : 0;
    if (left > 0) {
      CopyOnce16(&keys.row[row][piece], gist ? item.k + piece : k, true);
      CopyOnce16(&values.row[row][piece], gist ? item.v + piece : v, true);
    }
#pragma unroll
    for (int next = kRowsAtOnce; next < kTileKeys; next += kRowsAtOnce) {
      if (next >= left) continue;
      CopyOnce16(&keys.row[row + next][piece], k + next * kDim, true);
      CopyOnce16(&values.row[row + next][piece], v + next * kDim, true);
    }
  }
};

// Which tile of a split a warp is at: it takes every kWarps-th item, 16 keys of it at a time.
struct TileCursor {
  int item;
  std::int32_t first = 0;

  __device__ __forceinline__ bool Inside(const SplitItems<Bf16>& split) const { return item < split.count; }
  // To the tile after one of `count` keys and those behind it in its item.
  __device__ __forceinline__ void Next(std::int32_t count) {
    first = count > kTileKeys ? first + kTileKeys : 0;
    item += count > kTileKeys ? 0 : kWarps;
  }
};

template <int kDim, int kHeadTiles>
struct AttendShared {
  static constexpr int kStages = StagesFor(kDim);
  SplitItems<Bf16> split;
  union {
    ItemTile<kDim> tiles[kWarps][kStages];
    float sums[kWarps][kHeadTiles * kTileHeads][kDim];
  };
  float2 state[kWarps][kHeadTiles * kTileHeads];
};

// A warp's softmax and sums, with logits to base 2. A lane has heads 2 c and 2 c + 1 of each tile.
template <int kDim, int kHeadTiles>
struct WarpState {
  static constexpr int kProducts = kDim / kMmaRows;
  float largest[kHeadTiles][2], total[kHeadTiles][2];
  float sums[kHeadTiles][kProducts][4];

  __device__ __forceinline__ WarpState() {
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      largest[n][0] = largest[n][1] = kNoLogit;
      total[n][0] = total[n][1] = 0;
#pragma unroll
      for (int i = 0; i < kProducts; ++i) sums[n][i][0] = sums[n][i][1] = sums[n][i][2] = sums[n][i][3] = 0;
    }
  }

  // Takes a tile's logits of head tile n (minus infinity: no key) and its values. `own` becomes the lane's part of the
  // tile's totals.
  __device__ __forceinline__ void Take(int n, const float (&logits)[4], const TileRows<kDim>& values, float (&own)[2]) {
    float weight[4], shrink[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float most = fmaxf(TileMax(fmaxf(logits[h], logits[h + 2])), largest[n][h]);
      shrink[h] = Exp2(largest[n][h] - most);
      largest[n][h] = most;
      weight[h] = Exp2(logits[h] - most);
      weight[h + 2] = Exp2(logits[h + 2] - most);
      own[h] = weight[h] + weight[h + 2];
      total[n][h] = fmaf(total[n][h], shrink[h], own[h]);
    }
    // Most tiles find no larger logit than those before.
    if (__any_sync(kAllLanes, shrink[0] != 1.0F || shrink[1] != 1.0F)) {
#pragma unroll
      for (int i = 0; i < kProducts; ++i) {
        float(&sum)[4] = sums[n][i];
        sum[0] *= shrink[0], sum[1] *= shrink[1], sum[2] *= shrink[0], sum[3] *= shrink[1];
      }
    }
    const unsigned right0 = Transposed(PackBf16(weight[0], weight[1]));
    const unsigned right1 = Transposed(PackBf16(weight[2], weight[3]));
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      unsigned left[4];
      LoadMatricesTransposed(left, &values.row[lane / 16 * 8 + lane % 8][i * 16 + lane / 8 % 2 * 8]);
      Mma(sums[n][i], left, right0, right1);
    }
  }

  // Keeps the softmax of a tile alone, of head tile n. Its largest logit stands for all those so far.
  __device__ __forceinline__ void Keep(int n, float (&own)[2], float2* to) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int step = 4; step < kWarp; step *= 2) {
      own[0] += __shfl_xor_sync(kAllLanes, own[0], step);
      own[1] += __shfl_xor_sync(kAllLanes, own[1], step);
    }
    if (lane >= 4) return;
    to[n * kTileHeads + lane * 2] = make_float2(largest[n][0] * kLn2, own[0]);
    to[n * kTileHeads + lane * 2 + 1] = make_float2(largest[n][1] * kLn2, own[1]);
  }

  // Leaves the warp's part in shared memory.
  __device__ __forceinline__ void Leave(AttendShared<kDim, kHeadTiles>& shared) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float sum = TileSum(total[n][h]);
        const int head = n * kTileHeads + lane % 4 * 2 + h;
        if (lane < 4) shared.state[warp][head] = make_float2(largest[n][h] * kLn2, sum);
#pragma unroll
        for (int i = 0; i < kProducts; ++i) {
          shared.sums[warp][head][i * 16 + lane / 4] = sums[n][i][h];
          shared.sums[warp][head][i * 16 + lane / 4 + 8] = sums[n][i][h + 2];
        }
      }
    }
  }
};

template <int kDim, int kHeadTiles>
struct SplitWorker {
  static constexpr int kHeads = kHeadTiles * kTileHeads;
  const AttentionInputs<Bf16>& in;
  const Place& place;
  AttendShared<kDim, kHeadTiles>& shared;

  // Logits to base 2 of a tile of `count` keys, minus infinity past the last.
  __device__ __forceinline__ void Logits(const ItemTile<kDim>& tile, const Item<Bf16>& item, std::int32_t count,
                                         HeldQueries<kDim, kHeadTiles>& held, float (&logits)[kHeadTiles][4]) const {
    const int lane = threadIdx.x % kWarp, group = lane / 4;
    const bool inside = group < count, inside8 = group + 8 < count;
    const float scale = in.scale * kLog2E;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) logits[n][0] = logits[n][1] = logits[n][2] = logits[n][3] = -INFINITY;
    const auto meet = [&](int document, bool own, bool own8) {
      held.Take(document);
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) {
        float dots[4];
        tile.keys.Dot([&](int step) { return held(step, n); }, dots);
        if (own) logits[n][0] = scale * dots[0], logits[n][1] = scale * dots[1];
        if (own8) logits[n][2] = scale * dots[2], logits[n][3] = scale * dots[3];
      }
    };
    if (item.ends == nullptr) {
      meet(item.document, inside, inside8);
    } else {
      ForDocuments(tile.document[lane % kTileKeys],
                   [&](int now, bool own, bool own8) { meet(now, own && inside, own8 && inside8); });
    }
  }

  // The warps' softmaxes as one, in their order.
  __device__ void Merge(const Partials& partials, Index split) const {
    const Index first = (place.t * in.queries.heads + place.first_head) * partials.splits + split;
    if (threadIdx.x < place.heads) {
      float2* state = &shared.state[0][threadIdx.x];
      float largest = -INFINITY, total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, state[w * kHeads].x);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float2 part = state[w * kHeads];
        const float share = Exp2((part.x - largest) * kLog2E);
        total = fmaf(part.y, share, total);
        state[w * kHeads].x = share;
      }
      partials.state[first + threadIdx.x * partials.splits] = make_float2(largest, total);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < place.heads * kDim; i += kThreads) {
      const int h = i / kDim, e = i % kDim;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum = fmaf(shared.state[w][h].x, shared.sums[w][h][e], sum);
      partials.sums[(first + h * partials.splits) * kDim + e] = sum;
    }
  }
};

// `at_once` blocks a list, which take its splits in turn.
template <int kDim, int kHeadTiles, int kMost>
__global__ void __launch_bounds__(kThreads, kDim > 128 || kHeadTiles > 1 ? 1 : 3)
    AttendBf16Kernel(const __grid_constant__ Together<AttendRequest, kMost> requests, Index at_once) {
  extern __shared__ __align__(16) unsigned char memory[];
  const AttentionInputs<Bf16>& in = requests().in;
  const RotatedQueries& queries = requests().queries;
  const Partials& partials = requests().partials;
  const ItemSums& kept = requests().kept;
  auto& shared = *reinterpret_cast<AttendShared<kDim, kHeadTiles>*>(memory);
  constexpr int kHeads = kHeadTiles * kTileHeads, kStages = AttendShared<kDim, kHeadTiles>::kStages;
  const int warp = threadIdx.x / kWarp;
  const Place place(in, at_once, kHeads);
  const ItemsOfRow<Bf16> row(in, place.t, place.kv_head, WaitHere());
  const int used = partials.Tell(place, in.kv_heads, row.count());
  const bool keeps = kept.sums != nullptr && place.t >= kept.first_row;
  const Index kept_list = (place.t - kept.first_row) * in.kv_heads + place.kv_head;
  for (Index split = place.split; split < used; split += at_once) {
    for (int n = 0; n < kStages; ++n) shared.tiles[warp][n].Clear();
    shared.split.Load(row, static_cast<unsigned>(split), used);
    const SplitWorker<kDim, kHeadTiles> worker{in, place, shared};
    const Index first_item = kept.First(kept_list, partials.splits, split);
    if (keeps && threadIdx.x < kItemsOfSplit) {
      const Item<Bf16>& item = shared.split.items[threadIdx.x];
      kept.items[first_item + threadIdx.x] = make_int2(item.chunk, (item.keys() + kTileKeys - 1) / kTileKeys);
    }
    TileCursor ahead{warp}, at{warp};
    const auto copy = [&](ItemTile<kDim>& tile) {
      if (ahead.Inside(shared.split)) {
        const Item<Bf16>& item = shared.split.items[ahead.item];
        tile.Copy(item, ahead.first, in.documents());
        ahead.Next(item.keys() - ahead.first);
      }
      CommitCopies();
    };
    // What is loaded late waits behind the keys that are on their way, so the first queries come first.
    HeldQueries<kDim, kHeadTiles> held{queries, place.t, place.kv_head};
    if (at.Inside(shared.split)) held.Take(shared.split.items[warp].document);
#pragma unroll
    for (int n = 0; n < kStages; ++n) copy(shared.tiles[warp][n]);
    WarpState<kDim, kHeadTiles> state;
    for (int stage = 0; at.Inside(shared.split); stage = stage + 1 == kStages ? 0 : stage + 1) {
      ItemTile<kDim>& tile = shared.tiles[warp][stage];
      const Item<Bf16>& item = shared.split.items[at.item];
      const std::int32_t count = item.keys() - at.first;
      WaitForCopies<kStages - 1>();
      __syncwarp();
      float logits[kHeadTiles][4];
      worker.Logits(tile, item, count, held, logits);
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) {
        float own[2];
        state.Take(n, logits[n], tile.values, own);
        if (keeps && item.chunk >= 0) {
          const Index kept_tile = (first_item + at.item) * kept.tiles + at.first / kTileKeys;
          state.Keep(n, own, kept.sums + kept_tile * kHeads);
        }
      }
      at.Next(count);
      __syncwarp();
      copy(tile);
    }
    WaitForCopies<0>();
    __syncthreads();  // the sums take the tiles' place
    state.Leave(shared);
    __syncthreads();
    worker.Merge(partials, split);
    __syncthreads();
  }
}

template <int kDim>
Status Launch(CudaContext& context, const std::vector<AttendRequest>& requests, Index rows) {
  const Index lists = rows * requests.front().in.kv_heads;
  Index splits = 0;
  for (const AttendRequest& request : requests) splits = std::max(splits, request.partials.splits);
  return LaunchTogether(requests, [&]<int kMost>(const Together<AttendRequest, kMost>& some, int count) {
    const Index at_once = SplitsAtOnce(context, lists * count, splits);
    const auto launch = [&](auto kernel, std::size_t bytes) {
      return context.Launch(kernel, {lists * at_once, kThreads, bytes, "SparseAttention", false, count}, some, at_once);
    };
    return requests.front().queries.heads_at_once == kTileHeads
               ? launch(AttendBf16Kernel<kDim, 1, kMost>, sizeof(AttendShared<kDim, 1>))
               : launch(AttendBf16Kernel<kDim, 2, kMost>, sizeof(AttendShared<kDim, 2>));
  });
}

}  // namespace

Status LaunchTensorCoreAttention(CudaContext& context, const std::vector<AttendRequest>& requests, Index rows) {
  switch (requests.front().in.queries.head_dim) {
    case 64: return Launch<64>(context, requests, rows);
    case 96: return Launch<96>(context, requests, rows);
    case 128: return Launch<128>(context, requests, rows);
    default: return Launch<256>(context, requests, rows);
  }
}

}  // namespace unfold
