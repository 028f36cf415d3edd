// SPDX-License-Identifier: Apache-2.0
#include "apps/json_output.h"

#include <cstdio>

namespace unfold::cli {

std::string DumpJson(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

void PrintJsonLine(const Json& json) {
  const std::string line = DumpJson(json) + "\n";
  std::fwrite(line.data(), 1, line.size(), stdout);  // main reports a failed stdout once, at the end
  std::fflush(stdout);
}

Json NumberOrNull(const std::optional<double>& number) { return number ? Json(*number) : Json(nullptr); }

}  // namespace unfold::cli
