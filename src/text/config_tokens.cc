// SPDX-License-Identifier: Apache-2.0
#include "text/config_tokens.h"

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

namespace unfold {
namespace {

// A token given by its text, or by an object with its text and flags.
Status AddSpecial(const Json& value, const JsonFields& file, std::string_view field, Json* tokens) {
  const bool is_object = value.is_object() && value.contains("content") && value["content"].is_string();
  if (!is_object && !value.is_string()) return file.Error(field, "must name tokens by their text");
  Json token = is_object ? value : Json{{"content", value}, {"normalized", false}};
  token.erase("id");
  token["special"] = true;
  tokens->push_back(std::move(token));
  return Status::Ok();
}

Status AddDecoderTokens(const JsonFields& file, Json* tokens) {
  constexpr std::string_view kField = "added_tokens_decoder";
  const Json* decoder = file.Find(kField);
  if (decoder == nullptr) return Status::Ok();
  if (!decoder->is_object()) return file.Error(kField, "must be an object of ids and their tokens");
  std::vector<std::pair<int, const Json*>> by_id;
  for (const auto& [key, value] : decoder->items()) {
    int id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) {
      return file.Error(kField, "has the key '" + key + "', which is no id");
    }
    if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
      return file.Error(kField, "gives token " + key + " no 'content'");
    }
    by_id.emplace_back(id, &value);
  }
  std::sort(by_id.begin(), by_id.end());
  for (const auto& [id, value] : by_id) {
    Json token = *value;
    token["id"] = id;
    tokens->push_back(std::move(token));
  }
  return Status::Ok();
}

}  // namespace

Result<Json> ConfigTokens(std::string_view json, const std::string& name) {
  Json tokens = Json::array();
  if (json.empty()) return tokens;
  UNFOLD_TRY_ASSIGN(const Json config, ParseJson(json, name));
  UNFOLD_TRY_ASSIGN(const JsonFields file, JsonFields::Of(config, name));
  UNFOLD_TRY(AddDecoderTokens(file, &tokens));
  for (const std::string_view field :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    if (const Json* value = file.Find(field)) UNFOLD_TRY(AddSpecial(*value, file, field, &tokens));
  }
  for (const std::string_view field : {"additional_special_tokens", "extra_special_tokens"}) {
    const Json* list = file.Find(field);
    if (list == nullptr) continue;
    if (!list->is_array() && !list->is_object()) return file.Error(field, "must be an array");
    for (const Json& value : *list) UNFOLD_TRY(AddSpecial(value, file, field, &tokens));
  }
  return tokens;
}

}  // namespace unfold
