// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/prefill_plan.h"

#include <algorithm>

namespace unfold {
namespace {

using Index = std::int64_t;

// Index of the interval that holds `value`; empty intervals hold nothing.
std::size_t IntervalOf(std::span<const Index> begin, Index value) {
  return static_cast<std::size_t>(std::upper_bound(begin.begin(), begin.end(), value) - begin.begin()) - 1;
}

}  // namespace

void PrefillPlan::Build(const GistPrefillArgs& args) {
  args_ = &args;
  for (int level = 0; level < kMaxGistLevels; ++level) {
    gists_[level].clear();
    gists_begin_[level].assign(1, 0);
  }
  first_block_.assign(1, 0);
  for (std::size_t b = 0; b + 1 < args.sequence_begin.size(); ++b) {
    for (Index i = args.sequence_begin[b]; i < args.sequence_begin[b + 1]; ++i) {
      if (args.tokens[i].level != kRawLevel) gists_[args.tokens[i].level].push_back(i);
    }
    for (int level = 0; level < kMaxGistLevels; ++level) {
      gists_begin_[level].push_back(static_cast<Index>(gists_[level].size()));
    }
    const Index last = args.sequence_begin[b + 1] - 1;
    first_block_.push_back(first_block_.back() + (last < args.sequence_begin[b] ? 0 : BlocksSeen(b, last)));
  }
}

std::size_t PrefillPlan::SequenceOf(Index row) const { return IntervalOf(args_->sequence_begin, row); }
std::size_t PrefillPlan::SequenceOfBlock(Index block) const { return IntervalOf(first_block_, block); }

Index PrefillPlan::FarRow(std::size_t sequence, Index place) const {
  if (plain()) return args_->sequence_begin[sequence] + place;
  const int top = args_->rules.top_level;
  return gists_[top][gists_begin_[top][sequence] + place];
}

Index PrefillPlan::FarSeen(std::size_t sequence, Index row) const {
  if (plain()) return row - args_->sequence_begin[sequence] + 1;
  const int top = args_->rules.top_level;
  const auto first = gists_[top].begin() + gists_begin_[top][sequence];
  return std::upper_bound(first, gists_[top].begin() + gists_begin_[top][sequence + 1], row) - first;
}

// MaySee decides; the walk only leaves out what no rule can admit.
void PrefillPlan::CollectNear(std::size_t sequence, Index row, std::vector<Index>* near) const {
  const Index begin = args_->sequence_begin[sequence], far = FarSeen(sequence, row);
  const auto add_far = [&] {
    for (Index place = far / kBlock * kBlock; place < far; ++place) near->push_back(FarRow(sequence, place));
  };
  if (plain()) return add_far();

  const GistToken& own = args_->tokens[row];
  const MaskRules& rules = args_->rules;
  const auto consider = [&](Index j) {
    if (MaySee(rules, row - begin, j - begin, own, args_->tokens[j])) near->push_back(j);
  };
  Index sinks_end = begin;
  for (; sinks_end <= row && args_->tokens[sinks_end].sink != 0; ++sinks_end) consider(sinks_end);
  Index first = row;
  while (first > sinks_end && own.chunk - args_->tokens[first - 1].chunk <= rules.previous_chunks) --first;
  for (Index j = std::max(first, sinks_end); j <= row; ++j) {
    if (args_->tokens[j].level == kRawLevel) consider(j);
  }
  for (int level = 0; level < rules.top_level; ++level) {
    const auto all = gists_[level].begin();
    const auto low = all + gists_begin_[level][sequence];
    const auto past = std::upper_bound(low, all + gists_begin_[level][sequence + 1], row);
    auto at = past;
    while (at > low && own.section[level] - args_->tokens[at[-1]].section[level] <= rules.previous_chunks) --at;
    for (; at < past; ++at) consider(*at);
  }
  add_far();
}

}  // namespace unfold
