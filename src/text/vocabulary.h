// SPDX-License-Identifier: Apache-2.0
// Vocabulary: ids and the bytes they stand for. In a byte-level file a token is spelled in an alphabet where each of
// the 256 bytes has a printable character of its own (GPT-2's table); here it is the bytes themselves. In a file of
// characters (SentencePiece) a token is its own text, and a byte may have a token spelled "<0x0A>".
#ifndef UNFOLD_TEXT_VOCABULARY_H_
#define UNFOLD_TEXT_VOCABULARY_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unfold/base.h"

namespace unfold {

enum class Spelling : std::uint8_t { kByteLevel, kCharacters };

// The byte that a token such as "<0x0A>" stands for, or -1.
int ByteOfSpelling(std::string_view token);

// Immutable after Create; thread-safe. Not movable: its maps hold views of its own bytes.
class Vocabulary {
 public:
  // InvalidArgument for an id that is negative, taken twice or out of proportion, and when a byte of printable ASCII
  // has no token in a byte-level file. Those that no text of the training had may lack one.
  static Result<std::unique_ptr<Vocabulary>> Create(const std::vector<std::pair<std::string, std::int64_t>>& entries,
                                                    Spelling spelling, const std::string& name);
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  Spelling spelling() const { return spelling_; }
  // The token's bytes; a token that is not spelled in the alphabet stands for its own text. Empty for an unknown id.
  std::string_view Bytes(TokenId id) const {
    return id >= 0 && static_cast<std::size_t>(id) < tokens_.size() ? tokens_[static_cast<std::size_t>(id)]
                                                                    : std::string_view();
  }
  TokenId IdOfByte(std::uint8_t byte) const { return byte_ids_[byte]; }  // -1: none
  TokenId IdOfBytes(std::string_view bytes) const;                       // -1: none
  TokenId IdOfSpelling(std::string_view key) const;                      // by the text of the file; -1: none
  bool Has(TokenId id) const { return id >= 0 && static_cast<std::size_t>(id) < used_.size() && used_[id]; }
  std::int32_t num_tokens() const { return static_cast<std::int32_t>(by_bytes_.size() + by_spelling_.size()); }
  std::int32_t size() const { return static_cast<std::int32_t>(tokens_.size()); }  // one more than the largest id

 private:
  explicit Vocabulary(Spelling spelling) : spelling_(spelling) {}
  Status Fill(const std::vector<std::pair<std::string, std::int64_t>>& entries, const std::string& name);
  Status FindBytes(const std::string& name);
  std::optional<std::string> BytesOf(std::string_view key) const;

  Spelling spelling_;
  std::string arena_;                     // the bytes of all tokens, one after another
  std::vector<std::string_view> tokens_;  // by id, into arena_
  std::vector<bool> used_;
  std::unordered_map<std::string_view, TokenId> by_bytes_;     // tokens spelled in the alphabet, or of characters
  std::unordered_map<std::string_view, TokenId> by_spelling_;  // the others
  std::array<TokenId, 256> byte_ids_{};
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_VOCABULARY_H_
