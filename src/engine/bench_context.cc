// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_context.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace unfold {
namespace {

constexpr double kCopiesBytes = 256 << 20;  // all copies together have about as many, if the most allows it
constexpr double kMostCopies = 64;

// Children of the gists that stand above `below`: as many as a section has, and what is left at a document's end.
BenchTables::Level LevelAbove(const BenchTables::Level& below, std::int32_t section_size) {
  BenchTables::Level level;
  level.segment.push_back(0);
  level.child.push_back(0);
  for (std::size_t j = 0; j + 1 < below.segment.size(); ++j) {
    for (std::int32_t begin = below.segment[j]; begin < below.segment[j + 1]; begin += section_size) {
      level.child.push_back(std::min(begin + section_size, below.segment[j + 1]));
    }
    level.segment.push_back(static_cast<std::int32_t>(level.child.size()) - 1);
  }
  return level;
}

std::vector<std::int32_t> Shuffled(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
  return order;
}

}  // namespace

std::int64_t BenchTables::num_gists() const {
  std::int64_t gists = 0;
  for (const Level& level : levels) gists += level.size();
  return gists;
}

Status BenchContext::MakeTables(BenchRun& run) {
  BenchTables& tables = tables_;
  BenchTables::Level chunks;
  chunks.segment.push_back(0);
  while (tables.num_tokens < run.options().context_tokens) {
    UNFOLD_TRY(run.Check("cut documents into chunks"));
    const std::int64_t tokens = std::min(kBenchDocumentTokens, run.options().context_tokens - tables.num_tokens);
    if (!run.options().full_attention) {
      const GistSequence document = run.RandomDocument(tokens);
      tables.chunk_tokens.insert(tables.chunk_tokens.end(), document.chunk_tokens.begin(), document.chunk_tokens.end());
    }
    chunks.segment.push_back(static_cast<std::int32_t>(tables.chunk_tokens.size()));
    tables.num_tokens += tokens;
    ++tables.num_documents;
  }
  tables.levels.push_back(std::move(chunks));
  for (int level = 1; level < run.options().num_levels; ++level) {
    tables.levels.push_back(LevelAbove(tables.levels.back(), run.options().section_size));
  }
  return Status::Ok();
}

// Tables and sinks.
Status BenchContext::MakeShared(BenchRun& run, ContextView& view) const {
  RandomTensors& memory = run.memory();
  std::vector<std::int32_t> offset, sink = {0};
  for (std::int64_t j = 0; j < tables_.num_documents; ++j) {
    const std::int64_t begin = j * kBenchDocumentTokens,
                       tokens = std::min(kBenchDocumentTokens, tables_.num_tokens - begin);
    const std::int64_t sinks =
        run.options().full_attention ? tokens : std::min<std::int64_t>(tokens, run.rules().sink_size);
    offset.push_back(static_cast<std::int32_t>(begin));
    sink.push_back(sink.back() + static_cast<std::int32_t>(sinks));
  }
  UNFOLD_TRY_ASSIGN(view.segment_offset, memory.Ints(offset));
  UNFOLD_TRY_ASSIGN(view.segment_sink, memory.Ints(sink));
  view.num_levels = static_cast<int>(tables_.levels.size());
  for (int n = 0; n < view.num_levels; ++n) {
    UNFOLD_TRY_ASSIGN(view.gists[n].segment, memory.Ints(tables_.levels[n].segment));
    if (n == 0) continue;
    UNFOLD_TRY_ASSIGN(view.gists[n].child, memory.Ints(tables_.levels[n].child));
  }
  return Status::Ok();
}

