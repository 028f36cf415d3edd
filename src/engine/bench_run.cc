// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <optional>
#include <random>

#include "model/shapes.h"
#include "rag/query_attention.h"

namespace unfold {
namespace {

// Far more than a cache holds; reading it takes a while even on a GPU.
constexpr std::int64_t kReadBytes = std::int64_t{512} << 20;
constexpr int kReadRepeats = 7;
constexpr int kWarmUps = 2;
constexpr double kSampleSeconds = 2e-3;  // the least, where runs are shorter
constexpr double kMostRunsASample = 64;
// Of the ids, so many begin a word. Chunks of 8 then have 8.4 tokens in the mean, as those of datasets/handbook under
// the tokenizer of gist-mini have (a part's last chunk not counted).
constexpr double kWordStartShare = 0.7;

// Until all that was queued has run.
Status Wait(Backend& backend) { return backend.Download(nullptr, Tensor(nullptr, DType::kF32, {0})); }

double Quantile(const std::vector<double>& sorted, double share) {
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
}

std::optional<double> NumberIn(const char* path, std::string_view before) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    double value = 0;
    if (before.empty())
      return word.find_first_not_of("0123456789") == word.npos ? std::optional(std::stod(word)) : std::nullopt;
    if (word == before && file >> value) return value;
  }
  return std::nullopt;
}

// What the system could give, and what the control group of this process has left; nothing where neither is said.
std::optional<double> FreeHostBytes() {
  std::optional<double> free = NumberIn("/proc/meminfo", "MemAvailable:");
  if (free) *free *= 1024;
  const std::optional<double> limit = NumberIn("/sys/fs/cgroup/memory.max", "");
  const std::optional<double> used = NumberIn("/sys/fs/cgroup/memory.current", "");
  if (limit && used) free = std::min(free.value_or(*limit), std::max(0.0, *limit - *used));
  return free;
}

std::string Gigabytes(double bytes) {
  const double tenths = std::round(bytes * 1e-8);
  std::string text = std::to_string(static_cast<std::int64_t>(tenths));
  if (text.size() == 1) text.insert(0, "0");
  return text.insert(text.size() - 1, ".") + " GB";
}

}  // namespace

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Compression(const BenchOptions& options) {
  if (options.compression > 0) return options.compression;
  return static_cast<double>(options.chunk_size) * (options.num_levels > 1 ? options.section_size : 1);
}

std::int64_t UnfoldTopK(const BenchRun& run, std::int64_t tokens, std::int64_t chunks) {
  const BenchOptions& options = run.options();
  if (options.unfold_top_k > 0) return std::min(options.unfold_top_k, std::max<std::int64_t>(1, chunks));
  return DefaultTopK(tokens, Compression(options), run.shape().group_size(), options.chunk_size, chunks);
}

Result<std::unique_ptr<BenchRun>> BenchRun::Make(const BenchOptions& options, const BenchProgress& progress) {
  std::unique_ptr<BenchRun> run(new BenchRun(options, progress));
  UNFOLD_TRY_ASSIGN(run->shape_, FindShape(options.shape));
  UNFOLD_TRY_ASSIGN(run->backend_, MakeBackend(options.backend, options.num_threads));
  run->MakeRules();
  UNFOLD_TRY(run->Check("make memory to read"));
  UNFOLD_TRY(run->MakeReadMemory());
  UNFOLD_TRY(run->MeasureBandwidth());
  run->memory_ = std::make_unique<RandomTensors>(*run->backend_, options.seed);
  return run;
}

void BenchRun::MakeRules() {
  rules_.chunk_size = options_.chunk_size;
  rules_.section_size = options_.num_levels > 1 ? options_.section_size : 0;
  rules_.sink_size = 3;
  for (int level = 0; level < options_.num_levels; ++level) {
    rules_.gist_ids.push_back(shape_.vocab_size - options_.num_levels + level);
  }
  std::bernoulli_distribution starts(kWordStartShare);
  for (std::int32_t id = 0; id < shape_.vocab_size; ++id) word_starts_.push_back(starts(engine_));
}

