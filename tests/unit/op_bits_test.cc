// SPDX-License-Identifier: Apache-2.0
// The op suite, determinism: one run of all ops, compared bit for bit over repeats, thread counts and instruction sets.
#include "op_cases.h"
#include "op_testing.h"

namespace unfold {
namespace {

// The output bytes of every op on fixed inputs, one entry per op.
std::vector<std::string> RunAllOps(Backend& backend) {
  std::vector<std::string> results;
  Random random(40);
  const auto keep = [&](const Status& status, const void* data, std::size_t bytes) {
    EXPECT_TRUE(Succeeds(status));
    results.emplace_back(static_cast<const char*>(data), bytes);
  };
  const auto keep_tensor = [&](const Status& status, const Tensor& out) { keep(status, out.data, out.bytes()); };

  for (DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (std::int64_t inner : {15, 100, 512}) {
      const Guarded x = random.Make(DType::kF32, {37, inner}), weight = random.Make(type, {301, inner});
      const Guarded out(DType::kF32, {37, 301}), normed(DType::kF32, {37, inner});
      keep_tensor(backend.MatMul({x, weight, false, out}), out);
      keep_tensor(backend.MatMul({x, weight, true, out}), out);
      keep_tensor(backend.RmsNorm({x, (*weight).Rows(0, 1).Reshape({inner}), 1e-5F, normed}), normed);
    }
  }
  const Guarded gate = random.Make(DType::kF32, {64, 1000}, 50), up = random.Make(DType::kF32, {64, 1000});
  const Guarded activated(DType::kF32, {64, 1000});
  keep_tensor(backend.SwiGlu({gate, up, activated}), activated);

  GistBatch batch;
  for (std::int64_t raw : {50, 3, 2100, 90}) AppendDocument(batch, random, {2, 4, 3, 3, 1}, raw);
  const Guarded q = random.Make(DType::kF32, {batch.rows(), 7, 96}, 3),
                k = random.Make(DType::kF32, {batch.rows(), 1, 96});
  const Guarded prefill(DType::kF32, {batch.rows(), 7, 96});
  keep_tensor(backend.GistPrefill({q, k, k, batch.tokens, batch.sequence_begin, batch.rules, prefill}), prefill);

  const SparseCase c(random, {4, 2, 64}, 37, 3, 5, {40, 20}, {3, 3}, 2);
  const Guarded scores(DType::kF32, {37, 8, 60}), chosen(DType::kInt32, {37, 4, 60}), counts(DType::kInt32, {37, 4});
  keep_tensor(backend.GistScore(
                  {.q = c.q, .positions = c.positions, .rope = c.rope.table(), .context = &c.view, .scores = scores}),
              scores);
  keep_tensor(backend.SelectChunks(
                  {.scores = scores, .kv_heads = 4, .top_k = 6, .top_p = 0, .scale = 1, .chosen = {chosen, counts}}),
              counts);
  keep_tensor(
      backend.SelectChunks(
          {.scores = scores, .kv_heads = 4, .top_k = 0, .top_p = 0.5F, .scale = 0.125F, .chosen = {chosen, counts}}),
      counts);
  const Guarded attended = c.Out();
  const std::vector<float> mass(4 * 60, 0.0F);
  keep_tensor(backend.SparseAttention(c.Args(attended, TensorOf(mass))), attended);
  keep(Status::Ok(), mass.data(), mass.size() * sizeof(float));
  SparseAttentionArgs collapsed = c.Args(attended);
  collapsed.read = GistRead::kCollapsed;
  keep_tensor(backend.SparseAttention(collapsed), attended);

  const Guarded queries = random.Make(DType::kF32, {20, 64}), keys = random.Make(DType::kBF16, {3000, 64});
  std::vector<std::int64_t> unit_begin;
  for (std::int64_t p = 0; p <= 100; ++p) unit_begin.push_back(30 * p);
  const Guarded best(DType::kF32, {20, 100});
  std::vector<double> sum(20), squares(20);
  keep_tensor(backend.RouteScore({queries, keys, unit_begin, best, sum, squares}), best);
  keep(Status::Ok(), sum.data(), sum.size() * sizeof(double));
  keep(Status::Ok(), squares.data(), squares.size() * sizeof(double));
  return results;
}

// avx2 and avx512 keep the lane law with fused products: the same bits. Others equal themselves over threads and runs.
TEST_P(OpSuite, BitsDependOnNeitherRunNorThreadsNorInstructionSet) {
  Candidate peer = GetParam();
  if (peer.kernels != nullptr) peer = CpuCandidate(peer.fused() ? *UsableCpuKernels().front() : *peer.kernels, 1);
  const std::vector<std::string> want = RunAllOps(*peer.make());
  for (int run = 0; run < 3; ++run) {
    const std::vector<std::string> mine = RunAllOps(*backend_);
    ASSERT_EQ(mine.size(), want.size());
    for (std::size_t op = 0; op < mine.size(); ++op) ASSERT_TRUE(mine[op] == want[op]) << "result " << op;
  }
}

}  // namespace
}  // namespace unfold
