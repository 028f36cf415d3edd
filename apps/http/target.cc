// SPDX-License-Identifier: Apache-2.0
#include "apps/http/target.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>

#include "apps/format.h"

namespace unfold::http {
namespace {

bool IsUtf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = cli::Utf8Length(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

// The first segment of `path`, which is shortened by it.
std::string_view TakeSegment(std::string_view& path) {
  path.remove_prefix(1);  // the slash
  const std::string_view segment = path.substr(0, path.find('/'));
  path.remove_prefix(segment.size());
  return segment;
}

}  // namespace

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

std::optional<std::string> PercentDecoded(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      const int high = i + 2 < text.size() ? HexDigit(text[i + 1]) : -1, low = high < 0 ? -1 : HexDigit(text[i + 2]);
      if (low < 0) return {};
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (c == '\0') return {};
    decoded += c;
  }
  return IsUtf8(decoded) ? std::optional(decoded) : std::nullopt;
}

std::optional<std::vector<std::string>> MatchPath(std::string_view pattern, std::string_view path) {
  std::vector<std::string> found;
  while (!pattern.empty() && !path.empty() && path[0] == '/') {
    const std::string_view wanted = TakeSegment(pattern), segment = TakeSegment(path);
    if (wanted == "{}") {
      auto decoded = PercentDecoded(segment);
      if (!decoded || decoded->empty()) return {};
      found.push_back(*std::move(decoded));
    } else if (wanted != segment) {
      return {};
    }
  }
  return pattern.empty() && path.empty() ? std::optional(found) : std::nullopt;
}

std::optional<std::string> QueryParameter(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const std::size_t equals = pair.find('=');
    if (pair.substr(0, equals) == name) return PercentDecoded(equals == pair.npos ? "" : pair.substr(equals + 1));
  }
  return {};
}

bool IsLoopbackHost(std::string_view host) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (host.starts_with(scheme)) host.remove_prefix(scheme.size());
  }
  const std::size_t colon = host.rfind(':');
  const bool has_port = colon != host.npos && host.find_first_not_of("0123456789", colon + 1) == host.npos;
  const std::string_view name = has_port ? host.substr(0, colon) : host;
  return name == "localhost" || name == "127.0.0.1" || name == "[::1]";
}

std::string RandomId(const char* prefix) {
  thread_local std::random_device device;
  std::string id = prefix;
  for (int i = 0; i < 4; ++i) {
    char hex[9];
    std::snprintf(hex, sizeof(hex), "%08x", static_cast<unsigned>(device()));
    id += hex;
  }
  return id;
}

}  // namespace unfold::http
