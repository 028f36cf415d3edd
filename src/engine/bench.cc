// SPDX-License-Identifier: Apache-2.0
#include "unfold/bench.h"

#include <cmath>

#include "engine/bench_run.h"
#include "rag/decode_steps.h"

namespace unfold {
namespace {

Status InRange(std::string_view name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return Status::Ok();
  return Status::InvalidArgument(std::string(name) + " is " + std::to_string(value) + ", expected " +
                                 std::to_string(low) + " to " + std::to_string(high));
}

Status CheckOptions(BenchKind kind, const BenchOptions& options) {
  constexpr std::int64_t kMostTokens = std::int64_t{1} << 24;  // positions and tables stay small integers
  if (options.compute != DType::kF32 && options.compute != DType::kBF16) {
    return Status::InvalidArgument("compute must be f32 or bf16, found " + std::string(DTypeName(options.compute)));
  }
  UNFOLD_TRY(InRange("num_threads", options.num_threads, 0, 4096));
  UNFOLD_TRY(InRange("repeats", options.repeats, 1, 100000));
  UNFOLD_TRY(InRange("context_tokens", options.context_tokens, 1, kMostTokens));
  UNFOLD_TRY(InRange("chunk_size", options.chunk_size, 1, 1024));
  UNFOLD_TRY(InRange("num_levels", options.num_levels, 1, 2));
  UNFOLD_TRY(InRange("section_size", options.section_size, 2, 1024));
  UNFOLD_TRY(InRange("unfold_top_k", options.unfold_top_k, 0, kMostTokens));
  const int most_answers = kind == BenchKind::kDecode ? static_cast<int>(DecodeSteps::kMostAnswers) : 1;
  const int most = kind == BenchKind::kEncode ? 4096 : most_answers;
  UNFOLD_TRY(InRange("batch", options.batch, 1, most));
  UNFOLD_TRY(InRange("batch times context_tokens", options.batch * options.context_tokens, 1, kMostTokens));
  UNFOLD_TRY(InRange("num_chunks", options.num_chunks, 1, std::int64_t{1} << 32));
  if (!(options.compression >= 0) || std::isinf(options.compression)) {
    return Status::InvalidArgument("compression must be 0 or a number above 0");
  }
  return Status::Ok();
}

}  // namespace

Result<BenchReport> RunBench(BenchKind kind, const BenchOptions& options, const BenchProgress& progress) {
  UNFOLD_TRY(CheckOptions(kind, options));
  UNFOLD_TRY_ASSIGN(const std::unique_ptr<BenchRun> run, BenchRun::Make(options, progress));
  BenchReport report;
  report.backend = run->backend().name();
  switch (kind) {
    case BenchKind::kRoute: UNFOLD_TRY(BenchRoute(*run, report.figures)); break;
    case BenchKind::kEncode: UNFOLD_TRY(BenchEncode(*run, report.figures)); break;
    case BenchKind::kLayer: UNFOLD_TRY(BenchLayer(*run, report.figures)); break;
    case BenchKind::kDecode: UNFOLD_TRY(BenchDecode(*run, report.figures)); break;
    case BenchKind::kTtft: UNFOLD_TRY(BenchTtft(*run, report.figures)); break;
  }
  UNFOLD_TRY(run->MeasureBandwidth());
  for (BenchFigure& figure : report.figures) run->HoldAgainstBandwidth(figure);
  return report;
}

}  // namespace unfold
