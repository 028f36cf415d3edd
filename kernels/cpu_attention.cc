// SPDX-License-Identifier: Apache-2.0
// SparseAttention of the cpu backend: for each query row and key/value head the visible keys and values are gathered as
// pointers, in an order fixed by the row alone, then scored, weighed and summed for the G heads that share them.
#include <algorithm>
#include <cstring>

#include "kernels/cpu_backend.h"

namespace unfold {
namespace {

using Index = std::int64_t;

const float* HeadRow(const Tensor& cache, Index kv_head, Index row) {  // of [Hk, rows, D]
  return cache.as<float>() + (kv_head * cache.dims[1] + row) * cache.dims[2];
}

// Fills scratch.keys, values, spans and chunk_ends in the order of the sum: prefix, sinks, chunks, tail.
class KeyGatherer {
 public:
  KeyGatherer(const SparseAttentionArgs& args, Index row, Index kv_head, CpuScratch& scratch)
      : args_(args), kv_head_(kv_head), kv_heads_(args.tail_k.dims[0]), row_(row), scratch_(scratch) {
    scratch.keys.clear();
    scratch.values.clear();
    scratch.spans.clear();
    scratch.chunk_ends.clear();
  }

  void Gather() {
    AddOwn(args_.prefix_k, args_.prefix_v, args_.prefix_tokens);
    const std::size_t documents = args_.context == nullptr ? 0 : args_.context->segment_offset.size();
    for (std::size_t j = 0; j < documents; ++j) AddSinks(j);
    for (std::size_t j = 0; j < documents; ++j) args_.collapse ? AddGistKeys(j) : AddChosen(j);
    if (args_.collapse && documents > 0 && args_.context->gist_k.dims[1] > 0) {
      scratch_.values.push_back(HeadRow(args_.context->gist_v, kv_head_, 0));  // one value stands for all gists
    }
    AddOwn(args_.tail_k, args_.tail_v, args_.tail_begin + row_ + 1);
  }

 private:
  Index Count() const { return static_cast<Index>(scratch_.keys.size()); }
  Index Position() const { return args_.positions.as<std::int32_t>()[row_]; }

  void Add(const float* key, const float* value) {
    scratch_.keys.push_back(key);
    scratch_.values.push_back(value);
  }
  void CloseSpan(Index begin, Index position) {
    if (Count() > begin) scratch_.spans.push_back({begin, Count(), position});
  }

  void AddOwn(const Tensor& k, const Tensor& v, Index count) {
    const Index begin = Count();
    for (Index r = 0; r < count; ++r) Add(HeadRow(k, kv_head_, r), HeadRow(v, kv_head_, r));
    CloseSpan(begin, Position());
  }

  void AddSinks(std::size_t document) {
    const ContextView& context = *args_.context;
    const Index begin = Count();
    for (Index s = context.segment_sink[document]; s < context.segment_sink[document + 1]; ++s) {
      Add(HeadRow(context.sink_k, kv_head_, s), HeadRow(context.sink_v, kv_head_, s));
    }
    CloseSpan(begin, Position() - context.segment_offset[document]);
  }

  void AddGistKeys(std::size_t document) {
    const ContextView& context = *args_.context;
    const Index begin = Count();
    for (Index c = context.segment_chunk[document]; c < context.segment_chunk[document + 1]; ++c) {
      scratch_.keys.push_back(HeadRow(context.gist_k, kv_head_, c));
    }
    CloseSpan(begin, Position() - context.segment_offset[document]);
  }

  // The chosen chunks of one document, each its gist and its raw tokens; documents come in order, as chosen chunks do.
  void AddChosen(std::size_t document) {
    const ContextView& context = *args_.context;
    const Index chunks = context.gist_k.dims[1], list = row_ * kv_heads_ + kv_head_;
    if (context.segment_chunk[document] == context.segment_chunk[document + 1]) return;
    const Index begin = Count(), page_tokens = context.page_k.dims[2], head_dim = context.page_k.dims[3];
    for (; next_ < args_.counts.as<std::int32_t>()[list]; ++next_) {
      const Index c = args_.chosen.as<std::int32_t>()[list * chunks + next_];
      if (c >= context.segment_chunk[document + 1]) break;
      Add(HeadRow(context.gist_k, kv_head_, c), HeadRow(context.gist_v, kv_head_, c));
      const Index page_at = (context.chunk_page[c] * kv_heads_ + kv_head_) * page_tokens * head_dim;
      for (Index r = 0; r < context.chunk_tokens[c]; ++r) {
        Add(context.page_k.as<float>() + page_at + r * head_dim, context.page_v.as<float>() + page_at + r * head_dim);
      }
      scratch_.chunk_ends.push_back(Count());
    }
    CloseSpan(begin, Position() - context.segment_offset[document]);
  }

