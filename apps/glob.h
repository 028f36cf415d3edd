// SPDX-License-Identifier: Apache-2.0
// Shell-like patterns over relative paths: * and ? (never a slash), [a-z] [!a-z], ** for any number of folders,
// \ before a character to mean itself.
#ifndef UNFOLD_APPS_GLOB_H_
#define UNFOLD_APPS_GLOB_H_

#include <string_view>

namespace unfold::cli {

bool HasGlob(std::string_view text);  // holds * ? or [
// The whole path against the whole pattern.
bool GlobMatch(std::string_view pattern, std::string_view path);
// As --include and --exclude read it: a pattern without a slash is held against the last name of the path alone.
bool FilterMatch(std::string_view pattern, std::string_view path);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_GLOB_H_
