// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "base/json.h"

namespace unfold {
namespace {

constexpr std::int64_t kMaxDim = 1 << 24;

// Fields that change what the model computes. Each is accepted only when absent or at its neutral value.
Status RefuseUnsupported(const JsonFields& fields) {
  for (std::string_view field : {"attention_bias", "mlp_bias", "use_sliding_window", "qk_norm", "use_qk_norm"}) {
    UNFOLD_TRY_ASSIGN(const bool on, fields.BoolOr(field, false));
    if (on) return fields.Error(field, "= true is not supported");
  }
  for (std::string_view field :
       {"rope_scaling", "quantization_config", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping",
        "logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier", "attention_multiplier",
        "num_local_experts", "num_experts", "clip_qkv", "compression_config"}) {
    const Json* value = fields.Find(field);
    if (value == nullptr) continue;
    if (field == "rope_scaling" && value->is_object()) {
      const Json none;
      const auto type = value->contains("rope_type") ? value->at("rope_type") : value->value("type", none);
      if (type == "default") continue;
      return fields.Error(field, "of type " + type.dump() + " is not supported (only \"default\")");
    }
    return fields.Error(field, "= " + value->dump().substr(0, 80) + " is not supported");
  }
  UNFOLD_TRY_ASSIGN(const double rotary, fields.NumberOr("partial_rotary_factor", 1.0));
  if (rotary != 1.0) return fields.Error("partial_rotary_factor", "other than 1 is not supported");
  UNFOLD_TRY_ASSIGN(const std::string act, fields.StringOr("hidden_act", "silu"));
  if (act != "silu") return fields.Error("hidden_act", "'" + act + "' is not supported (only 'silu')");
  return Status::Ok();
}

Status CheckArchitecture(const JsonFields& fields) {
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("model_type"));
  if (type != "llama") return fields.Error("model_type", "'" + type + "' is not supported (only 'llama')");
  UNFOLD_TRY_ASSIGN(const auto architectures, fields.StringsOr("architectures", {"LlamaForCausalLM"}));
  for (const std::string& name : architectures) {
    if (name != "LlamaForCausalLM") {
      return fields.Error("architectures", "'" + name + "' is not supported (only 'LlamaForCausalLM')");
    }
  }
  return Status::Ok();
}

// An id or a list of ids; empty when absent.
Result<std::vector<TokenId>> EndTokens(const JsonFields& fields, std::int64_t vocab_size) {
  const Json* value = fields.Find("eos_token_id");
  std::vector<TokenId> ids;
  if (value == nullptr) return ids;
  const Json list = value->is_array() ? *value : Json::array({*value});
  for (const Json& entry : list) {
    if (!entry.is_number_integer() || entry.get<std::int64_t>() < 0 || entry.get<std::int64_t>() >= vocab_size) {
      return fields.Error("eos_token_id", "must be token ids below vocab_size, found " + entry.dump().substr(0, 40));
    }
    ids.push_back(entry.get<TokenId>());
  }
  return ids;
}

// Newer checkpoints keep everything about rotation in one object.
Result<double> RopeTheta(const JsonFields& fields) {
  UNFOLD_TRY_ASSIGN(const double theta, fields.NumberOr("rope_theta", 10000.0));
  const Json* parameters = fields.Find("rope_parameters");
  if (parameters == nullptr) return theta;
  UNFOLD_TRY_ASSIGN(const JsonFields rope, JsonFields::Of(*parameters, fields.name() + ": rope_parameters"));
  for (std::string_view field : {"rope_type", "type"}) {
    UNFOLD_TRY_ASSIGN(const std::string type, rope.StringOr(field, "default"));
    if (type != "default") return rope.Error(field, "'" + type + "' is not supported (only 'default')");
  }
  for (const auto& [field, value] : parameters->items()) {
    const bool known = field == "rope_type" || field == "type" || field == "rope_theta";
    if (!known && !value.is_null()) return rope.Error(field, "is not supported");
  }
  return rope.NumberOr("rope_theta", theta);
}

Result<ModelConfig> ReadDims(const JsonFields& fields) {
  ModelConfig config;
  const auto read = [&fields](std::int32_t& target, std::string_view field) -> Status {
    UNFOLD_TRY_ASSIGN(const std::int64_t value, fields.Int(field, 1, kMaxDim));
    target = static_cast<std::int32_t>(value);
    return Status::Ok();
  };
  UNFOLD_TRY(read(config.num_layers, "num_hidden_layers"));
  UNFOLD_TRY(read(config.model_dim, "hidden_size"));
  UNFOLD_TRY(read(config.ffn_dim, "intermediate_size"));
  UNFOLD_TRY(read(config.heads, "num_attention_heads"));
  UNFOLD_TRY(read(config.vocab_size, "vocab_size"));
  UNFOLD_TRY(read(config.max_positions, "max_position_embeddings"));
  UNFOLD_TRY_ASSIGN(const std::int64_t kv_heads, fields.IntOr("num_key_value_heads", config.heads, 1, config.heads));
  config.kv_heads = static_cast<std::int32_t>(kv_heads);
  if (config.num_layers > 1024) return fields.Error("num_hidden_layers", "is larger than 1024");
  if (config.heads % config.kv_heads != 0) {
    return fields.Error("num_attention_heads", "is not a multiple of num_key_value_heads");
  }
  if (!fields.Has("head_dim") && config.model_dim % config.heads != 0) {
    return fields.Error("hidden_size", "is not a multiple of num_attention_heads, and there is no head_dim");
  }
  UNFOLD_TRY_ASSIGN(const std::int64_t head_dim, fields.IntOr("head_dim", config.model_dim / config.heads, 2, 1024));
  if (head_dim % 2 != 0) return fields.Error("head_dim", "must be even");
  config.head_dim = static_cast<std::int32_t>(head_dim);
  return config;
}

}  // namespace

Result<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  UNFOLD_TRY_ASSIGN(const Json json, ReadJsonFile(path));
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(json, path));
  UNFOLD_TRY(CheckArchitecture(fields));
  UNFOLD_TRY(RefuseUnsupported(fields));
  UNFOLD_TRY_ASSIGN(ModelConfig config, ReadDims(fields));
  UNFOLD_TRY_ASSIGN(const double epsilon, fields.NumberOr("rms_norm_eps", 1e-6));
  if (!(epsilon > 0 && epsilon < 1)) return fields.Error("rms_norm_eps", "must lie between 0 and 1");
  config.norm_epsilon = static_cast<float>(epsilon);
  UNFOLD_TRY_ASSIGN(config.rope_theta, RopeTheta(fields));
  if (!(config.rope_theta > 1)) return fields.Error("rope_theta", "must be larger than 1");
  UNFOLD_TRY_ASSIGN(config.tied_embeddings, fields.BoolOr("tie_word_embeddings", false));
  UNFOLD_TRY_ASSIGN(config.end_tokens, EndTokens(fields, config.vocab_size));

  const std::string generation_path = model_dir + "/generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation_path, ignored)) {
    UNFOLD_TRY_ASSIGN(const Json generation, ReadJsonFile(generation_path));
    UNFOLD_TRY_ASSIGN(const JsonFields generation_fields, JsonFields::Of(generation, generation_path));
    UNFOLD_TRY_ASSIGN(const std::vector<TokenId> ids, EndTokens(generation_fields, config.vocab_size));
    if (!ids.empty()) config.end_tokens = ids;
  }
  if (config.end_tokens.empty()) return fields.Error("eos_token_id", "is missing: an answer would never end");
  return config;
}

}  // namespace unfold
