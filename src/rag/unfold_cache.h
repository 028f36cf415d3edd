// SPDX-License-Identifier: Apache-2.0
// UnfoldCache: what stays in memory of documents (design.md section 6): pages of unfolded raw KV, the stored blocks
// they are unfolded from, and gists. Pages are kept between steps and between questions, wherever a document is placed;
// which ones, the backend decides as it unfolds (PagePool), so that a step of an answer need not wait for the host.
#ifndef UNFOLD_RAG_UNFOLD_CACHE_H_
#define UNFOLD_RAG_UNFOLD_CACHE_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "model/transformer.h"
#include "rag/gist_cache.h"
#include "rag/part_key.h"
#include "rag/raw_blocks.h"
#include "store/kv_format.h"
#include "unfold/base.h"

namespace unfold {

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
  // A page holds up to `max_chunk_tokens` tokens. Pages and blocks have at least the memory that one needs.
  struct Budgets {
    std::uint64_t page_bytes = 0, block_bytes = 0, gist_bytes = 0;
    std::uint64_t stage_bytes = 0;  // of the backend's memory, for blocks of the next layers (StageBytes)
  };
  // What suits the backend.
  static std::uint64_t StageBytes(const Backend& backend) {
    return backend.UploadsAhead() ? std::uint64_t{1} << 30 : 0;
  }
  static Result<std::unique_ptr<UnfoldCache>> Make(Transformer& model, int max_chunk_tokens, const Budgets& budgets);

  // A part's place, the same as last time if it is still known, and kept while it is held.
  Result<std::shared_ptr<const PartPlace>> Hold(const PartKey& key, std::int64_t num_chunks);

  // What UnfoldChunks takes. Valid until the next Hold or Keep.
  Result<PagePool> Pool();
  std::int64_t num_pages() const { return pages_k_.dims[0]; }
  std::int64_t page_tokens() const { return pages_k_.dims[1]; }
  Tensor page_k() const { return pages_k_; }  // [P, L_max, D] of the model's kv_type
  Tensor page_v() const { return pages_v_; }

  // Forgets all pages; their chunks are unfolded again when they are next chosen. Waits for all work.
  Status DropPages();

  // A place for what calls find for a working set, kept while it is held; zeros at first. ResourceExhausted when there
  // are kMostWorkingSets.
  Result<std::shared_ptr<const std::size_t>> HoldFound();
  Tensor FoundAt(std::size_t place) const;  // int8 [sizeof(PagesFound)]
  // Of all places. Waits for all work.
  Result<std::vector<PagesFound>> Found() const;
  // How often tables have moved that UnfoldChunks reads.
  std::uint64_t moves() const { return slot_moves_ + blocks_.moves(); }

  // Waits for all work.
  Result<PageCounts> Counts();
  // What the last UnfoldChunks missed, as far as it could tell; indices of blocks.
  Result<std::vector<std::int32_t>> Missing(const PageCounts& counts);

  RawBlocks& blocks() { return blocks_; }
  GistCache& gists() { return gists_; }

 private:
  UnfoldCache(Transformer& model, const Budgets& budgets, std::int64_t most_rows)
      : model_(model),
        blocks_(model.backend(), budgets.block_bytes, budgets.stage_bytes, most_rows),
        gists_(budgets.gist_bytes) {}
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
  static constexpr std::size_t kMostWorkingSets = 256;

  Buffer memory_k_, memory_v_, page_slot_, page_call_, slot_page_, counts_, missing_, found_;
  Tensor pages_k_, pages_v_;
  RawBlocks blocks_;
  GistCache gists_;
  RangeAllocator slots_, block_places_;
  std::uint64_t slot_moves_ = 0;
  std::shared_ptr<RangeAllocator> found_places_;  // whoever holds a place may outlive us
  std::list<Part> parts_;                         // the last held first
  std::unordered_map<PartKey, std::list<Part>::iterator, PartKeyHash> part_of_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_UNFOLD_CACHE_H_
