// SPDX-License-Identifier: Apache-2.0
// BenchRun: what the measurements share. One backend, its read bandwidth, memory with seeded values, and the clock.
#ifndef UNFOLD_ENGINE_BENCH_RUN_H_
#define UNFOLD_ENGINE_BENCH_RUN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/random_tensors.h"
#include "text/gist_sequence.h"
#include "unfold/base.h"
#include "unfold/bench.h"

namespace unfold {

// Thread-compatible.
class BenchRun {
 public:
  // Opens the backend and measures its read bandwidth for the first time.
  static Result<std::unique_ptr<BenchRun>> Make(const BenchOptions& options, const BenchProgress& progress);

  const BenchOptions& options() const { return options_; }
  const ModelConfig& shape() const { return shape_; }
  Backend& backend() { return *backend_; }
  // Of KV where no products say it: as the backend attends it beside products in bf16.
  DType context_type() const { return backend_->WorkingType(DType::kBF16); }
  RandomTensors& memory() { return *memory_; }
  // Rules of gists as the options have them; gists are the last ids of the vocabulary.
  const GistRules& rules() const { return rules_; }
  // Raw tokens, any but gists. Each call gives others.
  std::vector<TokenId> RandomTokens(std::int64_t num_tokens);
  // A document of so many random raw tokens, cut into chunks.
  GistSequence RandomDocument(std::int64_t num_tokens);

  // Tells what is being done; Cancelled when nobody wants it any more.
  Status Check(std::string_view doing) const;
  // ResourceExhausted when host memory, for a backend whose memory that is, has no room for so many bytes. A device
  // says so itself when it is asked; a host may promise memory that it does not have.
  Status NeedMemory(double bytes) const;

  // Times `work(run)`, run = 0, 1, 2, ...: several runs a sample when one is short, so that waiting for a device does
  // not count. `bytes` that a run must move go into the figure.
  Result<BenchFigure> Time(std::string_view what, double bytes, const std::function<Status(std::int64_t run)>& work) {
    return Time(what, bytes, options_.repeats, work);
  }
  Result<BenchFigure> Time(std::string_view what, double bytes, int repeats,
                           const std::function<Status(std::int64_t run)>& work);
  // Of runs that were timed elsewhere, at least one. Not yet held against the bandwidth.
  BenchFigure Figure(std::string_view what, double bytes, std::vector<double> seconds) const;

  // The read bandwidth is the best of these: other work on the machine can only hide some of it.
  Status MeasureBandwidth();
  void HoldAgainstBandwidth(BenchFigure& figure) const;

 private:
  BenchRun(const BenchOptions& options, const BenchProgress& progress)
      : options_(options), progress_(progress), engine_(options.seed) {}
  Status MakeReadMemory();
  void MakeRules();

  const BenchOptions& options_;
  const BenchProgress& progress_;
  ModelConfig shape_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<RandomTensors> memory_;
  GistRules rules_;
  std::vector<bool> word_starts_;
  std::mt19937_64 engine_;
  std::unique_ptr<RandomTensors> read_memory_;
  XorWordsArgs read_;
  double read_bytes_per_s_ = 0;
};

// Seconds of a clock that only goes on.
double SecondsNow();

// One measurement each. They append their figures.
Status BenchRoute(BenchRun& run, std::vector<BenchFigure>& figures);
Status BenchEncode(BenchRun& run, std::vector<BenchFigure>& figures);
Status BenchLayer(BenchRun& run, std::vector<BenchFigure>& figures);
Status BenchDecode(BenchRun& run, std::vector<BenchFigure>& figures);
Status BenchTtft(BenchRun& run, std::vector<BenchFigure>& figures);

// Raw tokens of the documents that a context is made of.
inline constexpr std::int64_t kBenchDocumentTokens = 2048;
// The options' compression, or its default.
double Compression(const BenchOptions& options);
// Chunks that a head keeps of a context of `tokens` tokens and gists.
std::int64_t UnfoldTopK(const BenchRun& run, std::int64_t tokens, std::int64_t chunks);

}  // namespace unfold

#endif  // UNFOLD_ENGINE_BENCH_RUN_H_
