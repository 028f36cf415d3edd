// SPDX-License-Identifier: Apache-2.0
// A checkpoint's config.json and generation_config.json: Llama, Qwen2 and Qwen3, by old and new key names. What this
// build does not implement is refused by name.
#ifndef UNFOLD_MODEL_CONFIG_H_
#define UNFOLD_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/rope.h"
#include "unfold/base.h"

namespace unfold {

enum class ModelFamily : std::uint8_t {
  kLlama,  // Llama 2 and 3.x, and what shares their shape
  kQwen2,  // Qwen2 and 2.5: q, k and v have biases
  kQwen3,  // q and k of each head are normalised before rotation
};
std::string_view FamilyName(ModelFamily family);  // as model_type in config.json

// Letters as in kernels/tensor.h.
struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  std::int32_t num_layers = 0;     // N
  std::int32_t model_dim = 0;      // M
  std::int32_t ffn_dim = 0;        // F
  std::int32_t heads = 0;          // H
  std::int32_t kv_heads = 0;       // Hk
  std::int32_t head_dim = 0;       // D
  std::int32_t vocab_size = 0;     // V
  std::int32_t max_positions = 0;  // the window; with yarn the stretched one
  float norm_epsilon = 0;
  RopeConfig rope;
  bool tied_embeddings = false;
  std::vector<TokenId> end_tokens;  // generation_config.json's, else config.json's

  std::int32_t group_size() const { return heads / kv_heads; }  // G
  bool has_qkv_bias() const { return family == ModelFamily::kQwen2; }
  bool has_qk_norm() const { return family == ModelFamily::kQwen3; }
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

// Reads both files of `model_dir`. NotFound, Corruption (not JSON), InvalidArgument naming file and field.
Result<ModelConfig> LoadModelConfig(const std::string& model_dir);

// The same from memory; `generation_config` may be empty. `dir` goes into messages.
Result<ModelConfig> ParseModelConfig(std::string_view config, std::string_view generation_config,
                                     const std::string& dir);

}  // namespace unfold

#endif  // UNFOLD_MODEL_CONFIG_H_
