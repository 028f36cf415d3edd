// SPDX-License-Identifier: Apache-2.0
// SparseAttention of the cpu backend: for each query row and key/value head the visible keys and values are gathered as
// pointers, in an order fixed by the row alone, then scored, weighed and summed for the G heads that share them.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/backend.h"

namespace unfold {
namespace {

using Index = std::int64_t;

const float* HeadRow(const Tensor& cache, Index kv_head, Index row) {  // of [Hk, rows, D]
  return cache.as<float>() + (kv_head * cache.dims[1] + row) * cache.dims[2];
}

// Fills scratch.keys, values, spans, chunks_begin, chunk_ends and level_ends in the order of the sum: prefix, sinks,
// then chosen gists of the higher levels and chosen chunks, or all gists level by level, then the tail.
class KeyGatherer {
 public:
  KeyGatherer(const SparseAttentionArgs& args, Index row, Index kv_head, CpuScratch& scratch)
      : args_(args), kv_head_(kv_head), kv_heads_(args.tail_k.dims[0]), row_(row), scratch_(scratch) {
    scratch.keys.clear();
    scratch.values.clear();
    scratch.spans.clear();
    scratch.chunk_ends.clear();
    scratch.level_ends.clear();
    if (args.context == nullptr) return;
    documents_ = args.row_documents.rank == 0 ? args.context->num_documents() : Ints(args.row_documents)[row];
  }

