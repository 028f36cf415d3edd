// SPDX-License-Identifier: Apache-2.0
// The public half of every op: shapes, types and ranges, in the words of backend.h. Values inside tensors may lie on a
// device; backends check those.
#include "kernels/backend.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "kernels/arg_check.h"
#include "kernels/backend_checks.h"
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
  UNFOLD_TRY(CheckRmsNorm(args));
  return DoRmsNorm(args);
}

Status Backend::CheckRmsNorm(const RmsNormArgs& args) {
  ArgCheck check("RmsNorm");
  check.Shape("x", args.x, kActivation, {kAny, kAny});
  check.Shape("weight", args.weight, ArgCheck::kWeight, {args.x.dims[1]});
  check.Shape("out", args.out, kActivation, {args.x.dims[0], args.x.dims[1]});
  check.That(args.epsilon >= 0, "epsilon", "must not be negative");
  return check.status();
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
  UNFOLD_TRY(CheckGatedProduct(args));
  return DoGatedProduct(args);
}

Status Backend::CheckGatedProduct(const GatedProductArgs& args) {
  for (const MatMulArgs* product : {&args.gate, &args.up}) UNFOLD_TRY(CheckMatMul(*product));
  const Tensor& gate = args.gate.out;
  ArgCheck check("GatedProduct");
  check.That(args.up.x.data == args.gate.x.data && args.up.x.dtype == args.gate.x.dtype, "up.x", "must be gate.x");
  check.That(!args.gate.accumulate && !args.up.accumulate, "accumulate", "cannot be had");
  check.Shape("up.out", args.up.out, TypeBit(gate.dtype), {gate.dims[0], gate.dims[1]});
  check.Shape("out", args.out, TypeBit(gate.dtype), {gate.dims[0], gate.dims[1]});
  return check.status();
}

namespace {

Status CheckNormed(const RmsNormArgs& norm, const MatMulArgs& product, const Tensor& out) {
  ArgCheck check("NormedProduct");
  check.That(product.x.data == norm.out.data && product.x.dtype == norm.out.dtype && product.x.dims == norm.out.dims,
             "x", "must be norm.out");
  check.That(out.data != norm.x.data || out.size() == 0, "out", "must not be norm.x");
  return check.status();
}

}  // namespace

Status Backend::NormedMatMuls(const RmsNormArgs& norm, std::span<const MatMulArgs> products) {
  UNFOLD_TRY(CheckRmsNorm(norm));
  for (const MatMulArgs& product : products) {
    UNFOLD_TRY(CheckMatMul(product));
    UNFOLD_TRY(CheckNormed(norm, product, product.out));
  }
  return DoNormedMatMuls(norm, products);
}

Status Backend::NormedGatedProduct(const RmsNormArgs& norm, const GatedProductArgs& args) {
  UNFOLD_TRY(CheckRmsNorm(norm));
  UNFOLD_TRY(CheckGatedProduct(args));
  UNFOLD_TRY(CheckNormed(norm, args.gate, args.out));
  return DoNormedGatedProduct(norm, args);
}

Status Backend::DoNormedMatMuls(const RmsNormArgs& norm, std::span<const MatMulArgs> products) {
  UNFOLD_TRY(DoRmsNorm(norm));
  return DoMatMuls(products);
}

Status Backend::DoNormedGatedProduct(const RmsNormArgs& norm, const GatedProductArgs& args) {
  UNFOLD_TRY(DoRmsNorm(norm));
  return DoGatedProduct(args);
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
