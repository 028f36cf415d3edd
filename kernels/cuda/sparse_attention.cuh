// SPDX-License-Identifier: Apache-2.0
// What the two forms of SparseAttention share: where a block works, the items of a split, and what splits leave.
#ifndef UNFOLD_KERNELS_CUDA_SPARSE_ATTENTION_CUH_
#define UNFOLD_KERNELS_CUDA_SPARSE_ATTENTION_CUH_

#include <algorithm>

#include "kernels/cuda/attention_items.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.cuh"
#include "kernels/cuda/query_fragments.cuh"
#include "kernels/cuda/together.cuh"

namespace unfold {

// How many splits a list has: as many as blocks that take one each, of few items where the list is short, and a
// multiple of that where it is long, so that all blocks take as many. Of several requests, whose lists keep the chip
// busy, a multiple of 1. That depends on the list's own length alone. A split has a run of the list's gist items, which
// are of few documents, and every so many-th of the others: sinks are of many, and a tile's work grows with its
// documents.
constexpr int kItemsOfSplit = 28;  // the most
constexpr int kUsualItems = 8, kMostUsualItems = kItemsOfSplit - 2, kUsualSplits = 96, kSplitsOfMany = 1;
__host__ __device__ inline int SplitsOf(Index items, int usual) {
  const auto all = static_cast<int>(items);
  const int few = (all + kUsualItems - 1) / kUsualItems;
  const int rounds = (all + usual * kMostUsualItems - 1) / (usual * kMostUsualItems);
  return few < usual ? few : rounds * usual;
}

// Where a block works: one split of a row and key/value head, for up to `at_once` heads of the group.
struct Place {
  Index t, kv_head, first_head, split, list;  // list: of (t, kv_head, batch of heads)
  int heads;

  // Blocks of a list stand side by side, `splits` of them.
  template <typename Kv>
  __device__ Place(const AttentionInputs<Kv>& in, Index splits, Index at_once, unsigned block = blockIdx.x) {
    // Of 32 bits: a division of 64 is a hundred instructions.
    const auto kv_heads = static_cast<unsigned>(in.kv_heads), most = static_cast<unsigned>(at_once);
    const unsigned group = static_cast<unsigned>(in.queries.heads) / kv_heads, batches = (group + most - 1) / most;
    const unsigned of_list = static_cast<unsigned>(splits), own = block / of_list;
    const unsigned batch = own % batches;
    split = block % of_list, list = own;
    kv_head = own / batches % kv_heads, t = own / batches / kv_heads;
    first_head = kv_head * group + batch * most;
    heads = static_cast<int>(min(most, group - batch * most));
  }
};

// What splits leave: [T, H, splits] of largest logit and total, and of D sums.
struct Partials {
  float2* state;
  float* sums;
  Index splits;  // the most that a list has
  int* used;     // [T, Hk]: how many it has
  int usual;     // of SplitsOf

  // How many splits the list of a block has, which one of its blocks tells.
  __device__ int Tell(const Place& place, Index kv_heads, Index items) const {
    const int own = SplitsOf(items, usual);
    if (place.split == 0 && threadIdx.x == 0) used[place.t * kv_heads + place.kv_head] = own;
    return own;
  }
};

template <typename Kv>
struct SplitItems {
  Item<Kv> items[kItemsOfSplit];
  std::int32_t ends[kItemsOfSplit];  // keys up to and with each item
  int count;                         // of items, without empty ones at the end

  // Takes the items of a split. Returns how many keys they have.
  __device__ std::int32_t Load(const ItemsOfRow<Kv>& row, unsigned split, unsigned splits) {
    const auto gists = static_cast<unsigned>(row.gist_items());
    const auto others = static_cast<unsigned>(row.count() - row.gist_items());
    const unsigned own_others = split < others ? (others - split - 1) / splits + 1 : 0;
    const unsigned each = gists / splits, more = gists % splits;
    const unsigned first = split * each + min(split, more), own_gists = each + (split < more ? 1 : 0);
    const unsigned i = threadIdx.x;
    return Put([&](Item<Kv>* item) {
      if (i < own_others) {
        *item = row.At(row.OtherItem(split + i * splits));
      } else if (i - own_others < own_gists) {
        *item = row.At(row.begin[kGistItems] + first + (i - own_others));
      }
    });
  }
  // Takes items [first, last) of the row, up to kItemsOfSplit.
  __device__ std::int32_t LoadRun(const ItemsOfRow<Kv>& row, Index first, Index last) {
    return Put([&](Item<Kv>* item) {
      if (first + threadIdx.x < last) *item = row.At(first + threadIdx.x);
    });
  }

