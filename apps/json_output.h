// SPDX-License-Identifier: Apache-2.0
// JSON on stdout: always valid UTF-8, one value a line, never an exception.
#ifndef UNFOLD_APPS_JSON_OUTPUT_H_
#define UNFOLD_APPS_JSON_OUTPUT_H_

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace unfold::cli {

using Json = nlohmann::ordered_json;  // keys keep the order in which they are documented

// Bytes that are not UTF-8 become U+FFFD; numbers that are not finite become null.
std::string DumpJson(const Json& json);
// One line on stdout, flushed, so that a reader of the pipe sees each as it happens.
void PrintJsonLine(const Json& json);
// The number, or null.
Json NumberOrNull(const std::optional<double>& number);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_JSON_OUTPUT_H_
