// SPDX-License-Identifier: Apache-2.0
#include "rag/unfold_cache.h"

#include <algorithm>
#include <utility>

namespace unfold {
namespace {

constexpr std::int64_t kMostMissing = 1024;  // told at once
constexpr std::int64_t kSlotsOfPage = 8;     // known for each page before parts that nobody holds are forgotten
constexpr std::int64_t kLeastSlots = 1 << 16;
constexpr std::int64_t kLeastBlocks = 1 << 10;

Status Fill(Backend& backend, const Tensor& tensor, std::int32_t value) {
  const std::vector<std::int32_t> values(static_cast<std::size_t>(tensor.size()), value);
  return backend.Upload(tensor, values.data());
}

}  // namespace

std::int64_t RangeAllocator::Take(std::int64_t count) {
  const auto found =
      std::find_if(free_.begin(), free_.end(), [count](const auto& range) { return range.second >= count; });
  if (found == free_.end()) return -1;
  const auto [begin, size] = *found;
  free_.erase(found);
  if (size > count) free_.emplace(begin + count, size - count);
  return begin;
}

void RangeAllocator::Give(std::int64_t begin, std::int64_t count) {
  if (count == 0) return;
  auto after = free_.lower_bound(begin);
  if (after != free_.end() && after->first == begin + count) {
    count += after->second;
    after = free_.erase(after);
  }
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == begin) {
      before->second += count;
      return;
    }
  }
  free_.emplace(begin, count);
}

void RangeAllocator::Grow(std::int64_t size) {
  const std::int64_t before = std::exchange(size_, size);
  Give(before, size - before);
}

Result<std::unique_ptr<UnfoldCache>> UnfoldCache::Make(Transformer& model, int max_chunk_tokens,
                                                       const Budgets& budgets) {
  const auto most_rows = static_cast<std::int64_t>(max_chunk_tokens) * kChunksPerRawBlock;
  std::unique_ptr<UnfoldCache> cache(new UnfoldCache(model, budgets, most_rows));
  UNFOLD_TRY(cache->MakePages(max_chunk_tokens, budgets.page_bytes));
  UNFOLD_TRY(cache->GrowSlots(kLeastSlots));
  cache->blocks_.Resize(kLeastBlocks);
  cache->block_places_.Grow(kLeastBlocks);
  return cache;
}

Status UnfoldCache::MakePages(int max_chunk_tokens, std::uint64_t page_bytes) {
  Backend& backend = model_.backend();
  const DType type = model_.kv_type();
  const std::int64_t dim = model_.config().head_dim;
  const std::uint64_t half_page = std::uint64_t{DTypeBytes(type)} * static_cast<std::uint64_t>(max_chunk_tokens * dim);
  const auto num_pages =
      static_cast<std::int64_t>(std::clamp<std::uint64_t>(page_bytes / (2 * half_page), 1, INT32_MAX));
  const auto bytes = static_cast<std::size_t>(num_pages) * half_page;
  UNFOLD_TRY_ASSIGN(memory_k_, backend.Allocate(bytes));
  UNFOLD_TRY_ASSIGN(memory_v_, backend.Allocate(bytes));
  pages_k_ = memory_k_.View(type, {num_pages, max_chunk_tokens, dim});
  pages_v_ = memory_v_.View(type, {num_pages, max_chunk_tokens, dim});
  const auto table = static_cast<std::size_t>(num_pages) * sizeof(std::int32_t);
  UNFOLD_TRY_ASSIGN(page_slot_, backend.Allocate(table));
  UNFOLD_TRY_ASSIGN(page_call_, backend.Allocate(table));
  UNFOLD_TRY(Fill(backend, page_slot_.View(DType::kInt32, {num_pages}), -1));
  UNFOLD_TRY(Fill(backend, page_call_.View(DType::kInt32, {num_pages}), 0));
  UNFOLD_TRY_ASSIGN(counts_, backend.Allocate(sizeof(PageCounts)));
  const PageCounts none;
  const std::vector<PagesFound> nothing(kMostWorkingSets);
  UNFOLD_TRY_ASSIGN(found_, backend.Allocate(kMostWorkingSets * sizeof(PagesFound)));
  UNFOLD_TRY(backend.Upload(found_.View(DType::kInt8, {kMostWorkingSets, sizeof(PagesFound)}), nothing.data()));
  found_places_ = std::make_shared<RangeAllocator>();
  found_places_->Grow(kMostWorkingSets);
  UNFOLD_TRY(backend.Upload(counts_.View(DType::kInt8, {sizeof(PageCounts)}), &none));
  UNFOLD_TRY_ASSIGN(missing_, backend.Allocate(kMostMissing * sizeof(std::int32_t)));
  return Status::Ok();
}

