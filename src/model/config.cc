// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/json.h"

namespace unfold {
namespace {

constexpr std::int64_t kMaxDim = 1 << 24;

struct Family {
  std::string_view type;
  std::string_view architecture;
  ModelFamily family;
};
constexpr std::array<Family, 3> kFamilies = {{{"llama", "LlamaForCausalLM", ModelFamily::kLlama},
                                              {"qwen2", "Qwen2ForCausalLM", ModelFamily::kQwen2},
                                              {"qwen3", "Qwen3ForCausalLM", ModelFamily::kQwen3}}};

// Qwen writes sliding_window whether it is used or not; nobody slides here.
Status RefuseSlidingWindow(const JsonFields& fields, ModelFamily family) {
  UNFOLD_TRY_ASSIGN(const bool used, fields.BoolOr("use_sliding_window", false));
  if (used) return fields.Error("use_sliding_window", "= true is not supported: every layer must attend to all tokens");
  const Json* window = fields.Find("sliding_window");
  if (window != nullptr && family == ModelFamily::kLlama) {
    return fields.Error("sliding_window", "= " + window->dump().substr(0, 80) + " is not supported");
  }
  UNFOLD_TRY_ASSIGN(const auto layer_types, fields.StringsOr("layer_types", {}));
  for (const std::string& type : layer_types) {
    if (type != "full_attention") {
      return fields.Error("layer_types", "holds '" + type + "', which is not supported (only 'full_attention')");
    }
  }
  return Status::Ok();
}

// Fields that change what the model computes. Each is accepted only when absent or at its neutral value.
Status RefuseUnsupported(const JsonFields& fields) {
  for (std::string_view field : {"attention_bias", "mlp_bias", "qk_norm", "use_qk_norm", "use_mrope"}) {
    UNFOLD_TRY_ASSIGN(const bool on, fields.BoolOr(field, false));
    if (on) return fields.Error(field, "= true is not supported");
  }
  for (std::string_view field :
       {"quantization_config", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling",
        "embedding_multiplier", "residual_multiplier", "attention_multiplier", "num_local_experts", "num_experts",
        "clip_qkv", "compression_config"}) {
    const Json* value = fields.Find(field);
    if (value != nullptr) return fields.Error(field, "= " + value->dump().substr(0, 80) + " is not supported");
  }
  UNFOLD_TRY_ASSIGN(const double rotary, fields.NumberOr("partial_rotary_factor", 1.0));
  if (rotary != 1.0) return fields.Error("partial_rotary_factor", "other than 1 is not supported");
  UNFOLD_TRY_ASSIGN(const std::string act, fields.StringOr("hidden_act", "silu"));
  if (act != "silu") return fields.Error("hidden_act", "'" + act + "' is not supported (only 'silu')");
  return Status::Ok();
}

Result<ModelFamily> ReadFamily(const JsonFields& fields) {
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("model_type"));
  const auto known = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& f) { return f.type == type; });
  if (known == kFamilies.end()) {
    return fields.Error("model_type", "'" + type + "' is not supported (llama, qwen2 and qwen3 are)");
  }
  const std::string architecture(known->architecture);
  UNFOLD_TRY_ASSIGN(const auto architectures, fields.StringsOr("architectures", {architecture}));
  for (const std::string& name : architectures) {
    if (name != architecture) {
      return fields.Error("architectures", "'" + name + "' is not supported (only '" + architecture + "')");
    }
  }
  return known->family;
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

// Where the file is silent, Qwen3's heads are 128 wide; the others divide the model.
Status ReadHeads(const JsonFields& fields, ModelConfig& config) {
  UNFOLD_TRY_ASSIGN(const std::int64_t kv_heads, fields.IntOr("num_key_value_heads", config.heads, 1, config.heads));
  config.kv_heads = static_cast<std::int32_t>(kv_heads);
  if (config.heads % config.kv_heads != 0) {
    return fields.Error("num_attention_heads", "is not a multiple of num_key_value_heads");
  }
  const bool divided = config.family != ModelFamily::kQwen3;
  if (!fields.Has("head_dim") && divided && config.model_dim % config.heads != 0) {
    return fields.Error("hidden_size", "is not a multiple of num_attention_heads, and there is no head_dim");
  }
  const std::int32_t usual = divided ? config.model_dim / config.heads : 128;
  UNFOLD_TRY_ASSIGN(const std::int64_t head_dim, fields.IntOr("head_dim", usual, 2, 1024));
  if (head_dim % 2 != 0) return fields.Error("head_dim", "must be even");
  config.head_dim = static_cast<std::int32_t>(head_dim);
  return Status::Ok();
}

