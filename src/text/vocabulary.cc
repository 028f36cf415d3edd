// SPDX-License-Identifier: Apache-2.0
#include "text/vocabulary.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <system_error>

#include "text/utf8.h"

namespace unfold {
namespace {

constexpr std::size_t kMaxHoles = 65536;  // ids without a token; more of them is taken for a broken file
constexpr int kAlphabetSize = 256 + 68;   // the 68 bytes that do not print are spelled from U+0100 on

bool PrintsAsItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

// The byte that each character of the alphabet stands for, by code point; -1 for other characters.
std::array<std::int16_t, kAlphabetSize> MakeAlphabet() {
  std::array<std::int16_t, kAlphabetSize> bytes;
  bytes.fill(-1);
  std::size_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    bytes[PrintsAsItself(byte) ? static_cast<std::size_t>(byte) : next++] = static_cast<std::int16_t>(byte);
  }
  return bytes;
}

// The bytes that `key` spells, or nothing when it holds a character outside the alphabet.
std::optional<std::string> Unspell(std::string_view key) {
  static const std::array<std::int16_t, kAlphabetSize> alphabet = MakeAlphabet();
  std::string bytes;
  while (!key.empty()) {
    const Utf8Step step = DecodeUtf8(key);
    if (step.kind != Utf8Kind::kValid || step.code >= kAlphabetSize || alphabet[step.code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(alphabet[step.code]));
    key.remove_prefix(step.size);
  }
  return bytes;
}

Status CheckId(const std::string& key, std::int64_t id, std::size_t num_entries, const std::string& name) {
  const std::string token = name + ": vocab: '" + key + "' has id " + std::to_string(id);
  if (id < 0) return Status::InvalidArgument(token + ", which is negative");
  if (static_cast<std::uint64_t>(id) >= num_entries + kMaxHoles) {
    return Status::InvalidArgument(token + ", out of proportion to " + std::to_string(num_entries) + " tokens");
  }
  return Status::Ok();
}

}  // namespace

int ByteOfSpelling(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int byte = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  return error == std::errc() && end == token.data() + 5 ? byte : -1;
}

Result<std::unique_ptr<Vocabulary>> Vocabulary::Create(const std::vector<std::pair<std::string, std::int64_t>>& entries,
                                                       Spelling spelling, const std::string& name) {
  std::unique_ptr<Vocabulary> vocabulary(new Vocabulary(spelling));
  UNFOLD_TRY(vocabulary->Fill(entries, name));
  UNFOLD_TRY(vocabulary->FindBytes(name));
  return vocabulary;
}

Status Vocabulary::Fill(const std::vector<std::pair<std::string, std::int64_t>>& entries, const std::string& name) {
  std::size_t num_bytes = 0;
  std::int64_t largest = -1;
  for (const auto& [key, id] : entries) {
    UNFOLD_TRY(CheckId(key, id, entries.size(), name));
    num_bytes += key.size();
    largest = std::max(largest, id);
  }
  arena_.reserve(num_bytes);  // a spelling is never shorter than its bytes, so views into the arena stay good
  tokens_.resize(static_cast<std::size_t>(largest + 1));
  used_.resize(tokens_.size());
  by_bytes_.reserve(entries.size());
  for (const auto& [key, id] : entries) {
    const auto index = static_cast<std::size_t>(id);
    if (used_[index]) return Status::InvalidArgument(name + ": vocab: id " + std::to_string(id) + " is taken twice");
    used_[index] = true;
    const std::optional<std::string> bytes = BytesOf(key);
    const std::string& text = bytes ? *bytes : key;
    tokens_[index] = std::string_view(arena_.data() + arena_.size(), text.size());
    arena_.append(text);
    auto& map = bytes ? by_bytes_ : by_spelling_;
    if (!map.emplace(tokens_[index], static_cast<TokenId>(id)).second) {
      return Status::InvalidArgument(name + ": vocab: '" + key + "' occurs twice");
    }
  }
  return Status::Ok();
}

// The bytes of a token by its text in the file, or nothing when it is not spelled as the file's tokens are.
std::optional<std::string> Vocabulary::BytesOf(std::string_view key) const {
  return spelling_ == Spelling::kByteLevel ? Unspell(key) : std::string(key);
}

Status Vocabulary::FindBytes(const std::string& name) {
  byte_ids_.fill(-1);
  if (spelling_ == Spelling::kCharacters) {
    for (const auto& [token, id] : by_bytes_) {
      const int byte = ByteOfSpelling(token);
      if (byte >= 0) byte_ids_[static_cast<std::size_t>(byte)] = id;
    }
    return Status::Ok();
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    const TokenId id = IdOfBytes(std::string_view(&text, 1));
    if (id < 0 && byte >= 0x20 && byte < 0x7f) {
      return Status::InvalidArgument(name + ": vocab: no token for byte " + std::to_string(byte) +
                                     ", as a byte-level vocabulary must have");
    }
    byte_ids_[static_cast<std::size_t>(byte)] = id;
  }
  return Status::Ok();
}

TokenId Vocabulary::IdOfBytes(std::string_view bytes) const {
  const auto it = by_bytes_.find(bytes);
  return it == by_bytes_.end() ? -1 : it->second;
}

TokenId Vocabulary::IdOfSpelling(std::string_view key) const {
  if (spelling_ == Spelling::kCharacters) return IdOfBytes(key);
  const std::optional<std::string> bytes = Unspell(key);
  if (bytes) return IdOfBytes(*bytes);
  const auto it = by_spelling_.find(key);
  return it == by_spelling_.end() ? -1 : it->second;
}

}  // namespace unfold
