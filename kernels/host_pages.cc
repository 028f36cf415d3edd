// SPDX-License-Identifier: Apache-2.0
// UnfoldChunks of host backends: one request and chosen chunk after another, a page's rows by Unfold.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/host_backend.h"

namespace unfold {
namespace {

using Index = std::int64_t;

Status Bad(std::string_view what, Index index, Index value, Index most) {
  return Status::InvalidArgument("UnfoldChunks: " + std::string(what) + '[' + std::to_string(index) + "] is " +
                                 std::to_string(value) + ", expected 0 to " + std::to_string(most));
}

// `count` rows of one head, from rows [T, Hk, D] on.
void CopyHead(const void* rows, Index first, Index count, Index kv_heads, Index head, std::size_t head_bytes,
              std::byte* to) {
  const auto* from = static_cast<const std::byte*>(rows);
  for (Index row = 0; row < count; ++row) {
    std::memcpy(to + row * head_bytes, from + ((first + row) * kv_heads + head) * head_bytes, head_bytes);
  }
}

class HostPages {
 public:
  explicit HostPages(const UnfoldChunksArgs& args)
      : args_(args),
        found_(*args.found.as<PagesFound>()),
        counts_(*args.pool.counts.as<PageCounts>()),
        page_slot_(args.pool.page_slot.as<std::int32_t>()),
        page_call_(args.pool.page_call.as<std::uint32_t>()),
        slot_page_(args.pool.slot_page.as<std::int32_t>()),
        num_pages_(args.pool.page_k.dims[0]) {}

  // Marks the pages that are there, so that none of them is taken for another. In one row no page comes twice.
  Status Touch() {
    const bool one_row = args_.chosen.gists.dims[0] == 1;
    return ForEach([&](Index at, Index chunk, const ChunkPlace& place) -> Status {
      const std::int32_t page = slot_page_[place.slot];
      args_.chunks.as<ChosenChunk>()[at] = {static_cast<std::int32_t>(chunk), page, place.tokens, place.document};
      if (page >= 0 && (one_row || page_call_[page] != counts_.calls)) {
        page_call_[page] = counts_.calls;
        ++found_.pages_hit;
      }
      return Status::Ok();
    });
  }

  // Gives pages to the others and has `unfold` fill them.
  template <typename Unfold>
  Status UnfoldOthers(Unfold unfold) {
    return ForEach([&](Index at, Index chunk, const ChunkPlace& place) -> Status {
      std::int32_t& page = args_.chunks.as<ChosenChunk>()[at].page;
      if (page < 0) page = slot_page_[place.slot];  // one of this call's
      if (page >= 0) return Status::Ok();
      const RawRows& raw = args_.pool.raw.as<RawRows>()[place.block];
      if (raw.k == nullptr) {
        AskFor(place.block);
      } else if (place.first_row + place.tokens > raw.num_rows) {
        return Bad("places, a chunk's rows", chunk, place.first_row + place.tokens, raw.num_rows);
      } else if (const Index taken = TakePage(); taken >= 0) {
        page = slot_page_[place.slot] = static_cast<std::int32_t>(taken);
        page_slot_[taken] = static_cast<std::int32_t>(place.slot);
        ++found_.pages_unfolded;
        return Fill(raw, place, at / args_.chosen.gists.dims[2] % args_.chosen.gists.dims[1], taken, unfold);
      } else {
        ++counts_.pages_lacking;
      }
      ++found_.left_out;
      return Status::Ok();
    });
  }

 private:
  template <typename Each>
  Status ForEach(Each each) const {
    const auto [rows, kv_heads, chunks, unused] = args_.chosen.gists.dims;
    for (Index list = 0; list < rows * kv_heads; ++list) {
      const std::int32_t count = Ints(args_.chosen.counts)[list];
      if (count < 0 || count > chunks) return Bad("chosen.counts", list, count, chunks);
      for (Index at = list * chunks; at < list * chunks + count; ++at) {
        const std::int32_t chunk = Ints(args_.chosen.gists)[at];
        if (chunk < 0 || chunk >= chunks) return Bad("chosen", at, chunk, chunks - 1);
        ChunkPlace place;
        UNFOLD_TRY(Find(chunk, list % kv_heads, &place));
        UNFOLD_TRY(each(at, chunk, place));
      }
    }
    return Status::Ok();
  }

  // The chunk's place, at the layer and head.
  Status Find(Index chunk, Index kv_head, ChunkPlace* place) const {
    *place = args_.places.as<ChunkPlace>()[chunk];
    const Index kv_heads = args_.chosen.gists.dims[1];
    const Index slot =
        place->slot + args_.layer * Index{place->slots_of_layer} + kv_head * (place->slots_of_layer / kv_heads);
    const Index block = place->block + args_.layer * Index{place->blocks_of_layer};
    const Index slots = args_.pool.slot_page.dims[0], blocks = args_.pool.raw.dims[0], most = args_.pool.page_k.dims[1];
    if (slot < 0 || slot >= slots) return Bad("places, a chunk's slot", chunk, slot, slots - 1);
    if (block < 0 || block >= blocks) return Bad("places, a chunk's block", chunk, block, blocks - 1);
    if (place->tokens < 0 || place->tokens > most) return Bad("places.tokens", chunk, place->tokens, most);
    if (place->first_row < 0) return Bad("places.first_row", chunk, place->first_row, INT32_MAX);
    place->slot = static_cast<std::int32_t>(slot);
    place->block = static_cast<std::int32_t>(block);
    return Status::Ok();
  }

