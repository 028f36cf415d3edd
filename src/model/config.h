// SPDX-License-Identifier: Apache-2.0
// A checkpoint's config.json and generation_config.json. What this build does not implement is refused by name.
#ifndef UNFOLD_MODEL_CONFIG_H_
#define UNFOLD_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "unfold/base.h"

namespace unfold {

// Letters as in kernels/tensor.h.
struct ModelConfig {
  std::int32_t num_layers = 0;  // N
  std::int32_t model_dim = 0;   // M
  std::int32_t ffn_dim = 0;     // F
  std::int32_t heads = 0;       // H
  std::int32_t kv_heads = 0;    // Hk
  std::int32_t head_dim = 0;    // D
  std::int32_t vocab_size = 0;  // V
  std::int32_t max_positions = 0;
  float norm_epsilon = 0;
  double rope_theta = 0;
  bool tied_embeddings = false;
  std::vector<TokenId> end_tokens;  // generation_config.json's, else config.json's

  std::int32_t group_size() const { return heads / kv_heads; }  // G
};

// Reads both files of `model_dir`. NotFound, Corruption (not JSON), InvalidArgument naming file and field.
Result<ModelConfig> LoadModelConfig(const std::string& model_dir);

}  // namespace unfold

#endif  // UNFOLD_MODEL_CONFIG_H_
