// SPDX-License-Identifier: Apache-2.0
// What the benches share: spreads over runs, JSON lines that say machine, date, instruction set and threads, and the
// read bandwidth that rates are held against. Not thread-safe.
#ifndef UNFOLD_TESTS_BENCH_BENCH_COMMON_H_
#define UNFOLD_TESTS_BENCH_BENCH_COMMON_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "kernels/backend.h"
#include "unfold/base.h"

namespace unfold::bench {

// --model DIR, --docs DIR, --threads N, --compute f32|bf16, --runs N.
struct Flags {
  std::string model = "datasets/gist-mini", docs = "datasets/handbook", compute = "f32";
  int threads = 0;  // 0: one per core
  int runs = 25;

  DType compute_type() const { return compute == "bf16" ? DType::kBF16 : DType::kF32; }
};
// Ends the program when an argument is none of these.
Flags ParseFlags(int argc, char** argv);

// Samples of one figure; at least one.
class Samples {
 public:
  void Add(double value) { values_.push_back(value); }
  double Median() const { return Quantile(0.5); }
  // Adds NAME (the median), NAME_p10 and NAME_p90 to `line`, times `factor`, and the number of runs.
  void Write(const std::string& name, double factor, Json& line) const;

 private:
  double Quantile(double share) const;
  std::vector<double> values_;
};

double SecondsNow();
double CpuSecondsNow();  // of this process, all threads: what it took even if others took the cores
// Ends the program with the error.
void Require(const Status& status);
template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) Require(result.status());
  return *std::move(result);
}

// One JSON line on stdout.
void Print(const Json& line);
// {"bench": NAME, "date", "machine", "isa", "threads", "compute"}: what every line begins with.
Json BeginLine(const std::string& name, const Flags& flags);
int NumThreads(int asked);  // 0: one per core

// Reads a large array once with each call, all threads together.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(int threads);
  double BytesPerSecond();  // of one pass

 private:
  static constexpr std::int64_t kBytes = std::int64_t{384} << 20;  // far more than a last-level cache

  std::unique_ptr<Backend> backend_;
  Buffer memory_;
};

}  // namespace unfold::bench

#endif  // UNFOLD_TESTS_BENCH_BENCH_COMMON_H_
