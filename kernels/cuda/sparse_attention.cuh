// SPDX-License-Identifier: Apache-2.0
// What the two forms of SparseAttention share: where a block works, the items of a split, and what splits leave.
#ifndef UNFOLD_KERNELS_CUDA_SPARSE_ATTENTION_CUH_
#define UNFOLD_KERNELS_CUDA_SPARSE_ATTENTION_CUH_

#include <algorithm>

#include "kernels/cuda/attention_items.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.cuh"
#include "kernels/cuda/query_fragments.cuh"

namespace unfold {

// Items of a split: of a short list few, so that many blocks have some. It depends on the list's own length alone.
constexpr int kLeastItemsOfSplit = 8, kItemsOfSplit = 28;  // kItemsOfSplit: the most
constexpr int kUsualSplits = 66;
__host__ __device__ inline int ItemsOfSplit(Index items) {
  const int wanted = (static_cast<int>(items) + kUsualSplits - 1) / kUsualSplits;
  return wanted < kLeastItemsOfSplit ? kLeastItemsOfSplit : wanted < kItemsOfSplit ? wanted : kItemsOfSplit;
}
// The most splits that a list of up to so many items has.
inline Index MostSplits(Index items) {
  return std::min(CeilDiv(items, kLeastItemsOfSplit), std::max<Index>(kUsualSplits, CeilDiv(items, kItemsOfSplit)));
}

// Where a block works: one split of a row and key/value head, for up to `at_once` heads of the group.
struct Place {
  Index t, kv_head, first_head, split, list;  // list: of (t, kv_head, batch of heads)
  int heads;

  // Blocks of a list stand side by side, `splits` of them.
  template <typename Kv>
  __device__ Place(const AttentionInputs<Kv>& in, Index splits, Index at_once) {
    // Of 32 bits: a division of 64 is a hundred instructions.
    const auto kv_heads = static_cast<unsigned>(in.kv_heads), most = static_cast<unsigned>(at_once);
    const unsigned group = static_cast<unsigned>(in.queries.heads) / kv_heads, batches = (group + most - 1) / most;
    const unsigned of_list = static_cast<unsigned>(splits), own = blockIdx.x / of_list;
    const unsigned batch = own % batches;
    split = blockIdx.x % of_list, list = own;
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

  __device__ void Tell(const Place& place, Index kv_heads, Index items) const {
    if (place.split == 0 && threadIdx.x == 0) {
      const int of_split = ItemsOfSplit(items);
      used[place.t * kv_heads + place.kv_head] = (static_cast<int>(items) + of_split - 1) / of_split;
    }
  }
};

template <typename Kv>
struct SplitItems {
  Item<Kv> items[kItemsOfSplit];
  std::int32_t ends[kItemsOfSplit];  // keys up to and with each item

  // Takes items [first, last) of the row. Returns how many keys they have.
  // Those of a split.
  __device__ std::int32_t Load(const ItemsOfRow<Kv>& row, Index split, int of_split) {
    return Load(row, split * of_split, min((split + 1) * of_split, row.count()));
  }
  __device__ std::int32_t Load(const ItemsOfRow<Kv>& row, Index first, Index last) {
    static_assert(kItemsOfSplit <= kWarp);
    if (threadIdx.x < kWarp) {
      const Index i = first + threadIdx.x;
      Item<Kv> item;
      if (threadIdx.x < kItemsOfSplit && i < last) item = row.At(i);
      const std::int32_t through = WarpSumThrough(item.keys());
      if (threadIdx.x < kItemsOfSplit) {
        items[threadIdx.x] = item;
        ends[threadIdx.x] = through;
      }
    }
    __syncthreads();
    return ends[kItemsOfSplit - 1];
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

  struct Key {
    const Kv *k, *v;
    int document;
  };
  __device__ Key At(std::int32_t key, Index head_dim, Index documents) const {
    const int which = ItemOf(key);
    const Item<Kv>& item = items[which];
    const std::int32_t at = key - Begin(which);
    const bool raw = at >= item.rows;
    const Index from = (raw ? at - item.rows : at) * head_dim;
    return {(raw ? item.raw_k : item.k) + from, (raw ? item.raw_v : item.v) + from, item.Document(at, documents)};
  }
};

// How many of a list's splits have a block of their own: so many that the device is full.
inline Index SplitsAtOnce(const CudaContext& context, Index lists, Index splits) {
  constexpr Index kBlocksOfMultiprocessor = 3;
  return std::clamp<Index>(CeilDiv(kBlocksOfMultiprocessor * context.num_multiprocessors(), lists), 1, splits);
}

// Logits of the keys of chosen chunks, for their mass: [lists, splits, kItemsOfSplit * most, heads at once]. Null:
// none.
struct KeyLogits {
  float* logits = nullptr;
  Index first_row = 0;  // of the rows whose logits are kept
  Index most = 0;       // keys of a chunk
};
// The form on tensor cores (sparse_attention_bf16.cu): KV in bf16, where TakesTensorCores. `turned` may be null.
Status LaunchTensorCoreAttention(CudaContext& context, const AttentionInputs<__nv_bfloat16>& in, Index rows,
                                 void* turned, const Partials& partials, const KeyLogits& key_logits);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_SPARSE_ATTENTION_CUH_