std::vector<TokenId> BenchRun::RandomTokens(std::int64_t num_tokens) {
  std::uniform_int_distribution<TokenId> any(0, std::max(0, rules_.gist_ids.front() - 1));
  std::vector<TokenId> raw(static_cast<std::size_t>(num_tokens));
  for (TokenId& id : raw) id = any(engine_);
  return raw;
}

GistSequence BenchRun::RandomDocument(std::int64_t num_tokens) {
  return BuildGistSequence(RandomTokens(num_tokens), rules_, word_starts_);
}

Status BenchRun::Check(std::string_view doing) const {
  if (!progress_ || progress_(doing)) return Status::Ok();
  return Status::Cancelled("the measurement was stopped");
}

Status BenchRun::NeedMemory(double bytes) const {
  if (backend_->name() == "cuda") return Status::Ok();
  const std::optional<double> free = FreeHostBytes();
  if (!free || bytes <= *free) return Status::Ok();
  return Status::ResourceExhausted("this needs " + Gigabytes(bytes) + " of memory, and " + Gigabytes(*free) +
                                   " are free: take a smaller shape, context or number of chunks");
}

Status BenchRun::MakeReadMemory() {
  UNFOLD_TRY(NeedMemory(kReadBytes));
  read_memory_ = std::make_unique<RandomTensors>(*backend_, options_.seed);
  UNFOLD_TRY_ASSIGN(read_.words, read_memory_->Normal(DType::kF32, {kReadBytes / 4}, 1));
  read_.words.dtype = DType::kInt32;
  UNFOLD_TRY_ASSIGN(read_.out, read_memory_->Ints(std::vector<std::int32_t>{0}));
  return Status::Ok();
}

Status BenchRun::MeasureBandwidth() {
  UNFOLD_TRY_ASSIGN(const BenchFigure figure, Time("measure the read bandwidth", 0, kReadRepeats,
                                                   [&](std::int64_t) { return backend_->XorWords(read_); }));
  read_bytes_per_s_ = std::max(read_bytes_per_s_, static_cast<double>(kReadBytes) / figure.median_ms * 1e3);
  return Status::Ok();
}

void BenchRun::HoldAgainstBandwidth(BenchFigure& figure) const {
  figure.read_bytes_per_s = read_bytes_per_s_;
  figure.floor_ms = figure.bytes / read_bytes_per_s_ * 1e3;
  figure.share = figure.floor_ms / figure.median_ms;
}

Result<BenchFigure> BenchRun::Time(std::string_view what, double bytes, int repeats,
                                   const std::function<Status(std::int64_t)>& work) {
  std::int64_t done = 0;
  const auto sample = [&](std::int64_t runs) -> Result<double> {
    UNFOLD_TRY(Check(what));
    const double begin = SecondsNow();
    for (std::int64_t i = 0; i < runs; ++i) UNFOLD_TRY(work(done++));
    UNFOLD_TRY(Wait(*backend_));
    return (SecondsNow() - begin) / static_cast<double>(runs);
  };
  double short_run = 0;
  for (int i = 0; i < kWarmUps; ++i) {
    UNFOLD_TRY_ASSIGN(short_run, sample(1));
  }
  const double wanted = std::ceil(kSampleSeconds / std::max(short_run, 1e-9));
  const auto runs = static_cast<std::int64_t>(std::clamp(wanted, 1.0, kMostRunsASample));
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    UNFOLD_TRY_ASSIGN(const double one, sample(runs));
    seconds.push_back(one);
  }
  BenchFigure figure = Figure(what, bytes, std::move(seconds));
  figure.counts.emplace_back("runs_a_sample", static_cast<double>(runs));
  return figure;
}

BenchFigure BenchRun::Figure(std::string_view what, double bytes, std::vector<double> seconds) const {
  std::sort(seconds.begin(), seconds.end());
  BenchFigure figure;
  figure.what = what;
  figure.median_ms = Quantile(seconds, 0.5) * 1e3;
  figure.p10_ms = Quantile(seconds, 0.1) * 1e3;
  figure.p90_ms = Quantile(seconds, 0.9) * 1e3;
  figure.bytes = bytes;
  return figure;
}

}  // namespace unfold