  void Gather() {
    AddOwn(args_.prefix_k, args_.prefix_v, args_.prefix_tokens);
    for (Index j = 0; j < documents_; ++j) AddSinks(j);
    scratch_.chunks_begin = Count();
    if (documents_ > 0) args_.read == GistRead::kChosen ? AddChosen() : AddAllGists();
    AddOwn(args_.tail_k, args_.tail_v, Position() - args_.tail_position + 1);
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
  void CloseDocument(Index begin, Index document) {
    CloseSpan(begin, Position() - Ints(args_.context->segment_offset)[document]);
  }

  void AddOwn(const Tensor& k, const Tensor& v, Index count) {
    const Index begin = Count();
    for (Index r = 0; r < count; ++r) Add(HeadRow(k, kv_head_, r), HeadRow(v, kv_head_, r));
    CloseSpan(begin, Position());
  }

  void AddSinks(Index document) {
    const ContextView& context = *args_.context;
    const Index begin = Count();
    const std::span<const std::int32_t> sink = Ints(context.segment_sink);
    for (Index s = sink[document]; s < sink[document + 1]; ++s) {
      Add(HeadRow(context.sink_k, kv_head_, s), HeadRow(context.sink_v, kv_head_, s));
    }
    CloseDocument(begin, document);
  }

  // Collapsed, one value stands for all gists of a level.
  void AddAllGists() {
    const bool collapsed = args_.read == GistRead::kCollapsed;
    for (int n = 0; n < args_.context->num_levels; ++n) {
      const GistLevel& level = args_.context->gists[n];
      const Index level_begin = Count();
      for (Index j = 0; j < documents_; ++j) {
        const Index begin = Count();
        for (Index c = Ints(level.segment)[j]; c < Ints(level.segment)[j + 1]; ++c) {
          scratch_.keys.push_back(HeadRow(level.k, kv_head_, c));
          if (!collapsed) scratch_.values.push_back(HeadRow(level.v, kv_head_, c));
        }
        CloseDocument(begin, j);
      }
      if (collapsed && Count() > level_begin) scratch_.values.push_back(HeadRow(level.v, kv_head_, 0));
      scratch_.level_ends.push_back(Count());
    }
  }

  void AddChosen() {
    if (args_.context->gists[0].k.dims[1] == 0) return;
    for (int level = args_.context->num_levels - 1; level >= 0; --level) {
      if (level == 0) scratch_.chunks_begin = Count();
      next_ = 0;
      for (Index j = 0; j < documents_; ++j) AddChosen(level, j);
    }
  }

  // The chosen gists of one level and document, each chunk's with its raw tokens. Documents come in order, as chosen
  // gists do.
  void AddChosen(int n, Index document) {
    const GistLevel& level = args_.context->gists[n];
    const ChosenGists& chosen = args_.chosen[n];
    const Index gists = level.k.dims[1], list = row_ * kv_heads_ + kv_head_, begin = Count();
    const ChosenChunk* chunks = args_.chunks.as<ChosenChunk>() + list * gists;
    for (; next_ < Ints(chosen.counts)[list]; ++next_) {
      const Index gist = n == 0 ? Index{chunks[next_].chunk} : Index{Ints(chosen.gists)[list * gists + next_]};
      if (gist >= Ints(level.segment)[document + 1]) break;
      Add(HeadRow(level.k, kv_head_, gist), HeadRow(level.v, kv_head_, gist));
      if (n == 0) AddRaw(chunks[next_]);
    }
    CloseDocument(begin, document);
  }

  void AddRaw(const ChosenChunk& chunk) {
    const Index head_dim = args_.page_k.dims[2], page_at = chunk.page * args_.page_k.dims[1] * head_dim;
    for (Index r = 0; chunk.page >= 0 && r < chunk.tokens; ++r) {
      Add(args_.page_k.as<float>() + page_at + r * head_dim, args_.page_v.as<float>() + page_at + r * head_dim);
    }
    scratch_.chunk_ends.push_back(Count());
  }

  const SparseAttentionArgs& args_;
  Index kv_head_;
  Index kv_heads_;
  Index row_;
  CpuScratch& scratch_;
  Index documents_ = 0;  // that the row sees
  Index next_ = 0;       // in the list of chosen gists of the level at hand
};

// Layer 0: the softmax terms of all gists of a level become one, at the first gist's place, for the one value they
// share. Levels are taken last first, so that those before stay where they are.
void CollapseGists(CpuScratch& scratch, Index group) {
  const auto num_keys = static_cast<Index>(scratch.keys.size());
  Index num_terms = num_keys;
  for (std::size_t n = scratch.level_ends.size(); n-- > 0;) {
    const Index begin = n == 0 ? scratch.chunks_begin : scratch.level_ends[n - 1], end = scratch.level_ends[n];
    if (begin == end) continue;
    for (Index g = 0; g < group; ++g) {
      float* terms = scratch.logits.data() + g * num_keys;
      double sum = 0;
      for (Index c = begin; c < end; ++c) sum += terms[c];
      terms[begin] = static_cast<float>(sum);
      std::memmove(terms + begin + 1, terms + end, static_cast<std::size_t>(num_terms - end) * sizeof(float));
    }
    num_terms -= end - begin - 1;
  }
}

// mass[i] = the weight that all heads of the group put on chosen chunk i.
void MassOfChunks(const CpuScratch& scratch, Index group, double* mass) {
  const auto num_keys = static_cast<Index>(scratch.keys.size());
  Index begin = scratch.chunks_begin;
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
  if (mass != nullptr) MassOfChunks(scratch, group, mass);
  if (args.read == GistRead::kCollapsed) CollapseGists(scratch, group);
  float* out = args.out.as<float>() + (row * heads + kv_head * group) * head_dim;
  SumValues(scratch, group, num_keys, head_dim, out);
  for (Index g = 0; g < group; ++g) simd_.scale(out + g * head_dim, 1.0F / scratch.sums[g], head_dim);
}

Status CpuBackend::SparseAttentionOne(const SparseAttentionArgs& args) {
  UNFOLD_TRY(TakesF32("SparseAttention", {args.tail_k}));
  UNFOLD_TRY(CheckAttention(args));
  const Index rows = args.q.dims[0], kv_heads = args.tail_k.dims[0];
  const bool chooses = args.context != nullptr && args.read == GistRead::kChosen;
  const Index chunks = chooses ? args.context->gists[0].k.dims[1] : 0;

  // The last row's, each head's list by its entries.
  list_begin_.assign(1, 0);
  const bool with_mass = args.chunk_mass.rank != 0 && chunks > 0 && rows > 0;
  const Index first_list = (rows - 1) * kv_heads;
  for (Index head = 0; with_mass && head < kv_heads; ++head) {
    list_begin_.push_back(list_begin_.back() + Ints(args.chosen[0].counts)[first_list + head]);
  }
  list_mass_.resize(static_cast<std::size_t>(list_begin_.back()));
  Index keys = args.prefix_tokens + args.tail_k.dims[1];  // roughly, for splitting the work
  if (args.context != nullptr) keys += args.context->sink_k.dims[1] + args.context->gists[0].k.dims[1];
  constexpr Index kMemoryCost = 8;  // multiply-adds in the time that a key's or value's element takes to come
  Split(rows * kv_heads, kMemoryCost * keys * args.q.dims[1] / kv_heads * args.q.dims[2], [&](Index begin, Index end) {
    CpuScratchPool::Lease scratch(scratch_);
    for (Index list = begin; list < end; ++list) {
      const Index head = list - first_list;
      SparseRow(args, list / kv_heads, list % kv_heads,
                with_mass && head >= 0 ? list_mass_.data() + list_begin_[head] : nullptr, *scratch);
    }
  });
  for (Index head = 0; with_mass && head < kv_heads; ++head) {
    const ChosenChunk* chosen = args.chunks.as<ChosenChunk>() + (first_list + head) * chunks;
    for (Index at = list_begin_[head]; at < list_begin_[head + 1]; ++at) {
      const Index chunk = chosen[at - list_begin_[head]].chunk;
      args.chunk_mass.as<float>()[head * chunks + chunk] += static_cast<float>(list_mass_[at]);
    }
  }
  return Status::Ok();
}

}  // namespace unfold
