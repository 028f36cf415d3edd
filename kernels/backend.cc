// SPDX-License-Identifier: Apache-2.0
// The public half of every op: shapes, types and ranges, in the words of backend.h. Values inside tensors may lie on a
// device; backends check those.
#include "kernels/backend.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "kernels/arg_check.h"
#include "kernels/cpu/isa.h"

namespace unfold {
namespace {

constexpr std::int64_t kAny = ArgCheck::kAny;
constexpr unsigned kF32 = ArgCheck::kF32;
constexpr unsigned kInt32 = ArgCheck::kInt32;
constexpr unsigned kActivation = ArgCheck::kActivation;
constexpr std::int64_t kMaxIndex = INT32_MAX;

#if defined(UNFOLD_WITH_CUDA)
constexpr std::string_view kBackends = "ref, cpu, cuda";
#else
constexpr std::string_view kBackends = "ref, cpu (cuda: configure with -DUNFOLD_WITH_CUDA=ON)";
#endif

void CheckRope(ArgCheck& check, const RopeTable& rope, std::int64_t head_dim) {
  check.That(head_dim > 0 && head_dim % 2 == 0, "D", "must be even and above 0");
  check.Shape("rope.cos", rope.cos, kF32, {kAny, head_dim / 2});
  check.Shape("rope.sin", rope.sin, kF32, {rope.cos.dims[0], head_dim / 2});
}

void CheckGroups(ArgCheck& check, std::int64_t heads, std::int64_t kv_heads) {
  check.That(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "H", "must be a multiple of Hk, both above 0");
}

// Sequences are whole, chunks do not descend, sinks stand first, levels are known.
void CheckSequences(ArgCheck& check, const GistPrefillArgs& args, std::int64_t rows) {
  check.Range("tokens", static_cast<std::int64_t>(args.tokens.size()), rows, rows);
  check.That(!args.sequence_begin.empty(), "sequence_begin", "is empty");
  check.Bounds("sequence_begin", args.sequence_begin, static_cast<std::int64_t>(args.sequence_begin.size()) - 1, rows);
  check.Range("rules.top_level", args.rules.top_level, kRawLevel, kMaxGistLevels - 1);
  check.Range("rules.previous_chunks", args.rules.previous_chunks, 0, kMaxIndex);
  for (std::size_t b = 0; check.ok() && b + 1 < args.sequence_begin.size(); ++b) {
    for (std::int64_t i = args.sequence_begin[b]; i < args.sequence_begin[b + 1] && check.ok(); ++i) {
      const GistToken& token = args.tokens[i];
      check.Range("tokens.level", token.level, kRawLevel, args.rules.top_level);
      if (i == args.sequence_begin[b]) continue;
      check.That(args.tokens[i - 1].chunk <= token.chunk, "tokens.chunk", "must not descend within a sequence");
      check.That(args.tokens[i - 1].sink >= token.sink, "tokens.sink", "must be set on the first tokens only");
    }
  }
}

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

// The parents that name candidates of `level`, when they are set.
void CheckParentGists(ArgCheck& check, const ContextView* context, int level, const ChosenGists& parents,
                      std::int64_t rows, std::int64_t kv_heads) {
  if (parents.gists.rank == 0) return;
  check.That(context != nullptr && level + 1 < context->num_levels, "parents", "need a level above");
  if (check.ok()) CheckChosenGists(check, "parents", parents, rows, kv_heads, context->gists[level + 1].k.dims[1]);
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

// Where operations have no cost of their own beside their work: calls them.
class CalledAgain final : public Recording {
 public:
  explicit CalledAgain(std::function<Status()> work) : work_(std::move(work)) {}
  Status Run() override { return work_(); }

 private:
  std::function<Status()> work_;
};

}  // namespace

Result<std::unique_ptr<Recording>> Backend::Record(std::function<Status()> work) {
  return Result<std::unique_ptr<Recording>>(std::make_unique<CalledAgain>(std::move(work)));
}

Status Backend::StartDownload(void* host, const Tensor& device, DType type) {
  ArgCheck check("StartDownload");
  check.That(device.dtype == DType::kF32, "device", "must be f32");
  check.That(device.size() == 0 || device.data != nullptr, "device", "has no memory");
  check.That(device.size() == 0 || host != nullptr, "host", "has no memory");
  check.That(type == DType::kF32 || type == DType::kBF16, "type", "must be f32 or bf16");
  if (!check.ok() || device.size() == 0) return check.status();
  return DoStartDownload(host, device, type);
}

Result<std::uint64_t> Backend::StartUpload(const Tensor& device, std::span<const HostPiece> pieces) {
  ArgCheck check("StartUpload");
  check.Shape("device", device, TypeBit(DType::kInt8), {kAny});
  check.That(device.size() == 0 || device.data != nullptr, "device", "has no memory");
  for (const HostPiece& piece : pieces) {
    check.That(piece.to <= device.bytes() && piece.bytes <= device.bytes() - piece.to, "pieces", "do not fit");
    check.That(piece.bytes == 0 || piece.from != nullptr, "pieces", "have no memory");
  }
  UNFOLD_TRY(check.status());
  return DoStartUpload(device, pieces);
}

// At once.
Result<std::uint64_t> Backend::DoStartUpload(const Tensor& device, std::span<const HostPiece> pieces) {
  for (const HostPiece& piece : pieces) {
    const auto begin = static_cast<std::int64_t>(piece.to), end = static_cast<std::int64_t>(piece.to + piece.bytes);
    UNFOLD_TRY(Upload(device.Rows(begin, end), piece.from));
  }
  return std::uint64_t{0};
}

Status Backend::Copy(const Tensor& from, const Tensor& to) {
  ArgCheck check("Copy");
  check.That(from.dtype == to.dtype && from.size() == to.size(), "to", "must have the type and size of what is copied");
  check.That(from.bytes() == 0 || (from.data != nullptr && to.data != nullptr), "to", "and what is copied need memory");
  if (!check.ok() || from.bytes() == 0) return check.status();
  return DoCopy(from, to);
}

Status Backend::Embed(const EmbedArgs& args) {
  ArgCheck check("Embed");
  check.Shape("table", args.table, ArgCheck::kWeight, {kAny, kAny}).Shape("ids", args.ids, kInt32, {kAny});
  check.Shape("out", args.out, kF32, {args.ids.dims[0], args.table.dims[1]});
  return check.ok() ? DoEmbed(args) : check.status();
}

Status Backend::RmsNorm(const RmsNormArgs& args) {
  ArgCheck check("RmsNorm");
  check.Shape("x", args.x, kActivation, {kAny, kAny});
  check.Shape("weight", args.weight, ArgCheck::kWeight, {args.x.dims[1]});
  check.Shape("out", args.out, kActivation, {args.x.dims[0], args.x.dims[1]});
  check.That(args.epsilon >= 0, "epsilon", "must not be negative");
  return check.ok() ? DoRmsNorm(args) : check.status();
}

Status Backend::MatMuls(std::span<const MatMulArgs> products) {
  for (const MatMulArgs& args : products) UNFOLD_TRY(CheckMatMul(args));
  return DoMatMuls(products);
}

Status Backend::CheckMatMul(const MatMulArgs& args) {
  ArgCheck check("MatMul");
  check.That(args.compute == DType::kF32 || args.compute == DType::kBF16, "compute", "must be f32 or bf16");
  check.Shape("x", args.x, ArgCheck::ActivationFor(args.compute), {kAny, kAny});
  check.Shape("weight", args.weight, ArgCheck::kWeight, {kAny, args.x.dims[1]});
  check.Shape("out", args.out, args.accumulate ? kF32 : ArgCheck::ActivationFor(args.compute),
              {args.x.dims[0], args.weight.dims[0]});
  check.That(args.out.data != args.x.data || args.out.size() == 0, "out", "must not be x");
  if (args.bias.rank != 0) {
    check.Shape("bias", args.bias, ArgCheck::kWeight, {args.weight.dims[0]});
    check.That(!args.accumulate, "bias", "cannot be had with accumulate");
  }
  return check.status();
}

Status Backend::Rope(const RopeArgs& args) {
  ArgCheck check("Rope");
  check.Shape("x", args.x, kActivation, {kAny, kAny, kAny});
  check.Shape("positions", args.positions, kInt32, {args.x.dims[0]});
  CheckRope(check, args.rope, args.x.dims[2]);
  check.Shape("out", args.out, kActivation, {args.x.dims[0], args.x.dims[1], args.x.dims[2]});
  return check.ok() ? DoRope(args) : check.status();
}

Status Backend::SwiGlu(const SwiGluArgs& args) {
  ArgCheck check("SwiGlu");
  check.Shape("gate", args.gate, kActivation, {kAny, kAny});
  check.Shape("up", args.up, TypeBit(args.gate.dtype), {args.gate.dims[0], args.gate.dims[1]});
  check.Shape("out", args.out, TypeBit(args.gate.dtype), {args.gate.dims[0], args.gate.dims[1]});
  return check.ok() ? DoSwiGlu(args) : check.status();
}

Status Backend::GatedProduct(const GatedProductArgs& args) {
  for (const MatMulArgs* product : {&args.gate, &args.up}) UNFOLD_TRY(CheckMatMul(*product));
  const Tensor& gate = args.gate.out;
  ArgCheck check("GatedProduct");
  check.That(args.up.x.data == args.gate.x.data && args.up.x.dtype == args.gate.x.dtype, "up.x", "must be gate.x");
  check.That(!args.gate.accumulate && !args.up.accumulate, "accumulate", "cannot be had");
  check.Shape("up.out", args.up.out, TypeBit(gate.dtype), {gate.dims[0], gate.dims[1]});
  check.Shape("out", args.out, TypeBit(gate.dtype), {gate.dims[0], gate.dims[1]});
  return check.ok() ? DoGatedProduct(args) : check.status();
}

Status Backend::DoGatedProduct(const GatedProductArgs& args) {
  const MatMulArgs products[] = {args.gate, args.up};
  UNFOLD_TRY(DoMatMuls(products));
  return SwiGlu({.gate = args.gate.out, .up = args.up.out, .out = args.out});
}

Status Backend::GistPrefill(const GistPrefillArgs& args) {
  ArgCheck check("GistPrefill");
  const unsigned types = ArgCheck::ActivationFor(args.compute);
  check.That(args.compute == DType::kF32 || args.compute == DType::kBF16, "compute", "must be f32 or bf16");
  check.Shape("q", args.q, types, {kAny, kAny, kAny}).Shape("k", args.k, types, {args.q.dims[0], kAny, args.q.dims[2]});
  check.Shape("v", args.v, types, {args.k.dims[0], args.k.dims[1], args.k.dims[2]});
  check.Shape("out", args.out, types, {args.q.dims[0], args.q.dims[1], args.q.dims[2]});
  CheckGroups(check, args.q.dims[1], args.k.dims[1]);
  check.That(args.q.dims[2] > 0, "D", "must be above 0");
  CheckSequences(check, args, args.q.dims[0]);
  return check.ok() ? DoGistPrefill(args) : check.status();
}

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
  CheckChosenGists(check, "chosen", args.chosen, rows, args.kv_heads, gists);
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

Status Backend::RouteScores(std::span<const RouteScoreArgs> heads) {
  for (const RouteScoreArgs& args : heads) {
    UNFOLD_TRY(CheckRouteScore(args));
    ArgCheck check("RouteScore");
    const RouteScoreArgs& first = heads.front();
    check.Shape("q", args.q, kF32, {first.q.dims[0], first.q.dims[1]});
    check.Shape("keys", args.keys, TypeBit(first.keys.dtype), {first.keys.dims[0], first.keys.dims[1]});
    check.That(
        std::equal(args.unit_begin.begin(), args.unit_begin.end(), first.unit_begin.begin(), first.unit_begin.end()),
        "unit_begin", "must be the same for all heads");
    UNFOLD_TRY(check.status());
  }
  return DoRouteScores(heads);
}

Status Backend::CheckRouteScore(const RouteScoreArgs& args) {
  ArgCheck check("RouteScore");
  check.Shape("q", args.q, kF32, {kAny, kAny});
  check.Shape("keys", args.keys, ArgCheck::kStoredKv, {kAny, args.q.dims[1]});
  check.That(!args.unit_begin.empty(), "unit_begin", "is empty");
  const std::int64_t rows = args.q.dims[0], units = static_cast<std::int64_t>(args.unit_begin.size()) - 1;
  check.Bounds("unit_begin", args.unit_begin, units, args.keys.dims[0]);
  check.Shape("best", args.best, kF32, {rows, units});
  check.Range("sum", static_cast<std::int64_t>(args.sum.size()), rows, rows);
  check.Range("sum_squares", static_cast<std::int64_t>(args.sum_squares.size()), rows, rows);
  return check.status();
}

Status Backend::CopyRows(std::span<const RowPiece> pieces) {
  ArgCheck check("CopyRows");
  for (const RowPiece& piece : pieces) {
    check.Shape("from", piece.from, ArgCheck::kStoredKv, {kAny, kAny, kAny});
    const auto [heads, rows, dim, unused] = piece.from.dims;
    check.Shape("to", piece.to, TypeBit(piece.from.dtype), {heads, kAny, dim});
    if (!check.ok()) return check.status();
    check.Range("count", piece.count, 0, std::min(rows, piece.to.dims[1]));
    check.Range("from_begin", piece.from_begin, 0, rows - piece.count);
    check.Range("to_begin", piece.to_begin, 0, piece.to.dims[1] - piece.count);
  }
  return check.ok() ? DoCopyRows(pieces) : check.status();
}

Status Backend::XorWords(const XorWordsArgs& args) {
  ArgCheck check("XorWords");
  check.Shape("words", args.words, kInt32, {kAny}).Shape("out", args.out, kInt32, {1});
  return check.ok() ? DoXorWords(args) : check.status();
}

Result<std::unique_ptr<Backend>> MakeBackend(std::string_view name, int threads) {
  const char* forced = std::getenv("UNFOLD_BACKEND");
  if (forced != nullptr && *forced != '\0') name = forced;
  if (name == "ref") return MakeRefBackend();
#if defined(UNFOLD_WITH_CUDA)
  if (name == "cuda") return MakeCudaBackend();
#endif
  if (name != "cpu") {
    return Status::InvalidArgument("backend '" + std::string(name) +
                                   "' is not in this build; it has: " + std::string(kBackends));
  }
  if (threads < 0) return Status::InvalidArgument("threads is " + std::to_string(threads) + ", expected 0 or more");
  UNFOLD_TRY_ASSIGN(const SimdKernels* kernels, ChooseCpuKernels());
  return MakeCpuBackendWith(*kernels, threads);
}

}  // namespace unfold
