// SPDX-License-Identifier: Apache-2.0
// What a query row attends, on the device: the list of *items* of a row and key/value head. An item is a run of rows
// that one rotation of the query serves: up to kWarp rows of prefix or tail, the sinks of one document, or one gist
// and, at level 0, the raw tokens of its chunk.
#ifndef UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_
#define UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.h"

namespace unfold {

constexpr int kKinds = kMaxGistLevels + 3;  // prefix, sinks, gists of each level, tail
constexpr int kSinks = 1, kGists = 2, kTail = kGists + kMaxGistLevels;

// Rows of every key/value head: [Hk, stride, D].
struct HeadRows {
  const float *k = nullptr, *v = nullptr;
  Index stride = 0;
};

struct LevelInputs {
  HeadRows rows;
  const std::int32_t* segment = nullptr;
  const std::int32_t* chosen = nullptr;  // [T, Hk, stride]
  const std::int32_t* counts = nullptr;
};

struct AttentionInputs {
  RotatedQueries queries;
  Index heads = 0, kv_heads = 0, head_dim = 0, documents = 0;
  float scale = 1;
  HeadRows prefix, sinks, tail;
  Index prefix_tokens = 0, tail_position = 0;
  const std::int32_t* positions = nullptr;
  const std::int32_t* segment_sink = nullptr;
  int num_levels = 0;
  LevelInputs levels[kMaxGistLevels];
  bool choose = false;
  HeadRows pages;  // [P, Hk, stride, D]
  Index num_pages = 0;
  const std::int32_t *chunk_page = nullptr, *chunk_tokens = nullptr;
  const std::int32_t* row_documents = nullptr;
  FaultSink faults;
};

// Keys and values of one item, and the document whose rotation serves them. Gists have a second run: raw tokens.
struct Item {
  const float *k = nullptr, *v = nullptr, *raw_k = nullptr, *raw_v = nullptr;
  Index rows = 0, raw_rows = 0, document = 0, chunk = -1;
};

__device__ inline Index FirstNotBelow(const std::int32_t* sorted, Index count, std::int32_t value) {
  Index low = 0;
  while (low < count) {
    const Index middle = (low + count) / 2;
    if (sorted[middle] < value)
      low = middle + 1;
    else
      count = middle;
  }
  return low;
}

// The items of row t and one key/value head: those of kind n are [begin[n], begin[n + 1]).
struct ItemsOfRow {
  const AttentionInputs& in;
  Index t, kv_head, list;
  Index begin[kKinds + 1], tail_rows;

  __device__ ItemsOfRow(const AttentionInputs& inputs, Index row, Index head)
      : in(inputs), t(row), kv_head(head), list(row * inputs.kv_heads + head) {
    const Index seen = DocumentsSeen();
    begin[0] = 0;
    begin[kSinks] = CeilDiv(in.prefix_tokens, kWarp);
    begin[kGists] = begin[kSinks] + seen;
    for (int n = 0; n < kMaxGistLevels; ++n) {
      begin[kGists + n + 1] = begin[kGists + n] + (n < in.num_levels ? GistsSeen(n, seen) : 0);
    }
    tail_rows = TailRows();
    begin[kKinds] = begin[kTail] + CeilDiv(tail_rows, kWarp);
  }

  __device__ Index count() const { return begin[kKinds]; }
  // Of the tail, which ends with the row's own position.
  __device__ Index TailRows() const {
    const Index rows = in.positions[t] - in.tail_position + 1;
    if (rows >= 1 && rows <= in.tail.stride) return rows;
    NoteFault(in.faults, FaultKind::kAttentionTail, t, in.positions[t], in.tail_position + in.tail.stride - 1);
    return 0;
  }
  __device__ Index DocumentsSeen() const {
    if (in.row_documents == nullptr) return in.documents;
    const std::int32_t seen = in.row_documents[t];
    return InRange(in.faults, FaultKind::kRowDocuments, t, seen, in.documents + 1) ? seen : 0;
  }

