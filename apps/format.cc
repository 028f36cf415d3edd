// SPDX-License-Identifier: Apache-2.0
#include "apps/format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace unfold::cli {
namespace {

constexpr std::string_view kEllipsis = "\xE2\x80\xA6";

// C0, DEL, C1, and the separators that some terminals take for a new line.
bool IsControl(std::string_view character) {
  const auto byte = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return byte < 0x20 || byte == 0x7F;
  if (byte == 0xC2) return static_cast<unsigned char>(character[1]) < 0xA0;
  return character == "\xE2\x80\xA8" || character == "\xE2\x80\xA9";
}

}  // namespace

std::string Fixed(double value, int num_decimals) {
  std::array<char, 64> buffer;
  const int size = std::snprintf(buffer.data(), buffer.size(), "%.*f", num_decimals, value);
  return {buffer.data(), static_cast<std::size_t>(std::clamp(size, 0, 63))};
}

std::string HumanBytes(double num_bytes) {
  if (num_bytes < 1000) return Fixed(num_bytes, 0) + " B";
  constexpr std::array<std::string_view, 5> kUnits = {" kB", " MB", " GB", " TB", " PB"};
  std::size_t unit = 0;
  num_bytes /= 1000;
  for (; num_bytes >= 999.95 && unit + 1 < kUnits.size(); ++unit) num_bytes /= 1000;
  return Fixed(num_bytes, 1) + std::string(kUnits[unit]);
}

std::string HumanDuration(double seconds) {
  const auto total = static_cast<std::uint64_t>(std::llround(std::clamp(seconds, 0.0, 3.6e8)));
  std::array<char, 32> buffer;
  if (total >= 3600) {
    std::snprintf(buffer.data(), buffer.size(), "%u:%02u:%02u", static_cast<unsigned>(total / 3600),
                  static_cast<unsigned>(total / 60 % 60), static_cast<unsigned>(total % 60));
  } else {
    std::snprintf(buffer.data(), buffer.size(), "%u:%02u", static_cast<unsigned>(total / 60),
                  static_cast<unsigned>(total % 60));
  }
  return buffer.data();
}

std::string Plural(std::uint64_t count, std::string_view noun) {
  return std::to_string(count) + " " + std::string(noun) + (count == 1 ? "" : "s");
}

double Ratio(double numerator, double denominator) { return denominator == 0 ? 0 : numerator / denominator; }

std::size_t Utf8Length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned first = byte(at), second = byte(at + 1);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xC2 && first < 0xE0 ? 2 : (first & 0xF0) == 0xE0 ? 3 : 0;
  const std::size_t wanted = first >= 0xF0 && first <= 0xF4 ? 4 : length;
  if (wanted == 0) return 0;
  for (std::size_t i = 1; i < wanted; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  }
  // Longer forms than needed, surrogates, and what lies beyond U+10FFFF.
  const bool bad = (first == 0xE0 && second < 0xA0) || (first == 0xED && second >= 0xA0) ||
                   (first == 0xF0 && second < 0x90) || (first == 0xF4 && second >= 0x90);
  return bad ? 0 : wanted;
}

std::string OneLine(std::string_view text) {
  std::string line;
  bool space_due = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = Utf8Length(text, i);
    const std::string_view character = length == 0 ? "?" : text.substr(i, length);
    i += std::max<std::size_t>(length, 1);
    if (character == " " || IsControl(character)) {
      space_due = !line.empty();
      continue;
    }
    if (space_due) line += ' ';
    space_due = false;
    line += character;
  }
  return line;
}

std::string OneLine(std::string_view text, std::size_t max_bytes) {
  std::string line = OneLine(text);
  if (line.size() <= max_bytes) return line;
  std::size_t end = max_bytes - std::min(max_bytes, kEllipsis.size());
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xC0) == 0x80) --end;
  line.resize(end);
  if (max_bytes >= kEllipsis.size()) line += kEllipsis;
  return line;
}

const char* OutcomeName(IngestOutcome outcome) {
  switch (outcome) {
    case IngestOutcome::kAdded: return "added";
    case IngestOutcome::kReplaced: return "replaced";
    case IngestOutcome::kUnchanged: return "unchanged";
    case IngestOutcome::kFailed: return "failed";
    case IngestOutcome::kAbandoned: return "abandoned";
  }
  return "";
}

}  // namespace unfold::cli
