// SPDX-License-Identifier: Apache-2.0
// Measurements of the engine's own work at the shape of a model, without a checkpoint and without a store: seeded
// random weights, keys and tokens, made in the backend's memory. For checking figures on one's own machine; `unfold
// bench` prints what comes back.
//
// Each figure stands beside the least that the machine could take: the bytes that the work must move over the read
// bandwidth measured in the same run, through the same backend.
#ifndef UNFOLD_BENCH_H_
#define UNFOLD_BENCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unfold/base.h"

namespace unfold {

enum class BenchKind : std::uint8_t {
  kRoute,   // a question against the gist keys of a collection
  kEncode,  // documents to gist and raw KV, as ingest does it
  kLayer,   // one layer of a decoding step: score, select, find pages, attend; all chunks unfolded before
  kDecode,  // one token of an answer over documents that were encoded before, through all layers
  kTtft,    // from a question and the documents it is answered from to the logits of the first token; no routing
};

struct BenchOptions {
  // "llama-3.2-1b", "qwen2-7b", "llama-3.1-8b", "gist-mini", or the path of a Hugging Face config.json. kRoute takes
  // the width of a head from it.
  std::string shape = "llama-3.2-1b";
  std::string backend = "cpu";  // as EngineOptions::backend
  int num_threads = 0;          // worker threads of the backend; 0: one per core
  // What products are computed in, f32 or bf16. kRoute and kLayer have no products.
  DType compute = DType::kBF16;
  std::uint64_t seed = 1;
  int repeats = 25;  // timed runs, after those that warm up; at least 1

  // kEncode: raw tokens of each document. Others: raw tokens of the context, in documents of 2,048.
  std::int64_t context_tokens = 2048;
  int chunk_size = 8;             // raw tokens a gist stands for; chunks vary as word-aware cuts make them
  int num_levels = 1;             // 2: sections of `section_size` gists, scored first
  int section_size = 4;           // gists
  double compression = 0;         // sets the chunks a head keeps; 0: chunk_size, with two levels times section_size
  std::int64_t unfold_top_k = 0;  // chunks a head keeps; 0: by compression
  int batch = 1;  // kEncode: documents in one pass; kDecode: answers in one step, each over documents of its own
  // kLayer, kDecode, kTtft: the same tokens as plain rows, all attended. kTtft: encoded as such with the question.
  bool full_attention = false;
  std::int64_t num_chunks = 1250000;  // kRoute: of the collection
};

// One figure. Bytes are those that must move, each once.
struct BenchFigure {
  std::string what;      // "route", "encode", "score", ...
  double median_ms = 0;  // of one run; its quantiles
  double p10_ms = 0, p90_ms = 0;
  double bytes = 0;                                    // that one run must move
  double read_bytes_per_s = 0;                         // of the machine: the better of before and after
  double floor_ms = 0;                                 // bytes / read_bytes_per_s
  double share = 0;                                    // floor_ms / median_ms
  std::vector<std::pair<std::string, double>> counts;  // what else is known, by name with its unit
};

struct BenchReport {
  std::string backend;  // that answered
  std::vector<BenchFigure> figures;
};

// Hears what is being done; returning false ends the run with Cancelled.
using BenchProgress = std::function<bool(std::string_view doing)>;

// InvalidArgument for options out of range, NotFound for an unknown shape, ResourceExhausted with the bytes that were
// asked for when they do not fit.
UNFOLD_API Result<BenchReport> RunBench(BenchKind kind, const BenchOptions& options,
                                        const BenchProgress& progress = {});

}  // namespace unfold

#endif  // UNFOLD_BENCH_H_
