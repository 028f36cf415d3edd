// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/prefill_plan.h"

#include <algorithm>

namespace unfold {
namespace {

bool IsFar(const MaskRules& rules, const GistToken& token) {
  return rules.top_level == kRawLevel || token.sink != 0 || token.level == rules.top_level;
}

}  // namespace

CudaPrefillPlan::CudaPrefillPlan(const GistPrefillArgs& args, std::int64_t tile_rows) {
  for (std::size_t b = 0; b + 1 < args.sequence_begin.size(); ++b) {
    const std::int64_t begin = args.sequence_begin[b], end = args.sequence_begin[b + 1];
    const auto far_begin = static_cast<std::int64_t>(far.size());
    for (std::int64_t first = begin; first < end; first += tile_rows) {
      const std::int64_t last = std::min(first + tile_rows, end);
      const auto far_before = static_cast<std::int64_t>(far.size());
      for (std::int64_t i = first; i < last; ++i) {
        if (IsFar(args.rules, args.tokens[i])) far.push_back(static_cast<std::int32_t>(i));
      }
      AddTile(args, begin, first, last, far_begin, far_before);
    }
  }
}

void CudaPrefillPlan::AddTile(const GistPrefillArgs& args, std::int64_t sequence_begin, std::int64_t first,
                              std::int64_t end, std::int64_t far_begin, std::int64_t far_before) {
  const auto near_begin = static_cast<std::int64_t>(near.size());
  const GistToken& own = args.tokens[first];
  // Whether the first row of the tile, and so any of it, may still reach back to this chunk or section. Neither
  // descends along a sequence.
  const auto reaches = [&](const GistToken& token) {
    return token.level == kRawLevel
               ? own.chunk - token.chunk <= args.rules.previous_chunks
               : own.section[token.level] - token.section[token.level] <= args.rules.previous_chunks;
  };
  // A gist of level n stands at most where the raw tokens of its section's first chunk do, so the walk back ends where
  // neither chunk nor any lower section is within reach.
  const auto any_reach = [&](const GistToken& token) {
    bool any = own.chunk - token.chunk <= args.rules.previous_chunks;
    for (int level = 0; level < args.rules.top_level; ++level) {
      any = any || own.section[level] - token.section[level] <= args.rules.previous_chunks;
    }
    return any;
  };
  if (args.rules.top_level != kRawLevel) {
    std::int64_t from = first;
    while (from > sequence_begin && any_reach(args.tokens[from - 1])) --from;
    for (std::int64_t j = from; j < end; ++j) {
      if (!IsFar(args.rules, args.tokens[j]) && (j >= first || reaches(args.tokens[j]))) {
        near.push_back(static_cast<std::int32_t>(j));
      }
    }
  }
  PrefillTile tile{};
  tile.first_row = static_cast<std::int32_t>(first);
  tile.rows = static_cast<std::int32_t>(end - first);
  tile.sequence_begin = static_cast<std::int32_t>(sequence_begin);
  tile.far_begin = static_cast<std::int32_t>(far_begin);
  tile.far_count = static_cast<std::int32_t>(static_cast<std::int64_t>(far.size()) - far_begin);
  tile.near_begin = static_cast<std::int32_t>(near_begin);
  tile.near_count = static_cast<std::int32_t>(static_cast<std::int64_t>(near.size()) - near_begin);
  tile.seen_keys = static_cast<std::int32_t>((far_before - far_begin) / kMaskKeys * kMaskKeys);
  tile.mask_begin = num_masks;
  num_masks += (tile.keys() - tile.seen_keys + kMaskKeys - 1) / kMaskKeys;
  tiles.push_back(tile);
}

}  // namespace unfold
