// SPDX-License-Identifier: Apache-2.0
#include "text/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/utf8.h"

namespace unfold {
namespace {

enum class NfcClass : std::uint8_t {
  kInert,     // starts anew, and is in NFC when no mark follows
  kChanges,   // starts anew, and is another character in NFC
  kCombines,  // may reorder or compose with what stands before it
};

constexpr std::size_t kTableSize = 0x30000;  // from here on every character is inert
constexpr char32_t kHangulBegin = 0xac00, kHangulEnd = 0xd7a4;
constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
constexpr auto kDecompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);

int CombiningClass(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

void AppendDecomposed(char32_t code, std::vector<utf8proc_int32_t>* out) {
  std::array<utf8proc_int32_t, 32> parts;  // no canonical decomposition is longer than 4
  const utf8proc_ssize_t count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts.data(), parts.size(), kDecompose, nullptr);
  for (utf8proc_ssize_t i = 0; i < count && i < static_cast<utf8proc_ssize_t>(parts.size()); ++i) {
    out->push_back(parts[static_cast<std::size_t>(i)]);
  }
}

// Composes what is decomposed. utf8proc's own ordering of marks takes quadratic time, so the order is made here.
void Compose(std::vector<utf8proc_int32_t>* codes) {
  const auto is_starter = [](utf8proc_int32_t code) { return CombiningClass(code) == 0; };
  for (auto begin = codes->begin(); begin != codes->end();) {
    begin = std::find_if_not(begin, codes->end(), is_starter);
    const auto end = std::find_if(begin, codes->end(), is_starter);
    std::stable_sort(begin, end, [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end;
  }
  const utf8proc_ssize_t size =
      utf8proc_normalize_utf32(codes->data(), static_cast<utf8proc_ssize_t>(codes->size()), kCompose);
  codes->resize(static_cast<std::size_t>(std::max<utf8proc_ssize_t>(size, 0)));
}

std::vector<NfcClass> MakeClasses() {
  std::vector<NfcClass> classes(kTableSize);
  std::vector<utf8proc_int32_t> parts;
  for (char32_t code = 0; code < kTableSize; ++code) {
    if (CombiningClass(static_cast<utf8proc_int32_t>(code)) != 0) classes[code] = NfcClass::kCombines;
    if (code >= kHangulBegin && code < kHangulEnd) continue;
    parts.clear();
    AppendDecomposed(code, &parts);
    if (parts.size() == 1 && parts[0] == static_cast<utf8proc_int32_t>(code)) continue;
    // All that follows the first part may compose with what stands before it.
    for (std::size_t i = 1; i < parts.size(); ++i) classes[static_cast<std::size_t>(parts[i])] = NfcClass::kCombines;
    if (CombiningClass(parts[0]) != 0) classes[code] = NfcClass::kCombines;
    Compose(&parts);
    const bool same = parts.size() == 1 && parts[0] == static_cast<utf8proc_int32_t>(code);
    if (!same && classes[code] == NfcClass::kInert) classes[code] = NfcClass::kChanges;
  }
  // Hangul is composed by rule: vowels and final consonants join what stands before them.
  for (char32_t code = 0x1161; code <= 0x1175; ++code) classes[code] = NfcClass::kCombines;
  for (char32_t code = 0x11a8; code <= 0x11c2; ++code) classes[code] = NfcClass::kCombines;
  return classes;
}

NfcClass ClassOf(char32_t code) {
  static const std::vector<NfcClass> classes = MakeClasses();
  return code < kTableSize ? classes[code] : NfcClass::kInert;
}

// Where the characters that combine with what stands before them end.
std::size_t CombiningEnd(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const Utf8Step step = DecodeUtf8(text.substr(at));
    if (step.kind != Utf8Kind::kValid || ClassOf(step.code) != NfcClass::kCombines) break;
    at += step.size;
  }
  return at;
}

// Stretches that may change: a character and the marks behind it, or marks alone.
// Not thread-safe.
class ClusterFinder {
 public:
  explicit ClusterFinder(std::string_view text) : text_(text) {}

  bool Next(std::size_t* begin, std::size_t* end) {
    std::size_t base = at_;  // where the character before at_ begins, if it may take marks
    while (true) {
      const std::size_t ascii = AsciiPrefix(text_.substr(at_));
      at_ += ascii;
      if (ascii > 0) base = at_ - 1;
      if (at_ == text_.size()) return false;
      const Utf8Step step = DecodeUtf8(text_.substr(at_));
      const bool valid = step.kind == Utf8Kind::kValid;
      const NfcClass kind = valid ? ClassOf(step.code) : NfcClass::kInert;
      if (kind != NfcClass::kInert) {
        *begin = kind == NfcClass::kCombines ? base : at_;
        *end = at_ = CombiningEnd(text_, at_ + step.size);
        return true;
      }
      base = valid ? at_ : at_ + step.size;
      at_ += step.size;
    }
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
};

std::string NormalizeCluster(std::string_view cluster) {
  std::vector<utf8proc_int32_t> codes;
  while (!cluster.empty()) {
    const Utf8Step step = DecodeUtf8(cluster);
    AppendDecomposed(step.code, &codes);
    cluster.remove_prefix(step.size);
  }
  Compose(&codes);
  std::string out;
  for (const utf8proc_int32_t code : codes) AppendUtf8(static_cast<char32_t>(code), &out);
  return out;
}

}  // namespace

AlignedText ToNfc(AlignedText from) {
  const std::string_view text = from.text();
  std::optional<TextEditor> editor;  // made when the first change is found
  ClusterFinder finder(text);
  std::size_t done = 0;
  for (std::size_t begin = 0, end = 0; finder.Next(&begin, &end);) {
    const std::string_view cluster = text.substr(begin, end - begin);
    const std::string normalized = NormalizeCluster(cluster);
    if (normalized == cluster) continue;
    if (!editor) editor.emplace(from, 0, text.size());
    editor->Keep(begin - done);
    editor->Replace(end - begin, normalized);
    done = end;
  }
  return editor ? editor->Finish() : std::move(from);
}

}  // namespace unfold