// A larger table, with what is in the one before.
Status UnfoldCache::GrowSlots(std::int64_t size) {
  Backend& backend = model_.backend();
  std::vector<std::int32_t> pages(static_cast<std::size_t>(size), -1);
  if (slots_.size() > 0) UNFOLD_TRY(backend.Download(pages.data(), slot_page_.View(DType::kInt32, {slots_.size()})));
  UNFOLD_TRY_ASSIGN(Buffer larger, backend.Allocate(pages.size() * sizeof(std::int32_t)));
  UNFOLD_TRY(backend.Upload(larger.View(DType::kInt32, {size}), pages.data()));
  slot_page_ = std::move(larger);
  ++slot_moves_;
  slots_.Grow(size);
  return Status::Ok();
}

// Of the parts that nobody holds the one whose last question is longest ago. Its pages stay until they are taken.
bool UnfoldCache::ForgetOldest() {
  for (auto part = parts_.end(); part != parts_.begin();) {
    --part;
    if (part->place.use_count() > 1) continue;
    const PartPlace& place = *part->place;
    const std::int64_t layers = model_.config().num_layers, blocks = layers * place.blocks_of_layer;
    slots_.Give(place.first_slot, layers * place.slots_of_layer);
    block_places_.Give(place.first_block, blocks);
    for (std::int64_t i = 0; i < blocks; ++i) blocks_.Drop(static_cast<std::int32_t>(place.first_block + i));
    part_of_.erase(part->key);
    parts_.erase(part);
    return true;
  }
  return false;
}

Result<std::int64_t> UnfoldCache::TakeSlots(std::int64_t count) {
  while (true) {
    if (const std::int64_t begin = slots_.Take(count); begin >= 0) return begin;
    if (slots_.size() >= kSlotsOfPage * num_pages() && ForgetOldest()) continue;
    const std::int64_t size = std::max(2 * slots_.size(), slots_.size() + count);
    if (size > INT32_MAX) return Status::ResourceExhausted("unfolding: the documents have too many chunks");
    UNFOLD_TRY(GrowSlots(size));
  }
}

Result<std::int64_t> UnfoldCache::TakeBlocks(std::int64_t count) {
  std::int64_t begin = block_places_.Take(count);
  if (begin >= 0) return begin;
  const std::int64_t size = std::max(2 * block_places_.size(), block_places_.size() + count);
  if (size > INT32_MAX) return Status::ResourceExhausted("unfolding: the documents have too many blocks");
  blocks_.Resize(size);
  block_places_.Grow(size);
  return block_places_.Take(count);
}

