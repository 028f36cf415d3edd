// SPDX-License-Identifier: Apache-2.0
// Units of a text that is to be cut: its title, and paragraphs, sentences, words, tokens and characters.
// White space is Unicode White_Space; a line ends with LF, CR or CRLF; a blank line holds nothing but white space.
#ifndef UNFOLD_TEXT_TEXT_UNITS_H_
#define UNFOLD_TEXT_TEXT_UNITS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "unfold/options.h"

namespace unfold {

// Half-open range of bytes of a text.
struct ByteRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  bool empty() const { return begin >= end; }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

// Coarse to fine.
enum class UnitLevel : std::uint8_t {
  kParagraph,  // what stands between blank lines
  kSentence,   // up to . ! ? with closing quotes and brackets before white space, or to 。 ！ ？ anywhere
  kWord,       // what stands between white space
  kToken,      // tokens, joined where one ends inside a character
  kCharacter,  // a byte that is not valid UTF-8 is one
};

// `range` without the white space at both its ends.
ByteRange TrimWhiteSpace(std::string_view text, ByteRange range);

// The units of `range`, in order. They cover all of it but white space, and neither begin nor end with white space.
// `tokens` are the tokens of the whole text (for kToken).
std::vector<ByteRange> CutUnits(std::string_view text, ByteRange range, UnitLevel level,
                                std::span<const TokenSpan> tokens);

inline constexpr std::uint32_t kMaxTitleBytes = 160;

struct TitleRange {
  ByteRange title;  // its text: no white space at the ends, and for Markdown no '#'
  ByteRange line;   // the line it is on, without the line's end
};

// The first line that is not blank, or for Markdown the first ATX heading outside code fences; nothing if there is none
// or if the title is longer than kMaxTitleBytes.
std::optional<TitleRange> FindTitle(std::string_view text, TextFormat format);

}  // namespace unfold

#endif  // UNFOLD_TEXT_TEXT_UNITS_H_
