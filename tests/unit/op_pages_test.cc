// SPDX-License-Identifier: Apache-2.0
// UnfoldChunks against `ref`: what lies in pages, what is counted, and which pages are taken for others.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <span>
#include <utility>

#include "op_cases.h"
#include "op_testing.h"

namespace unfold {
namespace {

// Documents in memory as they are stored, at layer 1 of 2, and a pool of `num_pages`. Slots and blocks begin behind a
// few that are nobody's.
class Pages {
 public:
  static constexpr std::int64_t kPageTokens = 5, kPerBlock = 4;
  static constexpr int kLayer = 1, kLayers = 2;

  Pages(Random& random, Backend& backend, std::vector<std::int32_t> chunks, std::int64_t kv_heads, std::int64_t dim,
        std::int64_t num_pages, DType kv = DType::kF32, DType stored = DType::kBF16)
      : kv_heads_(kv_heads),
        dim_(dim),
        stored_(stored),
        chunks_of_(std::move(chunks)),
        rope_(1600, dim),
        page_k_(kv, {num_pages, kPageTokens, dim}),
        page_v_(kv, {num_pages, kPageTokens, dim}),
        page_slot_(DType::kInt32, {num_pages}),
        page_call_(static_cast<std::size_t>(num_pages), 0),
        slot_page_(DType::kInt32, {3 + kLayers * kv_heads * Total(chunks_of_)}) {
    raw_.resize(2);
    std::int32_t slot = 3;
    for (std::size_t j = 0; j < chunks_of_.size(); ++j) {
      AddDocument(random, backend, static_cast<std::int32_t>(j), slot);
      slot += static_cast<std::int32_t>(kLayers * kv_heads) * chunks_of_[j];
    }
  }

  std::int64_t chunks() const { return static_cast<std::int64_t>(places_.size()); }
  std::int64_t kv_heads() const { return kv_heads_; }
  const PageCounts& counts() const { return counts_; }
  const PagesFound& found() const { return found_; }
  const std::vector<std::int32_t>& missing() const { return missing_; }
  void MissingHolds(std::size_t count) { missing_.assign(count, -1); }
  const ChunkPlace& PlaceOf(std::int64_t chunk) const { return places_[chunk]; }

  // Blocks by their places in the pool's table.
  std::int32_t BlockOf(std::int64_t chunk) const {
    return places_[chunk].block + kLayer * places_[chunk].blocks_of_layer;
  }
  void Forget(std::int32_t block) { raw_[block].k = nullptr; }
  void Bring(std::int32_t block) { raw_[block] = blocks_.at(block).rows; }
  void Shorten(std::int32_t block) { --raw_[block].num_rows; }

  // As another working set has it, in which document 0 stands behind the others: its chunks have other numbers.
  void PlaceElsewhere() {
    std::rotate(places_.begin(), places_.begin() + chunks_of_[0], places_.end());
    const auto documents = static_cast<std::int32_t>(chunks_of_.size());
    for (ChunkPlace& place : places_) place.document = (place.document + documents - 1) % documents;
  }
  std::vector<std::int32_t> Elsewhere(std::vector<std::int32_t> list) const {
    for (std::int32_t& chunk : list) {
      chunk = static_cast<std::int32_t>((chunk - chunks_of_[0] + chunks()) % chunks());
    }
    std::sort(list.begin(), list.end());
    return list;
  }

  // lists[row * Hk + head], ascending.
  using Lists = std::vector<std::vector<std::int32_t>>;
  Status Unfold(Backend& backend, const Lists& lists) {
    return UnfoldBy(lists, [&](const UnfoldChunksArgs& args) { return backend.UnfoldChunks(args); });
  }
  // As requests of one row each, in one call.
  Status UnfoldTogether(Backend& backend, const Lists& lists) {
    return UnfoldBy(lists, [&](const UnfoldChunksArgs& args) {
      const std::int64_t rows = args.chosen.gists.dims[0];
      std::vector<UnfoldChunksArgs> requests(static_cast<std::size_t>(rows), args);
      found_of_.resize(requests.size());
      for (std::int64_t row = 0; row < rows; ++row) {
        UnfoldChunksArgs& own = requests[row];
        own.chosen = {args.chosen.gists.Rows(row, row + 1), args.chosen.counts.Rows(row, row + 1)};
        own.chunks = args.chunks.Rows(row, row + 1);
        own.found = Tensor(&found_of_[row], DType::kInt8, {sizeof(PagesFound)});
      }
      return backend.UnfoldChunks(requests);
    });
  }
  const PagesFound& found(std::size_t request) const { return found_of_[request]; }

