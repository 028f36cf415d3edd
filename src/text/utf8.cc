// SPDX-License-Identifier: Apache-2.0
#include "text/utf8.h"

#include <cstring>

#include "text/tokenizer.h"

namespace unfold {
namespace {

constexpr char32_t kReplacement = 0xfffd;

struct Lead {
  std::uint32_t size;       // bytes of the character; 0: no character starts with this byte
  std::uint8_t second_low;  // bounds of the second byte
  std::uint8_t second_high;
};

// Table 3-7 of the Unicode standard: what may follow a first byte.
Lead LeadOf(std::uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xc2) return {0, 0, 0};
  if (byte < 0xe0) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

// Appends `bytes` to `out` with invalid parts replaced, and returns how many bytes at the end are unfinished.
std::size_t AppendSanitized(std::string_view bytes, std::string* out) {
  while (true) {
    const std::size_t ascii = AsciiPrefix(bytes);
    out->append(bytes.substr(0, ascii));
    bytes.remove_prefix(ascii);
    if (bytes.empty()) return 0;
    const Utf8Step step = DecodeUtf8(bytes);
    if (step.kind == Utf8Kind::kUnfinished) return bytes.size();
    AppendUtf8(step.kind == Utf8Kind::kValid ? step.code : kReplacement, out);
    bytes.remove_prefix(step.size);
  }
}

}  // namespace

Utf8Step DecodeUtf8(std::string_view bytes) {
  const auto first = static_cast<std::uint8_t>(bytes[0]);
  const Lead lead = LeadOf(first);
  if (lead.size == 1) return {first, 1, Utf8Kind::kValid};
  if (lead.size == 0) return {0, 1, Utf8Kind::kInvalid};
  char32_t code = first & (0x7fU >> lead.size);
  for (std::uint32_t i = 1; i < lead.size; ++i) {
    if (i == bytes.size()) return {0, i, Utf8Kind::kUnfinished};
    const auto byte = static_cast<std::uint8_t>(bytes[i]);
    const std::uint8_t low = i == 1 ? lead.second_low : 0x80;
    const std::uint8_t high = i == 1 ? lead.second_high : 0xbf;
    if (byte < low || byte > high) return {0, i, Utf8Kind::kInvalid};
    code = (code << 6) | (byte & 0x3fU);
  }
  return {code, lead.size, Utf8Kind::kValid};
}

std::size_t AsciiPrefix(std::string_view bytes) {
  std::size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    if ((word & 0x8080808080808080ULL) != 0) break;
  }
  while (at < bytes.size() && static_cast<std::uint8_t>(bytes[at]) < 0x80) ++at;
  return at;
}

std::string_view LastCharacter(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0 && text.size() - begin < 4) {
    if (IsUtf8Boundary(text, --begin)) break;
  }
  return text.substr(begin);
}

void AppendUtf8(char32_t code, std::string* out) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xc0 | (code >> 6)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3f)));
  } else if (code < 0x10000) {
    out->push_back(static_cast<char>(0xe0 | (code >> 12)));
    out->push_back(static_cast<char>(0x80 | ((code >> 6) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3f)));
  } else {
    out->push_back(static_cast<char>(0xf0 | (code >> 18)));
    out->push_back(static_cast<char>(0x80 | ((code >> 12) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | ((code >> 6) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3f)));
  }
}

bool IsWhiteSpace(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 0x09 && code <= 0x0d);
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

std::size_t LeadingWhiteSpace(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = DecodeUtf8(text.substr(at));
    if (step.kind != Utf8Kind::kValid || !IsWhiteSpace(step.code)) break;
    at += step.size;
  }
  return at;
}

std::size_t TrailingWhiteSpace(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && end - begin < 4 && !IsUtf8Boundary(text, begin)) --begin;
    const Utf8Step step = DecodeUtf8(text.substr(begin, end - begin));
    if (step.kind != Utf8Kind::kValid || step.size != end - begin || !IsWhiteSpace(step.code)) break;
    end = begin;
  }
  return text.size() - end;
}

std::size_t FindInvalidUtf8(std::string_view bytes) {
  std::size_t at = 0;
  while (true) {
    at += AsciiPrefix(bytes.substr(at));
    if (at == bytes.size()) return std::string_view::npos;
    const Utf8Step step = DecodeUtf8(bytes.substr(at));
    if (step.kind != Utf8Kind::kValid) return at;
    at += step.size;
  }
}

std::string Utf8Stream::Push(std::string_view bytes) {
  pending_.append(bytes);
  std::string out;
  const std::size_t unfinished = AppendSanitized(pending_, &out);
  pending_.erase(0, pending_.size() - unfinished);
  return out;
}

std::string Utf8Stream::Finish() {
  std::string out;
  if (!pending_.empty()) AppendUtf8(kReplacement, &out);
  pending_.clear();
  return out;
}

std::string SanitizeUtf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  if (AppendSanitized(bytes, &out) != 0) AppendUtf8(kReplacement, &out);
  return out;
}

std::string_view TrimWhiteSpace(std::string_view text) {
  text.remove_prefix(LeadingWhiteSpace(text));
  text.remove_suffix(TrailingWhiteSpace(text));
  return text;
}

}  // namespace unfold
