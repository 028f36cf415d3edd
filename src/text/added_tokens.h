// SPDX-License-Identifier: Apache-2.0
// AddedTokens: the added_tokens of tokenizer.json, and the search for their texts.
#ifndef UNFOLD_TEXT_ADDED_TOKENS_H_
#define UNFOLD_TEXT_ADDED_TOKENS_H_

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
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

// Immutable after Parse; thread-safe.
class AddedTokens {
 public:
  // `value` is the field added_tokens, or null; `more_special` stand behind its tokens, unless it has them as special
  // ones. InvalidArgument for ids and texts that contradict each other or the vocabulary.
  static Result<AddedTokens> Parse(const Json* value, std::span<const std::string> more_special,
                                   const Vocabulary& vocabulary, const std::string& name);

  // Cuts `text` as `tokenizers` does: the longest token at the leftmost place; those not `normalized` first.
  std::vector<TextSegment> Split(std::string_view text) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  using ByFirstByte = std::array<std::vector<std::size_t>, 256>;  // indices into tokens_, longest text first

  Status Add(const Json& value, const Vocabulary& vocabulary, const std::string& name);
  Status AddSpecial(const std::string& text, const Vocabulary& vocabulary, const std::string& name);
  Status CheckStripping(const std::string& name) const;
  void IndexByFirstByte();
  const AddedToken* FindAt(const ByFirstByte& index, std::string_view text) const;
  void SplitPass(const ByFirstByte& index, std::string_view text, std::size_t base,
                 std::vector<TextSegment>* out) const;
  bool BreaksWord(const AddedToken& token, std::string_view before, std::string_view after) const;

  std::vector<AddedToken> tokens_;
  TokenId next_id_ = 0;  // what `tokenizers` gives to the next token that the vocabulary does not have
  ByFirstByte raw_;
  ByFirstByte normalized_;
  std::optional<Regex> word_;  // a word character as Rust's regex crate knows it
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_ADDED_TOKENS_H_
