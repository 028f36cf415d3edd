// SPDX-License-Identifier: Apache-2.0
// A Llama checkpoint's weights as backend tensors, by role. Host backends read the mapped file itself.
#ifndef UNFOLD_MODEL_WEIGHTS_H_
#define UNFOLD_MODEL_WEIGHTS_H_

#include <vector>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "unfold/base.h"

namespace unfold {

struct LayerWeights {
  Tensor input_norm;  // [M]
  Tensor q;           // [H * D, M]
  Tensor k, v;        // [Hk * D, M]
  Tensor o;           // [M, H * D]
  Tensor post_norm;   // [M]
  Tensor gate, up;    // [F, M]
  Tensor down;        // [M, F]
};

struct Weights {
  Tensor embedding;  // [V, M]
  std::vector<LayerWeights> layers;
  Tensor final_norm;  // [M]
  Tensor output;      // [V, M]; the embedding when tied
};

// Binds names to roles and checks every shape. The tensors point into `checkpoint` for host backends.
Result<Weights> BindWeights(const SafeTensors& checkpoint, const ModelConfig& config, Backend& backend);

}  // namespace unfold

#endif  // UNFOLD_MODEL_WEIGHTS_H_
