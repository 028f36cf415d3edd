// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <utility>

namespace unfold {
namespace {

// The file, or an empty object when there is none.
Result<Json> ReadObject(const std::string& path) {
  Result<Json> file = ReadJsonFile(path);
  if (file.ok()) return file;
  if (file.status().code() == StatusCode::kNotFound) return Json(Json::object());
  return file.status();
}

// A token as text, or as an object with its flags.
Status AddToken(const JsonFields& fields, std::string_view field, const Json& token, std::vector<std::string>& tokens) {
  const bool flagged = token.is_object() && token.contains("content");
  const Json& text = flagged ? token.at("content") : token;
  if (!text.is_string()) return fields.Error(field, "must hold tokens, found " + token.dump().substr(0, 40));
  const auto content = text.get<std::string>();
  const bool known = std::find(tokens.begin(), tokens.end(), content) != tokens.end();
  if (!content.empty() && !known) tokens.push_back(content);
  return Status::Ok();
}

Status AddNamed(const JsonFields& fields, std::vector<std::string>& tokens) {
  for (std::string_view field :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const Json* token = fields.Find(field);
    if (token != nullptr) UNFOLD_TRY(AddToken(fields, field, *token, tokens));
  }
  return Status::Ok();
}

// Returns whether the file names any. Version 5 of transformers calls the list extra_special_tokens; as an object that
// field gives roles to tokens and adds none.
Result<bool> AddAdditional(const JsonFields& fields, std::vector<std::string>& tokens) {
  bool found = false;
  for (std::string_view field : {"additional_special_tokens", "extra_special_tokens"}) {
    const Json* list = fields.Find(field);
    if (list == nullptr || (list->is_object() && field == "extra_special_tokens")) continue;
    if (!list->is_array()) return fields.Error(field, "must be an array of tokens");
    for (const Json& token : *list) UNFOLD_TRY(AddToken(fields, field, token, tokens));
    found = true;
  }
  return found;
}

Result<Json> AddedTokens(const JsonFields& file) {
  constexpr std::string_view kField = "added_tokens_decoder";
  Json tokens = Json::array();
  const Json* decoder = file.Find(kField);
  if (decoder == nullptr) return tokens;
  if (!decoder->is_object()) return file.Error(kField, "must be an object of ids and their tokens");
  std::vector<std::pair<int, const Json*>> by_id;
  for (const auto& [key, value] : decoder->items()) {
    int id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) {
      return file.Error(kField, "has the key '" + key + "', which is no id");
    }
    if (!value.is_object()) return file.Error(kField, "must hold an object for token " + key);
    by_id.emplace_back(id, &value);
  }
  std::sort(by_id.begin(), by_id.end());
  for (const auto& [id, value] : by_id) {
    Json token = *value;
    token["id"] = id;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

Result<TokenizerConfig> ReadTokenizerConfig(const std::string& model_dir) {
  TokenizerConfig config;
  UNFOLD_TRY_ASSIGN(const Json json, ReadObject(model_dir + "/tokenizer_config.json"));
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(json, model_dir + "/tokenizer_config.json"));
  UNFOLD_TRY_ASSIGN(config.added_tokens, AddedTokens(fields));
  UNFOLD_TRY(AddNamed(fields, config.special_tokens));
  UNFOLD_TRY_ASSIGN(const bool found, AddAdditional(fields, config.special_tokens));
  if (!found) {
    UNFOLD_TRY_ASSIGN(const Json map, ReadObject(model_dir + "/special_tokens_map.json"));
    UNFOLD_TRY_ASSIGN(const JsonFields map_fields, JsonFields::Of(map, model_dir + "/special_tokens_map.json"));
    UNFOLD_TRY_ASSIGN(const bool ignored, AddAdditional(map_fields, config.special_tokens));
    (void)ignored;
  }
  config.has_chat_template = fields.Has("chat_template");
  for (const char* file : {"/chat_template.jinja", "/chat_template.json"}) {
    std::error_code error;
    config.has_chat_template |= std::filesystem::exists(model_dir + file, error);
  }
  return config;
}

}  // namespace unfold