  template <typename Call>
  Status UnfoldBy(const Lists& lists, Call call) {
    const auto rows = static_cast<std::int64_t>(lists.size()) / kv_heads_;
    const Guarded chosen(DType::kInt32, {rows, kv_heads_, chunks()}), list_counts(DType::kInt32, {rows, kv_heads_});
    entries_.assign(static_cast<std::size_t>(rows * kv_heads_ * chunks()), ChosenChunk());
    for (std::size_t list = 0; list < lists.size(); ++list) {
      std::copy(lists[list].begin(), lists[list].end(), chosen.i32() + static_cast<std::int64_t>(list) * chunks());
      list_counts.i32()[list] = static_cast<std::int32_t>(lists[list].size());
    }
    UnfoldChunksArgs args;
    args.places = Tensor(places_.data(), DType::kInt8, {chunks(), sizeof(ChunkPlace)});
    args.layer = kLayer;
    args.chosen = {chosen, list_counts};
    args.rope = rope_.table();
    args.pool = Pool();
    args.chunks = Tensor(entries_.data(), DType::kInt8, {rows, kv_heads_, chunks(), sizeof(ChosenChunk)});
    args.found = Tensor(&found_, DType::kInt8, {sizeof(PagesFound)});
    return call(args);
  }

  // Of entry i of list `list` in the last call.
  const ChosenChunk& Entry(std::size_t list, std::size_t i) const {
    return entries_[list * static_cast<std::size_t>(chunks()) + i];
  }
  std::int32_t PageOf(std::size_t list, std::size_t i) const { return Entry(list, i).page; }
  bool Intact() const { return page_k_.Intact() && page_v_.Intact() && page_slot_.Intact() && slot_page_.Intact(); }
  // The chunks and heads that have pages.
  std::set<std::pair<std::int64_t, std::int64_t>> Resident() const {
    std::set<std::pair<std::int64_t, std::int64_t>> resident;
    for (std::int64_t chunk = 0; chunk < chunks(); ++chunk) {
      for (std::int64_t head = 0; head < kv_heads_; ++head) {
        if (slot_page_.i32()[SlotOf(chunk, head)] >= 0) resident.insert({chunk, head});
      }
    }
    return resident;
  }

  // What page `page` has is what Unfold makes of the chunk's rows.
  ::testing::AssertionResult Holds(std::int32_t page, std::int64_t chunk, std::int64_t head) const {
    if (page < 0 || page >= (*page_k_).dims[0]) return ::testing::AssertionFailure() << "page " << page;
    if (slot_page_.i32()[SlotOf(chunk, head)] != page || page_slot_.i32()[page] != SlotOf(chunk, head)) {
      return ::testing::AssertionFailure() << "chunk " << chunk << " and page " << page << " do not know each other";
    }
    const ChunkPlace& place = places_[chunk];
    const std::int64_t tokens = place.tokens, row = place.first_row;
    const Guarded k(DType::kF32, {kv_heads_, kPageTokens, dim_}), v(DType::kF32, {kv_heads_, kPageTokens, dim_});
    const RawRows& raw = blocks_.at(BlockOf(chunk)).rows;
    std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
    std::iota(positions.begin(), positions.end(), place.position);
    const auto rows = [&](const void* from) {
      return Tensor(const_cast<void*>(from), stored_, {raw.num_rows, kv_heads_, dim_}).Rows(row, row + tokens);
    };
    UnfoldArgs unfold;
    unfold.k = rows(raw.k), unfold.v = rows(raw.v);
    if (stored_ == DType::kInt8) {
      unfold.k_scale = Tensor(const_cast<void*>(raw.k_scale), DType::kBF16, {kv_heads_, dim_});
      unfold.v_scale = Tensor(const_cast<void*>(raw.v_scale), DType::kBF16, {kv_heads_, dim_});
    }
    unfold.positions = TensorOf(positions);
    unfold.rope = rope_.table();
    unfold.out_k = k, unfold.out_v = v;
    if (tokens > 0 && !MakeRefBackend()->Unfold(unfold).ok()) return ::testing::AssertionFailure() << "ref";
    for (std::int64_t i = 0; i < tokens * dim_; ++i) {
      const std::int64_t at = page * kPageTokens * dim_ + i, want = head * kPageTokens * dim_ + i;
      const double rounding = (*page_k_).dtype == DType::kBF16 ? 0x1p-8 : 0;
      const auto near = [&](double found, double expected, double pair) {
        return std::abs(found - expected) <= 2 * kEps * pair + rounding * std::abs(expected);
      };
      if (!near(Widened(page_k_, at), k[want], 2 * kMagnitude) || !near(Widened(page_v_, at), v[want], kMagnitude)) {
        return ::testing::AssertionFailure() << "element " << i << " of the page of chunk " << chunk;
      }
    }
    return ::testing::AssertionSuccess();
  }