  // The item that key `key` belongs to.
  __device__ __forceinline__ int ItemOf(std::int32_t key) const {
    int which = 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      if (which + step < kItemsOfSplit && ends[which + step - 1] <= key) which += step;
    }
    return which;
  }
  // The first key of item `which`.
  __device__ std::int32_t Begin(int which) const { return which == 0 ? 0 : ends[which - 1]; }

  template <typename Find>
  __device__ std::int32_t Put(Find find) {
    static_assert(kItemsOfSplit <= kWarp);
    if (threadIdx.x < kWarp) {
      Item<Kv> item;
      if (threadIdx.x < kItemsOfSplit) find(&item);
      const std::int32_t through = WarpSumThrough(item.keys());
      const unsigned used = __ballot_sync(kAllLanes, item.keys() > 0);
      if (threadIdx.x == 0) count = kWarp - __clz(static_cast<int>(used));
      if (threadIdx.x < kItemsOfSplit) {
        items[threadIdx.x] = item;
        ends[threadIdx.x] = through;
      }
    }
    __syncthreads();
    return ends[kItemsOfSplit - 1];
  }

  struct Key {
    const Kv *k, *v;
    int document;
  };
  __device__ Key At(std::int32_t key, Index head_dim, Index documents) const {
    const int which = ItemOf(key);
    const Item<Kv>& item = items[which];
    const std::int32_t at = key - Begin(which);
    const bool raw = at >= item.rows;
    const Index from = (raw ? at - item.rows : item.RowOf(at)) * head_dim;
    return {(raw ? item.raw_k : item.k) + from, (raw ? item.raw_v : item.v) + from, item.Document(at, documents)};
  }
};

// How many of a list's splits have a block of their own: so many that all blocks find a place at once.
inline Index SplitsAtOnce(const CudaContext& context, Index lists, Index splits) {
  constexpr Index kBlocksOfMultiprocessor = 3;
  return std::clamp<Index>(kBlocksOfMultiprocessor * context.num_multiprocessors() / lists, 1, splits);
}

// The softmax of each item of a split alone, for the mass of chunks: of every 16 keys of an item their largest logit
// and total, [lists, splits, kItemsOfSplit, tiles, heads at once]. Null: none.
struct ItemSums {
  float2* sums = nullptr;
  int2* items = nullptr;  // [lists, splits, kItemsOfSplit]: its chunk, or -1, and how many tiles it has
  Index first_row = 0;    // of the rows whose sums are kept
  int tiles = 0;          // the most of an item

  // The items of a split.
  __device__ Index First(Index list, Index splits, Index split) const {
    return (list * splits + split) * kItemsOfSplit;
  }
};
// A request of the form on tensor cores.
struct AttendRequest {
  AttentionInputs<__nv_bfloat16> in;
  RotatedQueries queries;
  Partials partials;
  ItemSums kept;
  float* out = nullptr;
  float* mass = nullptr;  // [Hk, C], of the last row; null: not wanted
};
// The form on tensor cores (sparse_attention_bf16.cu): KV in bf16, where TakesTensorCores. Of `rows` rows each, of as
// many heads.
Status LaunchTensorCoreAttention(CudaContext& context, const std::vector<AttendRequest>& requests, Index rows);
// The form for all types and dims (sparse_attention_any.cu).
template <typename Kv>
Status AttendInAnyForm(CudaContext& context, const SparseAttentionArgs& args);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_SPARSE_ATTENTION_CUH_
