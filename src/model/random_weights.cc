// SPDX-License-Identifier: Apache-2.0
#include "model/random_weights.h"

#include <cmath>

namespace unfold {
namespace {

constexpr float kBiasDeviation = 0.02F;

// Thread-compatible.
class RandomSource : public WeightSource {
 public:
  RandomSource(RandomTensors& memory, const std::function<Status()>& check) : memory_(memory), check_(check) {}

  Result<Tensor> Take(const std::string& name, std::initializer_list<std::int64_t> shape) override {
    UNFOLD_TRY(check_());
    if (name.ends_with("norm.weight")) return memory_.Constant(DType::kBF16, shape, 1);
    const bool matrix = shape.size() == 2;
    const float deviation = matrix ? 1 / std::sqrt(static_cast<float>(shape.begin()[1])) : kBiasDeviation;
    return memory_.Normal(DType::kBF16, shape, deviation);
  }

 private:
  RandomTensors& memory_;
  const std::function<Status()>& check_;
};

}  // namespace

Result<Weights> RandomWeights(const ModelConfig& config, RandomTensors& memory, const std::function<Status()>& check) {
  RandomSource source(memory, check);
  return BindWeights(source, config);
}

}  // namespace unfold
