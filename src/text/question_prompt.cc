// SPDX-License-Identifier: Apache-2.0
#include "text/question_prompt.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "text/utf8.h"

namespace unfold {
namespace {

constexpr std::string_view kText = "{text}";

std::string JoinedLine(const Turn& turn) { return turn.text + "\n"; }

// How many of the latest turns fit into `max_tokens`, of which the question takes its own first. `cost` counts one.
template <typename Cost>
std::size_t NumKept(std::span<const Turn> history, std::string_view question, int max_tokens,
                    const Tokenizer& tokenizer, const Cost& cost) {
  if (max_tokens <= 0 || history.empty()) return history.size();
  const auto limit = static_cast<std::size_t>(max_tokens);
  std::size_t used = tokenizer.Encode(question).size();
  std::size_t kept = 0;
  while (kept < history.size() && used < limit) {
    used += cost(history[history.size() - 1 - kept]);
    if (used > limit) break;
    ++kept;
  }
  return kept;
}

}  // namespace

Result<QuestionPrompt> QuestionPrompt::Chat(const ChatTemplate& chat, PromptTemplate lead, const Tokenizer& tokenizer) {
  const std::string name(chat.name);
  const std::string question = std::string(chat.user) + std::string(chat.answer);
  QuestionPrompt prompt;
  UNFOLD_TRY_ASSIGN(prompt.question_, PromptTemplate::Parse(question, name, kText, tokenizer));
  Turns turns{std::move(lead), {}, {}, chat.trims};
  UNFOLD_TRY_ASSIGN(turns.user, PromptTemplate::Parse(chat.user, name, kText, tokenizer));
  UNFOLD_TRY_ASSIGN(turns.assistant, PromptTemplate::Parse(chat.assistant, name, kText, tokenizer));
  prompt.turns_ = std::move(turns);
  return prompt;
}

FilledPrompt QuestionPrompt::Fill(std::string_view question, int max_tokens, const Tokenizer& tokenizer,
                                  std::span<const Turn> history) const {
  return turns_ ? FillTurns(question, max_tokens, tokenizer, history)
                : FillJoined(question, max_tokens, tokenizer, history);
}

FilledPrompt QuestionPrompt::FillJoined(std::string_view question, int max_tokens, const Tokenizer& tokenizer,
                                        std::span<const Turn> history) const {
  const auto cost = [&](const Turn& turn) { return tokenizer.Encode(JoinedLine(turn)).size(); };
  const std::size_t kept = NumKept(history, question, max_tokens, tokenizer, cost);
  std::string earlier;
  for (const Turn& turn : history.last(kept)) earlier += JoinedLine(turn);
  FilledPrompt filled = question_.Fill(question, max_tokens, tokenizer, earlier);
  filled.num_turns_dropped = static_cast<int>(history.size() - kept);
  return filled;
}

std::vector<TokenId> QuestionPrompt::TurnIds(const Turn& turn, const Tokenizer& tokenizer) const {
  const PromptTemplate& shape = turn.role == TurnRole::kUser ? turns_->user : turns_->assistant;
  return shape.Fill(turns_->trims ? TrimWhiteSpace(turn.text) : turn.text, 0, tokenizer).ids;
}

FilledPrompt QuestionPrompt::FillTurns(std::string_view question, int max_tokens, const Tokenizer& tokenizer,
                                       std::span<const Turn> history) const {
  if (turns_->trims) question = TrimWhiteSpace(question);
  const auto cost = [&](const Turn& turn) { return TurnIds(turn, tokenizer).size(); };
  const std::size_t kept = NumKept(history, question, max_tokens, tokenizer, cost);
  std::vector<TokenId> ids = turns_->lead.Fill("", 0, tokenizer).ids;
  for (const Turn& turn : history.last(kept)) {
    const std::vector<TokenId> more = TurnIds(turn, tokenizer);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  FilledPrompt filled = question_.Fill(question, max_tokens, tokenizer);
  const auto shift = static_cast<std::int32_t>(ids.size());
  ids.insert(ids.end(), filled.ids.begin(), filled.ids.end());
  filled.ids = std::move(ids);
  filled.question_begin += shift;
  filled.question_end += shift;
  filled.num_turns_dropped = static_cast<int>(history.size() - kept);
  return filled;
}

}  // namespace unfold
