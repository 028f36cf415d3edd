// SPDX-License-Identifier: Apache-2.0
#include "apps/metrics.h"

#include <locale.h>
#include <wctype.h>

#include <algorithm>
#include <map>

#include "apps/format.h"

namespace unfold::cli {
namespace {

// Character classes of Unicode, whatever the user's locale is; ASCII alone where a system lacks C.UTF-8.
locale_t UnicodeLocale() {
  static const locale_t locale = [] {
    const locale_t unicode = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    return unicode != nullptr ? unicode : newlocale(LC_CTYPE_MASK, "C", nullptr);
  }();
  return locale;
}

std::u32string Decode(std::string_view text) {
  std::u32string decoded;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = Utf8Length(text, i);
    if (length == 0) {
      decoded += U'\uFFFD';
      ++i;
      continue;
    }
    constexpr unsigned kFirstBits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    char32_t code = static_cast<unsigned char>(text[i]) & kFirstBits[length];
    for (std::size_t k = 1; k < length; ++k) code = (code << 6) | (static_cast<unsigned char>(text[i + k]) & 0x3F);
    decoded += code;
    i += length;
  }
  return decoded;
}

void AppendUtf8(char32_t code, std::string& text) {
  const auto low = [&](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += {static_cast<char>(0xC0 | (code >> 6)), low(0)};
  } else if (code < 0x10000) {
    text += {static_cast<char>(0xE0 | (code >> 12)), low(6), low(0)};
  } else {
    text += {static_cast<char>(0xF0 | (code >> 18)), low(12), low(6), low(0)};
  }
}

bool IsPunctuation(char32_t code) {
  return code < 0x80 &&
         std::string_view("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~").find(static_cast<char>(code)) != std::string_view::npos;
}

bool IsSpace(char32_t code) {
  return code == U'\u00A0' || code == U'\u202F' || code == U'\u2007' ||  // glibc leaves out those that do not break
         iswspace_l(static_cast<wint_t>(code), UnicodeLocale()) != 0;
}

// Letters and digits, and the numbers that Python's \w takes and glibc does not: superscripts, fractions, circled ones.
bool IsWordCharacter(char32_t code) {
  if (code == U'\u00B2' || code == U'\u00B3' || code == U'\u00B9' || (code >= U'\u00BC' && code <= U'\u00BE'))
    return true;
  if ((code >= U'\u2070' && code <= U'\u2089') || (code >= U'\u2150' && code <= U'\u218B')) return true;
  if (code >= U'\u2460' && code <= U'\u249B') return true;
  return iswalnum_l(static_cast<wint_t>(code), UnicodeLocale()) != 0;
}

bool IsArticle(std::u32string_view word) { return word == U"a" || word == U"an" || word == U"the"; }

// Articles become a space. A word ends where a letter or digit meets anything else.
std::u32string DropArticles(const std::u32string& text) {
  std::u32string kept;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i;
    while (end < text.size() && IsWordCharacter(text[end])) ++end;
    if (end == i) {
      kept += text[i++];
      continue;
    }
    const std::u32string_view word = std::u32string_view(text).substr(i, end - i);
    if (IsArticle(word)) {
      kept += U' ';
    } else {
      kept += word;
    }
    i = end;
  }
  return kept;
}

std::vector<std::string> Words(const std::string& normalized) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < normalized.size();) {
    const std::size_t end = std::min(normalized.find(' ', begin), normalized.size());
    words.push_back(normalized.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

double WordF1(const std::vector<std::string>& predicted, const std::vector<std::string>& gold) {
  if (predicted.empty() || gold.empty()) return predicted.empty() && gold.empty() ? 1 : 0;
  std::map<std::string, int> left;
  for (const std::string& word : gold) ++left[word];
  int num_common = 0;
  for (const std::string& word : predicted) {
    const auto it = left.find(word);
    if (it == left.end() || it->second == 0) continue;
    --it->second;
    ++num_common;
  }
  if (num_common == 0) return 0;
  const double precision = static_cast<double>(num_common) / static_cast<double>(predicted.size());
  const double recall = static_cast<double>(num_common) / static_cast<double>(gold.size());
  return 2 * precision * recall / (precision + recall);
}

}  // namespace

std::string NormalizeAnswer(std::string_view text) {
  std::u32string lower;
  for (const char32_t code : Decode(text)) {
    const auto lowered = static_cast<char32_t>(towlower_l(static_cast<wint_t>(code), UnicodeLocale()));
    if (!IsPunctuation(lowered)) lower += lowered;
  }
  std::string normalized;
  bool space_due = false;
  for (const char32_t code : DropArticles(lower)) {
    if (IsSpace(code)) {
      space_due = !normalized.empty();
      continue;
    }
    if (space_due) normalized += ' ';
    space_due = false;
    AppendUtf8(code, normalized);
  }
  return normalized;
}

double SubspanMatch(std::string_view prediction, const std::vector<std::string>& answers) {
  const std::string predicted = NormalizeAnswer(prediction);
  const bool found = std::any_of(answers.begin(), answers.end(), [&](const std::string& answer) {
    const std::string gold = NormalizeAnswer(answer);
    return gold.empty() ? predicted.empty() : predicted.find(gold) != std::string::npos;
  });
  return found ? 1 : 0;
}

double WordF1(std::string_view prediction, const std::vector<std::string>& answers) {
  const std::vector<std::string> predicted = Words(NormalizeAnswer(prediction));
  double best = 0;
  for (const std::string& answer : answers) best = std::max(best, WordF1(predicted, Words(NormalizeAnswer(answer))));
  return best;
}

}  // namespace unfold::cli
