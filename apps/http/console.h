// SPDX-License-Identifier: Apache-2.0
// The console, the page at `/` and what it loads, and openapi.json (apps/web): part of the program.
#ifndef UNFOLD_APPS_HTTP_CONSOLE_H_
#define UNFOLD_APPS_HTTP_CONSOLE_H_

#include <string_view>

namespace unfold::http {

struct ConsoleFile {
  std::string_view path, content_type, bytes;
};
// Of "/", "/console.css", "/console.js" or "/openapi.json"; else null. The build makes it from apps/web.
const ConsoleFile* FindConsoleFile(std::string_view path);

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_CONSOLE_H_
