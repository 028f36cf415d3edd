// SPDX-License-Identifier: Apache-2.0
// Weights of a model that nobody trained, for measurements: seeded, bf16, of the size that keeps activations near 1.
#ifndef UNFOLD_MODEL_RANDOM_WEIGHTS_H_
#define UNFOLD_MODEL_RANDOM_WEIGHTS_H_

#include <functional>

#include "model/config.h"
#include "model/random_tensors.h"
#include "model/weights.h"
#include "unfold/base.h"

namespace unfold {

// Matrices are normal with deviation 1 / sqrt(columns), biases with 0.02, norms are 1. `memory` owns them. `check` is
// asked before each tensor, and ends the work when it is not Ok.
Result<Weights> RandomWeights(const ModelConfig& config, RandomTensors& memory, const std::function<Status()>& check);

}  // namespace unfold

#endif  // UNFOLD_MODEL_RANDOM_WEIGHTS_H_
