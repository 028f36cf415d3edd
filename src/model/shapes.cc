// SPDX-License-Identifier: Apache-2.0
#include "model/shapes.h"

#include <filesystem>
#include <system_error>

namespace unfold {
namespace {

// Llama 3.1's rotation, which 3.2 keeps with another factor (config.json, rope_scaling).
RopeConfig Llama3Rope(double factor) {
  return {.type = RopeType::kLlama3,
          .theta = 500000,
          .factor = factor,
          .original_positions = 8192,
          .low_freq_factor = 1,
          .high_freq_factor = 4};
}

// Each is the config.json of the repository named, on Hugging Face.
const struct Shape {
  std::string_view name;
  ModelConfig config;
} kShapes[] = {
    {"llama-3.2-1b",  // meta-llama/Llama-3.2-1B
     {.family = ModelFamily::kLlama,
      .num_layers = 16,
      .model_dim = 2048,
      .ffn_dim = 8192,
      .heads = 32,
      .kv_heads = 8,
      .head_dim = 64,
      .vocab_size = 128256,
      .max_positions = 131072,
      .norm_epsilon = 1e-5F,
      .rope = Llama3Rope(32),
      .tied_embeddings = true,
      .end_tokens = {}}},
    {"qwen2-7b",  // Qwen/Qwen2-7B
     {.family = ModelFamily::kQwen2,
      .num_layers = 28,
      .model_dim = 3584,
      .ffn_dim = 18944,
      .heads = 28,
      .kv_heads = 4,
      .head_dim = 128,
      .vocab_size = 152064,
      .max_positions = 131072,
      .norm_epsilon = 1e-6F,
      .rope = {.theta = 1000000},
      .tied_embeddings = false,
      .end_tokens = {}}},
    {"llama-3.1-8b",  // meta-llama/Llama-3.1-8B
     {.family = ModelFamily::kLlama,
      .num_layers = 32,
      .model_dim = 4096,
      .ffn_dim = 14336,
      .heads = 32,
      .kv_heads = 8,
      .head_dim = 128,
      .vocab_size = 128256,
      .max_positions = 131072,
      .norm_epsilon = 1e-5F,
      .rope = Llama3Rope(8),
      .tied_embeddings = false,
      .end_tokens = {}}},
    {"gist-mini",  // datasets/gist-mini
     {.family = ModelFamily::kLlama,
      .num_layers = 8,
      .model_dim = 512,
      .ffn_dim = 1408,
      .heads = 8,
      .kv_heads = 4,
      .head_dim = 64,
      .vocab_size = 8192,
      .max_positions = 4096,
      .norm_epsilon = 1e-5F,
      .rope = {},
      .tied_embeddings = true,
      .end_tokens = {}}},
};

}  // namespace

std::string_view ShapeNames() { return "llama-3.2-1b, qwen2-7b, llama-3.1-8b, gist-mini"; }

Result<ModelConfig> FindShape(const std::string& shape) {
  for (const Shape& known : kShapes) {
    if (known.name == shape) return known.config;
  }
  const std::filesystem::path path(shape);
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return LoadModelConfig(shape);
  if (path.filename() == "config.json")
    return LoadModelConfig(path.has_parent_path() ? path.parent_path().string() : ".");
  return Status::NotFound("'" + shape + "' is no shape: name one of " + std::string(ShapeNames()) +
                          ", or the path of a config.json");
}

}  // namespace unfold
