// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "text/utf8.h"

namespace unfold {
namespace {

constexpr std::size_t kCacheSlots = 1 << 16;
constexpr std::size_t kCacheProbes = 4;      // slots tried for one pre-token; when all are taken it is not kept
constexpr std::size_t kMaxCachedBytes = 48;  // longer pre-tokens rarely come again
constexpr std::string_view kWordMark = "\xe2\x96\x81";  // U+2581, how SentencePiece writes a space
constexpr std::uint64_t kHashFactor = 0x9e3779b97f4a7c15ULL;

std::uint64_t PairKey(TokenId left, TokenId right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

std::string MergeText(std::size_t index, const std::pair<std::string, std::string>& merge) {
  return "merge " + std::to_string(index) + " '" + merge.first + " " + merge.second + "'";
}

}  // namespace

// Immutable from the moment it is published in its slot, and kept as long as the Bpe.
struct Bpe::Cached {
  std::string word;
  std::vector<BpeToken> tokens;
};

Bpe::Bpe(const Vocabulary& vocabulary, const BpeRules& rules)
    : vocabulary_(vocabulary),
      rules_(rules),
      never_(static_cast<std::size_t>(vocabulary.size())),
      cache_(new std::atomic<const Cached*>[kCacheSlots]()) {
  for (const TokenId id : rules.never) {
    if (vocabulary.Has(id)) never_[static_cast<std::size_t>(id)] = true;
  }
}

Bpe::~Bpe() {
  for (std::size_t i = 0; i < kCacheSlots; ++i) delete cache_[i].load(std::memory_order_relaxed);
}

Result<std::unique_ptr<Bpe>> Bpe::Create(const Vocabulary& vocabulary,
                                         const std::vector<std::pair<std::string, std::string>>& merges,
                                         const BpeRules& rules, const std::string& name) {
  std::unique_ptr<Bpe> bpe(new Bpe(vocabulary, rules));
  UNFOLD_TRY(bpe->AddMerges(merges, name));
  if (vocabulary.spelling() == Spelling::kCharacters) bpe->FindWordMarks(merges);
  return bpe;
}

Status Bpe::AddMerges(const std::vector<std::pair<std::string, std::string>>& merges, const std::string& name) {
  merges_.resize(std::bit_ceil(2 * merges.size() + 2));
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    Merge merge;
    const TokenId left_id = vocabulary_.IdOfSpelling(left);
    const TokenId right_id = vocabulary_.IdOfSpelling(right);
    merge.merged = vocabulary_.IdOfSpelling(left + right);
    if (left_id < 0 || right_id < 0 || merge.merged < 0 || left.empty() || right.empty()) {
      const std::string& missing = left_id < 0 ? left : right_id < 0 ? right : left + right;
      return Status::InvalidArgument(name + ": " + MergeText(i, merges[i]) + ": '" + missing +
                                     "' is not in the vocabulary");
    }
    if (never_[static_cast<std::size_t>(merge.merged)]) continue;
    merge.pair = PairKey(left_id, right_id);
    merge.rank = static_cast<std::uint32_t>(i);
    PutMerge(merge);
  }
  return Status::Ok();
}

// A merge across a cut would make a token with the cut inside, so it is enough to know what stands before a mark inside
// merged tokens. That holds as long as a token's text is the text it stands for, which the tokens of bytes and the
// unknown token break.
void Bpe::FindWordMarks(const std::vector<std::pair<std::string, std::string>>& merges) {
  const auto is_stand_in = [this](const std::string& token) {
    return ByteOfSpelling(token) >= 0 || vocabulary_.IdOfBytes(token) == rules_.unknown;
  };
  for (const auto& [left, right] : merges) {
    if (is_stand_in(left) || is_stand_in(right)) return;
    const std::string merged = left + right;
    for (std::size_t at = merged.find(kWordMark, 1); at != std::string::npos; at = merged.find(kWordMark, at + 1)) {
      joined_to_mark_.emplace_back(LastCharacter(std::string_view(merged).substr(0, at)));
    }
  }
  std::sort(joined_to_mark_.begin(), joined_to_mark_.end());
  joined_to_mark_.erase(std::unique(joined_to_mark_.begin(), joined_to_mark_.end()), joined_to_mark_.end());
  cuts_words_ = vocabulary_.IdOfBytes(kWordMark) >= 0;
}

// Of two merges of the same pair the later one counts, as in `tokenizers`.
void Bpe::PutMerge(const Merge& merge) {
  const std::size_t mask = merges_.size() - 1;
  std::size_t slot = (merge.pair * kHashFactor >> 32) & mask;
  while (merges_[slot].pair != kNoPair && merges_[slot].pair != merge.pair) slot = (slot + 1) & mask;
  merges_[slot] = merge;
}

const Bpe::Merge* Bpe::FindMerge(TokenId left, TokenId right) const {
  const std::uint64_t pair = PairKey(left, right);
  const std::size_t mask = merges_.size() - 1;
  for (std::size_t slot = (pair * kHashFactor >> 32) & mask;; slot = (slot + 1) & mask) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == kNoPair) return nullptr;
  }
}

