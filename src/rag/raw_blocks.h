// SPDX-License-Identifier: Apache-2.0
// RawBlocks: stored blocks of raw KV in host memory that operations read (design.md section 6): the tier between the
// store and the pages of the pool. Those that were brought longest ago go first. Blocks that will be read whole can be
// staged: brought to the backend's own memory beside other work.
#ifndef UNFOLD_RAG_RAW_BLOCKS_H_
#define UNFOLD_RAG_RAW_BLOCKS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "store/kv_format.h"
#include "unfold/base.h"

namespace unfold {

// Thread-compatible.
class RawBlocks {
 public:
  // `budget` bytes of host memory, and at least what one block needs; `stage_budget` of the backend's, from which two
  // sets of blocks are staged. A block has up to `most_rows` rows.
  RawBlocks(Backend& backend, std::uint64_t budget, std::uint64_t stage_budget, std::int64_t most_rows)
      : backend_(backend), budget_(budget), stage_budget_(stage_budget), most_rows_(most_rows) {}

  // How many blocks there are places for; those at new ones are not in memory.
  void Resize(std::int64_t count) {
    rows_.resize(static_cast<std::size_t>(count));
    held_.resize(rows_.size());
  }
  std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  std::uint64_t budget() const { return budget_; }

  // Copies a block to place `index`; others give way. No operation may be reading blocks.
  Status Keep(std::int32_t index, const KvView& block);
  void Drop(std::int32_t index);

  bool stages() const { return stage_budget_ > 0; }
  // Starts to stage those of `blocks` that are in host memory, if there is room; what was staged longest ago gives way.
  Status Stage(std::span<const std::int32_t> blocks);
  // A table like Table(), of which operations given from now on may read `blocks`, if they are staged: until the next
  // Stage. Not set otherwise. Adds the bytes that were brought.
  Result<Tensor> StagedTable(std::span<const std::int32_t> blocks, std::uint64_t* bytes);
  std::uint64_t num_staged() const { return num_staged_; }  // sets so far

  // The table that operations read (PagePool::raw), brought up to date on the backend.
  Result<Tensor> Table();
  std::uint64_t moves() const { return moves_; }  // of the table

 private:
  struct Held {
    std::byte* memory = nullptr;
    std::size_t bytes = 0, used = 0;
    std::list<std::int32_t>::iterator place;
  };
  struct StagedSet {
    Buffer memory;  // blocks, then a table that points to them
    Buffer host_table;
    std::vector<std::int32_t> blocks;  // that were asked for; none: nothing is staged
    std::uint64_t upload = 0, bytes = 0, order = 0;
    std::size_t table_at = 0;
    std::int64_t table_size = 0;
  };
  Status StartStaging(StagedSet& set, std::span<const std::int32_t> blocks);
  Result<std::byte*> Take(std::size_t bytes);
  std::byte* TakeFree(std::size_t bytes);
  void Change(std::int32_t index, const RawRows& rows);

  Backend& backend_;
  std::uint64_t budget_, stage_budget_, allocated_ = 0, num_staged_ = 0;
  std::int64_t most_rows_;
  std::vector<RawRows> rows_;  // by index, as the backend's table has or will have it
  std::vector<Held> held_;
  std::list<std::int32_t> order_;  // of those in memory, the latest first
  std::vector<Buffer> slabs_;
  std::size_t slab_left_ = 0;  // of the last one
  std::multimap<std::size_t, std::byte*> free_;
  std::array<StagedSet, 2> staged_;
  Buffer table_;
  std::int64_t table_size_ = 0, changed_begin_ = 0, changed_end_ = 0;
  std::uint64_t moves_ = 0;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_RAW_BLOCKS_H_
