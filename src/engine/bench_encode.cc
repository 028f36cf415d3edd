// SPDX-License-Identifier: Apache-2.0
// Encoding: batches of documents of random tokens through the encoder, with all KV sealed into records (encode): as in
// ingest, a pass leaves its last layers to be sealed beside the next one. And a batch without its KV's way to the host
// (encode_pass). Beside the products of the same number of rows with the widest matrix, which is the rate of flops that
// the figure is held against.
#include <algorithm>
#include <future>
#include <memory>
#include <vector>

#include "engine/bench_run.h"
#include "model/cost.h"
#include "model/transformer.h"
#include "rag/encoder.h"

namespace unfold {
namespace {

constexpr DType kKvType = DType::kBF16;
constexpr int kPeakRepeats = 5;
constexpr int kBatchesOfRun = 8;

struct EncodeBatch {
  std::vector<PreparedPart> parts;
  std::vector<EncodeJob> jobs;
  std::vector<const GistSequence*> sequences;
  double rows = 0, raw_tokens = 0, chunks = 0;
};

// Of one row, k and v of all layers, as stored.
double KvRowBytes(const ModelConfig& shape) {
  return 2.0 * shape.num_layers * shape.kv_heads * shape.head_dim * static_cast<double>(DTypeBytes(kKvType));
}

// What a pass takes beside the weights, about: records, activations, one layer's KV in f32 on both sides.
double PassBytes(const BenchRun& run) {
  const ModelConfig& shape = run.shape();
  const double rows =
      static_cast<double>(run.options().context_tokens) * run.options().batch * (1 + 1.0 / run.options().chunk_size);
  const double values =
      2.0 * shape.model_dim + 2.0 * shape.heads * shape.head_dim + 5.0 * shape.kv_heads * shape.head_dim;
  return rows * (KvRowBytes(shape) + values * static_cast<double>(sizeof(float)));
}

EncodeBatch MakeBatch(BenchRun& run) {
  EncodeBatch batch;
  batch.parts.resize(static_cast<std::size_t>(run.options().batch));
  for (PreparedPart& part : batch.parts) {
    part.sequence = run.RandomDocument(run.options().context_tokens);
    batch.jobs.push_back({.document = {batch.jobs.size() + 1}, .part = 0, .prepared = &part});
    batch.sequences.push_back(&part.sequence);
    batch.rows += static_cast<double>(part.sequence.ids.size());
    batch.raw_tokens += static_cast<double>(run.options().context_tokens);
    batch.chunks += static_cast<double>(part.sequence.chunk_tokens.size());
  }
  return batch;
}

// Pairs of rows of which one sees the other, from as many rows as can be looked at in a moment, evenly spread.
double VisiblePairs(const GistSequence& sequence) {
  constexpr std::int64_t kLooks = 20'000'000;
  const auto rows = static_cast<std::int64_t>(sequence.tokens.size());
  const std::int64_t step = std::max<std::int64_t>(1, rows * rows / 2 / kLooks);
  std::int64_t pairs = 0, looked = 0;
  for (std::int64_t i = step / 2; i < rows; i += step, ++looked) {
    for (std::int64_t j = 0; j <= i; ++j) {
      pairs += MaySee(sequence.mask, i, j, sequence.tokens[i], sequence.tokens[j]) ? 1 : 0;
    }
  }
  return static_cast<double>(pairs) * static_cast<double>(rows) /
         static_cast<double>(std::max<std::int64_t>(1, looked));
}

double Flops(const BenchRun& run, const EncodeBatch& batch) {
  double pairs = 0;
  for (const GistSequence* sequence : batch.sequences) pairs += VisiblePairs(*sequence);
  const ModelConfig& shape = run.shape();
  // The last layer's attention is not computed.
  return batch.rows * CostOf(shape).encode_row_flops +
         4.0 * (shape.num_layers - 1) * shape.heads * shape.head_dim * pairs;
}

// Flops a second of products of `rows` rows.
Result<double> ProductRate(BenchRun& run, std::int64_t rows) {
  const std::int64_t model = run.shape().model_dim, ffn = run.shape().ffn_dim;
  UNFOLD_TRY_ASSIGN(const Tensor x, run.memory().Normal(DType::kF32, {rows, model}, 1));
  UNFOLD_TRY_ASSIGN(const Tensor weight, run.memory().Normal(DType::kBF16, {ffn, model}, 1));
  UNFOLD_TRY_ASSIGN(const Tensor out, run.memory().Zeros(DType::kF32, {rows, ffn}));
  const MatMulArgs product{.x = x, .weight = weight, .out = out, .compute = run.options().compute};
  UNFOLD_TRY_ASSIGN(const BenchFigure figure,
                    run.Time("products", 0, kPeakRepeats, [&](std::int64_t) { return run.backend().MatMul(product); }));
  return 2.0 * static_cast<double>(rows * model * ffn) / figure.median_ms * 1e3;
}

}  // namespace

Status BenchEncode(BenchRun& run, std::vector<BenchFigure>& figures) {
  ModelConfig shape = run.shape();
  shape.max_positions =
      std::max<std::int32_t>(shape.max_positions, static_cast<std::int32_t>(run.options().context_tokens));
  const ModelCost cost = CostOf(shape);
  UNFOLD_TRY(run.NeedMemory(cost.weight_bytes + PassBytes(run)));
  const EncodeBatch batch = MakeBatch(run);
  const double kv_bytes = batch.rows * KvRowBytes(shape);

  UNFOLD_TRY_ASSIGN(const double product_rate,
                    ProductRate(run, static_cast<std::int64_t>(std::clamp(batch.rows, 256.0, 8192.0))));
  const auto check = [&run](std::string_view doing) { return [&run, doing] { return run.Check(doing); }; };
  UNFOLD_TRY_ASSIGN(const auto model, Transformer::Random(shape, run.backend(), run.options().compute,
                                                          run.options().seed, check("make the weights")));
  const double flops = Flops(run, batch);
  // Figures are those of one batch.
  const auto add = [&](std::string_view what, int batches, double bytes,
                       const std::function<Status(std::int64_t)>& work) -> Status {
    UNFOLD_TRY_ASSIGN(BenchFigure figure, run.Time(what, bytes, work));
    for (double* time : {&figure.median_ms, &figure.p10_ms, &figure.p90_ms}) *time /= batches;
    const double rate = flops / figure.median_ms * 1e3;
    figure.counts.insert(figure.counts.end(), {{"batches_a_run", batches},
                                               {"raw_tokens_per_s", batch.raw_tokens / figure.median_ms * 1e3},
                                               {"raw_tokens", batch.raw_tokens},
                                               {"rows", batch.rows},
                                               {"chunks", batch.chunks},
                                               {"flops", flops},
                                               {"flops_per_s", rate},
                                               {"product_flops_per_s", product_rate},
                                               {"share_of_product_flops", rate / product_rate}});
    figures.push_back(std::move(figure));
    return Status::Ok();
  };
  const auto encode = [&](std::int64_t) -> Status {
    std::future<void> before;
    for (int i = 0; i < kBatchesOfRun; ++i) {
      UNFOLD_TRY_ASSIGN(std::unique_ptr<KvRecorder> recorder, EncodeJobs(*model, kKvType, batch.jobs, check("encode")));
      if (before.valid()) before.get();
      before = std::async(std::launch::async, [recorder = std::move(recorder)] {
        std::vector<StoreRecord> records;
        recorder->Finish(records);
      });
    }
    before.get();
    return Status::Ok();
  };
  UNFOLD_TRY(add("encode", kBatchesOfRun, cost.encode_bytes + kv_bytes, encode));
  const LayerKvSink drop = [](int, const Tensor&, const Tensor&) { return Status::Ok(); };
  const auto pass = [&](std::int64_t) { return EncodePass(*model, batch.sequences, drop, check("encode_pass")); };
  return add("encode_pass", 1, cost.encode_bytes, pass);
}

}  // namespace unfold
