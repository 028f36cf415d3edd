// SPDX-License-Identifier: Apache-2.0
#include "bench_common.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <numeric>
#include <thread>

#include "kernels/cpu/isa.h"

namespace unfold::bench {
namespace {

std::string CpuName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const std::size_t at = line.find(": ");
    if (line.starts_with("model name") && at != std::string::npos) return line.substr(at + 2);
  }
  return "unknown";
}

std::string Today() {
  const std::time_t now = std::time(nullptr);
  char text[16] = {};
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

}  // namespace

double Samples::Quantile(double share) const {
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
}

void Samples::Write(const std::string& name, double factor, Json& line) const {
  line[name] = Median() * factor;
  line[name + "_p10"] = Quantile(0.1) * factor;
  line[name + "_p90"] = Quantile(0.9) * factor;
  line["runs"] = values_.size();
}

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double CpuSecondsNow() {
  std::timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void Require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

void Print(const Json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

int NumThreads(int asked) {
  return asked > 0 ? asked : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

Flags ParseFlags(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--model") {
      flags.model = value;
    } else if (name == "--docs") {
      flags.docs = value;
    } else if (name == "--compute" && (value == "f32" || value == "bf16")) {
      flags.compute = value;
    } else if (name == "--threads" && std::atoi(value.c_str()) >= 0) {
      flags.threads = std::atoi(value.c_str());
    } else if (name == "--runs" && std::atoi(value.c_str()) > 0) {
      flags.runs = std::atoi(value.c_str());
    } else {
      Require(Status::InvalidArgument("not an argument: " + name + " " + value));
    }
  }
  return flags;
}

Json BeginLine(const std::string& name, const Flags& flags) {
  return {{"bench", name},
          {"date", Today()},
          {"machine", CpuName() + ", " + std::to_string(std::thread::hardware_concurrency()) + " cores"},
          {"isa", Must(ChooseCpuKernels())->name},
          {"threads", NumThreads(flags.threads)},
          {"compute", flags.compute}};
}

ReadBandwidth::ReadBandwidth(int threads)
    : backend_(MakeCpuBackend(NumThreads(threads))), memory_(Must(backend_->Allocate(kBytes))) {
  auto* words = static_cast<std::int32_t*>(memory_.data());
  std::iota(words, words + kBytes / sizeof *words, std::int32_t{1});
}

double ReadBandwidth::BytesPerSecond() {
  std::int32_t result = 0;
  const Tensor words = memory_.View(DType::kInt32, {kBytes / sizeof result});
  const double begin = SecondsNow();
  Require(backend_->XorWords({.words = words, .out = Tensor(&result, DType::kInt32, {1})}));
  return static_cast<double>(kBytes) / (SecondsNow() - begin);
}

}  // namespace unfold::bench