  // Fills a page with the rows of one head.
  template <typename Unfold>
  Status Fill(const RawRows& raw, const ChunkPlace& place, Index head, Index page, Unfold unfold) {
    const Index kv_heads = args_.chosen.gists.dims[1], page_tokens = args_.pool.page_k.dims[1],
                head_dim = args_.pool.page_k.dims[2], tokens = place.tokens;
    if (tokens == 0) return Status::Ok();
    const std::size_t head_bytes = static_cast<std::size_t>(head_dim) * DTypeBytes(raw.dtype);
    k_.resize(tokens * head_bytes);
    v_.resize(tokens * head_bytes);
    CopyHead(raw.k, place.first_row, tokens, kv_heads, head, head_bytes, k_.data());
    CopyHead(raw.v, place.first_row, tokens, kv_heads, head, head_bytes, v_.data());
    positions_.resize(static_cast<std::size_t>(tokens));
    std::iota(positions_.begin(), positions_.end(), place.position);
    found_.raw_bytes += 2 * tokens * head_bytes;
    UnfoldArgs args;
    args.k = Tensor(k_.data(), raw.dtype, {tokens, 1, head_dim});
    args.v = Tensor(v_.data(), raw.dtype, {tokens, 1, head_dim});
    if (raw.dtype == DType::kInt8) {
      const auto scale = [&](const void* scales) {
        auto* of_head = const_cast<std::uint16_t*>(static_cast<const std::uint16_t*>(scales)) + head * head_dim;
        return Tensor(of_head, DType::kBF16, {1, head_dim});
      };
      args.k_scale = scale(raw.k_scale), args.v_scale = scale(raw.v_scale);
    }
    args.positions = Tensor(positions_.data(), DType::kInt32, {tokens});
    args.rope = args_.rope;
    args.out_k = args_.pool.page_k.Rows(page, page + 1).Reshape({1, page_tokens, head_dim});
    args.out_v = args_.pool.page_v.Rows(page, page + 1).Reshape({1, page_tokens, head_dim});
    return unfold(args);
  }

  void AskFor(Index block) {
    RawRows& raw = args_.pool.raw.as<RawRows>()[block];
    if (raw.asked_by == counts_.calls) return;
    raw.asked_by = counts_.calls;
    if (counts_.num_missing < args_.pool.missing.dims[0]) {
      args_.pool.missing.as<std::int32_t>()[counts_.num_missing] = static_cast<std::int32_t>(block);
    }
    ++counts_.num_missing;
  }

  // -1 when this call uses all.
  Index TakePage() {
    Index page = counts_.num_used < num_pages_ ? counts_.num_used++ : FindOld();
    if (page < 0 && RaiseOldest()) page = FindOld();
    if (page < 0) return page;
    const std::int32_t slot = page_slot_[page];
    if (slot >= 0 && slot < args_.pool.slot_page.dims[0] && slot_page_[slot] == page) slot_page_[slot] = -1;
    page_call_[page] = counts_.calls;
    return page;
  }

  std::uint32_t Age(std::uint32_t call) const { return counts_.calls - call; }

  // The next page of those that may be taken, up to the end of the pool.
  Index FindOld() {
    for (; counts_.next_page < num_pages_; ++counts_.next_page) {
      const std::uint32_t call = page_call_[counts_.next_page];
      if (Age(call) > 0 && Age(call) >= Age(counts_.oldest)) return counts_.next_page++;
    }
    return -1;
  }

  // At the pool's end: the oldest eighth of the ages that its pages have now, from its beginning.
  bool RaiseOldest() {
    std::uint32_t age = 0;
    for (Index page = 0; page < num_pages_; ++page) age = std::max(age, Age(page_call_[page]));
    counts_.oldest = counts_.calls - (age - age / 8);
    counts_.next_page = 0;
    return age > 0;
  }

  const UnfoldChunksArgs& args_;
  PagesFound& found_;
  PageCounts& counts_;
  std::int32_t* page_slot_;
  std::uint32_t* page_call_;
  std::int32_t* slot_page_;
  Index num_pages_;
  std::vector<std::byte> k_, v_;  // of a page
  std::vector<std::int32_t> positions_;
};

}  // namespace

Status HostBackend::DoUnfoldChunks(std::span<const UnfoldChunksArgs> requests) {
  if (requests.empty()) return Status::Ok();
  PageCounts& counts = *requests.front().pool.counts.as<PageCounts>();
  ++counts.calls;
  counts.num_missing = counts.pages_lacking = 0;
  std::vector<HostPages> all(requests.begin(), requests.end());
  for (HostPages& pages : all) UNFOLD_TRY(pages.Touch());
  for (HostPages& pages : all) {
    UNFOLD_TRY(pages.UnfoldOthers([&](const UnfoldArgs& page) { return UnfoldOne(page); }));
  }
  return Status::Ok();
}

}  // namespace unfold
