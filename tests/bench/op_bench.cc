// SPDX-License-Identifier: Apache-2.0
// op_bench: dense products and routing of the cpu backend at the shapes of gist-mini. One JSON line per case: median,
// p10 and p90 over 25 runs. Weights rotate through more copies than the last-level cache holds, as in decoding.
//   op_bench [threads]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu_isa.h"

namespace unfold {
namespace {

constexpr int kRuns = 25;
constexpr std::int64_t kColdBytes = std::int64_t{96} << 20;

struct Times {
  double median, p10, p90;
};

Times Measure(const std::function<void(int)>& run) {
  std::vector<double> seconds;
  run(0);
  for (int i = 1; i <= kRuns; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    run(i);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[kRuns / 2], seconds[kRuns / 10], seconds[kRuns * 9 / 10]};
}

Tensor Random(Backend& backend, std::vector<Buffer>& owners, DType type, std::initializer_list<std::int64_t> shape) {
  Tensor tensor(nullptr, type, shape);
  Result<Buffer> buffer = backend.Allocate(tensor.bytes());
  if (!buffer.ok()) std::exit(1);
  tensor.data = buffer->data();
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const auto bits = static_cast<std::uint16_t>(0x3e00 + std::rand() % 0x180 + (std::rand() % 2 << 15));  // +-0.125..1
    if (type == DType::kF32) tensor.as<float>()[i] = static_cast<float>(std::rand()) / RAND_MAX - 0.5F;
    if (type == DType::kBF16) tensor.as<std::uint16_t>()[i] = bits;
  }
  owners.push_back(*std::move(buffer));
  return tensor;
}

void Require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "op_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

void BenchMatMul(Backend& backend, std::int64_t rows, std::int64_t inner, std::int64_t columns) {
  std::vector<Buffer> owners;
  const std::int64_t weight_bytes = inner * columns * 2;
  const std::int64_t copies = rows <= 8 ? kColdBytes / weight_bytes + 1 : 1;
  const Tensor x = Random(backend, owners, DType::kF32, {rows, inner});
  const Tensor out = Random(backend, owners, DType::kF32, {rows, columns});
  std::vector<Tensor> weights;
  for (std::int64_t i = 0; i < copies; ++i) {
    weights.push_back(Random(backend, owners, DType::kBF16, {columns, inner}));
  }
  const Times t = Measure([&](int i) { Require(backend.MatMul({x, weights[i % copies], false, out})); });
  const double flops = 2.0 * static_cast<double>(rows * inner * columns);
  std::printf(
      "{\"op\": \"MatMul\", \"t\": %ld, \"k\": %ld, \"n\": %ld, \"weight\": \"bf16\", \"us\": %.1f, "
      "\"us_p10\": %.1f, \"us_p90\": %.1f, \"gflops\": %.1f, \"weight_gb_s\": %.1f}\n",
      static_cast<long>(rows), static_cast<long>(inner), static_cast<long>(columns), t.median * 1e6, t.p10 * 1e6,
      t.p90 * 1e6, flops / t.median * 1e-9, static_cast<double>(weight_bytes) / t.median * 1e-9);
}

void BenchRoute(Backend& backend, DType type) {
  constexpr std::int64_t kRows = 20, kChunks = 37000, kUnits = 1000, kHeads = 16, kHeadDim = 64;
  std::vector<Buffer> owners;
  const Tensor q = Random(backend, owners, DType::kF32, {kRows, kHeadDim});
  const Tensor best = Random(backend, owners, DType::kF32, {kRows, kUnits});
  std::vector<Tensor> keys;
  for (std::int64_t h = 0; h < kHeads; ++h) keys.push_back(Random(backend, owners, type, {kChunks, kHeadDim}));
  std::vector<std::int64_t> unit_begin;
  for (std::int64_t p = 0; p <= kUnits; ++p) unit_begin.push_back(p * kChunks / kUnits);
  std::vector<double> sum(kRows), squares(kRows);
  const Times t = Measure([&](int) {
    for (const Tensor& slab : keys) Require(backend.RouteScore({q, slab, unit_begin, best, sum, squares}));
  });
  std::printf(
      "{\"op\": \"RouteScore\", \"t\": 20, \"chunks\": 37000, \"heads\": 16, \"keys\": \"%s\", \"ms\": %.2f, "
      "\"ms_p10\": %.2f, \"ms_p90\": %.2f}\n",
      std::string(DTypeName(type)).c_str(), t.median * 1e3, t.p10 * 1e3, t.p90 * 1e3);
}

int Run(int threads) {
  Result<std::unique_ptr<Backend>> made = MakeBackend("cpu", threads);
  if (!made.ok()) Require(made.status());
  Backend& backend = **made;
  std::printf("{\"backend\": \"cpu\", \"isa\": \"%s\", \"threads\": %d}\n", std::string(CpuIsaName(backend)).c_str(),
              threads);
  for (std::int64_t rows : {1, 8, 64, 512, 2048}) {
    BenchMatMul(backend, rows, 512, 512);
    BenchMatMul(backend, rows, 512, 1408);
    BenchMatMul(backend, rows, 1408, 512);
    BenchMatMul(backend, rows, 512, 8192);
  }
  BenchRoute(backend, DType::kBF16);
  BenchRoute(backend, DType::kF32);
  return 0;
}

}  // namespace
}  // namespace unfold

int main(int argc, char** argv) { return unfold::Run(argc > 1 ? std::atoi(argv[1]) : 0); }
