// SPDX-License-Identifier: Apache-2.0
#include "text/text_units.h"

#include <algorithm>

#include "text/utf8.h"

namespace unfold {
namespace {

std::string_view Slice(std::string_view text, ByteRange range) {
  return text.substr(range.begin, range.end - range.begin);
}

// The line that begins at `at`, without its end; `at` moves behind that end.
ByteRange TakeLine(std::string_view text, std::uint32_t limit, std::uint32_t* at) {
  const std::size_t found = text.substr(0, limit).find_first_of("\r\n", *at);
  const ByteRange line{*at, found == std::string_view::npos ? limit : static_cast<std::uint32_t>(found)};
  *at = line.end;
  if (*at < limit) *at += text.substr(*at, 2) == "\r\n" && *at + 1 < limit ? 2 : 1;
  return line;
}

// Puts `range` out unless it is white space only.
void PutTrimmed(std::string_view text, ByteRange range, std::vector<ByteRange>* units) {
  const ByteRange trimmed = TrimWhiteSpace(text, range);
  if (!trimmed.empty()) units->push_back(trimmed);
}

// A character and where it ends. An invalid byte stands for itself, as code 0xfffd.
struct Character {
  char32_t code = 0;
  std::uint32_t end = 0;
};

Character CharacterAt(std::string_view text, std::uint32_t at) {
  const Utf8Step step = DecodeUtf8(text.substr(at));
  if (step.kind != Utf8Kind::kValid) return {0xfffd, at + 1};
  return {step.code, at + step.size};
}

// Whether a character begins at `at`: no valid character that begins before reaches over it.
bool IsCharacterBoundary(std::string_view text, std::uint32_t at) {
  for (std::uint32_t back = 1; back <= 3 && back <= at; ++back) {
    if (!IsUtf8Boundary(text, at - back)) continue;
    const Utf8Step step = DecodeUtf8(text.substr(at - back));
    return step.kind != Utf8Kind::kValid || step.size <= back;
  }
  return true;
}

bool EndsSentence(char32_t code) { return code == '.' || code == '!' || code == '?'; }
bool EndsSentenceAnywhere(char32_t code) { return code == 0x3002 || code == 0xff01 || code == 0xff1f; }

// Quotes and brackets that close, and may stand between a sentence's mark and its end.
bool Closes(char32_t code) {
  constexpr std::u32string_view kClosing = U"\"')]}»›’”」』）】》〉";
  return kClosing.find(code) != std::u32string_view::npos;
}

void CutParagraphs(std::string_view text, ByteRange range, std::vector<ByteRange>* units) {
  std::uint32_t at = range.begin;
  std::uint32_t begin = range.begin;
  while (at < range.end) {
    const ByteRange line = TakeLine(text, range.end, &at);
    if (!TrimWhiteSpace(text, line).empty()) continue;
    PutTrimmed(text, {begin, line.begin}, units);
    begin = at;
  }
  PutTrimmed(text, {begin, range.end}, units);
}

void CutSentences(std::string_view text, ByteRange range, std::vector<ByteRange>* units) {
  std::uint32_t begin = range.begin;
  for (std::uint32_t at = range.begin; at < range.end;) {
    Character character = CharacterAt(text, at);
    at = character.end;
    bool anywhere = EndsSentenceAnywhere(character.code);
    if (!anywhere && !EndsSentence(character.code)) continue;
    // More marks, then what closes: "...", "?!", ".)"
    while (at < range.end) {
      character = CharacterAt(text, at);
      anywhere = anywhere || EndsSentenceAnywhere(character.code);
      if (!EndsSentence(character.code) && !EndsSentenceAnywhere(character.code) && !Closes(character.code)) break;
      at = character.end;
    }
    if (anywhere || at >= range.end || IsWhiteSpace(character.code)) {
      PutTrimmed(text, {begin, at}, units);
      begin = at;
    }
  }
  PutTrimmed(text, {begin, range.end}, units);
}

void CutWords(std::string_view text, ByteRange range, std::vector<ByteRange>* units) {
  std::uint32_t begin = range.begin;
  for (std::uint32_t at = range.begin; at < range.end;) {
    const Character character = CharacterAt(text, at);
    if (IsWhiteSpace(character.code)) {
      if (begin < at) units->push_back({begin, at});
      begin = character.end;
    }
    at = character.end;
  }
  if (begin < range.end) units->push_back({begin, range.end});
}

void CutTokens(std::string_view text, ByteRange range, std::span<const TokenSpan> tokens,
               std::vector<ByteRange>* units) {
  const auto first = std::upper_bound(tokens.begin(), tokens.end(), range.begin,
                                      [](std::uint32_t at, const TokenSpan& token) { return at < token.begin; });
  std::uint32_t begin = range.begin;
  for (auto token = first; token != tokens.end() && token->begin < range.end; ++token) {
    if (token->begin == begin || !IsCharacterBoundary(text, token->begin)) continue;
    units->push_back({begin, token->begin});
    begin = token->begin;
  }
  if (begin < range.end) units->push_back({begin, range.end});
}

void CutCharacters(std::string_view text, ByteRange range, std::vector<ByteRange>* units) {
  for (std::uint32_t at = range.begin; at < range.end;) {
    const std::uint32_t end = CharacterAt(text, at).end;
    units->push_back({at, end});
    at = end;
  }
}

// Whether a line opens or closes a fenced code block: up to three spaces, then three or more of one mark.
char FenceMark(std::string_view line) {
  line.remove_prefix(std::min<std::size_t>(line.find_first_not_of(' '), line.size()));
  if (line.starts_with("```")) return '`';
  return line.starts_with("~~~") ? '~' : '\0';
}

// The text of an ATX heading, or an empty range: one to six '#', white space, the text, perhaps '#'s that close it.
ByteRange HeadingText(std::string_view text, ByteRange line) {
  const std::string_view slice = Slice(text, line);
  const std::size_t indent = std::min(slice.find_first_not_of(' '), slice.size());
  const std::size_t level = std::min(slice.find_first_not_of('#', indent), slice.size()) - indent;
  const std::size_t after = indent + level;
  if (indent > 3 || level < 1 || level > 6) return {};
  if (after < slice.size() && slice[after] != ' ' && slice[after] != '\t') return {};
  ByteRange title = TrimWhiteSpace(text, {line.begin + static_cast<std::uint32_t>(after), line.end});
  const std::string_view words = Slice(text, title);
  const std::size_t last = words.find_last_not_of('#');
  if (last == std::string_view::npos) return {};
  if (last + 1 < words.size() && (words[last] == ' ' || words[last] == '\t')) {
    title.end = title.begin + static_cast<std::uint32_t>(last);
  }
  return TrimWhiteSpace(text, title);
}

std::optional<TitleRange> FindHeading(std::string_view text) {
  const auto limit = static_cast<std::uint32_t>(text.size());
  char fence = '\0';  // the mark of the code block that we are in
  for (std::uint32_t at = 0; at < limit;) {
    const ByteRange line = TakeLine(text, limit, &at);
    const char mark = FenceMark(Slice(text, line));
    if (mark != '\0' && (fence == '\0' || fence == mark)) {
      fence = fence == '\0' ? mark : '\0';
    } else if (fence == '\0') {
      const ByteRange title = HeadingText(text, line);
      if (!title.empty()) return TitleRange{title, line};
    }
  }
  return std::nullopt;
}

std::optional<TitleRange> FindFirstLine(std::string_view text) {
  const auto limit = static_cast<std::uint32_t>(text.size());
  for (std::uint32_t at = 0; at < limit;) {
    const ByteRange line = TakeLine(text, limit, &at);
    const ByteRange title = TrimWhiteSpace(text, line);
    if (!title.empty()) return TitleRange{title, line};
  }
  return std::nullopt;
}

}  // namespace

ByteRange TrimWhiteSpace(std::string_view text, ByteRange range) {
  range.begin += static_cast<std::uint32_t>(LeadingWhiteSpace(Slice(text, range)));
  range.end -= static_cast<std::uint32_t>(TrailingWhiteSpace(Slice(text, range)));
  return range;
}

std::vector<ByteRange> CutUnits(std::string_view text, ByteRange range, UnitLevel level,
                                std::span<const TokenSpan> tokens) {
  std::vector<ByteRange> units;
  switch (level) {
    case UnitLevel::kParagraph: CutParagraphs(text, range, &units); break;
    case UnitLevel::kSentence: CutSentences(text, range, &units); break;
    case UnitLevel::kWord: CutWords(text, range, &units); break;
    case UnitLevel::kToken: CutTokens(text, range, tokens, &units); break;
    case UnitLevel::kCharacter: CutCharacters(text, range, &units); break;
  }
  return units;
}

std::optional<TitleRange> FindTitle(std::string_view text, TextFormat format) {
  const std::optional<TitleRange> found = format == TextFormat::kMarkdown ? FindHeading(text) : FindFirstLine(text);
  if (!found || found->title.end - found->title.begin > kMaxTitleBytes) return std::nullopt;
  return found;
}

}  // namespace unfold
