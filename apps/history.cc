// SPDX-License-Identifier: Apache-2.0
#include "apps/history.h"

#include "apps/json_output.h"
#include "apps/text_file.h"

namespace unfold::cli {
namespace {

Result<Turn> ParseTurn(const Json& json) {
  if (!json.is_object()) return Status::InvalidArgument("not an object with role and content");
  for (const auto& [field, value] : json.items()) {
    if (field != "role" && field != "content") return Status::InvalidArgument("unknown field \"" + field + "\"");
    if (!value.is_string()) return Status::InvalidArgument(field + " is not a string");
  }
  for (const char* field : {"role", "content"}) {
    if (!json.contains(field)) return Status::InvalidArgument("no \"" + std::string(field) + "\"");
  }
  const auto role = json["role"].get<std::string>();
  if (role == "user") return Turn{TurnRole::kUser, json["content"].get<std::string>()};
  if (role == "assistant") return Turn{TurnRole::kAssistant, json["content"].get<std::string>()};
  if (role == "system") return Status::InvalidArgument("a system text is set by --system-prompt, before the documents");
  return Status::InvalidArgument("role is \"" + role + "\", expected user or assistant");
}

}  // namespace

Result<std::vector<Turn>> ParseHistory(std::string_view json, const std::string& file_name) {
  const Json list = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (list.is_discarded()) return Status::InvalidArgument(file_name + ": not valid JSON");
  if (!list.is_array()) return Status::InvalidArgument(file_name + ": not an array of turns");
  std::vector<Turn> turns;
  for (const Json& entry : list) {
    auto turn = ParseTurn(entry);
    if (!turn.ok()) {
      return Status::InvalidArgument(file_name + " turn " + std::to_string(turns.size() + 1) + ": " +
                                     turn.status().message());
    }
    turns.push_back(*std::move(turn));
  }
  return turns;
}

Result<std::vector<Turn>> ReadHistory(const std::string& path) {
  UNFOLD_TRY_ASSIGN(const std::string json, ReadTextFile(path));
  return ParseHistory(json, path);
}

}  // namespace unfold::cli
