// SPDX-License-Identifier: Apache-2.0
// What the op suite tests on the CPU: every kernel set with one thread and with two. And what is the CPU's alone: its
// exp, its memory, how a backend and an instruction set are chosen.
#include <array>
#include <cstdlib>
#include <optional>

#include "op_testing.h"

namespace unfold {

std::vector<Candidate> Candidates() {
  std::vector<Candidate> candidates;
  for (const SimdKernels* kernels : UsableCpuKernels()) {
    for (int threads : {1, 2}) candidates.push_back(CpuCandidate(*kernels, threads));
  }
  return candidates;
}

std::vector<Candidate> RefusingCandidates() {
  return {{"ref", [] { return MakeRefBackend(); }}, {"cpu", [] { return MakeCpuBackend(1); }}};
}

namespace {

class CpuOnly : public OpSuite {};

// Every 997th float from below the smallest result to above the largest.
TEST_P(CpuOnly, ExpIsWithinTwoUlp) {
  std::vector<float> x, out;
  for (float limit : {-110.0F, 95.0F}) {
    for (std::uint32_t bits = 0; bits <= std::bit_cast<std::uint32_t>(std::abs(limit)); bits += 997) {
      x.push_back(std::copysign(std::bit_cast<float>(bits), limit));
    }
  }
  out.resize(x.size());
  GetParam().kernels->exp(x.data(), out.data(), static_cast<std::int64_t>(x.size()));
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(double{x[i]});
    if (want > std::numeric_limits<float>::max()) {
      ASSERT_GE(out[i], 0.999999 * double{std::numeric_limits<float>::max()}) << x[i];
      continue;
    }
    const double ulp = std::max(std::ldexp(1.0, std::ilogb(want) - 23), 0x1p-149);
    worst = std::max(worst, std::abs(out[i] - want) / ulp);
  }
  EXPECT_LE(worst, 2.0);
  RecordProperty("worst_exp_error_in_thousandths_of_ulp", static_cast<int>(worst * 1000));
  const float inf = std::numeric_limits<float>::infinity();
  const std::array<float, 5> special = {inf, -inf, std::nanf(""), 0.0F, 90.0F};
  std::array<float, 5> result{};
  GetParam().kernels->exp(special.data(), result.data(), 5);
  EXPECT_EQ(result[0], inf);
  EXPECT_EQ(result[1], 0.0F);
  EXPECT_TRUE(std::isnan(result[2]));
  EXPECT_EQ(result[3], 1.0F);
  EXPECT_EQ(result[4], inf);
}

TEST_P(CpuOnly, MemoryIsAlignedAndCopiesRoundTrip) {
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
    const auto made = MakeBackend("tpu", 1);
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
#if defined(UNFOLD_WITH_CUDA)
    EXPECT_EQ(made.status().message(), "backend 'tpu' is not in this build; it has: ref, cpu, cuda");
#else
    EXPECT_EQ(made.status().message(),
              "backend 'tpu' is not in this build; it has: ref, cpu (cuda: configure with -DUNFOLD_WITH_CUDA=ON)");
    EXPECT_EQ(MakeBackend("cuda", 1).status().code(), StatusCode::kInvalidArgument);
#endif
    EXPECT_EQ(MakeBackend("cpu", -1).status().code(), StatusCode::kInvalidArgument);
  }
  const ScopedEnv forced("UNFOLD_BACKEND", "ref");
  EXPECT_EQ((*MakeBackend("cpu", 1))->name(), "ref");
}

INSTANTIATE_TEST_SUITE_P(Backends, CpuOnly, ::testing::ValuesIn(Candidates()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace unfold
