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
  // Opens the backend and measures its read bandwidth.
  static Result<std::unique_ptr<BenchRun>> Make(const BenchOptions& options, const BenchProgress& progress);

  const BenchOptions& options() const { return options_; }
  const ModelConfig& shape() const { return shape_; }
  Backend& backend() { return *backend_; }
  RandomTensors& memory() { return *memory_; }
  // Rules of gists as the options have them; gists are the last ids of the vocabulary.
  const GistRules& rules() const { return rules_; }
  // A document of `num_tokens` random raw tokens, cut into chunks. Each call gives another one.
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

 private:
  BenchRun(const BenchOptions& options, const BenchProgress& progress)
      : options_(options), progress_(progress), engine_(options.seed) {}
  Status MeasureBandwidth();
  void MakeRules();

  const BenchOptions& options_;
  const BenchProgress& progress_;
  ModelConfig shape_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<RandomTensors> memory_;
  GistRules rules_;
  std::vector<bool> word_starts_;
  std::mt19937_64 engine_;
  double read_bytes_per_s_ = 0;
};

// One measurement each. They append their figures.
Status BenchRoute(BenchRun& run, std::vector<BenchFigure>& figures);
Status BenchEncode(BenchRun& run, std::vector<BenchFigure>& figures);
Status BenchLayer(BenchRun& run, std::vector<BenchFigure>& figures);

}  // namespace unfold

#endif  // UNFOLD_ENGINE_BENCH_RUN_H_