Result<std::shared_ptr<const PartPlace>> UnfoldCache::Hold(const PartKey& key, std::int64_t num_chunks) {
  if (const auto known = part_of_.find(key); known != part_of_.end()) {
    parts_.splice(parts_.begin(), parts_, known->second);
    return std::shared_ptr<const PartPlace>(known->second->place);
  }
  const std::int64_t layers = model_.config().num_layers, slots = model_.config().kv_heads * num_chunks,
                     blocks = (num_chunks + kChunksPerRawBlock - 1) / kChunksPerRawBlock;
  UNFOLD_TRY_ASSIGN(const std::int64_t first_slot, TakeSlots(layers * slots));
  UNFOLD_TRY_ASSIGN(const std::int64_t first_block, TakeBlocks(layers * blocks));
  // Whose they were before has pages still, which know their slots.
  const Tensor all = slot_page_.View(DType::kInt32, {slots_.size()});
  UNFOLD_TRY(Fill(model_.backend(), all.Rows(first_slot, first_slot + layers * slots), -1));
  auto place = std::make_shared<PartPlace>();
  *place = {static_cast<std::int32_t>(first_slot), static_cast<std::int32_t>(slots),
            static_cast<std::int32_t>(first_block), static_cast<std::int32_t>(blocks)};
  parts_.push_front({key, place});
  part_of_.emplace(key, parts_.begin());
  return std::shared_ptr<const PartPlace>(std::move(place));
}

Result<PagePool> UnfoldCache::Pool() {
  PagePool pool;
  pool.page_k = pages_k_;
  pool.page_v = pages_v_;
  pool.page_slot = page_slot_.View(DType::kInt32, {num_pages()});
  pool.page_call = page_call_.View(DType::kInt32, {num_pages()});
  pool.slot_page = slot_page_.View(DType::kInt32, {slots_.size()});
  UNFOLD_TRY_ASSIGN(pool.raw, blocks_.Table());
  pool.counts = counts_.View(DType::kInt8, {sizeof(PageCounts)});
  pool.missing = missing_.View(DType::kInt32, {kMostMissing});
  return pool;
}

Status UnfoldCache::DropPages() {
  Backend& backend = model_.backend();
  PageCounts counts;
  const Tensor device = counts_.View(DType::kInt8, {sizeof(PageCounts)});
  UNFOLD_TRY(backend.Download(&counts, device));
  counts.num_used = 0, counts.next_page = 0;
  UNFOLD_TRY(backend.Upload(device, &counts));
  UNFOLD_TRY(Fill(backend, page_slot_.View(DType::kInt32, {num_pages()}), -1));
  return Fill(backend, slot_page_.View(DType::kInt32, {slots_.size()}), -1);
}

Result<std::shared_ptr<const std::size_t>> UnfoldCache::HoldFound() {
  const std::int64_t place = found_places_->Take(1);
  if (place < 0) {
    return Status::ResourceExhausted(std::to_string(kMostWorkingSets) + " questions are being answered already");
  }
  std::shared_ptr<const std::size_t> held(new std::size_t(static_cast<std::size_t>(place)),
                                          [places = found_places_](const std::size_t* own) {
                                            places->Give(static_cast<std::int64_t>(*own), 1);
                                            delete own;
                                          });
  const PagesFound none;
  UNFOLD_TRY(model_.backend().Upload(FoundAt(*held), &none));
  return held;
}

Tensor UnfoldCache::FoundAt(std::size_t place) const {
  const auto row = static_cast<std::int64_t>(place);
  return found_.View(DType::kInt8, {kMostWorkingSets, sizeof(PagesFound)})
      .Rows(row, row + 1)
      .Reshape({sizeof(PagesFound)});
}

Result<std::vector<PagesFound>> UnfoldCache::Found() const {
  std::vector<PagesFound> found(kMostWorkingSets);
  UNFOLD_TRY(
      model_.backend().Download(found.data(), found_.View(DType::kInt8, {kMostWorkingSets, sizeof(PagesFound)})));
  return found;
}

Result<PageCounts> UnfoldCache::Counts() {
  PageCounts counts;
  UNFOLD_TRY(model_.backend().Download(&counts, counts_.View(DType::kInt8, {sizeof(PageCounts)})));
  return counts;
}

Result<std::vector<std::int32_t>> UnfoldCache::Missing(const PageCounts& counts) {
  std::vector<std::int32_t> missing(static_cast<std::size_t>(std::min<std::int64_t>(counts.num_missing, kMostMissing)));
  const auto count = static_cast<std::int64_t>(missing.size());
  UNFOLD_TRY(model_.backend().Download(missing.data(), missing_.View(DType::kInt32, {count})));
  return missing;
}

}  // namespace unfold
