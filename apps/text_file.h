// SPDX-License-Identifier: Apache-2.0
// A small file, whole.
#ifndef UNFOLD_APPS_TEXT_FILE_H_
#define UNFOLD_APPS_TEXT_FILE_H_

#include <string>

#include "unfold/base.h"

namespace unfold::cli {

// NotFound or Io, naming the path.
Result<std::string> ReadTextFile(const std::string& path);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_TEXT_FILE_H_
