// SPDX-License-Identifier: Apache-2.0
// RandomTensors: memory of a backend filled with seeded normal values, in seconds for gigabytes. For measurements and
// tests, where values must be plausible and the same each time, and no checkpoint is wanted.
#ifndef UNFOLD_MODEL_RANDOM_TENSORS_H_
#define UNFOLD_MODEL_RANDOM_TENSORS_H_

#include <cstdint>
#include <initializer_list>
#include <map>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "unfold/base.h"

namespace unfold {

// Thread-compatible. Owns what it makes; must not outlive the backend.
class RandomTensors {
 public:
  RandomTensors(Backend& backend, std::uint64_t seed);

  // f32 or bf16, of mean 0 and the given standard deviation. All tensors are cut from one pattern of about two million
  // values, each from a place of its own; the rows of a matrix differ.
  Result<Tensor> Normal(DType type, std::initializer_list<std::int64_t> shape, float deviation);
  // Every element is `value`. f32 or bf16.
  Result<Tensor> Constant(DType type, std::initializer_list<std::int64_t> shape, float value);
  // i32 [values.size()], as given.
  Result<Tensor> Ints(std::span<const std::int32_t> values);
  // Zeros of any type.
  Result<Tensor> Zeros(DType type, std::initializer_list<std::int64_t> shape);

  Backend& backend() { return backend_; }
  std::uint64_t num_bytes() const { return num_bytes_; }  // made so far

 private:
  Result<Tensor> Allocate(DType type, std::initializer_list<std::int64_t> shape);
  const std::vector<char>& Pattern(DType type, float deviation);

  Backend& backend_;
  std::mt19937_64 engine_;
  std::vector<float> normal_;  // the pattern at deviation 1
  std::map<std::pair<DType, float>, std::vector<char>> patterns_;
  std::vector<Buffer> buffers_;
  std::uint64_t num_bytes_ = 0;
};

}  // namespace unfold

#endif  // UNFOLD_MODEL_RANDOM_TENSORS_H_
