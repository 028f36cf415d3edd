// SPDX-License-Identifier: Apache-2.0
// AddedTokens: the added_tokens of tokenizer.json, and the search for their texts.
#ifndef UNFOLD_TEXT_ADDED_TOKENS_H_
#define UNFOLD_TEXT_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/normalizer.h"
#include "text/regex.h"
#include "text/vocabulary.h"
#include "unfold/base.h"

namespace unfold {

struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool special = false;
  bool single_word = false;  // not recognised beside a word character
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = true;    // recognised after those that are not
};

// A stretch of text: one added token, or text between them (id -1).
struct TextSegment {
  std::size_t begin = 0;
  std::size_t end = 0;
  TokenId id = -1;
};

// What to do with added tokens that are flagged special.
enum class SpecialText { kIsText, kIsToken };

// Immutable after Parse; thread-safe.
class AddedTokens {
 public:
  // `file` is the field added_tokens of tokenizer.json, or null. Behind its tokens stand those of `more_tokens`, an
  // array of the same form or null, and `more_special`, as far as their texts are new; one of `more_special` that is
  // not is special all the same. InvalidArgument for ids and texts that contradict each other or the vocabulary.
  static Result<AddedTokens> Parse(const Json* file, const Json& more_tokens, std::span<const std::string> more_special,
                                   const Vocabulary& vocabulary, const Normalizer& normalizer, const std::string& name);

  // Cut a text as `tokenizers` does: the longest token at the leftmost place. First the tokens that are not
  // `normalized`, in the text as it is; then, in each stretch between them after normalisation, the others.
  std::vector<TextSegment> SplitRaw(std::string_view text, SpecialText special) const {
    return Split(raw_, text, special);
  }
  std::vector<TextSegment> SplitNormalized(std::string_view text, SpecialText special) const {
    return Split(normalized_, text, special);
  }

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // What was taken of `more_tokens` and `more_special`, as text that tells two cases apart; empty when nothing.
  const std::string& more() const { return more_; }

 private:
  struct Pattern {
    std::string text;
    std::size_t token = 0;  // index into tokens_
  };
  // Patterns in order of their bytes, and where those of each first byte begin.
  struct Index {
    std::vector<Pattern> patterns;
    std::array<std::uint32_t, 257> first{};
    bool has_plain = false;  // holds a token that is not special
  };

  Status Add(const Json& value, const Vocabulary& vocabulary, const std::string& name);
  Status AddMore(const Json& token, const Vocabulary& vocabulary, const std::string& name);
  Status CheckDistinct(const std::string& name) const;
  Status CheckStripping(const std::string& name) const;
  Status MakeIndexes(const Normalizer& normalizer, const std::string& name);
  static void SortIndex(Index* index);
  const Pattern* LongestAt(const Index& index, std::string_view text) const;
  std::vector<TextSegment> Split(const Index& index, std::string_view text, SpecialText special) const;
  bool BreaksWord(const AddedToken& token, std::string_view before, std::string_view after) const;

  std::vector<AddedToken> tokens_;
  TokenId next_id_ = 0;  // what `tokenizers` gives to the next token that the vocabulary does not have
  Index raw_;
  Index normalized_;
  std::optional<Regex> word_;  // a word character as Rust's regex crate knows it
  std::string more_;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_ADDED_TOKENS_H_
