// SPDX-License-Identifier: Apache-2.0
// CudaPrefillPlan: the keys that each tile of query rows of a GistPrefill call has to look at, made on the host.
//
// A sequence has *far* rows: sinks and gists of the highest level (without gists: all rows), which every row from their
// own on sees (rules 1 and 3 of method.md section 3). A tile of rows looks at the far rows up to its last
// row, then at its *near* rows: raw tokens of the chunks, and gists of lower levels of the sections, that one of its
// rows may reach. MaySee decides each pair; the plan only leaves out what no rule can admit. Tiles begin with their
// sequence, so lists and order depend on the sequence alone. Cost: linear in rows.
#ifndef UNFOLD_KERNELS_CUDA_PREFILL_PLAN_H_
#define UNFOLD_KERNELS_CUDA_PREFILL_PLAN_H_

#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace unfold {

struct PrefillTile {
  std::int32_t first_row;  // of the call; rows of the tile are [first_row, first_row + rows)
  std::int32_t rows;
  std::int32_t sequence_begin;  // first row of the sequence
  std::int32_t far_begin, far_count;
  std::int32_t near_begin, near_count;
  // Keys that every row of the tile sees, a multiple of kMaskKeys. Of those from there on each block of kMaskKeys has a
  // mask: who sees whom, 64 bits for each row of the tile; the tile's blocks begin at mask_begin.
  std::int32_t seen_keys, mask_begin;

  std::int32_t keys() const { return far_count + near_count; }
};

struct CudaPrefillPlan {
  static constexpr std::int32_t kMaskKeys = 64;

  std::vector<PrefillTile> tiles;
  std::vector<std::int32_t> far;   // rows of the call, sequence after sequence, ascending
  std::vector<std::int32_t> near;  // tile after tile, ascending
  std::int32_t num_masks = 0;      // blocks of all tiles

  CudaPrefillPlan(const GistPrefillArgs& args, std::int64_t tile_rows);

 private:
  void AddTile(const GistPrefillArgs& args, std::int64_t sequence_begin, std::int64_t first, std::int64_t end,
               std::int64_t far_begin, std::int64_t far_before);
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_PREFILL_PLAN_H_
