// SPDX-License-Identifier: Apache-2.0
// Rotary positions of a checkpoint: the kinds of scaling that Llama and Qwen checkpoints use, as Hugging Face computes
// them. Angles are computed in float, as the training code does: a more exact table would be another model.
#ifndef UNFOLD_MODEL_ROPE_H_
#define UNFOLD_MODEL_ROPE_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "unfold/base.h"

namespace unfold {

enum class RopeType : std::uint8_t {
  kDefault,  // inv_freq[i] = theta^(-2i / D)
  kLinear,   // all of them / factor
  kLlama3,   // long waves / factor, short ones as they are, a smooth step between
  kYarn,     // the same by a ramp over i, and cos and sin times attention_factor
};

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double factor = 1;                                 // linear, llama3, yarn
  double original_positions = 0;                     // llama3, yarn: the window before it was stretched
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn: turns within the old window that bound the ramp
  bool truncate = true;                              // yarn: the ramp's ends are whole numbers
  double attention_factor = 1;                       // yarn; 1 for the others

  friend bool operator==(const RopeConfig&, const RopeConfig&) = default;
};

std::string_view RopeTypeName(RopeType type);

// From config.json: rope_theta with rope_scaling ("type" or "rope_type"), or rope_parameters, where newer checkpoints
// keep everything. InvalidArgument naming what is unknown, missing, out of range, or said twice and differently.
Result<RopeConfig> ReadRope(const JsonFields& config, std::int64_t max_positions);

// The fields that the type uses, by their names in rope_parameters: what the fingerprint of a store holds.
Json RopeJson(const RopeConfig& rope);

// D / 2 angles a position.
std::vector<float> InverseFrequencies(const RopeConfig& rope, int head_dim);

}  // namespace unfold

#endif  // UNFOLD_MODEL_ROPE_H_
