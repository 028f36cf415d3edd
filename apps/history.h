// SPDX-License-Identifier: Apache-2.0
// Earlier turns of a conversation, from a file.
#ifndef UNFOLD_APPS_HISTORY_H_
#define UNFOLD_APPS_HISTORY_H_

#include <string>
#include <string_view>
#include <vector>

#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold::cli {

// [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...], oldest first. InvalidArgument
// names the file and the turn.
Result<std::vector<Turn>> ParseHistory(std::string_view json, const std::string& file_name);
// The same from a file: NotFound or Io besides.
Result<std::vector<Turn>> ReadHistory(const std::string& path);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_HISTORY_H_
