// SPDX-License-Identifier: Apache-2.0
#include "apps/settings.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "apps/text_file.h"

namespace unfold::cli {
namespace {

constexpr const char* kConfig = "config";

std::string NameOf(const CLI::Option& option) {
  return option.get_lnames().empty() ? std::string() : option.get_lnames().front();
}

bool IsSetting(const CLI::Option& option) {
  const std::string name = NameOf(option);
  return !name.empty() && name != "help" && name != kConfig && name != "print-config";
}

std::string TextOf(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

void Apply(CLI::App& command, const std::string& path) {
  const auto text = ReadTextFile(path);
  if (!text.ok()) throw CLI::ValidationError("--config", text.status().message());
  const Json json = Json::parse(text->begin(), text->end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw CLI::ValidationError("--config", path + ": not a JSON object");
  for (const auto& [name, value] : json.items()) {
    CLI::Option* option = command.get_option_no_throw("--" + name);
    if (option == nullptr || !IsSetting(*option)) {
      throw CLI::ValidationError("--config", path + ": '" + name + "' is no flag of this command");
    }
    if (value.is_object() || value.is_null()) {
      throw CLI::ValidationError("--config",
                                 path + ": '" + name + "' must be a string, a number, true, false or an array");
    }
    if (option->count() > 0) continue;
    for (const Json& entry : value.is_array() ? value : Json::array({value})) option->add_result(TextOf(entry));
  }
}

}  // namespace

void AddConfigFlag(CLI::App& command) {
  command
      .add_option_function<std::string>(
          "--config", [&command](const std::string& path) { Apply(command, path); },
          "flags of this command as a JSON object, {\"listen\": \"127.0.0.1:8080\"}; UNFOLD_LISTEN and --listen win")
      ->type_name("FILE.json");
}

void AddEnvironment(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    std::string name = NameOf(*option);
    if (name.empty() || name == "help" || name == "print-config") continue;
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return c == '-' ? '_' : static_cast<char>(std::toupper(c)); });
    option->envname("UNFOLD_" + name);
  }
}

Json SettingsJson(const CLI::App& command) {
  Json json = Json::object();
  for (const CLI::Option* option : command.get_options()) {
    if (!IsSetting(*option)) continue;
    const std::string name = NameOf(*option);
    if (option->count() > 1) {
      json[name] = option->results();
    } else if (option->count() == 1) {
      json[name] = option->results().front();
    } else if (!option->get_default_str().empty()) {
      json[name] = option->get_default_str();
    }
  }
  return json;
}

}  // namespace unfold::cli
