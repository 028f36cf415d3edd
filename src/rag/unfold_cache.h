// SPDX-License-Identifier: Apache-2.0
// UnfoldCache: pages of unfolded raw KV, and the stored blocks they are unfolded from (design.md section 6).
//
// A page holds the raw tokens of one chunk of one layer, keys rotated to positions inside their own document, so it is
// valid wherever that document is placed: pages are kept between steps and between questions, least recently used first
// to go. Blocks are raw KV records as stored, kept so that a chunk beside one already unfolded costs no read.
#ifndef UNFOLD_RAG_UNFOLD_CACHE_H_
#define UNFOLD_RAG_UNFOLD_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/transformer.h"
#include "rag/kv_rows.h"
#include "store/kv_format.h"
#include "unfold/base.h"

namespace unfold {

// A stored block, checked and opened once.
struct RawBlock {
  std::string sealed;
  KvView view;  // into `sealed`
};

// One chunk of one layer. `source` tells stores apart: documents given with a query live in a store of their own.
struct PageKey {
  std::uint64_t source = 0;
  std::uint64_t document = 0;
  std::uint32_t part = 0;
  std::uint32_t chunk = 0;
  std::uint16_t layer = 0;
  friend bool operator==(const PageKey&, const PageKey&) = default;
};

struct PageKeyHash {
  std::size_t operator()(const PageKey& key) const noexcept;
};

// Thread-compatible.
class UnfoldCache {
 public:
  // A page holds up to `max_chunk_tokens` tokens. Budgets in bytes; each holds at least what one page or block needs.
  static Result<std::unique_ptr<UnfoldCache>> Make(Transformer& model, int max_chunk_tokens, std::uint64_t page_bytes,
                                                   std::uint64_t block_bytes);

  // Starts the chunks of one attention operation: pages touched from here on stay until the next call.
  void BeginOperation() { ++stamp_; }
  // The page of `key`, or -1. `hint` is where it was last time.
  std::int32_t Find(const PageKey& key, std::int32_t hint);
  // Unfolds rows [row_begin, row_begin + num_tokens) of `block` into a page, evicting the least recently used one if
  // need be. ResourceExhausted when every page belongs to the current operation.
  Result<std::int32_t> Unfold(const PageKey& key, const KvView& block, std::int64_t row_begin, std::int64_t num_tokens,
                              std::int32_t first_position);

  // A stored block by its place (PageKey with the block's number as chunk), or null.
  std::shared_ptr<const RawBlock> FindBlock(const PageKey& key);
  void KeepBlock(const PageKey& key, std::shared_ptr<const RawBlock> block);

  Tensor page_k() const { return pages_k_; }  // [P, Hk, L_max, D] of the model's kv_type
  Tensor page_v() const { return pages_v_; }

 private:
  UnfoldCache(Transformer& model, std::uint64_t block_budget) : model_(model), block_budget_(block_budget) {}
  Result<std::int32_t> TakePage();

  struct Page {
    PageKey key;
    std::uint64_t stamp = 0;  // operation that touched it last
    bool used = false;
  };
  struct Block {
    std::shared_ptr<const RawBlock> raw;
    std::list<PageKey>::iterator place;
  };

  Transformer& model_;
  Buffer memory_k_, memory_v_;
  Tensor pages_k_, pages_v_;
  std::vector<Page> pages_;
  // Pages that were touched longest ago, the oldest last, with the stamps they had then: those touched since are passed
  // over. Made anew when it is used up, so that touching a page costs a store and no list is walked.
  std::vector<std::pair<std::uint64_t, std::int32_t>> oldest_;
  std::int32_t num_used_ = 0;
  std::unordered_map<PageKey, std::int32_t, PageKeyHash> page_of_;
  std::uint64_t stamp_ = 0;
  KvLoader loader_;

  std::uint64_t block_budget_ = 0;
  std::uint64_t block_bytes_ = 0;
  std::unordered_map<PageKey, Block, PageKeyHash> blocks_;
  std::list<PageKey> block_recency_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_UNFOLD_CACHE_H_