// The token that is all of `piece`, where merges do not decide, or -1.
TokenId Bpe::WholeToken(std::string_view piece) const {
  const TokenId id = rules_.ignore_merges ? vocabulary_.IdOfBytes(piece) : -1;
  return id >= 0 && never_[static_cast<std::size_t>(id)] ? -1 : id;
}

void Bpe::Encode(std::string_view piece, BpeScratch* scratch, std::vector<BpeToken>* tokens) const {
  if (piece.empty()) return;
  if (!cuts_words_) return EncodeWord(piece, scratch, tokens);
  if (const TokenId whole = WholeToken(piece); whole >= 0) {
    tokens->push_back({whole, static_cast<std::uint32_t>(piece.size())});
    return;
  }
  while (!piece.empty()) {
    const std::size_t end = WordEnd(piece);
    EncodeWord(piece.substr(0, end), scratch, tokens);
    piece.remove_prefix(end);
  }
}

std::size_t Bpe::WordEnd(std::string_view piece) const {
  for (std::size_t at = piece.find(kWordMark, 1); at != std::string_view::npos; at = piece.find(kWordMark, at + 1)) {
    const std::string_view before = LastCharacter(piece.substr(0, at));
    const auto found = std::lower_bound(joined_to_mark_.begin(), joined_to_mark_.end(), before);
    if (found == joined_to_mark_.end() || *found != before) return at;
  }
  return piece.size();
}

void Bpe::EncodeWord(std::string_view word, BpeScratch* scratch, std::vector<BpeToken>* tokens) const {
  const bool may_cache = word.size() <= kMaxCachedBytes;
  const std::size_t hash = may_cache ? std::hash<std::string_view>{}(word) : 0;
  if (const Cached* cached = may_cache ? FindCached(word, hash) : nullptr; cached != nullptr) {
    tokens->insert(tokens->end(), cached->tokens.begin(), cached->tokens.end());
    return;
  }
  const std::size_t first = tokens->size();
  if (const TokenId whole = cuts_words_ ? -1 : WholeToken(word); whole >= 0) {
    tokens->push_back({whole, static_cast<std::uint32_t>(word.size())});
  } else {
    scratch->symbols.clear();
    scratch->num_lost = 0;
    if (vocabulary_.spelling() == Spelling::kByteLevel) {
      PutBytes(word, scratch);
    } else {
      PutCharacters(word, scratch);
    }
    MergeSymbols(scratch, tokens);
  }
  if (may_cache) Remember(word, hash, tokens->data() + first, tokens->size() - first);
}

void Bpe::PutBytes(std::string_view word, BpeScratch* scratch) const {
  bool after_unknown = false;
  for (const char c : word) {
    const TokenId id = vocabulary_.IdOfByte(static_cast<std::uint8_t>(c));
    if (id >= 0) {
      scratch->symbols.push_back({id, 1, 0, 0});
    } else {
      PutUnknown(1, after_unknown, scratch);
    }
    after_unknown = id < 0;
  }
}

// A byte that is not valid UTF-8 is a character without a token.
void Bpe::PutCharacters(std::string_view word, BpeScratch* scratch) const {
  bool after_unknown = false;
  while (!word.empty()) {
    const Utf8Step step = DecodeUtf8(word);
    const bool valid = step.kind == Utf8Kind::kValid;
    const std::string_view character = word.substr(0, valid ? step.size : 1);
    const auto size = static_cast<std::uint32_t>(character.size());
    const TokenId id = valid ? vocabulary_.IdOfBytes(character) : -1;
    word.remove_prefix(size);
    if (id >= 0) {
      scratch->symbols.push_back({id, size, 0, 0});
    } else if (rules_.unknown < 0) {
      PutBytes(character, scratch);
    } else {
      PutUnknown(size, after_unknown, scratch);
    }
    after_unknown = id < 0;
  }
}

