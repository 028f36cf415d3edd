// SPDX-License-Identifier: Apache-2.0
// Bpe: merges the bytes of one pre-token into tokens, lowest rank first, leftmost first among equals.
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

// Working memory of one caller, kept between pre-tokens.
struct BpeScratch {
  struct Symbol {
    TokenId id;  // -1: merged away
    std::int32_t previous;
    std::int32_t next;  // -1: the last one
  };
  std::vector<Symbol> symbols;
  std::vector<std::uint64_t> heap;  // rank << 32 | symbol
};

// Thread-safe after Create. Pre-tokens seen before are answered from a table of bounded size that is read without
// locks.
class Bpe {
 public:
  // `vocabulary` must outlive this. `never` are ids that plain text must not become: merges that make one are left out,
  // and a pre-token is not looked up as one. InvalidArgument names a merge of unknown tokens.
  static Result<std::unique_ptr<Bpe>> Create(const Vocabulary& vocabulary,
                                             const std::vector<std::pair<std::string, std::string>>& merges,
                                             bool ignore_merges, const std::vector<TokenId>& never,
                                             const std::string& name);
  ~Bpe();
  Bpe(const Bpe&) = delete;
  Bpe& operator=(const Bpe&) = delete;

  // Appends the tokens of `piece` to `ids`; their bytes, one after another, are the piece.
  void Encode(std::string_view piece, BpeScratch* scratch, std::vector<TokenId>* ids) const;

 private:
  struct Merge {
    std::uint64_t pair = kNoPair;  // left id << 32 | right id
    std::uint32_t rank = 0;
    TokenId merged = 0;
  };
  struct Cached;  // a pre-token and its ids
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};

  Bpe(const Vocabulary& vocabulary, bool ignore_merges, const std::vector<TokenId>& never);
  void PutMerge(const Merge& merge);
  const Merge* FindMerge(TokenId left, TokenId right) const;
  void MergeBytes(std::string_view piece, BpeScratch* scratch, std::vector<TokenId>* ids) const;
  void OfferPair(const BpeScratch& scratch, std::int32_t at, std::vector<std::uint64_t>* heap) const;
  const Cached* FindCached(std::string_view piece, std::size_t hash) const;
  void Remember(std::string_view piece, std::size_t hash, const TokenId* ids, std::size_t num_ids) const;

  const Vocabulary& vocabulary_;
  bool ignore_merges_;
  std::vector<bool> never_;    // by id
  std::vector<Merge> merges_;  // open addressing, a power of two of slots, at most half full
  std::unique_ptr<std::atomic<const Cached*>[]> cache_;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_BPE_H_
