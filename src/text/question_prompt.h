// SPDX-License-Identifier: Apache-2.0
// QuestionPrompt: what follows the documents, filled from a question and the turns before it.
#ifndef UNFOLD_TEXT_QUESTION_PROMPT_H_
#define UNFOLD_TEXT_QUESTION_PROMPT_H_

#include <optional>
#include <span>
#include <string_view>

#include "text/chat_template.h"
#include "text/prompt.h"
#include "text/tokenizer.h"
#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

// Immutable; thread-safe.
class QuestionPrompt {
 public:
  QuestionPrompt() = default;
  // A template that has no place for earlier turns: they are joined into the question, a line each, oldest first.
  explicit QuestionPrompt(PromptTemplate question) : question_(std::move(question)) {}
  // Earlier turns stand before the question as turns. `lead` is what comes before the first of them.
  static Result<QuestionPrompt> Chat(const ChatTemplate& chat, PromptTemplate lead, const Tokenizer& tokenizer);

  // Question and history together may take `max_tokens` tokens (0: all): the question its text's, an earlier turn all
  // that it adds to the prompt. Whole turns are left out for it, the earliest first; only a question that is longer by
  // itself is cut, and then it stands alone. question_begin and question_end bound the tokens of the question, not
  // those of the history.
  FilledPrompt Fill(std::string_view question, int max_tokens, const Tokenizer& tokenizer,
                    std::span<const Turn> history = {}) const;

 private:
  struct Turns {
    PromptTemplate lead, user, assistant;
    bool trims = false;
  };
  std::vector<TokenId> TurnIds(const Turn& turn, const Tokenizer& tokenizer) const;
  FilledPrompt FillJoined(std::string_view question, int max_tokens, const Tokenizer& tokenizer,
                          std::span<const Turn> history) const;
  FilledPrompt FillTurns(std::string_view question, int max_tokens, const Tokenizer& tokenizer,
                         std::span<const Turn> history) const;

  PromptTemplate question_;
  std::optional<Turns> turns_;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_QUESTION_PROMPT_H_
