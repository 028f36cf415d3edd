// SPDX-License-Identifier: Apache-2.0
// What a query row attends, on the device: the list of *items* of a row and key/value head. An item is a run of up to
// kItemRows rows of prefix, tail or, when all are read, gists, or of up to kSinkRows sinks; up to ChosenRows chosen
// gists of a level above 0; or one of level 0 and the raw tokens of its chunk.
#ifndef UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_
#define UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.cuh"

namespace unfold {

// Rows of a run: as many as a tile on tensor cores has; with KV in f32 about as many as a chosen chunk.
template <typename Kv>
constexpr Index kItemRows = sizeof(Kv) == sizeof(float) ? 8 : 16;
// Sinks are of a document each, or nearly: on tensor cores, where a tile meets one document's queries after another's,
// a run's work grows with its documents.
template <typename Kv>
constexpr Index kSinkRows = sizeof(Kv) == sizeof(float) ? kItemRows<Kv> : 4;
// Of `chosen` gists of a level above 0, each from a place of its own, a run has as many as a tile, or one where
// neighbours are mostly of different documents. 4,400 and 450 of 512 documents (H200, attending included): runs of
// sixteen 62 and 25 us, of four 65 and 24, of one 80 and 22.
constexpr Index kChosenOfDocument = 4;
template <typename Kv>
__host__ __device__ constexpr Index ChosenRows(Index chosen, Index documents) {
  return sizeof(Kv) == sizeof(float) || chosen < kChosenOfDocument * documents ? 1 : kItemRows<Kv>;
}
constexpr int kItemKinds = kMaxGistLevels + 3;  // prefix, sinks, gists of each level, tail
constexpr int kSinkItems = 1, kGistItems = 2, kTailItems = kGistItems + kMaxGistLevels;

// Rows of every key/value head: [Hk, stride, D]. `Kv` is the type of keys and values.
template <typename Kv>
struct HeadRows {
  const Kv *k = nullptr, *v = nullptr;
  Index stride = 0;
};

template <typename Kv>
struct LevelInputs {
  HeadRows<Kv> rows;
  const std::int32_t* segment = nullptr;
  const std::int32_t* chosen = nullptr;  // [T, Hk, stride]
  const std::int32_t* counts = nullptr;
};

template <typename Kv>
struct AttentionInputs {
  QueryInputs queries;
  Index kv_heads = 0;
  float scale = 1;
  bool vectors = false;  // keys and values can be loaded 16 bytes at a time
  HeadRows<Kv> prefix, sinks, tail;
  Index prefix_tokens = 0, tail_position = 0;
  const std::int32_t* segment_sink = nullptr;
  int num_levels = 0;
  LevelInputs<Kv> levels[kMaxGistLevels];
  bool choose = false;
  HeadRows<Kv> pages;  // [P, stride, D]
  Index num_pages = 0;
  const ChosenChunk* chunks = nullptr;  // level 0's chosen, [T, Hk, stride]

  const std::int32_t* row_documents = nullptr;

  __device__ Index documents() const { return queries.documents; }
};

template <typename Kv>
struct Item {
  const Kv *k = nullptr, *v = nullptr, *raw_k = nullptr, *raw_v = nullptr;
  // Where the documents of a table of rows end, for a run of several rows; null: all of one document.
  const std::int32_t* ends = nullptr;
  std::int32_t rows = 0, raw_rows = 0;
  const std::int32_t* places = nullptr;  // of its rows in that table; null: one behind the other
  std::int32_t first = 0;                // of its rows, in that table
  std::int32_t document = 0;  // when there is one; as many as there are: rows at global positions, which none has
  std::int32_t chunk = -1;

  __device__ std::int32_t keys() const { return rows + raw_rows; }
  // Of key `i`, one of `rows`, in rows behind `k` and `v`.
  __device__ std::int32_t RowOf(std::int32_t i) const { return places == nullptr ? i : places[i]; }
  // The document of key `i`.
  __device__ int Document(std::int32_t i, Index documents) const {
    if (ends == nullptr) return document;
    return static_cast<int>(min(FirstNotBelow(ends, documents, first + RowOf(i) + 1), documents - 1));
  }
};

struct NoWait {
  __device__ void operator()() const {}
};
struct WaitHere {
  __device__ void operator()() const { WaitForWorkBefore(); }
};
struct WaitWithThis {
  __device__ void operator()() const { WaitForWorkBefore<WorkAfter::kWithThis>(); }
};

// The items of row t and one key/value head: those of kind n are [begin[n], begin[n + 1]).
template <typename Kv>
struct ItemsOfRow {
  const AttentionInputs<Kv>& in;
  Index kv_head, list;
  Index begin[kItemKinds + 1];
  Index sink_rows, tail_rows, seen;

