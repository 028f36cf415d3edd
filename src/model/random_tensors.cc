// SPDX-License-Identifier: Apache-2.0
#include "model/random_tensors.h"

#include <algorithm>
#include <cstring>

#include "base/float16.h"

namespace unfold {
namespace {

// A prime: no row length divides it, so rows begin at different places of the pattern.
constexpr std::int64_t kPatternValues = 2097143;

std::vector<char> Converted(std::span<const float> values, DType type, float factor) {
  std::vector<char> bytes(values.size() * DTypeBytes(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float value = values[i] * factor;
    const std::uint16_t bits = F32ToBF16(value);
    std::memcpy(bytes.data() + i * DTypeBytes(type), type == DType::kBF16 ? static_cast<const void*>(&bits) : &value,
                DTypeBytes(type));
  }
  return bytes;
}

// Writes `pattern` over `whole` again and again, from its element `first` on.
Status Tile(Backend& backend, const Tensor& whole, const std::vector<char>& pattern, std::int64_t first) {
  const auto element = static_cast<std::int64_t>(DTypeBytes(whole.dtype));
  const std::int64_t length = static_cast<std::int64_t>(pattern.size()) / element;
  for (std::int64_t at = 0; at < whole.size(); first = 0) {
    const std::int64_t count = std::min(length - first, whole.size() - at);
    UNFOLD_TRY(backend.Upload(Tensor(whole.as<char>() + at * element, whole.dtype, {count}),
                              pattern.data() + first * element));
    at += count;
  }
  return Status::Ok();
}

}  // namespace

RandomTensors::RandomTensors(Backend& backend, std::uint64_t seed) : backend_(backend), engine_(seed) {
  std::normal_distribution<float> normal;
  normal_.resize(kPatternValues);
  for (float& value : normal_) value = normal(engine_);
}

Result<Tensor> RandomTensors::Allocate(DType type, std::initializer_list<std::int64_t> shape) {
  const std::size_t bytes = Tensor(nullptr, type, shape).bytes();
  UNFOLD_TRY_ASSIGN(Buffer buffer, backend_.Allocate(bytes));
  buffers_.push_back(std::move(buffer));
  num_bytes_ += bytes;
  return buffers_.back().View(type, shape);
}

const std::vector<char>& RandomTensors::Pattern(DType type, float deviation) {
  std::vector<char>& pattern = patterns_[{type, deviation}];
  if (pattern.empty()) pattern = Converted(normal_, type, deviation);
  return pattern;
}

Result<Tensor> RandomTensors::Normal(DType type, std::initializer_list<std::int64_t> shape, float deviation) {
  UNFOLD_TRY_ASSIGN(const Tensor tensor, Allocate(type, shape));
  const auto first = static_cast<std::int64_t>(engine_() % kPatternValues);
  UNFOLD_TRY(Tile(backend_, tensor, Pattern(type, deviation), first));
  return tensor;
}

Result<Tensor> RandomTensors::Constant(DType type, std::initializer_list<std::int64_t> shape, float value) {
  UNFOLD_TRY_ASSIGN(const Tensor tensor, Allocate(type, shape));
  const std::vector<float> values(static_cast<std::size_t>(tensor.size()), value);
  UNFOLD_TRY(backend_.Upload(tensor, Converted(values, type, 1).data()));
  return tensor;
}

Result<Tensor> RandomTensors::Ints(std::span<const std::int32_t> values) {
  UNFOLD_TRY_ASSIGN(const Tensor tensor, Allocate(DType::kInt32, {static_cast<std::int64_t>(values.size())}));
  UNFOLD_TRY(backend_.Upload(tensor, values.data()));
  return tensor;
}

Result<Tensor> RandomTensors::Zeros(DType type, std::initializer_list<std::int64_t> shape) {
  UNFOLD_TRY_ASSIGN(const Tensor tensor, Allocate(type, shape));
  const std::vector<char> block(static_cast<std::size_t>(1) << 20);
  UNFOLD_TRY(Tile(backend_, tensor, block, 0));
  return tensor;
}

}  // namespace unfold
