// SPDX-License-Identifier: Apache-2.0
// UnfoldCache: pages of unfolded raw KV, and the stored blocks they are unfolded from (design.md section 6). Pages are
// kept between steps and between questions, wherever a document is placed; which ones, the backend decides as it
// unfolds (PagePool), so that a step of an answer need not wait for the host.
#ifndef UNFOLD_RAG_UNFOLD_CACHE_H_
#define UNFOLD_RAG_UNFOLD_CACHE_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "model/transformer.h"
#include "rag/raw_blocks.h"
#include "store/kv_format.h"
#include "unfold/base.h"

namespace unfold {

// `source` tells stores apart: documents given with a query live in a store of their own.
struct PartKey {
  std::uint64_t source = 0;
  std::uint64_t document = 0;
  std::uint32_t part = 0;
  friend bool operator==(const PartKey&, const PartKey&) = default;
};

struct PartKeyHash {
  std::size_t operator()(const PartKey& key) const noexcept;
};

// Where a part's slots and blocks stand in the pool's tables: those of layer n follow those of layer n - 1.
struct PartPlace {
  std::int32_t first_slot = 0, slots_of_layer = 0;    // Hk rows of as many as it has chunks
  std::int32_t first_block = 0, blocks_of_layer = 0;  // one for each kChunksPerRawBlock chunks
};

// Ranges of a table.
class RangeAllocator {
 public:
  // The first of `count` that follow each other, or -1.
  std::int64_t Take(std::int64_t count);
  void Give(std::int64_t begin, std::int64_t count);
  // More at the end.
  void Grow(std::int64_t size);
  std::int64_t size() const { return size_; }

 private:
  std::map<std::int64_t, std::int64_t> free_;  // begin, count; no two touch
  std::int64_t size_ = 0;
};

// Thread-compatible.
class UnfoldCache {
 public:
  // A page holds up to `max_chunk_tokens` tokens. Budgets in bytes; each holds at least what one page or block needs.
  static Result<std::unique_ptr<UnfoldCache>> Make(Transformer& model, int max_chunk_tokens, std::uint64_t page_bytes,
                                                   std::uint64_t block_bytes);

  // A part's place, the same as last time if it is still known, and kept while it is held.
  Result<std::shared_ptr<const PartPlace>> Hold(const PartKey& key, std::int64_t num_chunks);

  // What UnfoldChunks takes. Valid until the next Hold or Keep.
  Result<PagePool> Pool();
  std::int64_t num_pages() const { return pages_k_.dims[0]; }
  std::int64_t page_tokens() const { return pages_k_.dims[1]; }
  Tensor page_k() const { return pages_k_; }  // [P, L_max, D] of the model's kv_type
  Tensor page_v() const { return pages_v_; }

  // Waits for all work. Sums are those since the last call of this.
  Result<PageCounts> TakeCounts();
  // What the last UnfoldChunks missed, as far as it could tell; indices of blocks.
  Result<std::vector<std::int32_t>> Missing(const PageCounts& counts);

  RawBlocks& blocks() { return blocks_; }

 private:
  UnfoldCache(Transformer& model, std::uint64_t block_budget, std::int64_t most_rows)
      : model_(model), blocks_(model.backend(), block_budget, most_rows) {}
  Status MakePages(int max_chunk_tokens, std::uint64_t page_bytes);
  Status GrowSlots(std::int64_t size);
  bool ForgetOldest();
  Result<std::int64_t> TakeSlots(std::int64_t count);
  Result<std::int64_t> TakeBlocks(std::int64_t count);

  struct Part {
    PartKey key;
    std::shared_ptr<PartPlace> place;
  };

  Transformer& model_;
  Buffer memory_k_, memory_v_, page_slot_, page_call_, slot_page_, counts_, missing_;
  Tensor pages_k_, pages_v_;
  RawBlocks blocks_;
  RangeAllocator slots_, block_places_;
  std::list<Part> parts_;  // the last held first
  std::unordered_map<PartKey, std::list<Part>::iterator, PartKeyHash> part_of_;
  PageCounts last_counts_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_UNFOLD_CACHE_H_