Status ReadDims(const JsonFields& fields, ModelConfig& config) {
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
  if (config.num_layers > 1024) return fields.Error("num_hidden_layers", "is larger than 1024");
  return ReadHeads(fields, config);
}

// Yarn stretches a window that the file may still give by its old length.
Status ReadRotation(const JsonFields& fields, ModelConfig& config) {
  UNFOLD_TRY_ASSIGN(config.rope, ReadRope(fields, config.max_positions));
  if (config.rope.type != RopeType::kYarn) return Status::Ok();
  const double stretched = config.rope.original_positions * config.rope.factor;
  if (stretched > kMaxDim) return fields.Error("rope_scaling", "stretches the window beyond what can be used");
  config.max_positions = std::max(config.max_positions, static_cast<std::int32_t>(stretched));
  return Status::Ok();
}

}  // namespace

std::string_view FamilyName(ModelFamily family) {
  for (const Family& known : kFamilies) {
    if (known.family == family) return known.type;
  }
  return "";
}

Result<ModelConfig> ParseModelConfig(std::string_view config_text, std::string_view generation_text,
                                     const std::string& dir) {
  const std::string path = dir + "/config.json";
  UNFOLD_TRY_ASSIGN(const Json json, ParseJson(config_text, path));
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(json, path));
  ModelConfig config;
  UNFOLD_TRY_ASSIGN(config.family, ReadFamily(fields));
  UNFOLD_TRY(RefuseSlidingWindow(fields, config.family));
  UNFOLD_TRY(RefuseUnsupported(fields));
  UNFOLD_TRY(ReadDims(fields, config));
  UNFOLD_TRY_ASSIGN(const double epsilon, fields.NumberOr("rms_norm_eps", 1e-6));
  config.norm_epsilon = static_cast<float>(epsilon);  // what is above 0 may be 0 as a float
  if (!(config.norm_epsilon > 0 && epsilon < 1)) {
    return fields.Error("rms_norm_eps", "must lie between 0 and 1, both as a 32-bit float");
  }
  UNFOLD_TRY(ReadRotation(fields, config));
  UNFOLD_TRY_ASSIGN(config.tied_embeddings, fields.BoolOr("tie_word_embeddings", false));
  UNFOLD_TRY_ASSIGN(config.end_tokens, EndTokens(fields, config.vocab_size));
  if (!generation_text.empty()) {
    const std::string generation_path = dir + "/generation_config.json";
    UNFOLD_TRY_ASSIGN(const Json generation, ParseJson(generation_text, generation_path));
    UNFOLD_TRY_ASSIGN(const JsonFields generation_fields, JsonFields::Of(generation, generation_path));
    UNFOLD_TRY_ASSIGN(const std::vector<TokenId> ids, EndTokens(generation_fields, config.vocab_size));
    if (!ids.empty()) config.end_tokens = ids;
  }
  if (config.end_tokens.empty()) return fields.Error("eos_token_id", "is missing: an answer would never end");
  return config;
}

Result<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  UNFOLD_TRY_ASSIGN(const std::string config, ReadFile(model_dir + "/config.json"));
  Result<std::string> generation = ReadFile(model_dir + "/generation_config.json");
  if (!generation.ok()) {
    if (generation.status().code() != StatusCode::kNotFound) return generation.status();
    return ParseModelConfig(config, "", model_dir);
  }
  // An empty file is half a file.
  return ParseModelConfig(config, generation->empty() ? " " : *generation, model_dir);
}

}  // namespace unfold
