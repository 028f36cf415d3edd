// SPDX-License-Identifier: Apache-2.0
// GistPrefill of the cpu backend. Each row gathers the rows it may see once, for all heads; keys and values are then
// reached through pointers, so nothing is copied and nothing invisible is read.
#include <algorithm>
#include <cmath>

#include "kernels/cpu_backend.h"

namespace unfold {
namespace {

using Index = std::int64_t;

constexpr Index kRowsPerTask = 16;

// The rows that row `i` of the sequence beginning at `begin` may see: sinks, then raw tokens of its own chunk and of
// those before, then gists. MaySee decides; the walk only leaves out what no rule can admit.
void CollectVisible(const GistPrefillArgs& args, std::span<const Index> gists, Index begin, Index i,
                    std::vector<Index>* visible) {
  visible->clear();
  if (args.rules.top_level == kRawLevel) {
    for (Index j = begin; j <= i; ++j) visible->push_back(j);
    return;
  }
  const GistToken& own = args.tokens[i];
  const auto consider = [&](Index j) {
    if (MaySee(args.rules, i - begin, j - begin, own, args.tokens[j])) visible->push_back(j);
  };
  Index sinks_end = begin;
  for (; sinks_end <= i && args.tokens[sinks_end].sink != 0; ++sinks_end) consider(sinks_end);
  Index near = i;
  while (near > sinks_end && own.chunk - args.tokens[near - 1].chunk <= args.rules.previous_chunks) --near;
  for (Index j = std::max(near, sinks_end); j <= i; ++j) {
    if (args.tokens[j].level == kRawLevel) consider(j);
  }
  for (Index j : gists) {
    if (j > i) break;
    if (j >= sinks_end) consider(j);
  }
}

}  // namespace

void CpuBackend::SoftmaxTerms(CpuScratch& scratch, Index group, Index num_keys, float scale) {
  scratch.sums.resize(static_cast<std::size_t>(group));
  for (Index g = 0; g < group; ++g) {
    scratch.sums[g] = simd_.softmax_terms(scratch.logits.data() + g * num_keys, scale, num_keys);
  }
}

void CpuBackend::SumValues(const CpuScratch& scratch, Index group, Index stride, Index head_dim, float* out) {
  std::fill(out, out + group * head_dim, 0.0F);
  simd_.weighted_sum(scratch.logits.data(), stride, group, scratch.values.data(),
                     static_cast<Index>(scratch.values.size()), head_dim, out);
  for (Index g = 0; g < group; ++g) simd_.scale(out + g * head_dim, 1.0F / scratch.sums[g], head_dim);
}

// All heads of one row, over scratch.visible.
void CpuBackend::PrefillRow(const GistPrefillArgs& args, Index row, CpuScratch& scratch) {
  const Index heads = args.q.dims[1], kv_heads = args.k.dims[1], head_dim = args.q.dims[2], group = heads / kv_heads;
  const auto num_keys = static_cast<Index>(scratch.visible.size());
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  scratch.keys.resize(scratch.visible.size());
  scratch.values.resize(scratch.visible.size());
  scratch.heads.resize(static_cast<std::size_t>(group));
  scratch.logits.resize(static_cast<std::size_t>(group * num_keys));
  for (Index kv_head = 0; kv_head < kv_heads; ++kv_head) {
    for (Index n = 0; n < num_keys; ++n) {
      const Index at = (scratch.visible[n] * kv_heads + kv_head) * head_dim;
      scratch.keys[n] = args.k.as<float>() + at;
      scratch.values[n] = args.v.as<float>() + at;
    }
    const Index first = (row * heads + kv_head * group) * head_dim;
    for (Index g = 0; g < group; ++g) scratch.heads[g] = args.q.as<float>() + first + g * head_dim;
    simd_.dots[0](scratch.heads.data(), group, scratch.keys.data(), num_keys, head_dim, scratch.logits.data(), num_keys,
                  false);
    SoftmaxTerms(scratch, group, num_keys, scale);
    SumValues(scratch, group, num_keys, head_dim, args.out.as<float>() + first);
  }
}

Status CpuBackend::DoGistPrefill(const GistPrefillArgs& args) {
  gist_rows_.clear();
  gist_begin_.assign(1, 0);
  for (std::size_t b = 0; b + 1 < args.sequence_begin.size(); ++b) {
    for (Index i = args.sequence_begin[b]; i < args.sequence_begin[b + 1]; ++i) {
      if (args.tokens[i].level != kRawLevel) gist_rows_.push_back(i);
    }
    gist_begin_.push_back(static_cast<Index>(gist_rows_.size()));
  }
  pool_.ParallelFor(args.q.dims[0], kRowsPerTask, [&](Index begin, Index end) {
    CpuScratchPool::Lease scratch(scratch_);
    const auto past = std::upper_bound(args.sequence_begin.begin(), args.sequence_begin.end(), begin);
    std::size_t b = static_cast<std::size_t>(past - args.sequence_begin.begin()) - 1;
    for (Index i = begin; i < end; ++i) {
      while (i >= args.sequence_begin[b + 1]) ++b;
      const std::span<const Index> gists(gist_rows_.data() + gist_begin_[b], gist_rows_.data() + gist_begin_[b + 1]);
      CollectVisible(args, gists, args.sequence_begin[b], i, &scratch->visible);
      PrefillRow(args, i, *scratch);
    }
  });
  return Status::Ok();
}

}  // namespace unfold
