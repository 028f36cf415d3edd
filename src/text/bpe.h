// SPDX-License-Identifier: Apache-2.0
// Bpe: merges the bytes or characters of one pre-token into tokens, lowest rank first, leftmost first among equals.
#ifndef UNFOLD_TEXT_BPE_H_
#define UNFOLD_TEXT_BPE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/vocabulary.h"
#include "unfold/base.h"

namespace unfold {

// A token and how many bytes of the pre-token it stands for.
struct BpeToken {
  TokenId id = 0;  // -1: bytes that have no token
  std::uint32_t size = 0;
};

// Working memory of one caller, kept between pre-tokens.
struct BpeScratch {
  struct Symbol {
    TokenId id;  // -1: merged away
    std::uint32_t size;
    std::int32_t previous;
    std::int32_t next;  // -1: the last one
  };
  std::vector<Symbol> symbols;
  std::uint32_t num_lost = 0;       // bytes without a token in front of the first symbol
  std::vector<std::uint64_t> heap;  // rank << 32 | symbol
};

// The model's settings.
struct BpeRules {
  bool ignore_merges = false;  // a pre-token that is a token is not put together from merges
  // What bytes or characters without a token become. -1: of a character its bytes, and bytes get none.
  TokenId unknown = -1;
  bool fuse_unknown = false;   // several of them, one after another, become one token
  std::vector<TokenId> never;  // ids that plain text must not become
};

// Thread-safe after Create. Pre-tokens seen before are answered from a table of bounded size that is read without
// locks.
class Bpe {
 public:
  // `vocabulary` must outlive this. Merges that make a token of `rules.never` are left out, and a pre-token is not
  // looked up as one. InvalidArgument names a merge of tokens that the vocabulary does not have.
  static Result<std::unique_ptr<Bpe>> Create(const Vocabulary& vocabulary,
                                             const std::vector<std::pair<std::string, std::string>>& merges,
                                             const BpeRules& rules, const std::string& name);
  ~Bpe();
  Bpe(const Bpe&) = delete;
  Bpe& operator=(const Bpe&) = delete;

  // Appends the tokens of `piece` to `tokens`. They tile it: bytes without a token belong to the token before them.
  void Encode(std::string_view piece, BpeScratch* scratch, std::vector<BpeToken>* tokens) const;

 private:
  struct Merge {
    std::uint64_t pair = kNoPair;  // left id << 32 | right id
    std::uint32_t rank = 0;
    TokenId merged = 0;
  };
  struct Cached;  // a pre-token and its ids
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};

  Bpe(const Vocabulary& vocabulary, const BpeRules& rules);
  Status AddMerges(const std::vector<std::pair<std::string, std::string>>& merges, const std::string& name);
  void PutMerge(const Merge& merge);
  const Merge* FindMerge(TokenId left, TokenId right) const;
  void FindWordMarks(const std::vector<std::pair<std::string, std::string>>& merges);
  TokenId WholeToken(std::string_view piece) const;
  std::size_t WordEnd(std::string_view piece) const;
  void EncodeWord(std::string_view word, BpeScratch* scratch, std::vector<BpeToken>* tokens) const;
  void PutBytes(std::string_view word, BpeScratch* scratch) const;
  void PutCharacters(std::string_view word, BpeScratch* scratch) const;
  void PutUnknown(std::uint32_t size, bool after_unknown, BpeScratch* scratch) const;
  void MergeSymbols(BpeScratch* scratch, std::vector<BpeToken>* tokens) const;
  void OfferPair(const BpeScratch& scratch, std::int32_t at, std::vector<std::uint64_t>* heap) const;
  const Cached* FindCached(std::string_view word, std::size_t hash) const;
  void Remember(std::string_view word, std::size_t hash, const BpeToken* tokens, std::size_t num_tokens) const;

  const Vocabulary& vocabulary_;
  BpeRules rules_;
  std::vector<bool> never_;  // by id
  // A pre-token may be cut before a word mark, U+2581, where no merge makes a token across the cut.
  bool cuts_words_ = false;
  std::vector<std::string> joined_to_mark_;  // the characters before a mark where one does
  std::vector<Merge> merges_;                // open addressing, a power of two of slots, at most half full
  std::unique_ptr<std::atomic<const Cached*>[]> cache_;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_BPE_H_
