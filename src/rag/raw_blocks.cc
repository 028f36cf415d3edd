// SPDX-License-Identifier: Apache-2.0
#include "rag/raw_blocks.h"

#include <algorithm>
#include <cstring>

namespace unfold {
namespace {

constexpr std::size_t kAlignment = 256;                    // a row of a head crosses the bus in whole lines
constexpr std::size_t kSlabBytes = std::size_t{64} << 20;  // pinning memory takes a while: much at once
constexpr std::size_t kSizes = 8;                          // of memory for blocks, so that one fits in another's

constexpr std::size_t RoundUp(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

Status RawBlocks::Keep(std::int32_t index, const KvView& block) {
  Drop(index);
  const KvHeader& header = block.header;
  const std::size_t rows = header.num_rows * header.row_bytes(), part = RoundUp(rows, kAlignment),
                    scales = RoundUp(header.scale_bytes(), kAlignment);
  const std::size_t most = 2 * RoundUp(static_cast<std::size_t>(most_rows_) * header.row_bytes(), kAlignment);
  const std::size_t bytes = RoundUp(2 * part + 2 * scales, std::max(RoundUp(most / kSizes, kAlignment), kAlignment));
  UNFOLD_TRY_ASSIGN(std::byte * memory, Take(bytes));
  RawRows raw;
  raw.k = memory, raw.v = memory + part;
  raw.k_scale = memory + 2 * part, raw.v_scale = memory + 2 * part + scales;
  raw.num_rows = static_cast<std::int32_t>(header.num_rows);
  raw.dtype = header.dtype;
  std::memcpy(memory, block.k_row(0), rows);
  std::memcpy(memory + part, block.v_row(0), rows);
  std::memcpy(memory + 2 * part, block.k_scale(), header.scale_bytes());
  std::memcpy(memory + 2 * part + scales, block.v_scale(), header.scale_bytes());
  order_.push_front(index);
  held_[index] = {memory, bytes, order_.begin()};
  Change(index, raw);
  return Status::Ok();
}

void RawBlocks::Drop(std::int32_t index) {
  Held& held = held_[index];
  if (held.memory == nullptr) return;
  free_.emplace(held.bytes, held.memory);
  order_.erase(held.place);
  held = Held();
  Change(index, RawRows());
}

void RawBlocks::Change(std::int32_t index, const RawRows& rows) {
  rows_[index] = rows;
  if (changed_begin_ == changed_end_) changed_begin_ = changed_end_ = index;
  changed_begin_ = std::min<std::int64_t>(changed_begin_, index);
  changed_end_ = std::max<std::int64_t>(changed_end_, index + 1);
}

// Freed memory that is not much too large.
std::byte* RawBlocks::TakeFree(std::size_t bytes) {
  const auto found = free_.lower_bound(bytes);
  if (found == free_.end() || found->first > 2 * bytes) return nullptr;
  std::byte* memory = found->second;
  free_.erase(found);
  return memory;
}

Result<std::byte*> RawBlocks::Take(std::size_t bytes) {
  while (true) {
    if (std::byte* memory = TakeFree(bytes); memory != nullptr) return memory;
    if (slab_left_ >= bytes) break;
    const std::size_t slab = std::max(bytes, std::min<std::size_t>(kSlabBytes, budget_));
    if (allocated_ + slab <= budget_ || order_.empty()) {
      UNFOLD_TRY_ASSIGN(Buffer memory, backend_.AllocateHost(slab));
      slabs_.push_back(std::move(memory));
      allocated_ += slab;
      slab_left_ = slab;
      break;
    }
    Drop(order_.back());
  }
  auto* memory = static_cast<std::byte*>(slabs_.back().data()) + (slabs_.back().bytes() - slab_left_);
  slab_left_ -= bytes;
  return memory;
}

Result<Tensor> RawBlocks::Table() {
  const auto view = [&] { return table_.View(DType::kInt8, {size(), static_cast<std::int64_t>(sizeof(RawRows))}); };
  if (size() != table_size_) {
    UNFOLD_TRY_ASSIGN(table_, backend_.Allocate(rows_.size() * sizeof(RawRows)));
    table_size_ = size();
    ++moves_;
    changed_begin_ = 0, changed_end_ = size();
  }
  if (changed_begin_ < changed_end_) {
    UNFOLD_TRY(backend_.Upload(view().Rows(changed_begin_, changed_end_), &rows_[changed_begin_]));
    changed_begin_ = changed_end_ = 0;
  }
  return view();
}

}  // namespace unfold
