// SPDX-License-Identifier: Apache-2.0
// Flags of a long-running command from elsewhere too: a flag wins over the environment, that over a file, that over the
// default.
#ifndef UNFOLD_APPS_SETTINGS_H_
#define UNFOLD_APPS_SETTINGS_H_

#include <CLI/CLI.hpp>

#include "apps/json_output.h"

namespace unfold::cli {

// Adds --config FILE: a JSON object of the command's flags, {"listen": "127.0.0.1:8080", "max-requests": 8}. To be
// called before any other flag is added: a file's values must be there when the others are looked at.
void AddConfigFlag(CLI::App& command);
// UNFOLD_MAX_REQUESTS for --max-requests. To be called after all flags were added.
void AddEnvironment(CLI::App& command);
// All flags that have a value, as --config takes them.
Json SettingsJson(const CLI::App& command);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_SETTINGS_H_