 private:
  static constexpr float kMagnitude = 2;
  struct Block {
    Buffer memory;
    RawRows rows;
  };

  static std::int64_t Total(const std::vector<std::int32_t>& counts) {
    std::int64_t total = 0;
    for (const std::int32_t count : counts) total += count;
    return total;
  }
  std::int64_t SlotOf(std::int64_t chunk, std::int64_t head) const {
    const ChunkPlace& place = places_[chunk];
    return place.slot + kLayer * place.slots_of_layer + head * (place.slots_of_layer / kv_heads_);
  }

  PagePool Pool() {
    PagePool pool;
    pool.page_k = page_k_, pool.page_v = page_v_;
    pool.page_slot = page_slot_, pool.slot_page = slot_page_;
    pool.page_call = Tensor(page_call_.data(), DType::kInt32, {static_cast<std::int64_t>(page_call_.size())});
    pool.raw = Tensor(raw_.data(), DType::kInt8, {static_cast<std::int64_t>(raw_.size()), sizeof(RawRows)});
    pool.counts = Tensor(&counts_, DType::kInt8, {sizeof(PageCounts)});
    pool.missing = TensorOf(missing_);
    return pool;
  }

  void AddDocument(Random& random, Backend& backend, std::int32_t document, std::int32_t slot) {
    const std::int32_t chunks = chunks_of_[document], blocks = (chunks + kPerBlock - 1) / kPerBlock,
                       first_block = static_cast<std::int32_t>(raw_.size());
    raw_.resize(raw_.size() + static_cast<std::size_t>(kLayers * blocks));
    std::int32_t position = 3, rows = 0;
    for (std::int32_t i = 0; i < chunks; ++i) {
      if (i % kPerBlock == 0) rows = 0;
      ChunkPlace& place = places_.emplace_back();
      place.slot = slot + i;
      place.slots_of_layer = static_cast<std::int32_t>(kv_heads_) * chunks;
      place.block = first_block + i / static_cast<std::int32_t>(kPerBlock);
      place.blocks_of_layer = blocks;
      place.first_row = rows;
      place.tokens = static_cast<std::int32_t>(random.Below(kPageTokens + 1));
      place.position = position;
      place.document = document;
      position += place.tokens;
      rows += place.tokens;
      if (i % kPerBlock + 1 < kPerBlock && i + 1 < chunks) continue;
      const std::int32_t block = place.block + kLayer * blocks;
      blocks_.emplace(block, MakeBlock(random, backend, rows));
      raw_[block] = blocks_.at(block).rows;
    }
  }

  Block MakeBlock(Random& random, Backend& backend, std::int32_t num_rows) const {
    const std::size_t rows = static_cast<std::size_t>(num_rows * kv_heads_ * dim_) * DTypeBytes(stored_),
                      part = (rows + 63) / 64 * 64, scales = static_cast<std::size_t>(kv_heads_ * dim_) * 2;
    Result<Buffer> memory = backend.AllocateHost(2 * part + 2 * scales + 1);
    Block block{memory.ok() ? *std::move(memory) : Buffer(), {}};
    auto* at = static_cast<std::byte*>(block.memory.data());
    block.rows.k = at, block.rows.v = at + part;
    block.rows.k_scale = at + 2 * part, block.rows.v_scale = at + 2 * part + scales;
    block.rows.num_rows = num_rows;
    block.rows.dtype = stored_;
    for (const std::size_t from : {std::size_t{0}, part}) {
      random.Fill(Tensor(at + from, stored_, {num_rows, kv_heads_, dim_}), kMagnitude);
    }
    random.Fill(Tensor(at + 2 * part, DType::kBF16, {2, kv_heads_, dim_}), kMagnitude / 127);
    return block;
  }

