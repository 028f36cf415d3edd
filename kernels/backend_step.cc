// SPDX-License-Identifier: Apache-2.0
// The public half of the operations of a decoding step, as backend.cc has it for the others.
#include "kernels/arg_check.h"
#include "kernels/backend.h"
#include "kernels/backend_checks.h"

namespace unfold {
namespace {

constexpr std::int64_t kAny = ArgCheck::kAny;
constexpr unsigned kF32 = ArgCheck::kF32;
constexpr unsigned kInt32 = ArgCheck::kInt32;
constexpr std::int64_t kMaxIndex = INT32_MAX;

// The one type that the KV of a call has to have: that of `first`.
unsigned KvType(ArgCheck& check, std::string_view field, const Tensor& first) {
  const unsigned type = TypeBit(first.dtype);
  check.That((type & ArgCheck::kStoredKv) != 0, field, "must be f32 or bf16");
  return type;
}

// Level `level` of the gists: keys, segments, children. Returns its number of gists.
std::int64_t CheckLevel(ArgCheck& check, const ContextView& context, int level, unsigned kv, std::int64_t kv_heads,
                        std::int64_t head_dim) {
  const GistLevel& gists = context.gists[level];
  check.Shape("context.gists.k", gists.k, kv, {kv_heads, kAny, head_dim});
  const std::int64_t count = check.ok() ? gists.k.dims[1] : 0;
  check.Shape("context.gists.segment", gists.segment, kInt32, {context.num_documents() + 1});
  if (level > 0) check.Shape("context.gists.child", gists.child, kInt32, {count + 1});
  return count;
}

// All levels, lowest first. Returns the number of chunks.
std::int64_t CheckLevels(ArgCheck& check, const ContextView& context, unsigned kv, std::int64_t kv_heads,
                         std::int64_t head_dim) {
  check.Range("context.num_levels", context.num_levels, 1, kMaxGistLevels);
  check.Shape("context.segment_offset", context.segment_offset, kInt32, {kAny});
  for (int level = 0; level < context.num_levels && check.ok(); ++level) {
    CheckLevel(check, context, level, kv, kv_heads, head_dim);
  }
  return check.ok() ? context.gists[0].k.dims[1] : 0;
}

void CheckChosenGists(ArgCheck& check, std::string_view field, const ChosenGists& chosen, std::int64_t rows,
                      std::int64_t kv_heads, std::int64_t gists) {
  check.Shape(field, chosen.gists, kInt32, {rows, kv_heads, gists});
  check.Shape("counts", chosen.counts, kInt32, {rows, kv_heads});
}

// Of gists chosen at `level`, when they are set.
void CheckChildren(ArgCheck& check, const ContextView* context, int level, const ChosenGists& chosen) {
  if (chosen.children.rank == 0 || !check.ok()) return;
  check.That(context != nullptr && level > 0 && level < context->num_levels, "children", "need a level below");
  if (!check.ok()) return;
  const auto [rows, kv_heads, unused, unused1] = chosen.gists.dims;
  check.Shape("children", chosen.children, kInt32, {rows, kv_heads, context->gists[level - 1].k.dims[1]});
  check.Shape("child_counts", chosen.child_counts, kInt32, {rows, kv_heads});
}

void CheckBest(ArgCheck& check, const Tensor& best, const Tensor& scores) {
  if (!check.ok() || best.rank == 0) return;
  const auto [rows, heads, gists, unused] = scores.dims;
  check.Shape("best", best, kF32, {rows, heads, NumBest(gists)});
}

// The parents that name candidates of `level`, when they are set.
void CheckParentGists(ArgCheck& check, const ContextView* context, int level, const ChosenGists& parents,
                      std::int64_t rows, std::int64_t kv_heads) {
  if (parents.gists.rank == 0) return;
  check.That(context != nullptr && level + 1 < context->num_levels, "parents", "need a level above");
  if (!check.ok()) return;
  CheckChosenGists(check, "parents", parents, rows, kv_heads, context->gists[level + 1].k.dims[1]);
  CheckChildren(check, context, level + 1, parents);
}

// The rest of the context: what SparseAttention reads beside gist keys. Returns the number of chunks.
std::int64_t CheckContext(ArgCheck& check, const ContextView& context, unsigned kv, std::int64_t kv_heads,
                          std::int64_t head_dim) {
  const std::int64_t chunks = CheckLevels(check, context, kv, kv_heads, head_dim);
  for (int level = 0; level < context.num_levels && check.ok(); ++level) {
    const GistLevel& gists = context.gists[level];
    check.Shape("context.gists.v", gists.v, kv, {kv_heads, gists.k.dims[1], head_dim});
  }
  check.Shape("context.sink_k", context.sink_k, kv, {kv_heads, kAny, head_dim});
  const std::int64_t sinks = check.ok() ? context.sink_k.dims[1] : 0;
  check.Shape("context.sink_v", context.sink_v, kv, {kv_heads, sinks, head_dim});
  check.Shape("context.segment_sink", context.segment_sink, kInt32, {context.num_documents() + 1});
  return chunks;
}

// A cache of rows per head, of which at least `used` exist.
void CheckRows(ArgCheck& check, std::string_view field_k, const Tensor& k, std::string_view field_v, const Tensor& v,
               unsigned kv, std::int64_t kv_heads, std::int64_t head_dim, std::int64_t used) {
  check.Shape(field_k, k, kv, {kv_heads, kAny, head_dim});
  if (!check.ok()) return;
  check.Shape(field_v, v, kv, {kv_heads, k.dims[1], head_dim});
  check.That(k.dims[1] >= used, field_k, "has fewer rows than are used");
}

void CheckAligned(ArgCheck& check, std::string_view field, const Tensor& tensor) {
  check.That(reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0, field, "must stand at a multiple of 16 bytes");
}

void CheckChosenChunks(ArgCheck& check, const Tensor& tensor, std::int64_t rows, std::int64_t kv_heads,
                       std::int64_t chunks) {
  check.Shape("chunks", tensor, TypeBit(DType::kInt8), {rows, kv_heads, chunks, sizeof(ChosenChunk)});
  CheckAligned(check, "chunks", tensor);
}

void CheckPages(ArgCheck& check, const Tensor& k, const Tensor& v, unsigned kv, std::int64_t head_dim) {
  check.Shape("page_k", k, kv, {kAny, kAny, head_dim});
  if (check.ok()) check.Shape("page_v", v, kv, {k.dims[0], k.dims[1], head_dim});
}

void CheckPool(ArgCheck& check, const PagePool& pool, std::int64_t head_dim) {
  constexpr unsigned kBytes = TypeBit(DType::kInt8);
  CheckPages(check, pool.page_k, pool.page_v, KvType(check, "page_k", pool.page_k), head_dim);
  check.Shape("page_slot", pool.page_slot, kInt32, {pool.page_k.dims[0]});
  check.Shape("page_call", pool.page_call, kInt32, {pool.page_k.dims[0]});
  check.Shape("slot_page", pool.slot_page, kInt32, {kAny});
  check.Shape("raw", pool.raw, kBytes, {kAny, sizeof(RawRows)});
  check.Shape("counts", pool.counts, kBytes, {sizeof(PageCounts)});
  check.Shape("missing", pool.missing, kInt32, {kAny});
  check.That(pool.page_k.dims[0] <= kMaxIndex && pool.slot_page.dims[0] <= kMaxIndex, "pool", "has too many pages");
  check.That(pool.page_k.dims[0] > 0 && pool.missing.dims[0] > 0, "pool", "has no page, or no place for what misses");
}

}  // namespace

Status Backend::Unfold(std::span<const UnfoldArgs> requests) {
  for (const UnfoldArgs& args : requests) UNFOLD_TRY(CheckUnfold(args));
  return DoUnfold(requests);
}

Status Backend::CheckUnfold(const UnfoldArgs& args) {
  ArgCheck check("Unfold");
  check.Shape("k", args.k, ArgCheck::kStoredKv | TypeBit(DType::kInt8), {kAny, kAny, kAny});
  const auto [rows, kv_heads, head_dim, unused] = args.k.dims;
  check.Shape("v", args.v, TypeBit(args.k.dtype), {rows, kv_heads, head_dim});
  if (args.k.dtype == DType::kInt8) {
    check.Shape("k_scale", args.k_scale, TypeBit(DType::kBF16), {kv_heads, head_dim});
    check.Shape("v_scale", args.v_scale, TypeBit(DType::kBF16), {kv_heads, head_dim});
  }
  check.Shape("positions", args.positions, kInt32, {rows});
  CheckRope(check, args.rope, head_dim);
  check.Shape("out_k", args.out_k, ArgCheck::kStoredKv, {kv_heads, kAny, head_dim});
  check.Shape("out_v", args.out_v, TypeBit(args.out_k.dtype), {kv_heads, args.out_k.dims[1], head_dim});
  check.Range("first_position", args.first_position, -1, kMaxIndex);
  if (check.ok() && args.first_position < 0) check.Range("row_begin", args.row_begin, 0, args.out_k.dims[1] - rows);
  return check.status();
}

Status Backend::CheckTurned(std::string_view op, const Tensor& turned, const Tensor& q, std::int64_t kv_heads,
                            std::int64_t documents) const {
  ArgCheck check(op);
  const auto bytes = static_cast<std::int64_t>(TurnedQueryBytes(q, kv_heads, documents));
  check.Shape("turned", turned, TypeBit(DType::kInt8), {bytes});
  CheckAligned(check, "turned", turned);
  return check.status();
}

Status Backend::GistScore(std::span<const GistScoreArgs> requests) {
  for (const GistScoreArgs& args : requests) UNFOLD_TRY(CheckGistScore(args));
  return DoGistScore(requests);
}

Status Backend::CheckGistScore(const GistScoreArgs& args) const {
  ArgCheck check("GistScore");
  check.Shape("q", args.q, kF32, {kAny, kAny, kAny}).Shape("positions", args.positions, kInt32, {args.q.dims[0]});
  const auto [rows, heads, head_dim, unused] = args.q.dims;
  CheckRope(check, args.rope, head_dim);
  check.That(args.context != nullptr, "context", "is missing");
  if (!check.ok()) return check.status();
  const std::int64_t kv_heads = args.context->gists[0].k.dims[0];
  CheckGroups(check, heads, kv_heads);
  const unsigned kv = KvType(check, "context.gists.k", args.context->gists[0].k);
  CheckLevels(check, *args.context, kv, kv_heads, head_dim);
  check.Range("level", args.level, 0, args.context->num_levels - 1);
  if (!check.ok()) return check.status();
  CheckParentGists(check, args.context, args.level, args.parents, rows, kv_heads);
  check.Shape("scores", args.scores, kF32, {rows, heads, args.context->gists[args.level].k.dims[1]});
  CheckBest(check, args.best, args.scores);
  if (check.ok() && args.turned.rank != 0) {
    UNFOLD_TRY(CheckTurned("GistScore", args.turned, args.q, kv_heads, args.context->num_documents()));
  }
  check.That(!args.is_turned || args.turned.rank != 0, "turned", "is missing");
  return check.status();
}

Status Backend::SelectChunks(std::span<const SelectChunksArgs> requests) {
  for (const SelectChunksArgs& args : requests) UNFOLD_TRY(CheckSelectChunks(args));
  return DoSelectChunks(requests);
}

Status Backend::CheckSelectChunks(const SelectChunksArgs& args) {
  ArgCheck check("SelectChunks");
  check.Shape("scores", args.scores, kF32, {kAny, kAny, kAny});
  const auto [rows, heads, gists, unused] = args.scores.dims;
  CheckGroups(check, heads, args.kv_heads);
  check.Range("level", args.level, 0, kMaxGistLevels - 1);
  CheckParentGists(check, args.context, args.level, args.parents, rows, args.kv_heads);
  if (args.parents.gists.rank != 0 && check.ok()) {
    check.Range("scores", gists, args.context->gists[args.level].k.dims[1], args.context->gists[args.level].k.dims[1]);
  }
  CheckBest(check, args.best, args.scores);
  CheckChosenGists(check, "chosen", args.chosen, rows, args.kv_heads, gists);
  CheckChildren(check, args.context, args.level, args.chosen);
  check.That(args.top_p >= 0 && args.top_p <= 1, "top_p", "must be from 0 to 1");
  if (args.top_p == 0) check.Range("top_k", args.top_k, 1, INT64_MAX);
  check.That(args.scale > 0, "scale", "must be above 0");
  return check.status();
}

Status Backend::UnfoldChunks(std::span<const UnfoldChunksArgs> requests) {
  for (const UnfoldChunksArgs& args : requests) {
    UNFOLD_TRY(CheckUnfoldChunks(args));
    ArgCheck check("UnfoldChunks");
    const UnfoldChunksArgs& first = requests.front();
    check.That(args.pool.counts.data == first.pool.counts.data, "pool", "must be the same for all requests");
    check.That(args.layer == first.layer, "layer", "must be the same for all requests");
    check.That(requests.size() == 1 || args.chosen.gists.dims[0] == 1, "chosen", "must have one row of each request");
    check.Range("chosen", args.chosen.gists.dims[1], first.chosen.gists.dims[1], first.chosen.gists.dims[1]);
    UNFOLD_TRY(check.status());
  }
  return DoUnfoldChunks(requests);
}

Status Backend::CheckUnfoldChunks(const UnfoldChunksArgs& args) {
  ArgCheck check("UnfoldChunks");
  check.Shape("chosen", args.chosen.gists, kInt32, {kAny, kAny, kAny});
  const auto [rows, kv_heads, chunks, unused] = args.chosen.gists.dims;
  check.Shape("chosen.counts", args.chosen.counts, kInt32, {rows, kv_heads});
  CheckChosenChunks(check, args.chunks, rows, kv_heads, chunks);
  CheckRope(check, args.rope, args.pool.page_k.dims[2]);
  CheckPool(check, args.pool, args.pool.page_k.dims[2]);
  check.Shape("places", args.places, TypeBit(DType::kInt8), {chunks, sizeof(ChunkPlace)});
  CheckAligned(check, "places", args.places);
  check.Shape("found", args.found, TypeBit(DType::kInt8), {sizeof(PagesFound)});
  CheckAligned(check, "found", args.found);
  check.Range("layer", args.layer, 0, kMaxIndex);
  return check.status();
}

Status Backend::SparseAttention(std::span<const SparseAttentionArgs> requests) {
  for (const SparseAttentionArgs& args : requests) UNFOLD_TRY(CheckSparseAttention(args));
  return DoSparseAttention(requests);
}

Status Backend::CheckSparseAttention(const SparseAttentionArgs& args) const {
  ArgCheck check("SparseAttention");
  check.Shape("q", args.q, kF32, {kAny, kAny, kAny}).Shape("positions", args.positions, kInt32, {args.q.dims[0]});
  const auto [rows, heads, head_dim, unused] = args.q.dims;
  CheckRope(check, args.rope, head_dim);
  check.That(args.scale > 0, "scale", "must be above 0");
  check.Range("prefix_tokens", args.prefix_tokens, 0, kMaxIndex);
  check.Range("tail_position", args.tail_position, 0, kMaxIndex);
  const std::int64_t kv_heads = args.tail_k.dims[0];
  const unsigned kv = KvType(check, "tail_k", args.tail_k);
  CheckRows(check, "tail_k", args.tail_k, "tail_v", args.tail_v, kv, kv_heads, head_dim, 0);
  CheckGroups(check, heads, kv_heads);
  if (args.prefix_tokens > 0) {
    CheckRows(check, "prefix_k", args.prefix_k, "prefix_v", args.prefix_v, kv, kv_heads, head_dim, args.prefix_tokens);
  }
  const bool with_documents = args.context != nullptr;
  const std::int64_t chunks = with_documents ? CheckContext(check, *args.context, kv, kv_heads, head_dim) : 0;
  for (int level = 0; chunks > 0 && args.read == GistRead::kChosen && level < args.context->num_levels; ++level) {
    CheckChosenGists(check, "chosen", args.chosen[level], rows, kv_heads, args.context->gists[level].k.dims[1]);
  }
  if (chunks > 0 && args.read == GistRead::kChosen) {
    CheckChosenChunks(check, args.chunks, rows, kv_heads, chunks);
    CheckPages(check, args.page_k, args.page_v, kv, head_dim);
  }
  if (args.row_documents.rank != 0) check.Shape("row_documents", args.row_documents, kInt32, {rows});
  if (args.chunk_mass.rank != 0) {
    check.That(args.read == GistRead::kChosen, "chunk_mass", "can be had with chosen gists only");
    check.Shape("chunk_mass", args.chunk_mass, kF32, {kv_heads, chunks});
  }
  check.Shape("out", args.out, kF32, {rows, heads, head_dim});
  if (check.ok() && args.turned.rank != 0) {
    check.That(with_documents, "turned", "needs a context");
    if (!check.ok()) return check.status();
    UNFOLD_TRY(CheckTurned("SparseAttention", args.turned, args.q, kv_heads, args.context->num_documents()));
  }
  return check.status();
}

}  // namespace unfold
