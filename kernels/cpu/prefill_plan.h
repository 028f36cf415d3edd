// SPDX-License-Identifier: Apache-2.0
// PrefillPlan: for each row of a GistPrefill call the rows it sees, as lists that cost what they hold.
//
// A sequence has *far* rows, which every row from their own on sees: its gists of the highest level (rule 3 of
// method.md section 3) or, without gists, all rows. They are cut into blocks of kBlock by their place in the sequence.
// A row sees the blocks that are complete at it, then its *near* rows: sinks, raw tokens of its chunk and those before,
// gists of lower levels in its section and those before, and the far rows past the last complete block. Both, and
// their order, depend on the sequence alone.
//
// Thread-compatible; thread-safe once built.
#ifndef UNFOLD_KERNELS_CPU_PREFILL_PLAN_H_
#define UNFOLD_KERNELS_CPU_PREFILL_PLAN_H_

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace unfold {

class PrefillPlan {
 public:
  static constexpr std::int64_t kBlock = 128;

  // `args` must outlive the use of the plan.
  void Build(const GistPrefillArgs& args);

  std::int64_t num_blocks() const { return first_block_.back(); }  // of all sequences
  std::size_t SequenceOf(std::int64_t row) const;
  std::size_t SequenceOfBlock(std::int64_t block) const;
  std::int64_t FirstBlock(std::size_t sequence) const { return first_block_[sequence]; }
  // Row of far row `place` of a sequence.
  std::int64_t FarRow(std::size_t sequence, std::int64_t place) const;
  // Complete blocks that `row` sees. Does not descend along a sequence.
  std::int64_t BlocksSeen(std::size_t sequence, std::int64_t row) const { return FarSeen(sequence, row) / kBlock; }
  // Appends the near rows of `row`.
  void CollectNear(std::size_t sequence, std::int64_t row, std::vector<std::int64_t>* near) const;

 private:
  bool plain() const { return args_->rules.top_level == kRawLevel; }
  std::int64_t FarSeen(std::size_t sequence, std::int64_t row) const;

  const GistPrefillArgs* args_ = nullptr;
  std::array<std::vector<std::int64_t>, kMaxGistLevels> gists_;        // rows by level, sequence by sequence
  std::array<std::vector<std::int64_t>, kMaxGistLevels> gists_begin_;  // where each sequence's begin in gists_
  std::vector<std::int64_t> first_block_;                              // of each sequence
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CPU_PREFILL_PLAN_H_