  std::int64_t kv_heads_, dim_;
  DType stored_;
  std::vector<std::int32_t> chunks_of_;  // by document
  RopeFixture rope_;
  std::vector<ChunkPlace> places_;
  std::map<std::int32_t, Block> blocks_;
  std::vector<RawRows> raw_;
  Guarded page_k_, page_v_, page_slot_;
  std::vector<std::uint32_t> page_call_;
  Guarded slot_page_;
  PageCounts counts_;
  alignas(16) PagesFound found_;
  std::vector<PagesFound> found_of_;
  std::vector<std::int32_t> missing_ = std::vector<std::int32_t>(16, -1);
  std::vector<ChosenChunk> entries_;
};

Pages::Lists RandomLists(Random& random, const Pages& pages, std::int64_t rows, std::int64_t odds) {
  Pages::Lists lists(static_cast<std::size_t>(rows * pages.kv_heads()));
  for (auto& list : lists) {
    for (std::int32_t chunk = 0; chunk < pages.chunks(); ++chunk) {
      if (random.Below(odds) == 0) list.push_back(chunk);
    }
  }
  return lists;
}

// The chunks and heads of all lists, each once.
std::set<std::pair<std::int64_t, std::int64_t>> Distinct(const Pages::Lists& lists, std::int64_t kv_heads) {
  std::set<std::pair<std::int64_t, std::int64_t>> distinct;
  for (std::size_t list = 0; list < lists.size(); ++list) {
    for (const std::int32_t chunk : lists[list]) distinct.insert({chunk, static_cast<std::int64_t>(list) % kv_heads});
  }
  return distinct;
}

::testing::AssertionResult AllHold(const Pages& pages, const Pages::Lists& lists) {
  for (std::size_t list = 0; list < lists.size(); ++list) {
    for (std::size_t i = 0; i < lists[list].size(); ++i) {
      const auto head = static_cast<std::int64_t>(list) % pages.kv_heads();
      const ChosenChunk& entry = pages.Entry(list, i);
      const ChunkPlace& place = pages.PlaceOf(lists[list][i]);
      if (entry.chunk != lists[list][i] || entry.tokens != place.tokens || entry.document != place.document) {
        return ::testing::AssertionFailure() << "entry " << i << " of list " << list;
      }
      const ::testing::AssertionResult holds = pages.Holds(pages.PageOf(list, i), lists[list][i], head);
      if (!holds) return holds;
    }
  }
  return ::testing::AssertionSuccess();
}

TEST_P(OpSuite, UnfoldChunksUnfoldsEachOnceAndFindsItAgain) {
  for (const DType kv : KvTypes(*backend_)) {
    for (const DType stored : {DType::kF32, DType::kBF16, DType::kInt8}) {
      Random random(41);
      Pages pages(random, *backend_, {7, 0, 300, 9}, 2, stored == DType::kBF16 ? 128 : 48, 700, kv, stored);
      const Pages::Lists lists = RandomLists(random, pages, 3, 2);
      const auto distinct = Distinct(lists, 2);
      ASSERT_TRUE(Succeeds(pages.Unfold(*backend_, lists)));
      ASSERT_TRUE(pages.Intact());
      EXPECT_TRUE(AllHold(pages, lists));
      EXPECT_EQ(pages.Resident(), distinct);
      std::uint64_t rows = 0;
      for (const auto& [chunk, head] : distinct) rows += pages.PlaceOf(chunk).tokens;
      const PagesFound first = pages.found();
      EXPECT_EQ(first.pages_hit, 0U);
      EXPECT_EQ(first.pages_unfolded, distinct.size());
      EXPECT_EQ(first.raw_bytes, rows * 2 * (stored == DType::kBF16 ? 128 : 48) * DTypeBytes(stored));
      EXPECT_EQ(first.left_out, 0U);
      EXPECT_EQ(pages.counts().num_missing, 0);
      pages.PlaceElsewhere();  // a page is valid wherever its document stands
      Pages::Lists elsewhere;
      for (const auto& list : lists) elsewhere.push_back(pages.Elsewhere(list));
      ASSERT_TRUE(Succeeds(pages.Unfold(*backend_, elsewhere)));
      EXPECT_TRUE(AllHold(pages, elsewhere));
      EXPECT_EQ(pages.found().pages_hit, distinct.size());
      EXPECT_EQ(pages.found().pages_unfolded, distinct.size());
      EXPECT_EQ(pages.found().raw_bytes, first.raw_bytes);
    }
  }
}

TEST_P(OpSuite, UnfoldChunksAsksForRawRowsThatAreNotInMemory) {
  Random random(42);
  Pages pages(random, *backend_, {30, 11}, 2, 64, 100);
  const Pages::Lists lists = RandomLists(random, pages, 2, 2);
  const std::set<std::int32_t> forgotten = {pages.BlockOf(0), pages.BlockOf(12), pages.BlockOf(38)};
  std::set<std::int32_t> wanted;
  std::uint64_t entries = 0;
  for (const std::int32_t block : forgotten) pages.Forget(block);
  for (const auto& list : lists) {
    for (const std::int32_t chunk : list) {
      if (!forgotten.contains(pages.BlockOf(chunk))) continue;
      wanted.insert(pages.BlockOf(chunk));
      ++entries;
    }
  }
  ASSERT_EQ(wanted.size(), 3U);
  ASSERT_TRUE(Succeeds(pages.Unfold(*backend_, lists)));
  EXPECT_EQ(pages.counts().num_missing, 3);
  EXPECT_EQ(pages.found().left_out, entries);
  EXPECT_EQ(std::set<std::int32_t>(pages.missing().begin(), pages.missing().begin() + 3), wanted);
  for (std::size_t list = 0; list < lists.size(); ++list) {
    for (std::size_t i = 0; i < lists[list].size(); ++i) {
      if (wanted.contains(pages.BlockOf(lists[list][i]))) {
        EXPECT_EQ(pages.PageOf(list, i), -1);
      } else {
        EXPECT_TRUE(pages.Holds(pages.PageOf(list, i), lists[list][i], static_cast<std::int64_t>(list) % 2));
      }
    }
  }
  pages.MissingHolds(1);  // more are missing than can be told
  ASSERT_TRUE(Succeeds(pages.Unfold(*backend_, lists)));
  EXPECT_EQ(pages.counts().num_missing, 3);
  EXPECT_TRUE(wanted.contains(pages.missing()[0]));
  for (const std::int32_t block : forgotten) pages.Bring(block);
  ASSERT_TRUE(Succeeds(pages.Unfold(*backend_, lists)));
  EXPECT_EQ(pages.counts().num_missing, 0);
  EXPECT_TRUE(AllHold(pages, lists));
  EXPECT_EQ(pages.found().pages_unfolded, Distinct(lists, 2).size());
}

// Requests of one call share pages; each has counts of its own, and no page of one is taken for another.
TEST_P(OpSuite, UnfoldChunksOfSeveralRequests) {
  for (const DType kv : KvTypes(*backend_)) {
    Random random(49);
    constexpr std::int64_t kRequests = 5;
    Pages pages(random, *backend_, {40, 1, 90}, 2, 64, 700, kv);
    const Pages::Lists lists = RandomLists(random, pages, kRequests, 3);
    const auto chosen_of = [&](std::size_t request) {
      return lists[2 * request].size() + lists[2 * request + 1].size();
    };
    ASSERT_TRUE(Succeeds(pages.UnfoldTogether(*backend_, lists)));
    ASSERT_TRUE(pages.Intact());
    EXPECT_TRUE(AllHold(pages, lists));
    EXPECT_EQ(pages.counts().calls, 1U);
    std::uint64_t unfolded = 0;
    for (std::size_t request = 0; request < kRequests; ++request) {
      EXPECT_EQ(pages.found(request).pages_hit, 0U);
      EXPECT_EQ(pages.found(request).left_out, 0U);
      unfolded += pages.found(request).pages_unfolded;
    }
    EXPECT_EQ(unfolded, Distinct(lists, 2).size());
    ASSERT_TRUE(Succeeds(pages.UnfoldTogether(*backend_, lists)));
    for (std::size_t request = 0; request < kRequests; ++request) {
      EXPECT_EQ(pages.found(request).pages_hit, chosen_of(request));
    }

    // Fewer pages than they want together: what has none is left out, and the others are whole.
    Pages few(random, *backend_, {40, 1, 90}, 2, 64, 60, kv);
    ASSERT_TRUE(Succeeds(few.UnfoldTogether(*backend_, lists)));
    EXPECT_GT(few.counts().pages_lacking, 0);
    std::vector<std::uint64_t> left_out(kRequests);
    for (std::size_t list = 0; list < lists.size(); ++list) {
      for (std::size_t i = 0; i < lists[list].size(); ++i) {
        if (few.PageOf(list, i) < 0) {
          ++left_out[list / 2];
        } else {
          EXPECT_TRUE(few.Holds(few.PageOf(list, i), lists[list][i], static_cast<std::int64_t>(list) % 2));
        }
      }
    }
    for (std::size_t request = 0; request < kRequests; ++request) {
      EXPECT_EQ(left_out[request], few.found(request).left_out);
    }
    EXPECT_EQ(few.Resident().size(), 60U);
  }
}

TEST_P(OpSuite, UnfoldChunksTakesPagesThatWereUsedLongestAgo) {
  Random random(43);
  Pages pages(random, *backend_, {20}, 1, 64, 6);
  const auto unfold = [&](std::vector<std::int32_t> chunks) {
    ASSERT_TRUE(Succeeds(pages.Unfold(*backend_, {chunks})));
    EXPECT_TRUE(AllHold(pages, {chunks}));
  };
  const auto resident = [&] {
    std::set<std::int64_t> chunks;
    for (const auto& [chunk, head] : pages.Resident()) chunks.insert(chunk);
    return chunks;
  };
  unfold({0, 1}), unfold({2, 3}), unfold({4, 5}), unfold({0, 1});
  EXPECT_EQ(resident(), (std::set<std::int64_t>{0, 1, 2, 3, 4, 5}));
  unfold({6, 7});
  EXPECT_EQ(resident(), (std::set<std::int64_t>{0, 1, 4, 5, 6, 7}));
  unfold({4, 8});
  EXPECT_EQ(pages.found().pages_hit, 3U);
  EXPECT_EQ(resident().count(5), 0U);
  EXPECT_EQ(resident().count(4), 1U);
  // All pages, and one more: those found are kept, and what lacks is told.
  ASSERT_TRUE(Succeeds(pages.Unfold(*backend_, {{4, 8, 10, 11, 12, 13, 14}})));
  EXPECT_EQ(pages.counts().pages_lacking, 1);
  EXPECT_EQ(pages.found().left_out, 1U);
  EXPECT_EQ(pages.Resident().size(), 6U);
  EXPECT_EQ(resident().count(4) + resident().count(8), 2U);
}

// Many calls on a pool that is too small for them all: what was taken was not among the latest.
TEST_P(OpSuite, UnfoldChunksOfManyCallsOnASmallPool) {
  for (const DType kv : KvTypes(*backend_)) {
    Random random(44);
    constexpr std::int64_t kPages = 420;
    Pages pages(random, *backend_, {200, 1, 150}, 2, 64, kPages, kv);
    std::map<std::pair<std::int64_t, std::int64_t>, std::uint32_t> last_call;
    for (std::uint32_t call = 1; call <= 40; ++call) {
      const Pages::Lists lists = RandomLists(random, pages, 1 + call % 2, 4 + random.Below(8));
      const auto before = pages.Resident();
      ASSERT_TRUE(Succeeds(pages.Unfold(*backend_, lists)));
      ASSERT_TRUE(pages.Intact());
      ASSERT_TRUE(AllHold(pages, lists)) << "call " << call;
      for (const auto& chosen : Distinct(lists, 2)) last_call[chosen] = call;
      const auto after = pages.Resident();
      ASSERT_EQ(pages.counts().calls, call);
      ASSERT_EQ(after.size(), std::min<std::uint64_t>(kPages, pages.found().pages_unfolded));
      for (const auto& resident : before) {
        if (after.contains(resident)) continue;
        ASSERT_LE(last_call[resident], pages.counts().oldest) << "call " << call;
      }
      ASSERT_LT(pages.counts().oldest, call);
    }
    EXPECT_GT(pages.found().pages_unfolded, 2 * kPages);
  }
}

// What a backend keeps of queries between the operations of a step changes no bit of theirs.
TEST_P(OpSuite, TurnedQueriesGiveTheSameBits) {
  Random random(47);
  for (const DType kv : KvTypes(*backend_)) {
    for (const HeadShape& heads : {HeadShape{2, 7, 128}, HeadShape{1, 16, 64}, HeadShape{1, 2, 80}}) {
      SparseCase c(random, heads, 2, 3, 4, {30, 0, 21}, {3, 1, 2}, 1, 2, kv);
      const auto bytes = static_cast<std::int64_t>(backend_->TurnedQueryBytes(c.q, heads.kv_heads, 3));
      std::vector<ChosenChunk> memory(static_cast<std::size_t>(bytes) / sizeof(ChosenChunk) + 1);  // for its alignment
      const auto run = [&](const Tensor& turned, const Guarded& top, const Guarded& low, const Guarded& out) {
        GistScoreArgs score{.q = c.q,
                            .positions = c.positions,
                            .rope = c.rope.table(),
                            .context = &c.view,
                            .level = 1,
                            .scores = top,
                            .turned = turned};
        ASSERT_TRUE(Succeeds(backend_->GistScore(score)));
        score.level = 0;
        score.parents = c.chosen[1];
        score.scores = low;
        score.is_turned = turned.rank != 0;
        ASSERT_TRUE(Succeeds(backend_->GistScore(score)));
        SparseAttentionArgs attend = c.Args(out);
        attend.turned = turned;
        ASSERT_TRUE(Succeeds(backend_->SparseAttention(attend)));
      };
      const auto scores = [&](int level) {
        return Guarded(DType::kF32, {2, heads.heads(), c.context.levels[level].gists()});
      };
      const Guarded top = scores(1), low = scores(0), out = c.Out(), want_top = scores(1), want_low = scores(0),
                    want = c.Out();
      run(Tensor(memory.data(), DType::kInt8, {bytes}), top, low, out);
      run({}, want_top, want_low, want);
      EXPECT_TRUE(SameBits(top, want_top));
      EXPECT_TRUE(SameBits(low, want_low));
      EXPECT_TRUE(SameBits(out, want));
    }
  }
}

TEST_P(OpSuite, CopyRowsPutsEachHeadsRowsInPlace) {
  Random random(48);
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t dim : {1, 37, 128}) {
      const Guarded first = random.Make(type, {3, 40, dim}), second = random.Make(type, {3, 7, dim});
      const Guarded to = random.Make(type, {3, 60, dim}), want = to;
      const std::vector<RowPiece> pieces = {
          {first, 5, to, 0, 30}, {second, 0, to, 31, 7}, {second, 6, to, 59, 1}, {first, 40, to, 60, 0}};
      ASSERT_TRUE(Succeeds(backend_->CopyRows(pieces)));
      const std::size_t row = static_cast<std::size_t>(dim) * DTypeBytes(type);
      for (const RowPiece& piece : pieces) {
        for (std::int64_t head = 0; head < 3; ++head) {
          std::memcpy((*want).as<char>() + (head * 60 + piece.to_begin) * row,
                      piece.from.as<char>() + (head * piece.from.dims[1] + piece.from_begin) * row,
                      static_cast<std::size_t>(piece.count) * row);
        }
      }
      EXPECT_TRUE(to.Intact());
      EXPECT_TRUE(SameBits(to, want));
      RowPiece bad{first, 35, to, 0, 6};
      EXPECT_NE(backend_->CopyRows(std::span(&bad, 1)).message().find("CopyRows: from_begin"), std::string::npos);
    }
  }
}

TEST_P(OpSuite, UnfoldChunksRefusesWhatContradictsItself) {
  Random random(46);
  Pages pages(random, *backend_, {9}, 1, 64, 8);
  pages.Shorten(pages.BlockOf(8));
  const auto refused = [&](const Pages::Lists& lists) { return pages.Unfold(*backend_, lists).ToString(); };
  EXPECT_NE(refused({{9}}).find("UnfoldChunks: chosen[0] is 9"), std::string::npos);
  EXPECT_NE(refused({{1, 8}}).find("UnfoldChunks: places, a chunk's rows"), std::string::npos);
  EXPECT_TRUE(Succeeds(pages.Unfold(*backend_, {{1, 2}})));
}

}  // namespace
}  // namespace unfold
