// SPDX-License-Identifier: Apache-2.0
#include "rag/unfold_cache.h"

#include <algorithm>
#include <numeric>

namespace unfold {

std::size_t PageKeyHash::operator()(const PageKey& key) const noexcept {
  std::uint64_t hash = key.source * 0x9E3779B97F4A7C15U;
  for (const std::uint64_t word : {key.document, std::uint64_t{key.part} << 32 | key.chunk, std::uint64_t{key.layer}}) {
    hash = (hash ^ word) * 0xBF58476D1CE4E5B9U;
    hash ^= hash >> 29;
  }
  return hash;
}

Result<std::unique_ptr<UnfoldCache>> UnfoldCache::Make(Transformer& model, int max_chunk_tokens,
                                                       std::uint64_t page_bytes, std::uint64_t block_bytes) {
  std::unique_ptr<UnfoldCache> cache(new UnfoldCache(model, block_bytes));
  const ModelConfig& config = model.config();
  const std::uint64_t half_page =
      std::uint64_t{DTypeBytes(model.kv_type())} * config.kv_heads * max_chunk_tokens * config.head_dim;
  const std::uint64_t num_pages = std::clamp<std::uint64_t>(page_bytes / (2 * half_page), 1, INT32_MAX);
  UNFOLD_TRY_ASSIGN(cache->memory_k_, model.backend().Allocate(num_pages * half_page));
  UNFOLD_TRY_ASSIGN(cache->memory_v_, model.backend().Allocate(num_pages * half_page));
  const auto view = [&](const Buffer& memory) {
    return memory.View(model.kv_type(),
                       {static_cast<std::int64_t>(num_pages), config.kv_heads, max_chunk_tokens, config.head_dim});
  };
  cache->pages_k_ = view(cache->memory_k_);
  cache->pages_v_ = view(cache->memory_v_);
  cache->pages_.resize(num_pages);
  return cache;
}

std::int32_t UnfoldCache::Find(const PageKey& key, std::int32_t hint) {
  std::int32_t page = -1;
  if (hint >= 0 && pages_[hint].used && pages_[hint].key == key) {
    page = hint;
  } else if (const auto it = page_of_.find(key); it != page_of_.end()) {
    page = it->second;
  }
  if (page >= 0) pages_[page].stamp = stamp_;
  return page;
}

Result<std::int32_t> UnfoldCache::TakePage() {
  if (num_used_ < static_cast<std::int32_t>(pages_.size())) return num_used_++;
  while (!oldest_.empty() && pages_[oldest_.back().second].stamp != oldest_.back().first) oldest_.pop_back();
  if (oldest_.empty()) {
    for (std::int32_t page = 0; page < num_used_; ++page) {
      if (pages_[page].stamp != stamp_) oldest_.emplace_back(pages_[page].stamp, page);
    }
    std::sort(oldest_.rbegin(), oldest_.rend());
  }
  if (oldest_.empty()) {
    return Status::ResourceExhausted("unfolding: one layer of this question needs more than the " +
                                     std::to_string(pages_.size()) +
                                     " pages of the unfold cache; raise unfold_cache_bytes or choose fewer chunks");
  }
  const std::int32_t page = oldest_.back().second;
  oldest_.pop_back();
  if (pages_[page].used) page_of_.erase(pages_[page].key);
  pages_[page].used = false;
  return page;
}

Result<std::int32_t> UnfoldCache::Unfold(const PageKey& key, const KvView& block, std::int64_t row_begin,
                                         std::int64_t num_tokens, std::int32_t first_position) {
  UNFOLD_TRY_ASSIGN(const std::int32_t page, TakePage());
  pages_[page].stamp = stamp_;
  if (num_tokens > 0) {
    std::vector<std::int32_t> positions(static_cast<std::size_t>(num_tokens));
    std::iota(positions.begin(), positions.end(), first_position);
    const auto one_page = [page](const Tensor& pages) {
      return pages.Rows(page, page + 1).Reshape({pages.dims[1], pages.dims[2], pages.dims[3]});
    };
    UNFOLD_TRY(loader_.Load(model_, block, row_begin, positions, 0, one_page(pages_k_), one_page(pages_v_)));
  }
  pages_[page].key = key;
  pages_[page].used = true;
  page_of_[key] = page;
  return page;
}

std::shared_ptr<const RawBlock> UnfoldCache::FindBlock(const PageKey& key) {
  const auto it = blocks_.find(key);
  if (it == blocks_.end()) return nullptr;
  block_recency_.splice(block_recency_.begin(), block_recency_, it->second.place);
  return it->second.raw;
}

void UnfoldCache::KeepBlock(const PageKey& key, std::shared_ptr<const RawBlock> block) {
  if (blocks_.contains(key)) return;
  block_bytes_ += block->sealed.size();
  block_recency_.push_front(key);
  blocks_.emplace(key, Block{std::move(block), block_recency_.begin()});
  while (block_bytes_ > block_budget_ && block_recency_.size() > 1) {
    const auto oldest = blocks_.find(block_recency_.back());
    block_bytes_ -= oldest->second.raw->sealed.size();
    blocks_.erase(oldest);
    block_recency_.pop_back();
  }
}

}  // namespace unfold