  __device__ Index GistsSeen(int n, Index seen) const {
    const LevelInputs& level = in.levels[n];
    const std::int32_t end = level.segment[seen];
    if (!InRange(in.faults, FaultKind::kAttentionSegment, seen, end, level.rows.stride + 1)) return 0;
    if (!in.choose) return end;
    const std::int32_t count = level.counts[list];
    if (!InRange(in.faults, FaultKind::kChosenCounts, list, count, level.rows.stride + 1)) return 0;
    return seen == in.documents ? count : FirstNotBelow(level.chosen + list * level.rows.stride, count, end);
  }

  __device__ Item At(Index item) const {
    if (item < begin[kSinks]) return Run(in.prefix, item, in.prefix_tokens);
    if (item >= begin[kTail]) return Run(in.tail, item - begin[kTail], tail_rows);
    if (item >= begin[kGists]) return GistItem(item);
    Item found;
    found.document = item - begin[kSinks];
    const std::int32_t first = in.segment_sink[found.document], end = in.segment_sink[found.document + 1];
    if (first < 0 || end < first || end > in.sinks.stride) {
      NoteFault(in.faults, FaultKind::kAttentionSinks, found.document, first, in.sinks.stride);
      return {};
    }
    Place(in.sinks, kv_head * in.sinks.stride + first, &found);
    found.rows = end - first;
    return found;
  }

 private:
  __device__ void Place(const HeadRows& rows, Index row, Item* item) const {
    item->k = rows.k + row * in.head_dim;
    item->v = rows.v + row * in.head_dim;
  }

  // Rows [place * kWarp, ...) of a cache at global positions.
  __device__ Item Run(const HeadRows& rows, Index place, Index used) const {
    Item item;
    Place(rows, kv_head * rows.stride + place * kWarp, &item);
    item.rows = min(Index{kWarp}, used - place * kWarp);
    item.document = in.documents;
    return item;
  }

  __device__ Item GistItem(Index at) const {
    int n = 0;
    while (at >= begin[kGists + n + 1]) ++n;
    const LevelInputs& level = in.levels[n];
    const Index i = at - begin[kGists + n], place = list * level.rows.stride + i;
    Index gist = i;
    if (in.choose) {
      gist = level.chosen[place];
      if (!InRange(in.faults, FaultKind::kChosen, place, level.chosen[place], level.rows.stride)) return {};
      if (i > 0 && level.chosen[place - 1] >= gist) {
        NoteFault(in.faults, FaultKind::kChosenOrder, place, level.chosen[place], 0);
        return {};
      }
    }
    Item item;
    Place(level.rows, kv_head * level.rows.stride + gist, &item);
    item.rows = 1;
    // The last document takes what segments that end too early leave: within memory, and the host made them.
    item.document =
        min(FirstNotBelow(level.segment + 1, in.documents, static_cast<std::int32_t>(gist) + 1), in.documents - 1);
    if (n > 0 || !in.choose) return item;
    item.chunk = gist;
    const std::int32_t page = in.chunk_page[gist];
    if (page < 0) {
      NoteFault(in.faults, FaultKind::kNotUnfolded, place, static_cast<std::int32_t>(gist), 0);
      return {};
    }
    const std::int32_t tokens = in.chunk_tokens[gist];
    if (!InRange(in.faults, FaultKind::kChunkPage, gist, page, in.num_pages) ||
        !InRange(in.faults, FaultKind::kChunkTokens, gist, tokens, in.pages.stride + 1)) {
      return {};
    }
    const Index first = (Index{page} * in.kv_heads + kv_head) * in.pages.stride;
    item.raw_k = in.pages.k + first * in.head_dim;
    item.raw_v = in.pages.v + first * in.head_dim;
    item.raw_rows = tokens;
    return item;
  }
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_
