// SPDX-License-Identifier: Apache-2.0
// One flag for each field of gist_config.json, from one table.
#ifndef UNFOLD_APPS_GIST_FLAGS_H_
#define UNFOLD_APPS_GIST_FLAGS_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/json_output.h"
#include "unfold/base.h"

namespace unfold::cli {

enum class GistFlagKind : std::uint8_t { kInt, kNumber, kBool, kString, kStrings, kInts, kJson };

struct GistFlag {
  const char* names;  // as CLI11 takes them: "--max-answer-tokens,--max-tokens"
  const char* path;   // JSON pointer of the field
  GistFlagKind kind;
  const char* value_name;
  const char* help;
};

std::span<const GistFlag> GistFlags();

// The JSON value that `text` stands for; InvalidArgument says what was expected. Lists are comma-separated, or a JSON
// array where an element holds a comma.
Result<Json> ParseGistFlag(const GistFlag& flag, const std::string& text);

// A JSON merge patch over gist_config.json with these fields alone; empty text when there are none.
Result<std::string> MakeGistOverrides(const std::vector<std::pair<const GistFlag*, std::string>>& values);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_GIST_FLAGS_H_
