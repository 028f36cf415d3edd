// SPDX-License-Identifier: Apache-2.0
// What a query row attends, on the device: the list of *items* of a row and key/value head. An item is a run of up to
// kItemRows rows of prefix, sinks, tail or, when all are read, gists; or one chosen gist and, at level 0, the raw
// tokens of its chunk.
#ifndef UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_
#define UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.cuh"

namespace unfold {

constexpr Index kItemRows = 32;
constexpr int kItemKinds = kMaxGistLevels + 3;  // prefix, sinks, gists of each level, tail
constexpr int kSinkItems = 1, kGistItems = 2, kTailItems = kGistItems + kMaxGistLevels;

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
  QueryInputs queries;
  Index kv_heads = 0;
  float scale = 1;
  HeadRows prefix, sinks, tail;
  Index prefix_tokens = 0, tail_position = 0;
  const std::int32_t* segment_sink = nullptr;
  int num_levels = 0;
  LevelInputs levels[kMaxGistLevels];
  bool choose = false;
  HeadRows pages;  // [P, Hk, stride, D]
  Index num_pages = 0;
  const std::int32_t *chunk_page = nullptr, *chunk_tokens = nullptr;
  const std::int32_t* row_documents = nullptr;

  __device__ Index documents() const { return queries.documents; }
};

struct Item {
  const float *k = nullptr, *v = nullptr, *raw_k = nullptr, *raw_v = nullptr;
  // Where the documents of a table of rows end; null: rows at global positions, which no document has.
  const std::int32_t* ends = nullptr;
  std::int32_t rows = 0, raw_rows = 0;
  std::int32_t first = 0;  // of its rows, in that table
  std::int32_t chunk = -1;

  __device__ std::int32_t keys() const { return rows + raw_rows; }
  // The document of key `i`, or `documents` at global positions.
  __device__ Index Document(std::int32_t i, Index documents) const {
    if (ends == nullptr) return documents;
    const std::int32_t row = rows == 1 ? first : first + i;  // raw tokens stand beside their gist
    return min(FirstNotBelow(ends, documents, row + 1), documents - 1);
  }
};

// The items of row t and one key/value head: those of kind n are [begin[n], begin[n + 1]).
struct ItemsOfRow {
  const AttentionInputs& in;
  Index t, kv_head, list;
  Index begin[kItemKinds + 1];
  Index sink_rows, tail_rows;

  __device__ ItemsOfRow(const AttentionInputs& inputs, Index row, Index head)
      : in(inputs), t(row), kv_head(head), list(row * inputs.kv_heads + head) {
    const Index seen = DocumentsSeen();
    sink_rows = SinkRows(seen);
    tail_rows = TailRows();
    begin[0] = 0;
    begin[kSinkItems] = CeilDiv(in.prefix_tokens, kItemRows);
    begin[kGistItems] = begin[kSinkItems] + CeilDiv(sink_rows, kItemRows);
    for (int n = 0; n < kMaxGistLevels; ++n) {
      const Index gists = n < in.num_levels ? GistsSeen(n, seen) : 0;
      begin[kGistItems + n + 1] = begin[kGistItems + n] + (in.choose ? gists : CeilDiv(gists, kItemRows));
    }
    begin[kItemKinds] = begin[kTailItems] + CeilDiv(tail_rows, kItemRows);
  }

  __device__ Index count() const { return begin[kItemKinds]; }

  __device__ Item At(Index item) const {
    if (item < begin[kSinkItems]) return Run(in.prefix, item, in.prefix_tokens, nullptr);
    if (item >= begin[kTailItems]) return Run(in.tail, item - begin[kTailItems], tail_rows, nullptr);
    if (item < begin[kGistItems]) return Run(in.sinks, item - begin[kSinkItems], sink_rows, in.segment_sink + 1);
    int n = 0;
    while (item >= begin[kGistItems + n + 1]) ++n;
    const LevelInputs& level = in.levels[n];
    const Index place = item - begin[kGistItems + n];
    if (in.choose) return Chosen(level, place, n == 0);
    return Run(level.rows, place, level.segment[DocumentsSeen()], level.segment + 1);
  }

