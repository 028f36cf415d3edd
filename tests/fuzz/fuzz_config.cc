// SPDX-License-Identifier: Apache-2.0
// Any bytes as config.json and generation_config.json (the part behind a line "----"): refused with a message, or dims
// and rotary frequencies that a model can be made of.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/config.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

void CheckConfig(const unfold::ModelConfig& config) {
  Require(config.num_layers > 0 && config.model_dim > 0 && config.ffn_dim > 0 && config.vocab_size > 0);
  Require(config.kv_heads > 0 && config.heads % config.kv_heads == 0);
  Require(config.head_dim >= 2 && config.head_dim % 2 == 0 && config.max_positions > 0);
  Require(config.norm_epsilon > 0 && !config.end_tokens.empty());
  for (const unfold::TokenId id : config.end_tokens) Require(id >= 0 && id < config.vocab_size);
  for (const float frequency : unfold::InverseFrequencies(config.rope, config.head_dim)) {
    Require(std::isfinite(frequency) && frequency >= 0);
  }
  Require(config.rope.attention_factor > 0 && !unfold::RopeJson(config.rope).dump().empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::string_view kCut = "\n----\n";
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = text.find(kCut);
  const std::string_view generation = cut == std::string_view::npos ? "" : text.substr(cut + kCut.size());
  const auto config = unfold::ParseModelConfig(text.substr(0, cut), generation, "model");
  if (config.ok()) {
    CheckConfig(*config);
  } else {
    Require(!config.status().message().empty());
  }
  return 0;
}
