// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace unfold {
namespace {

constexpr std::size_t kCacheSlots = 1 << 16;
constexpr std::size_t kCacheProbes = 4;      // slots tried for one pre-token; when all are taken it is not kept
constexpr std::size_t kMaxCachedBytes = 48;  // longer pre-tokens rarely come again
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
  std::string piece;
  std::vector<TokenId> ids;
};

Bpe::Bpe(const Vocabulary& vocabulary, bool ignore_merges, const std::vector<TokenId>& never)
    : vocabulary_(vocabulary),
      ignore_merges_(ignore_merges),
      never_(static_cast<std::size_t>(vocabulary.size())),
      cache_(new std::atomic<const Cached*>[kCacheSlots]()) {
  for (const TokenId id : never) {
    if (vocabulary.Has(id)) never_[static_cast<std::size_t>(id)] = true;
  }
}

Bpe::~Bpe() {
  for (std::size_t i = 0; i < kCacheSlots; ++i) delete cache_[i].load(std::memory_order_relaxed);
}

Result<std::unique_ptr<Bpe>> Bpe::Create(const Vocabulary& vocabulary,
                                         const std::vector<std::pair<std::string, std::string>>& merges,
                                         bool ignore_merges, const std::vector<TokenId>& never,
                                         const std::string& name) {
  std::unique_ptr<Bpe> bpe(new Bpe(vocabulary, ignore_merges, never));
  bpe->merges_.resize(std::bit_ceil(2 * merges.size() + 2));
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    Merge merge;
    const TokenId left_id = vocabulary.IdOfSpelling(left);
    const TokenId right_id = vocabulary.IdOfSpelling(right);
    merge.merged = vocabulary.IdOfSpelling(left + right);
    if (left_id < 0 || right_id < 0 || merge.merged < 0 || left.empty() || right.empty()) {
      const std::string& missing = left_id < 0 ? left : right_id < 0 ? right : left + right;
      return Status::InvalidArgument(name + ": " + MergeText(i, merges[i]) + ": '" + missing +
                                     "' is not in the vocabulary");
    }
    if (bpe->never_[static_cast<std::size_t>(merge.merged)]) continue;
    merge.pair = PairKey(left_id, right_id);
    merge.rank = static_cast<std::uint32_t>(i);
    bpe->PutMerge(merge);
  }
  return bpe;
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

void Bpe::Encode(std::string_view piece, BpeScratch* scratch, std::vector<TokenId>* ids) const {
  if (piece.empty()) return;
  if (piece.size() == 1) {
    ids->push_back(vocabulary_.IdOfByte(static_cast<std::uint8_t>(piece[0])));
    return;
  }
  const bool may_cache = piece.size() <= kMaxCachedBytes;
  const std::size_t hash = may_cache ? std::hash<std::string_view>{}(piece) : 0;
  if (const Cached* cached = may_cache ? FindCached(piece, hash) : nullptr; cached != nullptr) {
    ids->insert(ids->end(), cached->ids.begin(), cached->ids.end());
    return;
  }
  const std::size_t first = ids->size();
  const TokenId whole = ignore_merges_ ? vocabulary_.IdOfBytes(piece) : -1;
  if (whole >= 0 && !never_[static_cast<std::size_t>(whole)]) {
    ids->push_back(whole);
  } else {
    MergeBytes(piece, scratch, ids);
  }
  if (may_cache) Remember(piece, hash, ids->data() + first, ids->size() - first);
}

// Appends the candidate of the pair that begins at symbol `at` to `heap`, which the caller keeps ordered.
void Bpe::OfferPair(const BpeScratch& scratch, std::int32_t at, std::vector<std::uint64_t>* heap) const {
  const BpeScratch::Symbol& left = scratch.symbols[static_cast<std::size_t>(at)];
  if (left.next < 0) return;
  const Merge* merge = FindMerge(left.id, scratch.symbols[static_cast<std::size_t>(left.next)].id);
  if (merge != nullptr) heap->push_back(std::uint64_t{merge->rank} << 32 | static_cast<std::uint32_t>(at));
}

// A heap of candidate pairs over a linked list of symbols: n log n for a pre-token of n bytes, whatever it holds.
// A candidate is stale, and is dropped, when its pair is no longer the one that its rank belongs to.
void Bpe::MergeBytes(std::string_view piece, BpeScratch* scratch, std::vector<TokenId>* ids) const {
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  const auto size = static_cast<std::int32_t>(piece.size());
  symbols.clear();
  heap.clear();
  for (std::int32_t i = 0; i < size; ++i) {
    const auto byte = static_cast<std::uint8_t>(piece[static_cast<std::size_t>(i)]);
    symbols.push_back({vocabulary_.IdOfByte(byte), i - 1, i + 1 < size ? i + 1 : -1});
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
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = at;
    offer(at);
    if (left.previous >= 0) offer(left.previous);
  }
  for (std::int32_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) {
    ids->push_back(symbols[static_cast<std::size_t>(i)].id);
  }
}

const Bpe::Cached* Bpe::FindCached(std::string_view piece, std::size_t hash) const {
  for (std::size_t i = 0; i < kCacheProbes; ++i) {
    const Cached* cached = cache_[(hash + i) % kCacheSlots].load(std::memory_order_acquire);
    if (cached == nullptr) return nullptr;
    if (cached->piece == piece) return cached;
  }
  return nullptr;
}

void Bpe::Remember(std::string_view piece, std::size_t hash, const TokenId* ids, std::size_t num_ids) const {
  for (std::size_t i = 0; i < kCacheProbes; ++i) {
    std::atomic<const Cached*>& slot = cache_[(hash + i) % kCacheSlots];
    if (slot.load(std::memory_order_relaxed) != nullptr) continue;
    auto entry = std::make_unique<Cached>(Cached{std::string(piece), std::vector<TokenId>(ids, ids + num_ids)});
    const Cached* expected = nullptr;
    if (slot.compare_exchange_strong(expected, entry.get(), std::memory_order_acq_rel)) entry.release();
    return;  // a thread that was faster took the slot: nothing is lost but this one memory
  }
}

}  // namespace unfold
