// SPDX-License-Identifier: Apache-2.0
#include "text/prompt.h"

#include <algorithm>

namespace unfold {
namespace {

// The special token that begins at `text[at]`, or empty. Longest first, as Tokenizer::special_tokens orders them.
std::string_view SpecialAt(std::string_view text, std::size_t at, const Tokenizer& tokenizer) {
  for (const std::string& special : tokenizer.special_tokens()) {
    if (text.substr(at).starts_with(special)) return special;
  }
  return {};
}

}  // namespace

Result<PromptTemplate> PromptTemplate::Parse(std::string_view text, std::string_view field,
                                             std::string_view placeholder, const Tokenizer& tokenizer) {
  PromptTemplate result;
  Piece piece;
  int num_placeholders = 0;
  const auto flush = [&] {
    if (!piece.before.empty() || piece.has_placeholder) result.pieces_.push_back(std::move(piece));
    piece = Piece{};
  };
  for (std::size_t at = 0; at < text.size();) {
    if (!placeholder.empty() && text.substr(at).starts_with(placeholder)) {
      piece.has_placeholder = true;
      ++num_placeholders;
      at += placeholder.size();
      continue;
    }
    const std::string_view special = SpecialAt(text, at, tokenizer);
    if (special.empty()) {
      (piece.has_placeholder ? piece.after : piece.before) += text[at++];
      continue;
    }
    flush();
    result.pieces_.push_back(Piece{tokenizer.IdOf(special), {}, {}, false});
    at += special.size();
  }
  flush();
  if (!placeholder.empty() && num_placeholders != 1) {
    return Status::InvalidArgument(std::string(field) + ": must hold " + std::string(placeholder) +
                                   " exactly once, found " + std::to_string(num_placeholders));
  }
  return result;
}

PromptTemplate PromptTemplate::Bind(std::string_view text) const {
  PromptTemplate bound = *this;
  for (Piece& piece : bound.pieces_) {
    if (!piece.has_placeholder) continue;
    piece.before.append(text).append(piece.after);
    piece.after.clear();
    piece.has_placeholder = false;
  }
  return bound;
}

FilledPrompt PromptTemplate::Fill(std::string_view question, int max_question_tokens, const Tokenizer& tokenizer,
                                  std::string_view earlier) const {
  FilledPrompt filled;
  bool follows = false;  // a special token stands before the piece
  for (const Piece& piece : pieces_) {
    if (piece.special >= 0) {
      filled.ids.push_back(piece.special);
      follows = true;
      continue;
    }
    std::string text = piece.before;
    if (piece.has_placeholder) text.append(earlier);
    const std::size_t begin = text.size();
    if (piece.has_placeholder) text.append(question);
    const std::size_t end = text.size();
    text += piece.after;
    int kept = 0;
    if (piece.has_placeholder)
      filled.question_begin = filled.question_end = static_cast<std::int32_t>(filled.ids.size());
    for (const TokenSpan& token : tokenizer.Encode(text, follows)) {
      // A token that touches the question's bytes is the question's, also where it merged with the template.
      const bool of_question = piece.has_placeholder && token.begin < end && token.end > begin;
      if (of_question) {
        if (max_question_tokens > 0 && kept == max_question_tokens) {
          filled.truncated = true;
          continue;
        }
        if (kept == 0) filled.question_begin = static_cast<std::int32_t>(filled.ids.size());
        ++kept;
        filled.question_end = static_cast<std::int32_t>(filled.ids.size()) + 1;
      }
      filled.ids.push_back(token.id);
    }
  }
  return filled;
}

}  // namespace unfold
