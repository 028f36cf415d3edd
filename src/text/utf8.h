// SPDX-License-Identifier: Apache-2.0
// UTF-8 one character at a time, for bytes that may be anything.
#ifndef UNFOLD_TEXT_UTF8_H_
#define UNFOLD_TEXT_UTF8_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace unfold {

enum class Utf8Kind : std::uint8_t {
  kValid,
  kInvalid,     // no continuation can make these bytes valid
  kUnfinished,  // the text ends inside a character that is valid so far
};

struct Utf8Step {
  char32_t code = 0;       // the character when valid
  std::uint32_t size = 0;  // bytes of the character, or of the maximal invalid prefix (Unicode 3.9)
  Utf8Kind kind = Utf8Kind::kValid;
};

// The first character of `bytes`. REQUIRES: bytes is not empty.
Utf8Step DecodeUtf8(std::string_view bytes);

void AppendUtf8(char32_t code, std::string* out);

// Bytes of ASCII that `bytes` begins with.
std::size_t AsciiPrefix(std::string_view bytes);

// The last character of `text`, or nothing when it is empty or does not end with a whole character.
std::string_view LastCharacter(std::string_view text);

// Unicode White_Space.
bool IsWhiteSpace(char32_t code);

// Bytes of the white space that `text` begins or ends with. Invalid bytes are not white space.
std::size_t LeadingWhiteSpace(std::string_view text);
std::size_t TrailingWhiteSpace(std::string_view text);

// Without the white space at both ends.
std::string_view TrimWhiteSpace(std::string_view text);

// Whether byte `at` of `text` may start a character: it is no continuation byte, or the end.
inline bool IsUtf8Boundary(std::string_view text, std::size_t at) {
  return at >= text.size() || (static_cast<unsigned char>(text[at]) & 0xc0U) != 0x80U;
}

}  // namespace unfold

#endif  // UNFOLD_TEXT_UTF8_H_
