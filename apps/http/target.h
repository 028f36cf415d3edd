// SPDX-License-Identifier: Apache-2.0
// Targets of requests: paths, queries, percent-encoding.
#ifndef UNFOLD_APPS_HTTP_TARGET_H_
#define UNFOLD_APPS_HTTP_TARGET_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace unfold::http {

int HexDigit(char c);  // 0 to 15, or -1
// Nothing for a broken escape, a zero byte or what is not UTF-8.
std::optional<std::string> PercentDecoded(std::string_view text);
// What `{}` stands for in `pattern`, segment by segment and decoded, or nothing: "/v1/jobs/{}" and "/v1/jobs/7".
std::optional<std::vector<std::string>> MatchPath(std::string_view pattern, std::string_view path);
// A parameter of a query "a=1&b=2"; nothing when it is not there or broken.
std::optional<std::string> QueryParameter(std::string_view query, std::string_view name);
// Whether a Host header, or an Origin, names this machine as itself: localhost, 127.0.0.1, [::1], with any port.
bool IsLoopbackHost(std::string_view host);
// `prefix` and 128 random bits in hex.
std::string RandomId(const char* prefix);

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_TARGET_H_