void Bpe::PutUnknown(std::uint32_t size, bool after_unknown, BpeScratch* scratch) const {
  auto& symbols = scratch->symbols;
  if (rules_.unknown >= 0 && !(after_unknown && rules_.fuse_unknown)) {
    symbols.push_back({rules_.unknown, size, 0, 0});
  } else if (symbols.empty()) {
    scratch->num_lost += size;
  } else {
    symbols.back().size += size;
  }
}

// Appends the candidate of the pair that begins at symbol `at` to `heap`, which the caller keeps ordered.
void Bpe::OfferPair(const BpeScratch& scratch, std::int32_t at, std::vector<std::uint64_t>* heap) const {
  const BpeScratch::Symbol& left = scratch.symbols[static_cast<std::size_t>(at)];
  if (left.next < 0) return;
  const Merge* merge = FindMerge(left.id, scratch.symbols[static_cast<std::size_t>(left.next)].id);
  if (merge != nullptr) heap->push_back(std::uint64_t{merge->rank} << 32 | static_cast<std::uint32_t>(at));
}

// A heap of candidate pairs over a linked list of symbols: n log n for n symbols, whatever they are. A candidate is
// stale, and is dropped, when its pair is no longer the one that its rank belongs to.
void Bpe::MergeSymbols(BpeScratch* scratch, std::vector<BpeToken>* tokens) const {
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  const auto size = static_cast<std::int32_t>(symbols.size());
  heap.clear();
  for (std::int32_t i = 0; i < size; ++i) {
    symbols[static_cast<std::size_t>(i)].previous = i - 1;
    symbols[static_cast<std::size_t>(i)].next = i + 1 < size ? i + 1 : -1;
  }
  for (std::int32_t i = 0; i + 1 < size; ++i) OfferPair(*scratch, i, &heap);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto offer = [&](std::int32_t at) {
    const std::size_t before = heap.size();
    OfferPair(*scratch, at, &heap);
    if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const std::uint64_t candidate = heap.back();
    heap.pop_back();
    const auto at = static_cast<std::int32_t>(candidate & 0xffffffffU);
    BpeScratch::Symbol& left = symbols[static_cast<std::size_t>(at)];
    if (left.id < 0 || left.next < 0) continue;
    BpeScratch::Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->rank != candidate >> 32) continue;
    left.id = merge->merged;
    left.size += right.size;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = at;
    offer(at);
    if (left.previous >= 0) offer(left.previous);
  }
  if (scratch->num_lost > 0) tokens->push_back({-1, scratch->num_lost});
  for (std::int32_t i = size > 0 ? 0 : -1; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) {
    const BpeScratch::Symbol& symbol = symbols[static_cast<std::size_t>(i)];
    tokens->push_back({symbol.id, symbol.size});
  }
}

const Bpe::Cached* Bpe::FindCached(std::string_view word, std::size_t hash) const {
  for (std::size_t i = 0; i < kCacheProbes; ++i) {
    const Cached* cached = cache_[(hash + i) % kCacheSlots].load(std::memory_order_acquire);
    if (cached == nullptr) return nullptr;
    if (cached->word == word) return cached;
  }
  return nullptr;
}

void Bpe::Remember(std::string_view word, std::size_t hash, const BpeToken* tokens, std::size_t num_tokens) const {
  for (std::size_t i = 0; i < kCacheProbes; ++i) {
    std::atomic<const Cached*>& slot = cache_[(hash + i) % kCacheSlots];
    if (slot.load(std::memory_order_relaxed) != nullptr) continue;
    auto entry =
        std::make_unique<Cached>(Cached{std::string(word), std::vector<BpeToken>(tokens, tokens + num_tokens)});
    const Cached* expected = nullptr;
    if (slot.compare_exchange_strong(expected, entry.get(), std::memory_order_acq_rel)) entry.release();
    return;  // a thread that was faster took the slot: nothing is lost but this one memory
  }
}

}  // namespace unfold
