// SPDX-License-Identifier: Apache-2.0
// Regex: the patterns of tokenizer.json on PCRE2 with its JIT compiler and full Unicode classes.
//
// Those patterns are written for Oniguruma. What both engines read alike is passed on, \s and \S are rewritten to
// Unicode White_Space (PCRE2's own \s also takes U+180E), and everything that the two read differently is refused.
#ifndef UNFOLD_TEXT_REGEX_H_
#define UNFOLD_TEXT_REGEX_H_

#include <cstddef>
#include <memory>
#include <string_view>

#include "unfold/base.h"

namespace unfold {

// Immutable after Compile; thread-safe.
class Regex {
 public:
  // InvalidArgument names the construct that is not supported, or PCRE2's complaint and its place.
  static Result<Regex> Compile(std::string_view pattern);
  // Matches exactly `text`, which is not empty.
  static Result<Regex> Literal(std::string_view text);

  // Whether `text` (valid UTF-8) holds a match.
  bool Matches(std::string_view text) const;

 private:
  friend class RegexMatcher;
  struct Code;  // PCRE2's compiled pattern
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  static Result<Regex> CompilePcre2(std::string_view pattern);

  std::shared_ptr<const Code> code_;
};

// Walks the matches of one regex over texts, left to right, without overlap. An empty match directly after another
// match is skipped, as Oniguruma's iterator does.
// Not thread-safe.
class RegexMatcher {
 public:
  explicit RegexMatcher(const Regex& regex);
  ~RegexMatcher();
  RegexMatcher(const RegexMatcher&) = delete;
  RegexMatcher& operator=(const RegexMatcher&) = delete;

  // Starts on `text`: valid UTF-8, which must outlive the walk.
  void Reset(std::string_view text);
  // The next match as [*begin, *end). False when there is none, or when PCRE2 gives up on its limits: then the rest of
  // the text has no match, the same way every time.
  bool Next(std::size_t* begin, std::size_t* end);

 private:
  int MatchAt(std::size_t at);

  struct State;  // PCRE2's match data, context and JIT stack
  std::unique_ptr<State> state_;
  std::string_view text_;
  std::size_t next_ = 0;
  std::size_t last_end_ = static_cast<std::size_t>(-1);  // end of the match before, to skip an empty one there
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_REGEX_H_