  // What is loaded is loaded together, then checked. `wait` is called before what work just before may have written.
  template <typename Wait>
  __device__ ItemsOfRow(const AttentionInputs<Kv>& inputs, Index row, Index head, Wait wait)
      : in(inputs), kv_head(head), list(row * inputs.kv_heads + head) {
    const FaultSink& faults = in.queries.faults;
    const std::int32_t position = in.queries.positions[row];
    seen = in.documents();
    if (in.row_documents != nullptr) {
      const std::int32_t documents = in.row_documents[row];
      seen = InRange(faults, FaultKind::kRowDocuments, row, documents, in.documents() + 1) ? documents : 0;
    }
    const std::int32_t sink_end = seen > 0 ? in.segment_sink[seen] : 0;
    std::int32_t ends[kMaxGistLevels], counts[kMaxGistLevels];
#pragma unroll
    for (int n = 0; n < kMaxGistLevels; ++n) {
      ends[n] = n < in.num_levels ? in.levels[n].segment[seen] : 0;
    }
    wait();
#pragma unroll
    for (int n = 0; n < kMaxGistLevels; ++n) {
      counts[n] = n < in.num_levels && in.choose ? in.levels[n].counts[list] : 0;
    }
    sink_rows = InRange(faults, FaultKind::kAttentionSinks, seen, sink_end, in.sinks.stride + 1) ? sink_end : 0;
    // Of the tail, which ends with the row's own position.
    tail_rows = position - in.tail_position + 1;
    if (tail_rows < 1 || tail_rows > in.tail.stride) {
      NoteFault(faults, FaultKind::kAttentionTail, row, position, in.tail_position + in.tail.stride - 1);
      tail_rows = 0;
    }
    begin[0] = 0;
    begin[kSinkItems] = CeilDiv(in.prefix_tokens, kItemRows<Kv>);
    begin[kGistItems] = begin[kSinkItems] + CeilDiv(sink_rows, kSinkRows<Kv>);
#pragma unroll
    for (int n = 0; n < kMaxGistLevels; ++n) {
      const Index gists = n < in.num_levels ? GistsSeen(n, ends[n], counts[n]) : 0;
      chosen_[n] = gists;
      const Index of_item = !in.choose ? kItemRows<Kv> : n == 0 ? 1 : ChosenRows<Kv>(gists, in.documents());
      begin[kGistItems + n + 1] = begin[kGistItems + n] + CeilDiv(gists, of_item);
    }
    begin[kItemKinds] = begin[kTailItems] + CeilDiv(tail_rows, kItemRows<Kv>);
  }

  __device__ Index count() const { return begin[kItemKinds]; }
  // Items of gists, and the others, which are prefix, sinks and tail.
  __device__ Index gist_items() const { return begin[kTailItems] - begin[kGistItems]; }
  __device__ Index OtherItem(Index i) const {
    return i < begin[kGistItems] ? i : begin[kTailItems] + i - begin[kGistItems];
  }

  __device__ Item<Kv> At(Index item) const {
    const auto global = static_cast<std::int32_t>(in.documents());
    if (item < begin[kSinkItems]) return Run(in.prefix, item, kItemRows<Kv>, in.prefix_tokens, nullptr, global);
    if (item >= begin[kTailItems]) {
      return Run(in.tail, item - begin[kTailItems], kItemRows<Kv>, tail_rows, nullptr, global);
    }
    if (item < begin[kGistItems]) {
      return Run(in.sinks, item - begin[kSinkItems], kSinkRows<Kv>, sink_rows, in.segment_sink + 1, 0);
    }
    int n = 0;
#pragma unroll
    for (int level = 1; level < kMaxGistLevels; ++level) n += item >= begin[kGistItems + level] ? 1 : 0;
    const LevelInputs<Kv>& level = in.levels[n];
    Index first = begin[kGistItems];
#pragma unroll
    for (int above = 1; above < kMaxGistLevels; ++above) first = above <= n ? begin[kGistItems + above] : first;
    if (in.choose) return n == 0 ? Chunk(item - first) : ChosenRun(n, item - first);
    return Run(level.rows, item - first, kItemRows<Kv>, level.segment[seen], level.segment + 1, 0);
  }

 private:
  Index chosen_[kMaxGistLevels];  // of each level, or, when all are read, as many as there are

