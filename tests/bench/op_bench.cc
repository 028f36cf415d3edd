// SPDX-License-Identifier: Apache-2.0
// op_bench: dense products and routing of the cpu backend at the shapes of gist-mini. One JSON line per case: median,
// p10 and p90. Weights rotate through more copies than the last-level cache holds, as in decoding.
//   op_bench [--threads N] [--compute f32|bf16] [--runs N]
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "bench_common.h"
#include "kernels/backend.h"

namespace unfold::bench {
namespace {

constexpr std::int64_t kColdBytes = std::int64_t{96} << 20;

Samples Measure(const Flags& flags, const std::function<void(int)>& run) {
  Samples seconds;
  run(0);
  for (int i = 1; i <= flags.runs; ++i) {
    const double begin = SecondsNow();
    run(i);
    seconds.Add(SecondsNow() - begin);
  }
  return seconds;
}

Tensor Random(Backend& backend, std::vector<Buffer>& owners, DType type, std::initializer_list<std::int64_t> shape) {
  Tensor tensor(nullptr, type, shape);
  Buffer buffer = Must(backend.Allocate(tensor.bytes()));
  tensor.data = buffer.data();
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const auto bits = static_cast<std::uint16_t>(0x3e00 + std::rand() % 0x180 + (std::rand() % 2 << 15));  // +-0.125..1
    if (type == DType::kF32) tensor.as<float>()[i] = static_cast<float>(std::rand()) / RAND_MAX - 0.5F;
    if (type == DType::kBF16) tensor.as<std::uint16_t>()[i] = bits;
  }
  owners.push_back(std::move(buffer));
  return tensor;
}

void BenchMatMul(Backend& backend, const Flags& flags, std::int64_t rows, std::int64_t inner, std::int64_t columns) {
  std::vector<Buffer> owners;
  const std::int64_t weight_bytes = inner * columns * 2;
  const std::int64_t copies = rows <= 8 ? kColdBytes / weight_bytes + 1 : 1;
  const Tensor x = Random(backend, owners, DType::kF32, {rows, inner});
  const Tensor out = Random(backend, owners, DType::kF32, {rows, columns});
  std::vector<Tensor> weights;
  for (std::int64_t i = 0; i < copies; ++i) {
    weights.push_back(Must(backend.ImportWeights(Random(backend, owners, DType::kBF16, {columns, inner}))));
    owners.pop_back();
  }
  const Samples seconds = Measure(flags, [&](int i) {
    Require(backend.MatMul({x, weights[i % copies], false, out, flags.compute_type()}));
  });
  Json line = BeginLine("MatMul", flags);
  line.update({{"t", rows}, {"k", inner}, {"n", columns}, {"weight", "bf16"}});
  seconds.Write("us", 1e6, line);
  line["gflop_s"] = 2.0 * static_cast<double>(rows * inner * columns) / seconds.Median() * 1e-9;
  line["weight_gb_s"] = static_cast<double>(weight_bytes) / seconds.Median() * 1e-9;
  Print(line);
}

void BenchRoute(Backend& backend, const Flags& flags, DType type) {
  constexpr std::int64_t kRows = 20, kChunks = 37000, kUnits = 1000, kHeads = 16, kHeadDim = 64;
  std::vector<Buffer> owners;
  const Tensor q = Random(backend, owners, DType::kF32, {kRows, kHeadDim});
  const Tensor best = Random(backend, owners, DType::kF32, {kRows, kUnits});
  std::vector<Tensor> keys;
  for (std::int64_t h = 0; h < kHeads; ++h) keys.push_back(Random(backend, owners, type, {kChunks, kHeadDim}));
  std::vector<std::int64_t> unit_begin;
  for (std::int64_t p = 0; p <= kUnits; ++p) unit_begin.push_back(p * kChunks / kUnits);
  std::vector<double> sum(kRows), squares(kRows);
  const Samples seconds = Measure(flags, [&](int) {
    for (const Tensor& slab : keys) Require(backend.RouteScore({q, slab, unit_begin, best, sum, squares}));
  });
  Json line = BeginLine("RouteScore", flags);
  line.update({{"t", kRows}, {"chunks", kChunks}, {"heads", kHeads}, {"keys", DTypeName(type)}});
  seconds.Write("ms", 1e3, line);
  Print(line);
}

void Run(const Flags& flags) {
  const std::unique_ptr<Backend> backend = Must(MakeBackend("cpu", flags.threads));
  for (std::int64_t rows : {1, 8, 64, 512, 2048}) {
    BenchMatMul(*backend, flags, rows, 512, 512);
    BenchMatMul(*backend, flags, rows, 512, 1408);
    BenchMatMul(*backend, flags, rows, 1408, 512);
    BenchMatMul(*backend, flags, rows, 512, 8192);
  }
  BenchRoute(*backend, flags, DType::kBF16);
  BenchRoute(*backend, flags, DType::kF32);
}

}  // namespace
}  // namespace unfold::bench

int main(int argc, char** argv) { unfold::bench::Run(unfold::bench::ParseFlags(argc, argv)); }