  const SparseAttentionArgs& args_;
  Index kv_head_;
  Index kv_heads_;
  Index row_;
  CpuScratch& scratch_;
  Index next_ = 0;  // in the list of chosen chunks
};

// Layer 0: the softmax terms of all gists become one, at the first gist's place, for the one value they share.
void CollapseGists(CpuScratch& scratch, Index group, Index gists_begin, Index num_gists) {
  const auto num_keys = static_cast<Index>(scratch.keys.size());
  for (Index g = 0; g < group; ++g) {
    float* first = scratch.logits.data() + g * num_keys + gists_begin;
    double sum = 0;
    for (Index c = 0; c < num_gists; ++c) sum += first[c];
    *first = static_cast<float>(sum);
    std::memmove(first + 1, first + num_gists,
                 static_cast<std::size_t>(num_keys - gists_begin - num_gists) * sizeof(float));
  }
}

// mass[i] = the weight that all heads of the group put on chosen chunk i.
void MassOfChunks(const CpuScratch& scratch, Index group, Index chunks_begin, double* mass) {
  const auto num_keys = static_cast<Index>(scratch.keys.size());
  Index begin = chunks_begin;
  for (std::size_t i = 0; i < scratch.chunk_ends.size(); ++i) {
    mass[i] = 0;
    for (Index g = 0; g < group; ++g) {
      double sum = 0;
      for (Index n = begin; n < scratch.chunk_ends[i]; ++n) sum += scratch.logits[g * num_keys + n];
      mass[i] += sum / scratch.sums[g];
    }
    begin = scratch.chunk_ends[i];
  }
}

}  // namespace

void CpuBackend::RotateHeads(const Tensor& q, const RopeTable& rope, Index row, Index kv_head, Index group,
                             Index position, CpuScratch& scratch) {
  const Index heads = q.dims[1], head_dim = q.dims[2], half = head_dim / 2;
  scratch.query.resize(static_cast<std::size_t>(group * head_dim));
  scratch.heads.resize(static_cast<std::size_t>(group));
  for (Index g = 0; g < group; ++g) {
    scratch.heads[g] = scratch.query.data() + g * head_dim;
    simd_.rotate[0](q.as<float>() + (row * heads + kv_head * group + g) * head_dim,
                    rope.cos.as<float>() + position * half, rope.sin.as<float>() + position * half,
                    scratch.query.data() + g * head_dim, half);
  }
}

void CpuBackend::SparseRow(const SparseAttentionArgs& args, Index row, Index kv_head, double* mass,
                           CpuScratch& scratch) {
  const Index heads = args.q.dims[1], head_dim = args.q.dims[2], group = heads / args.tail_k.dims[0];
  KeyGatherer(args, row, kv_head, scratch).Gather();
  const auto num_keys = static_cast<Index>(scratch.keys.size());
  scratch.logits.resize(static_cast<std::size_t>(group * num_keys));
  for (const CpuKeySpan& span : scratch.spans) {
    RotateHeads(args.q, args.rope, row, kv_head, group, span.position, scratch);
    simd_.dots[0](scratch.heads.data(), group, scratch.keys.data() + span.begin, span.end - span.begin, head_dim,
                  scratch.logits.data() + span.begin, num_keys, false);
  }
  SoftmaxTerms(scratch, group, num_keys, args.scale);
  const Index chunks_begin = args.prefix_tokens + (args.context == nullptr ? 0 : args.context->sink_k.dims[1]);
  if (mass != nullptr) MassOfChunks(scratch, group, chunks_begin, mass);
  const Index num_gists = args.collapse && args.context != nullptr ? args.context->gist_k.dims[1] : 0;
  if (num_gists > 0) CollapseGists(scratch, group, chunks_begin, num_gists);
  float* out = args.out.as<float>() + (row * heads + kv_head * group) * head_dim;
  SumValues(scratch, group, num_keys, head_dim, out);
  for (Index g = 0; g < group; ++g) simd_.scale(out + g * head_dim, 1.0F / scratch.sums[g], head_dim);
}

Status CpuBackend::DoSparseAttention(const SparseAttentionArgs& args) {
  UNFOLD_TRY(CheckQueryPositions("SparseAttention", args.positions, args.rope, args.context));
  const Index rows = args.q.dims[0], kv_heads = args.tail_k.dims[0];
  const Index chunks = args.context == nullptr || args.collapse ? 0 : args.context->gist_k.dims[1];
  if (chunks > 0) UNFOLD_TRY(CheckChosen(args));

  // Mass is kept apart per row and head and added up in their order, so threads do not show in its bits.
  list_begin_.assign(1, 0);
  const bool with_mass = !args.chunk_mass.empty() && chunks > 0;
  for (Index list = 0; with_mass && list < rows * kv_heads; ++list) {
    list_begin_.push_back(list_begin_.back() + args.counts.as<std::int32_t>()[list]);
  }
  list_mass_.resize(static_cast<std::size_t>(list_begin_.back()));
  const Index gists = args.context == nullptr ? 0 : args.context->gist_k.dims[1];
  const Index keys = args.prefix_tokens + args.tail_begin + rows + gists;  // roughly, for splitting the work
  Split(rows * kv_heads, keys * args.q.dims[1] / kv_heads * args.q.dims[2], [&](Index begin, Index end) {
    CpuScratchPool::Lease scratch(scratch_);
    for (Index list = begin; list < end; ++list) {
      const bool counted = with_mass && list / kv_heads >= args.mass_from;
      SparseRow(args, list / kv_heads, list % kv_heads, counted ? list_mass_.data() + list_begin_[list] : nullptr,
                *scratch);
    }
  });
  for (Index list = args.mass_from * kv_heads; with_mass && list < rows * kv_heads; ++list) {
    const auto* chosen = args.chosen.as<std::int32_t>() + list * chunks;
    for (Index i = 0; i < args.counts.as<std::int32_t>()[list]; ++i) {
      args.chunk_mass[chosen[i]] += list_mass_[list_begin_[list] + i];
    }
  }
  return Status::Ok();
}

}  // namespace unfold