// A page for every chunk and head, in no order.
Status BenchContext::MakePool(BenchRun& run) {
  RandomTensors& memory = run.memory();
  // Slots document by document, head by head. No chunk is ever without a page, so there are no raw rows.
  std::vector<ChunkPlace> places(tables_.chunk_tokens.size());
  const std::vector<std::int32_t>& segment = tables_.levels[0].segment;
  for (std::size_t j = 0; j + 1 < segment.size(); ++j) {
    for (std::int32_t chunk = segment[j]; chunk < segment[j + 1]; ++chunk) {
      ChunkPlace& place = places[chunk];
      place.slot = run.shape().kv_heads * segment[j] + chunk - segment[j];
      place.slots_of_layer = run.shape().kv_heads * (segment[j + 1] - segment[j]);
      place.tokens = tables_.chunk_tokens[chunk];
      place.document = static_cast<std::int32_t>(j);
    }
  }
  UNFOLD_TRY_ASSIGN(places_, memory.Zeros(DType::kInt8, {tables_.num_chunks(), sizeof(ChunkPlace)}));
  UNFOLD_TRY(run.backend().Upload(places_, places.data()));
  const std::int64_t pages = std::max<std::int64_t>(1, tables_.num_chunks() * run.shape().kv_heads);
  const std::int64_t page_tokens = run.rules().max_chunk_tokens(), dim = run.shape().head_dim;
  const std::vector<std::int32_t> page_of = Shuffled(pages, run.options().seed);
  std::vector<std::int32_t> slot_of(page_of.size());
  for (std::size_t slot = 0; slot < page_of.size(); ++slot) slot_of[page_of[slot]] = static_cast<std::int32_t>(slot);
  UNFOLD_TRY_ASSIGN(pool_.page_k, memory.Normal(run.context_type(), {pages, page_tokens, dim}, 1));
  UNFOLD_TRY_ASSIGN(pool_.page_v, memory.Normal(run.context_type(), {pages, page_tokens, dim}, 1));
  UNFOLD_TRY_ASSIGN(pool_.page_slot, memory.Ints(slot_of));
  UNFOLD_TRY_ASSIGN(pool_.slot_page, memory.Ints(page_of));
  UNFOLD_TRY_ASSIGN(pool_.page_call, memory.Zeros(DType::kInt32, {pages}));
  UNFOLD_TRY_ASSIGN(pool_.raw, memory.Zeros(DType::kInt8, {1, sizeof(RawRows)}));
  UNFOLD_TRY_ASSIGN(pool_.counts, memory.Zeros(DType::kInt8, {sizeof(PageCounts)}));
  UNFOLD_TRY_ASSIGN(found_, memory.Zeros(DType::kInt8, {sizeof(PagesFound)}));
  UNFOLD_TRY_ASSIGN(pool_.missing, memory.Zeros(DType::kInt32, {1}));
  PageCounts counts;
  counts.num_used = static_cast<std::int32_t>(pages);
  return run.backend().Upload(pool_.counts, &counts);
}

// How many copies there are; asks for the memory of all of it.
Result<int> BenchContext::NumCopies(const BenchRun& run) const {
  const double row_bytes = 2.0 * run.shape().kv_heads * run.shape().head_dim * DTypeBytes(run.context_type());
  const double copy_bytes = static_cast<double>(tables_.num_sinks + tables_.num_gists()) * row_bytes;
  const double page_bytes = static_cast<double>(tables_.num_chunks() * run.rules().max_chunk_tokens()) * row_bytes;
  const double copies = std::clamp(std::ceil(kCopiesBytes / copy_bytes), 1.0, kMostCopies);
  UNFOLD_TRY(run.NeedMemory(page_bytes + copies * copy_bytes));
  return static_cast<int>(copies);
}

Status BenchContext::MakeCopies(BenchRun& run, const ContextView& shared, int copies) {
  RandomTensors& memory = run.memory();
  const std::int64_t kv_heads = run.shape().kv_heads, dim = run.shape().head_dim;
  for (int copy = 0; copy < copies; ++copy) {
    UNFOLD_TRY(run.Check("make keys and values"));
    ContextView view = shared;
    UNFOLD_TRY_ASSIGN(view.sink_k, memory.Normal(run.context_type(), {kv_heads, tables_.num_sinks, dim}, 1));
    UNFOLD_TRY_ASSIGN(view.sink_v, memory.Normal(run.context_type(), {kv_heads, tables_.num_sinks, dim}, 1));
    for (int n = 0; n < view.num_levels; ++n) {
      const std::int64_t gists = tables_.levels[n].size();
      UNFOLD_TRY_ASSIGN(view.gists[n].k, memory.Normal(run.context_type(), {kv_heads, gists, dim}, 1));
      UNFOLD_TRY_ASSIGN(view.gists[n].v, memory.Normal(run.context_type(), {kv_heads, gists, dim}, 1));
    }
    copies_.push_back(view);
  }
  return Status::Ok();
}

Result<BenchContext> BenchContext::Make(BenchRun& run) {
  BenchContext context;
  UNFOLD_TRY(context.MakeTables(run));
  BenchTables& tables = context.tables_;
  const std::int64_t last = tables.num_tokens - (tables.num_documents - 1) * kBenchDocumentTokens;
  const std::int64_t sinks = run.rules().sink_size;
  tables.num_sinks =
      run.options().full_attention ? tables.num_tokens : (tables.num_documents - 1) * sinks + std::min(last, sinks);
  UNFOLD_TRY_ASSIGN(const int copies, context.NumCopies(run));
  ContextView shared;
  UNFOLD_TRY(context.MakeShared(run, shared));
  UNFOLD_TRY(context.MakePool(run));
  UNFOLD_TRY(context.MakeCopies(run, shared, copies));
  return context;
}

}  // namespace unfold
