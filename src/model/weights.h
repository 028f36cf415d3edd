// SPDX-License-Identifier: Apache-2.0
// A checkpoint's weights as backend tensors, by role.
#ifndef UNFOLD_MODEL_WEIGHTS_H_
#define UNFOLD_MODEL_WEIGHTS_H_

#include <initializer_list>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "unfold/base.h"

namespace unfold {

struct LayerWeights {
  Tensor input_norm;      // [M]
  Tensor q;               // [H * D, M]
  Tensor k, v;            // [Hk * D, M]
  Tensor q_bias;          // [H * D] in Qwen2, else not set
  Tensor k_bias, v_bias;  // [Hk * D] likewise
  Tensor q_norm, k_norm;  // [D] in Qwen3, else not set
  Tensor o;               // [M, H * D]
  Tensor post_norm;       // [M]
  Tensor gate, up;        // [F, M]
  Tensor down;            // [M, F]
};

struct Weights {
  Tensor embedding;  // [V, M]
  std::vector<LayerWeights> layers;
  Tensor final_norm;  // [M]
  Tensor output;      // [V, M]; the embedding when tied
};

// Where weights come from, by their names in a checkpoint.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // A tensor of `shape` on the backend.
  virtual Result<Tensor> Take(const std::string& name, std::initializer_list<std::int64_t> shape) = 0;
};

// Takes what `config` needs, each from its name to its role.
Result<Weights> BindWeights(WeightSource& source, const ModelConfig& config);

// Likewise from a checkpoint, which has the shapes. InvalidArgument also for a tensor that no role takes: what is not
// computed is not left out in silence. `checkpoint` and `backend` must outlive the tensors.
Result<Weights> BindWeights(const SafeTensors& checkpoint, const ModelConfig& config, Backend& backend);

}  // namespace unfold

#endif  // UNFOLD_MODEL_WEIGHTS_H_
