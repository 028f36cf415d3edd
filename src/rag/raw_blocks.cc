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
  held_[index] = {memory, bytes, 2 * part + 2 * scales, order_.begin()};
  Change(index, raw);
  return Status::Ok();
}

void RawBlocks::Drop(std::int32_t index) {
  Held& held = held_[index];
  if (held.memory == nullptr) return;
  for (StagedSet& set : staged_) {
    if (std::ranges::find(set.blocks, index) != set.blocks.end()) set.blocks.clear();
  }
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

Status RawBlocks::Stage(std::span<const std::int32_t> blocks) {
  if (blocks.empty() || !stages()) return Status::Ok();
  StagedSet* set = nullptr;
  for (StagedSet& one : staged_) {
    if (std::ranges::equal(one.blocks, blocks)) return Status::Ok();
    if (set == nullptr || one.order < set->order) set = &one;
  }
  set->blocks.clear();
  const Status status = StartStaging(*set, blocks);
  // Without the memory they are read where they are.
  return status.code() == StatusCode::kResourceExhausted ? Status::Ok() : status;
}

Status RawBlocks::StartStaging(StagedSet& set, std::span<const std::int32_t> blocks) {
  std::vector<HostPiece> pieces;
  set.bytes = 0;
  for (const std::int32_t index : blocks) {
    const Held& held = held_[index];
    if (held.memory == nullptr) continue;
    pieces.push_back({held.memory, held.used, static_cast<std::size_t>(set.bytes)});
    set.bytes += held.used;  // a multiple of kAlignment
  }
  if (pieces.empty()) return Status::Ok();
  set.table_at = set.bytes;
  set.table_size = size();
  const std::size_t table_bytes = rows_.size() * sizeof(RawRows), all = set.table_at + table_bytes;
  if (all > stage_budget_ / staged_.size()) return Status::ResourceExhausted("staging: no room");
  if (all > set.memory.bytes()) {
    set.memory = Buffer();
    UNFOLD_TRY_ASSIGN(set.memory, backend_.Allocate(all + all / 8));
  }
  if (table_bytes > set.host_table.bytes()) {
    UNFOLD_TRY_ASSIGN(set.host_table, backend_.AllocateHost(table_bytes));
  }
  auto* table = static_cast<RawRows*>(set.host_table.data());
  std::copy(rows_.begin(), rows_.end(), table);
  std::size_t at = 0;
  for (const std::int32_t index : blocks) {
    const Held& held = held_[index];
    if (held.memory == nullptr) continue;
    const std::byte* to = static_cast<const std::byte*>(set.memory.data()) + at;
    const auto moved = [&](const void* part) { return to + (static_cast<const std::byte*>(part) - held.memory); };
    RawRows& rows = table[index];
    rows.k = moved(rows.k), rows.v = moved(rows.v);
    rows.k_scale = moved(rows.k_scale), rows.v_scale = moved(rows.v_scale);
    at += held.used;
  }
  pieces.push_back({table, table_bytes, set.table_at});
  UNFOLD_TRY_ASSIGN(set.upload,
                    backend_.StartUpload(set.memory.View(DType::kInt8, {static_cast<std::int64_t>(all)}), pieces));
  set.order = ++num_staged_;
  set.blocks.assign(blocks.begin(), blocks.end());
  return Status::Ok();
}

Result<Tensor> RawBlocks::StagedTable(std::span<const std::int32_t> blocks, std::uint64_t* bytes) {
  for (const StagedSet& set : staged_) {
    if (blocks.empty() || !std::ranges::equal(set.blocks, blocks)) continue;
    UNFOLD_TRY(backend_.AwaitUpload(set.upload));
    *bytes += set.bytes;
    auto* table = static_cast<std::byte*>(set.memory.data()) + set.table_at;
    return Tensor(table, DType::kInt8, {set.table_size, static_cast<std::int64_t>(sizeof(RawRows))});
  }
  return Tensor();
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