  __device__ Index GistsSeen(int n, std::int32_t end, std::int32_t count) const {
    const LevelInputs<Kv>& level = in.levels[n];
    const FaultSink& faults = in.queries.faults;
    if (!InRange(faults, FaultKind::kAttentionSegment, seen, end, level.rows.stride + 1)) return 0;
    if (!in.choose) return end;
    if (!InRange(faults, FaultKind::kChosenCounts, list, count, level.rows.stride + 1)) return 0;
    return seen == in.documents() ? count : FirstNotBelow(level.chosen + list * level.rows.stride, count, end);
  }

  __device__ void Place(const HeadRows<Kv>& rows, Index row, Item<Kv>* item) const {
    const Index at = (kv_head * rows.stride + row) * in.queries.head_dim;
    item->k = rows.k + at;
    item->v = rows.v + at;
    item->first = static_cast<std::int32_t>(row);
  }

  // Run `place`, of `most` rows, of the first `used` rows of a table.
  __device__ Item<Kv> Run(const HeadRows<Kv>& rows, Index place, Index most, Index used, const std::int32_t* ends,
                          std::int32_t document) const {
    Item<Kv> item;
    Place(rows, place * most, &item);
    item.rows = static_cast<std::int32_t>(min(most, used - place * most));
    item.ends = ends;
    item.document = document;
    return item;
  }

  // Notes, as `chosen` or `order`, what does not exist or ascend.
  __device__ bool GoodGist(const LevelInputs<Kv>& level, Index at, std::int32_t before, std::int32_t gist,
                           FaultKind chosen, FaultKind order) const {
    if (!InRange(in.queries.faults, chosen, at, gist, level.rows.stride)) return false;
    if (before < gist) return true;
    NoteFault(in.queries.faults, order, at, gist, 0);
    return false;
  }

  __device__ Item<Kv> ChosenRun(int n, Index run) const {
    const LevelInputs<Kv>& level = in.levels[n];
    Index gists = chosen_[0];
#pragma unroll
    for (int above = 1; above < kMaxGistLevels; ++above) gists = above <= n ? chosen_[above] : gists;
    const Index rows = ChosenRows<Kv>(gists, in.documents()), place = run * rows;
    const Index at = list * level.rows.stride + place;
    const auto used = static_cast<std::int32_t>(min(rows, gists - place));
    std::int32_t before = place > 0 ? level.chosen[at - 1] : -1;
    Item<Kv> item;
    for (std::int32_t i = 0; i < used; ++i) {
      const std::int32_t gist = level.chosen[at + i];
      if (!GoodGist(level, at + i, before, gist, FaultKind::kChosen, FaultKind::kChosenOrder)) return item;
      before = gist;
    }
    item.rows = used;
    if (rows == 1) {
      const Index document = FirstNotBelow(level.segment + 1, in.documents(), before + 1);
      item.document = static_cast<std::int32_t>(min(document, in.documents() - 1));
      Place(level.rows, before, &item);
      return item;
    }
    Place(level.rows, 0, &item);
    item.places = level.chosen + at;
    item.ends = level.segment + 1;
    return item;
  }

  // All that is to be known of a chunk is one load.
  __device__ Item<Kv> Chunk(Index place) const {
    const FaultSink& faults = in.queries.faults;
    const LevelInputs<Kv>& level = in.levels[0];
    const Index at = list * level.rows.stride + place;
    const int4 chunk = *reinterpret_cast<const int4*>(in.chunks + at);
    const std::int32_t before = place > 0 ? in.chunks[at - 1].chunk : -1;
    const std::int32_t page = chunk.y, tokens = chunk.z, document = chunk.w;
    Item<Kv> item;
    if (!GoodGist(level, at, before, chunk.x, FaultKind::kChunks, FaultKind::kChunkOrder)) return item;
    if (!InRange(faults, FaultKind::kChunkDocument, at, document, in.documents())) return item;
    Place(level.rows, chunk.x, &item);
    item.rows = 1;
    item.document = document;
    item.chunk = chunk.x;
    if (page < 0) return item;  // left out: its gist alone
    if (!InRange(faults, FaultKind::kPages, at, page, in.num_pages) ||
        !InRange(faults, FaultKind::kChunkTokens, at, tokens, in.pages.stride + 1)) {
      return {};
    }
    const Index raw = Index{page} * in.pages.stride * in.queries.head_dim;
    item.raw_k = in.pages.k + raw;
    item.raw_v = in.pages.v + raw;
    item.raw_rows = tokens;
    return item;
  }
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_ATTENTION_ITEMS_CUH_
