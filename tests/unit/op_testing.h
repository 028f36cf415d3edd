// SPDX-License-Identifier: Apache-2.0
// What the op suite shares: the backends under test, tensors with guard bytes, random fills, derived bounds.
#ifndef UNFOLD_TESTS_UNIT_OP_TESTING_H_
#define UNFOLD_TESTS_UNIT_OP_TESTING_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "base/float16.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

namespace unfold {

constexpr double kEps = std::numeric_limits<float>::epsilon();

// One backend under test. `make` gives one that takes tensors in host memory.
struct Candidate {
  std::string name;
  std::function<std::unique_ptr<Backend>()> make;
  const SimdKernels* kernels = nullptr;  // of a cpu backend
  // Whether a product's columns have the same bits when they are computed apart. A law of ours alone, no promise.
  bool columns_stand_alone = true;

  // avx2 and avx512 promise the same bits as each other; others stand alone.
  bool fused() const { return kernels != nullptr && std::string(kernels->name) != "portable"; }
};
inline void PrintTo(const Candidate& candidate, std::ostream* out) { *out << candidate.name; }

inline Candidate CpuCandidate(const SimdKernels& kernels, int threads) {
  return {std::string(kernels.name) + "_" + std::to_string(threads) + "_threads",
          [&kernels, threads] { return MakeCpuBackendWith(kernels, threads); }, &kernels};
}

// What a program of the suite tests (op_candidates_*.cc): backends that are held to `ref`, and those whose refusals are
// looked at.
std::vector<Candidate> Candidates();
std::vector<Candidate> RefusingCandidates();

// Memory of a tensor between two guards, at an address with no more alignment than its type needs. Filled with ones:
// NaN as f32, -1 as int32, so what an op leaves unwritten shows.
class Guarded {
 public:
  Guarded(DType type, std::initializer_list<std::int64_t> shape) : tensor_(nullptr, type, shape) {
    bytes_.assign(tensor_.bytes() + 2 * kGuard + DTypeBytes(type), kMark);
    tensor_.data = bytes_.data() + kGuard + DTypeBytes(type);
    std::memset(tensor_.data, 0xff, tensor_.bytes());
  }

  Guarded(Guarded&&) = default;
  Guarded& operator=(Guarded&&) = default;
  Guarded(const Guarded& other) : bytes_(other.bytes_), tensor_(other.tensor_) {
    tensor_.data = bytes_.data() + kGuard + DTypeBytes(tensor_.dtype);
  }

  const Tensor& operator*() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }  // NOLINT(google-explicit-constructor)
  float* f32() const { return tensor_.as<float>(); }
  std::int32_t* i32() const { return tensor_.as<std::int32_t>(); }
  std::uint16_t* u16() const { return tensor_.as<std::uint16_t>(); }
  std::int64_t size() const { return tensor_.size(); }
  float operator[](std::int64_t i) const { return f32()[i]; }

  bool Intact() const {
    const auto front = static_cast<std::size_t>(static_cast<std::uint8_t*>(tensor_.data) - bytes_.data());
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      const bool inside = i >= front && i < front + tensor_.bytes();
      if (!inside && bytes_[i] != kMark) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kGuard = 64;
  static constexpr std::uint8_t kMark = 0xa5;
  std::vector<std::uint8_t> bytes_;
  Tensor tensor_;
};

// A host vector as a tensor.
inline Tensor TensorOf(const std::vector<std::int32_t>& values) {
  return Tensor(const_cast<std::int32_t*>(values.data()), DType::kInt32, {static_cast<std::int64_t>(values.size())});
}
inline Tensor TensorOf(const std::vector<float>& values) {
  return Tensor(const_cast<float*>(values.data()), DType::kF32, {static_cast<std::int64_t>(values.size())});
}

// Seeded; the same on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::int64_t Below(std::int64_t limit) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(limit));
  }
  float Uniform(float magnitude) {  // in [-magnitude, magnitude)
    return (static_cast<float>(engine_() >> 40) * 0x1p-23F - 1.0F) * magnitude;
  }
  void Fill(const Tensor& tensor, float magnitude = 1.0F) {
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      const float value = Uniform(magnitude);
      switch (tensor.dtype) {
        case DType::kF32: tensor.as<float>()[i] = value; break;
        case DType::kBF16: tensor.as<std::uint16_t>()[i] = F32ToBF16(value); break;
        // Sign and mantissa at random, exponents 0 (subnormal) to 15 (below 2).
        case DType::kF16: tensor.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(engine_() & 0xbfffU); break;
        case DType::kInt8: tensor.as<std::int8_t>()[i] = static_cast<std::int8_t>(Below(255) - 127); break;
        case DType::kInt32: tensor.as<std::int32_t>()[i] = static_cast<std::int32_t>(Below(1000)); break;
      }
    }
  }
  Guarded Make(DType type, std::initializer_list<std::int64_t> shape, float magnitude = 1.0F) {
    Guarded tensor(type, shape);
    Fill(tensor, magnitude);
    return tensor;
  }

 private:
  std::mt19937_64 engine_;
};

inline double Widened(const Tensor& tensor, std::int64_t i) {
  if (tensor.dtype == DType::kF16) return F16ToF32(tensor.as<std::uint16_t>()[i]);
  if (tensor.dtype == DType::kBF16) return BF16ToF32(tensor.as<std::uint16_t>()[i]);
  if (tensor.dtype == DType::kInt8) return tensor.as<std::int8_t>()[i];
  return tensor.as<float>()[i];
}

