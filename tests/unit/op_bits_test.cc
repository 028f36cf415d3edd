// SPDX-License-Identifier: Apache-2.0
// The op suite, determinism: one run of all ops, compared bit for bit over repeats, thread counts and instruction sets;
// and how a backend is chosen.
#include <cstdlib>
#include <optional>

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
  std::vector<double> mass(60, 0.0);
  keep_tensor(backend.SparseAttention(c.Args(attended, mass)), attended);
  keep(Status::Ok(), mass.data(), mass.size() * sizeof(double));
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

// avx2 and avx512 keep the lane law with fused products: the same bits. Portable equals itself over threads.
TEST_P(OpSuite, BitsDependOnNeitherRunNorThreadsNorInstructionSet) {
  Candidate peer{GetParam().kernels, 1};
  if (GetParam().fused()) peer.kernels = UsableCpuKernels().front();
  const std::vector<std::string> want = RunAllOps(*peer.Make());
  for (int run = 0; run < 3; ++run) {
    const std::vector<std::string> mine = RunAllOps(*backend_);
    ASSERT_EQ(mine.size(), want.size());
    for (std::size_t op = 0; op < mine.size(); ++op) ASSERT_TRUE(mine[op] == want[op]) << "result " << op;
  }
}

TEST_P(OpSuite, MemoryIsAlignedAndCopiesRoundTrip) {
  for (std::size_t bytes : {0, 1, 63, 64, 1000}) {
    Result<Buffer> buffer = backend_->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(buffer->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % 64, 0U);
  }
  Result<Buffer> buffer = backend_->Allocate(12);
  const Tensor device = buffer->View(DType::kInt32, {3});
  const std::int32_t in[3] = {1, -2, 3};
  std::int32_t out[3] = {};
  ASSERT_TRUE(Succeeds(backend_->Upload(device, in)));
  ASSERT_TRUE(Succeeds(backend_->Download(out, device)));
  EXPECT_TRUE(SameBits(in, out, sizeof(in)));
  EXPECT_EQ(backend_->Upload(device, nullptr).code(), StatusCode::kInvalidArgument);
  // Weights: ref takes them where they are; cpu copies them, each to the start of a cache line, and they stay.
  EXPECT_EQ((*ref_->ImportWeights(device)).data, device.data);
  std::vector<Tensor> imported;
  for (int i = 0; i < 3; ++i) {
    imported.push_back(*backend_->ImportWeights(device));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(imported.back().data) % 64, 0U);
  }
  std::vector<float> large(std::size_t{40} << 18);  // 40 MiB: more than one slab
  large.back() = 7;
  const Tensor big = *backend_->ImportWeights(Tensor(large.data(), DType::kF32, {std::int64_t{40} << 18}));
  EXPECT_EQ(big.as<float>()[large.size() - 1], 7);
  for (const Tensor& tensor : imported) EXPECT_TRUE(SameBits(tensor, device));
  const Result<Buffer> huge = backend_->Allocate(SIZE_MAX);
  EXPECT_EQ(huge.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(huge.status().message().find(std::to_string(SIZE_MAX)), std::string::npos);
}

// Sets a variable for one scope.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value == nullptr ? unsetenv(name) : setenv(name, value, 1);
  }
  ~ScopedEnv() { old_ ? setenv(name_, old_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

TEST(MakeBackend, ForcedInstructionSetIsActive) {
  const ScopedEnv backend("UNFOLD_BACKEND", nullptr);
  for (const SimdKernels* kernels : UsableCpuKernels()) {
    const ScopedEnv isa("UNFOLD_CPU_ISA", kernels->name);
    const auto made = MakeBackend("cpu", 1);
    ASSERT_TRUE(made.ok());
    EXPECT_EQ(CpuIsaName(**made), kernels->name);
    EXPECT_EQ(CpuIsaName(*MakeCpuBackend(1)), kernels->name);
  }
  const ScopedEnv none("UNFOLD_CPU_ISA", nullptr);
  EXPECT_EQ(CpuIsaName(**MakeBackend("cpu", 1)), UsableCpuKernels().front()->name);
}

TEST(MakeBackend, UnknownInstructionSetIsRefused) {
  const ScopedEnv backend("UNFOLD_BACKEND", nullptr);
  const ScopedEnv isa("UNFOLD_CPU_ISA", "mmx");
  const auto made = MakeBackend("cpu", 1);
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(made.status().message().find("'mmx'"), std::string::npos) << made.status().message();
  EXPECT_NE(made.status().message().find("portable"), std::string::npos);
}

TEST(MakeBackend, NamesAndEnvironment) {
  const ScopedEnv isa("UNFOLD_CPU_ISA", nullptr);
  {
    const ScopedEnv backend("UNFOLD_BACKEND", nullptr);
    EXPECT_EQ((*MakeBackend("ref", 1))->name(), "ref");
    EXPECT_EQ((*MakeBackend("cpu", 0))->name(), "cpu");
    const auto made = MakeBackend("cuda", 1);
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(made.status().message(), "backend 'cuda' is not in this build; it has: ref, cpu");
    EXPECT_EQ(MakeBackend("cpu", -1).status().code(), StatusCode::kInvalidArgument);
  }
  const ScopedEnv forced("UNFOLD_BACKEND", "ref");
  EXPECT_EQ((*MakeBackend("cpu", 1))->name(), "ref");
}

}  // namespace
}  // namespace unfold
