// SPDX-License-Identifier: Apache-2.0
#include "text/config_tokens.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>
#include <vector>

namespace unfold {

Result<Json> ReadConfigTokens(const std::string& model_dir) {
  constexpr std::string_view kField = "added_tokens_decoder";
  Json tokens = Json::array();
  const std::string path = model_dir + "/tokenizer_config.json";
  const Result<Json> config = ReadJsonFile(path);
  if (!config.ok() && config.status().code() == StatusCode::kNotFound) return tokens;
  UNFOLD_TRY(config.status());
  UNFOLD_TRY_ASSIGN(const JsonFields file, JsonFields::Of(*config, path));
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

}  // namespace unfold
