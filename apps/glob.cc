// SPDX-License-Identifier: Apache-2.0
#include "apps/glob.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "apps/format.h"

namespace unfold::cli {
namespace {

std::vector<std::string_view> Split(std::string_view path) {
  std::vector<std::string_view> names;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    if (end > begin) names.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

// The character at `at`; a byte that is not UTF-8 stands for itself.
std::string_view CharacterAt(std::string_view text, std::size_t at) {
  return text.substr(at, std::max<std::size_t>(Utf8Length(text, at), 1));
}

// A set such as [a-z]: its end, and whether `character` is in it. Nothing when the bracket is never closed.
struct SetMatch {
  std::size_t end;
  bool matches;
};
std::optional<SetMatch> MatchSet(std::string_view pattern, std::size_t at, std::string_view character) {
  std::size_t i = at + 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  if (negated) ++i;
  bool found = false;
  for (const std::size_t first = i; i < pattern.size();) {
    if (pattern[i] == ']' && i > first) return SetMatch{i + 1, found != negated};
    const std::string_view low = CharacterAt(pattern, i);
    std::string_view high = low;
    i += low.size();
    if (i + 1 < pattern.size() && pattern[i] == '-' && pattern[i + 1] != ']') {
      high = CharacterAt(pattern, i + 1);
      i += 1 + high.size();
    }
    // UTF-8 orders as its code points do.
    found = found || (low <= character && character <= high);
  }
  return std::nullopt;
}

// One step of a pattern other than *: where the pattern goes on, or nothing when `character` does not match.
std::optional<std::size_t> MatchOne(std::string_view pattern, std::size_t at, std::string_view character) {
  if (pattern[at] == '?') return at + 1;
  if (pattern[at] == '[') {
    if (const auto set = MatchSet(pattern, at, character)) {
      return set->matches ? std::optional(set->end) : std::nullopt;
    }
  }
  if (pattern[at] == '\\' && at + 1 < pattern.size()) ++at;
  const std::string_view literal = CharacterAt(pattern, at);
  return literal == character ? std::optional(at + literal.size()) : std::nullopt;
}

// One name against one name pattern. The last * takes one character more each time the rest fails.
bool MatchName(std::string_view pattern, std::string_view name) {
  std::size_t p = 0, n = 0, retry_name = 0;
  std::optional<std::size_t> star;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      retry_name = n;
      continue;
    }
    const std::string_view character = CharacterAt(name, n);
    const auto next = p < pattern.size() ? MatchOne(pattern, p, character) : std::nullopt;
    if (next) {
      p = *next;
      n += character.size();
    } else if (star) {
      retry_name += CharacterAt(name, retry_name).size();
      n = retry_name;
      p = *star;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace

bool HasGlob(std::string_view text) { return text.find_first_of("*?[") != std::string_view::npos; }

bool GlobMatch(std::string_view pattern, std::string_view path) {
  const std::vector<std::string_view> patterns = Split(pattern), names = Split(path);
  // matches[n]: the patterns so far match the first n names.
  std::vector<char> matches(names.size() + 1, 0);
  matches[0] = 1;
  for (const std::string_view part : patterns) {
    std::vector<char> next(names.size() + 1, 0);
    for (std::size_t n = 0; n <= names.size(); ++n) {
      if (part == "**") {
        next[n] = matches[n] || (n > 0 && next[n - 1]);
      } else if (n > 0) {
        next[n] = matches[n - 1] && MatchName(part, names[n - 1]);
      }
    }
    matches = std::move(next);
  }
  return matches[names.size()] != 0;
}

bool FilterMatch(std::string_view pattern, std::string_view path) {
  if (pattern.find('/') != std::string_view::npos) return GlobMatch(pattern, path);
  return GlobMatch(pattern, path.substr(path.find_last_of('/') + 1));
}

}  // namespace unfold::cli