// Euclidean norm of row `row` of `width` elements.
inline double Norm(const Tensor& tensor, std::int64_t row, std::int64_t width) {
  double sum = 0;
  for (std::int64_t i = row * width; i < (row + 1) * width; ++i) sum += Widened(tensor, i) * Widened(tensor, i);
  return std::sqrt(sum);
}
inline double LargestNorm(const Tensor& tensor, std::int64_t width) {
  double largest = 0;
  for (std::int64_t row = 0; row < tensor.size() / width; ++row) largest = std::max(largest, Norm(tensor, row, width));
  return largest;
}
inline double LargestMagnitude(const Tensor& tensor) {
  double largest = 0;
  for (std::int64_t i = 0; i < tensor.size(); ++i) largest = std::max(largest, std::abs(Widened(tensor, i)));
  return largest;
}

// The bound of MatMulArgs at out[t, n], without what is added to the product. `x` is as rounded.
inline double MatMulBound(const Tensor& x, const Tensor& weight, std::int64_t t, std::int64_t n, DType compute) {
  const std::int64_t inner = x.dims[1];
  const double x_norm = Norm(x, t, inner), w_norm = Norm(weight, n, inner);
  const double subnormal = compute == DType::kF32 ? 0 : static_cast<double>(inner) * 0x1p-126 * (1 + x_norm + w_norm);
  return (static_cast<double>(inner) + 2) * kEps * x_norm * w_norm + subnormal;
}

// Every element was written, lies within its bound of the reference, which is f32, and nothing around the output was
// touched.
inline ::testing::AssertionResult Near(const Guarded& out, const Guarded& expected,
                                       const std::function<double(std::int64_t)>& bound) {
  if (!out.Intact() || !expected.Intact()) return ::testing::AssertionFailure() << "wrote outside the output";
  for (std::int64_t i = 0; i < out.size(); ++i) {
    const double found = Widened(out, i);
    if (!(std::abs(found - expected[i]) <= bound(i))) {
      return ::testing::AssertionFailure() << "element " << i << " of " << (*out).ShapeString() << " is " << found
                                           << ", expected " << expected[i] << " within " << bound(i);
    }
  }
  return ::testing::AssertionSuccess();
}

// The types of KV that a backend attends: f32, and what it wants beside.
inline std::vector<DType> KvTypes(const Backend& backend) {
  if (backend.WorkingType(DType::kBF16) == DType::kF32) return {DType::kF32};
  return {DType::kF32, backend.WorkingType(DType::kBF16)};
}

// NaN, in any type, in `count` elements.
inline void Poison(const Tensor& tensor, std::int64_t first, std::int64_t count) {
  const std::size_t size = DTypeBytes(tensor.dtype);
  std::memset(tensor.as<char>() + static_cast<std::size_t>(first) * size, 0xff, static_cast<std::size_t>(count) * size);
}

inline bool SameBits(const void* a, const void* b, std::size_t bytes) {
  return bytes == 0 || std::memcmp(a, b, bytes) == 0;
}
inline bool SameBits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && SameBits(a.data, b.data, a.bytes());
}

inline ::testing::AssertionResult Succeeds(const Status& status) {
  if (status.ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << status.ToString();
}

// The values of `x`, f32 or bf16, in `type`.
inline Guarded InType(const Guarded& x, DType type) {
  const auto [a, b, c, d] = (*x).dims;
  Guarded converted = (*x).rank == 1   ? Guarded(type, {a})
                      : (*x).rank == 2 ? Guarded(type, {a, b})
                      : (*x).rank == 3 ? Guarded(type, {a, b, c})
                                       : Guarded(type, {a, b, c, d});
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const auto value = static_cast<float>(Widened(x, i));
    if (type == DType::kBF16) {
      converted.u16()[i] = F32ToBF16(value);
    } else {
      converted.f32()[i] = value;
    }
  }
  return converted;
}
inline Guarded Narrowed(const Guarded& x) { return InType(x, DType::kBF16); }
inline Guarded WidenedTensor(const Guarded& x) { return InType(x, DType::kF32); }

// cos and sin of p * 10000^(-2i/D).
struct RopeFixture {
  Guarded cos, sin;

  RopeFixture(std::int64_t positions, std::int64_t head_dim)
      : cos(DType::kF32, {positions, head_dim / 2}), sin(DType::kF32, {positions, head_dim / 2}) {
    const std::int64_t half = head_dim / 2;
    for (std::int64_t i = 0; i < positions * half; ++i) {
      const double angle = static_cast<double>(i / half) * std::pow(1e4, -static_cast<double>(i % half) / half);
      cos.f32()[i] = static_cast<float>(std::cos(angle));
      sin.f32()[i] = static_cast<float>(std::sin(angle));
    }
  }
  RopeTable table() const { return {cos, sin}; }
};

class OpSuite : public ::testing::TestWithParam<Candidate> {
 protected:
  void SetUp() override {
    backend_ = GetParam().make();
    ref_ = MakeRefBackend();
    if (GetParam().kernels != nullptr) {
      ASSERT_EQ(CpuIsaName(*backend_), GetParam().kernels->name);
    }
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Backend> ref_;
};

}  // namespace unfold

#endif  // UNFOLD_TESTS_UNIT_OP_TESTING_H_
