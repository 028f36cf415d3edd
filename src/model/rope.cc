// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

namespace unfold {
namespace {

constexpr std::array<std::pair<std::string_view, RopeType>, 4> kTypes = {{{"default", RopeType::kDefault},
                                                                          {"linear", RopeType::kLinear},
                                                                          {"llama3", RopeType::kLlama3},
                                                                          {"yarn", RopeType::kYarn}}};

// Every name that one of the types uses; a type ignores those of the others, as Hugging Face does.
constexpr std::array<std::string_view, 14> kFields = {"rope_type",
                                                      "type",
                                                      "rope_theta",
                                                      "factor",
                                                      "original_max_position_embeddings",
                                                      "low_freq_factor",
                                                      "high_freq_factor",
                                                      "beta_fast",
                                                      "beta_slow",
                                                      "truncate",
                                                      "attention_factor",
                                                      "mscale",
                                                      "mscale_all_dim",
                                                      "finetuned"};

Result<RopeType> ReadType(const JsonFields& fields) {
  if (!fields.Has("rope_type") && !fields.Has("type")) {
    // Only theta: the default. A factor without a type says nothing that could be followed.
    if (fields.Has("factor")) return fields.Error("rope_type", "is missing");
    return RopeType::kDefault;
  }
  UNFOLD_TRY_ASSIGN(const std::string old_name, fields.StringOr("type", ""));
  UNFOLD_TRY_ASSIGN(const std::string name, fields.StringOr("rope_type", old_name));
  if (!old_name.empty() && old_name != name) {
    return fields.Error("rope_type", "is '" + name + "', but 'type' is '" + old_name + "'");
  }
  for (const auto& [known, type] : kTypes) {
    if (name == known) return type;
  }
  return fields.Error("rope_type", "'" + name + "' is not supported (default, linear, llama3 and yarn are)");
}

Status CheckFields(const JsonFields& fields, const Json& object) {
  for (const auto& [field, value] : object.items()) {
    if (field == "partial_rotary_factor" && value == 1.0) continue;
    if (value.is_null() || std::find(kFields.begin(), kFields.end(), field) != kFields.end()) continue;
    return fields.Error(field, "is not supported");
  }
  return Status::Ok();
}

Result<double> Positive(const JsonFields& fields, std::string_view field, double fallback) {
  UNFOLD_TRY_ASSIGN(const double value, fields.NumberOr(field, fallback));
  if (!(value > 0 && value < 1e12)) return fields.Error(field, "must be larger than 0");
  return value;
}

double MagnitudeScale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

Result<double> AttentionFactor(const JsonFields& fields, double factor) {
  if (fields.Has("attention_factor")) return Positive(fields, "attention_factor", 1);
  UNFOLD_TRY_ASSIGN(const double mscale, fields.NumberOr("mscale", 0));
  UNFOLD_TRY_ASSIGN(const double mscale_all_dim, fields.NumberOr("mscale_all_dim", 0));
  if (mscale == 0 || mscale_all_dim == 0) return MagnitudeScale(factor, 1);
  const double ratio = MagnitudeScale(factor, mscale) / MagnitudeScale(factor, mscale_all_dim);
  if (!(ratio > 0 && ratio < 1e12)) return fields.Error("mscale", "gives no usable attention factor");
  return ratio;
}

Status ReadFactor(const JsonFields& fields, double fallback, RopeConfig& rope) {
  if (!fields.Has("factor") && fallback == 0) return fields.Error("factor", "is missing");
  UNFOLD_TRY_ASSIGN(rope.factor, fields.NumberOr("factor", fallback));
  if (!(rope.factor >= 1 && rope.factor < 1e6)) return fields.Error("factor", "must be at least 1");
  return Status::Ok();
}

Status ReadLlama3(const JsonFields& fields, RopeConfig& rope) {
  for (std::string_view field : {"low_freq_factor", "high_freq_factor"}) {
    if (!fields.Has(field)) return fields.Error(field, "is missing");
  }
  UNFOLD_TRY(ReadFactor(fields, 0, rope));
  UNFOLD_TRY_ASSIGN(rope.low_freq_factor, Positive(fields, "low_freq_factor", 1));
  UNFOLD_TRY_ASSIGN(rope.high_freq_factor, Positive(fields, "high_freq_factor", 4));
  if (rope.low_freq_factor < rope.high_freq_factor) return Status::Ok();
  return fields.Error("high_freq_factor", "must be larger than low_freq_factor");
}

Status ReadYarn(const JsonFields& fields, std::int64_t max_positions, RopeConfig& rope) {
  UNFOLD_TRY(ReadFactor(fields, static_cast<double>(max_positions) / rope.original_positions, rope));
  UNFOLD_TRY_ASSIGN(rope.beta_fast, Positive(fields, "beta_fast", 32));
  UNFOLD_TRY_ASSIGN(rope.beta_slow, Positive(fields, "beta_slow", 1));
  UNFOLD_TRY_ASSIGN(rope.truncate, fields.BoolOr("truncate", true));
  UNFOLD_TRY_ASSIGN(rope.attention_factor, AttentionFactor(fields, rope.factor));
  return Status::Ok();
}

Result<RopeConfig> ReadObject(const JsonFields& config, const JsonFields& fields, const Json& object, double theta,
                              std::int64_t max_positions) {
  UNFOLD_TRY(CheckFields(fields, object));
  RopeConfig rope;
  UNFOLD_TRY_ASSIGN(rope.type, ReadType(fields));
  UNFOLD_TRY_ASSIGN(rope.theta, fields.NumberOr("rope_theta", theta));
  const JsonFields& original = config.Has("original_max_position_embeddings") ? config : fields;
  UNFOLD_TRY_ASSIGN(const double positions,
                    Positive(original, "original_max_position_embeddings", static_cast<double>(max_positions)));
  switch (rope.type) {
    case RopeType::kDefault: break;
    case RopeType::kLinear: UNFOLD_TRY(ReadFactor(fields, 0, rope)); break;
    case RopeType::kLlama3:
      rope.original_positions = positions;
      UNFOLD_TRY(ReadLlama3(fields, rope));
      break;
    case RopeType::kYarn:
      rope.original_positions = positions;
      UNFOLD_TRY(ReadYarn(fields, max_positions, rope));
      break;
  }
  return rope;
}

float Llama3Frequency(const RopeConfig& rope, float inverse) {
  const auto factor = static_cast<float>(rope.factor), low = static_cast<float>(rope.low_freq_factor);
  const auto original = static_cast<float>(rope.original_positions);
  const float wave = static_cast<float>(2 * std::numbers::pi) / inverse;
  if (wave > static_cast<float>(rope.original_positions / rope.low_freq_factor)) return inverse / factor;
  if (wave < static_cast<float>(rope.original_positions / rope.high_freq_factor)) return inverse;
  const float smooth = (original / wave - low) / static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * inverse / factor + smooth * inverse;
}

// The pair of dims that turns `rotations` times within the old window.
double YarnDim(const RopeConfig& rope, double rotations, int head_dim) {
  return head_dim * std::log(rope.original_positions / (rotations * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
}

// theta^(2i / D).
float Power(const RopeConfig& rope, int head_dim, std::size_t i) {
  return std::pow(static_cast<float>(rope.theta), static_cast<float>(2 * i) / static_cast<float>(head_dim));
}

void ApplyYarn(const RopeConfig& rope, int head_dim, std::vector<float>& inverse) {
  double low = YarnDim(rope, rope.beta_fast, head_dim), high = YarnDim(rope, rope.beta_slow, head_dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < inverse.size(); ++i) {
    const float along = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1 - std::clamp(along, 0.0F, 1.0F);
    const float stretched = 1.0F / (static_cast<float>(rope.factor) * Power(rope, head_dim, i));
    inverse[i] = stretched * (1 - kept) + inverse[i] * kept;
  }
}

}  // namespace

std::string_view RopeTypeName(RopeType type) {
  for (const auto& [name, known] : kTypes) {
    if (known == type) return name;
  }
  return "";
}

Result<RopeConfig> ReadRope(const JsonFields& config, std::int64_t max_positions) {
  UNFOLD_TRY_ASSIGN(const double theta, config.NumberOr("rope_theta", RopeConfig().theta));
  RopeConfig rope;
  rope.theta = theta;
  bool read = false;
  for (std::string_view name : {"rope_parameters", "rope_scaling"}) {
    const Json* object = config.Find(name);
    if (object == nullptr) continue;
    UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(*object, config.name() + ": " + std::string(name)));
    UNFOLD_TRY_ASSIGN(RopeConfig one, ReadObject(config, fields, *object, rope.theta, max_positions));
    if (read && one != rope) return config.Error("rope_scaling", "contradicts rope_parameters");
    rope = one;
    read = true;
  }
  if (!(rope.theta > 1 && rope.theta < 1e15)) return config.Error("rope_theta", "must be larger than 1");
  return rope;
}

Json RopeJson(const RopeConfig& rope) {
  Json json = {{"rope_type", RopeTypeName(rope.type)}, {"rope_theta", rope.theta}};
  if (rope.type == RopeType::kDefault) return json;
  json["factor"] = rope.factor;
  if (rope.type == RopeType::kLinear) return json;
  json["original_max_position_embeddings"] = rope.original_positions;
  if (rope.type == RopeType::kLlama3) {
    json["low_freq_factor"] = rope.low_freq_factor;
    json["high_freq_factor"] = rope.high_freq_factor;
  } else {
    json["beta_fast"] = rope.beta_fast;
    json["beta_slow"] = rope.beta_slow;
    json["truncate"] = rope.truncate;
    json["attention_factor"] = rope.attention_factor;
  }
  return json;
}

std::vector<float> InverseFrequencies(const RopeConfig& rope, int head_dim) {
  std::vector<float> inverse(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < inverse.size(); ++i) {
    inverse[i] = 1.0F / Power(rope, head_dim, i);
    if (rope.type == RopeType::kLinear) inverse[i] /= static_cast<float>(rope.factor);
    if (rope.type == RopeType::kLlama3) inverse[i] = Llama3Frequency(rope, inverse[i]);
  }
  if (rope.type == RopeType::kYarn) ApplyYarn(rope, head_dim, inverse);
  return inverse;
}

}  // namespace unfold