 private:
  // Of the tail, which ends with the row's own position.
  __device__ Index TailRows() const {
    const std::int32_t position = in.queries.positions[t];
    const Index rows = position - in.tail_position + 1;
    if (rows >= 1 && rows <= in.tail.stride) return rows;
    NoteFault(in.queries.faults, FaultKind::kAttentionTail, t, position, in.tail_position + in.tail.stride - 1);
    return 0;
  }

  __device__ Index DocumentsSeen() const {
    if (in.row_documents == nullptr) return in.documents();
    const std::int32_t seen = in.row_documents[t];
    return InRange(in.queries.faults, FaultKind::kRowDocuments, t, seen, in.documents() + 1) ? seen : 0;
  }

  __device__ Index SinkRows(Index seen) const {
    if (seen == 0) return 0;
    const std::int32_t end = in.segment_sink[seen];
    return InRange(in.queries.faults, FaultKind::kAttentionSinks, seen, end, in.sinks.stride + 1) ? end : 0;
  }

  __device__ Index GistsSeen(int n, Index seen) const {
    const LevelInputs& level = in.levels[n];
    const FaultSink& faults = in.queries.faults;
    const std::int32_t end = level.segment[seen];
    if (!InRange(faults, FaultKind::kAttentionSegment, seen, end, level.rows.stride + 1)) return 0;
    if (!in.choose) return end;
    const std::int32_t count = level.counts[list];
    if (!InRange(faults, FaultKind::kChosenCounts, list, count, level.rows.stride + 1)) return 0;
    return seen == in.documents() ? count : FirstNotBelow(level.chosen + list * level.rows.stride, count, end);
  }

  __device__ void Place(const HeadRows& rows, Index row, Item* item) const {
    const Index at = (kv_head * rows.stride + row) * in.queries.head_dim;
    item->k = rows.k + at;
    item->v = rows.v + at;
    item->first = static_cast<std::int32_t>(row);
  }

  // Run `place` of the first `used` rows of a table.
  __device__ Item Run(const HeadRows& rows, Index place, Index used, const std::int32_t* ends) const {
    Item item;
    Place(rows, place * kItemRows, &item);
    item.rows = static_cast<std::int32_t>(min(kItemRows, used - place * kItemRows));
    item.ends = ends;
    return item;
  }

  __device__ Item Chosen(const LevelInputs& level, Index place, bool is_chunk) const {
    const FaultSink& faults = in.queries.faults;
    const Index at = list * level.rows.stride + place;
    const std::int32_t gist = level.chosen[at];
    if (!InRange(faults, FaultKind::kChosen, at, gist, level.rows.stride)) return {};
    if (place > 0 && level.chosen[at - 1] >= gist) {
      NoteFault(faults, FaultKind::kChosenOrder, at, gist, 0);
      return {};
    }
    Item item;
    Place(level.rows, gist, &item);
    item.rows = 1;
    item.ends = level.segment + 1;
    if (!is_chunk) return item;
    const std::int32_t page = in.chunk_page[gist], tokens = in.chunk_tokens[gist];
    if (page < 0) {
      NoteFault(faults, FaultKind::kNotUnfolded, at, gist, 0);
      return {};
    }
    if (!InRange(faults, FaultKind::kChunkPage, gist, page, in.num_pages) ||
        !InRange(faults, FaultKind::kChunkTokens, gist, tokens, in.pages.stride + 1)) {
      return {};
    }
    const Index raw = (Index{page} * in.kv_heads + kv_head) * in.pages.stride * in.queries.head_dim;
    item.raw_k = in.pages.k + raw;
    item.raw_v = in.pages.v + raw;
    item.raw_rows = tokens;
    item.chunk = gist;
    return item;
  }
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_
