// SPDX-License-Identifier: Apache-2.0
// Prompt templates: text with special tokens and at most one placeholder, filled into token ids.
#ifndef UNFOLD_TEXT_PROMPT_H_
#define UNFOLD_TEXT_PROMPT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "unfold/base.h"

namespace unfold {

struct FilledPrompt {
  std::vector<TokenId> ids;
  // Tokens [question_begin, question_end) stand for the question itself; the rest is the template's.
  std::int32_t question_begin = 0;
  std::int32_t question_end = 0;
  bool truncated = false;     // the question was cut at max_question_tokens
  int num_turns_dropped = 0;  // earliest turns left out, see QuestionPrompt
};

// "<|question|>{question}<|answer|>". Special tokens that the template names are ids; what stands between two of them
// is tokenized as one text after filling, so a special token's text inside the question stays text (method.md section
// 1). Immutable; thread-safe.
class PromptTemplate {
 public:
  // `field` names the template in messages; `placeholder` ("{question}") must occur exactly once, or never if empty.
  static Result<PromptTemplate> Parse(std::string_view text, std::string_view field, std::string_view placeholder,
                                      const Tokenizer& tokenizer);

  // At most `max_question_tokens` tokens of the question are kept (0: all). `earlier` stands before it in its place,
  // and is no part of it.
  FilledPrompt Fill(std::string_view question, int max_question_tokens, const Tokenizer& tokenizer,
                    std::string_view earlier = {}) const;

  // The template with `text` as a literal where the placeholder is.
  PromptTemplate Bind(std::string_view text) const;

 private:
  struct Piece {
    TokenId special = -1;  // >= 0: this id, else text
    std::string before;    // literal text, and what follows the placeholder
    std::string after;
    bool has_placeholder = false;
  };
  std::vector<Piece> pieces_;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_PROMPT_H_
