// SPDX-License-Identifier: Apache-2.0
// Every flipped byte of a closed store is found, and a damaged log never drops what was acknowledged without a word.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "tests/unit/store_fixture.h"

namespace unfold {
namespace {

constexpr DocumentShape kShape{.parts = 2, .layers = 3, .chunks = 40};
constexpr int kDocuments = 3;

bool StartsWith(const std::string& name, const std::string& start) { return name.rfind(start, 0) == 0; }

std::string KindOf(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  if (dot != std::string::npos) return name.substr(dot);
  return name.substr(0, name.find('-'));
}

bool HoldsData(const std::string& name) { return name != "LOCK" && name != "READERS" && !StartsWith(name, "LOG"); }

// What opening or Verify says; empty when neither finds anything.
std::string FindingsOf(const std::string& path, StoreAccess access) {
  auto store = OpenRocksDbStore({path, access});
  if (!store.ok()) {
    EXPECT_EQ(store.status().code(), StatusCode::kCorruption) << store.status().ToString();
    return store.status().ToString();
  }
  const auto report = (*store)->Verify({});
  EXPECT_TRUE(report.ok()) << report.status().ToString();
  std::string text;
  for (const VerifyFinding& finding : report->findings) text += finding.where + ": " + finding.what + "\n";
  return text;
}

// Positions in a file of that size: the first and last ones, where headers and footers are, and random ones.
std::set<std::size_t> Positions(std::size_t size, std::mt19937_64& random) {
  std::set<std::size_t> positions;
  for (std::size_t i = 0; i < std::min<std::size_t>(size, 40); ++i) positions.insert(i);
  for (std::size_t i = 0; i < std::min<std::size_t>(size, 70); ++i) positions.insert(size - 1 - i);
  for (int i = 0; i < 60 && size > 0; ++i) positions.insert(random() % size);
  return positions;
}

class DamageTest : public testing::Test {
 protected:
  void SetUp() override {
    auto store = OpenOrFail({dir_.Path()});
    ASSERT_OK(store->SetFingerprint("{}"));
    for (int i = 0; i < kDocuments; ++i) ASSERT_OK(PutDocument(*store, "c", std::to_string(i), i, kShape));
    ASSERT_OK(PutDocument(*store, "c", "0", 7, kShape));  // one replaced: tombstones are there too
    ASSERT_OK(store->Close());
    store.reset();
    ASSERT_EQ(FindingsOf(dir_.Path(), StoreAccess::kReadOnly), "");
    for (const std::string& name : FilesOf(dir_.Path())) {
      if (HoldsData(name)) files_.push_back(name);
    }
  }
  std::string PathOf(const std::string& name) const { return dir_.Path("store/" + name); }

  TempDir dir_;
  std::vector<std::string> files_;
  std::mt19937_64 random_{1};
};

TEST_F(DamageTest, EveryFlippedByteOfAClosedStoreIsFound) {
  std::map<std::string, int> flips;
  for (const std::string& name : files_) {
    const std::string intact = ReadBytes(PathOf(name));
    flips[KindOf(name)] += 0;
    for (const std::size_t at : Positions(intact.size(), random_)) {
      std::string damaged = intact;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 + random_() % 255));
      WriteBytes(PathOf(name), damaged);
      const std::string findings = FindingsOf(dir_.Path(), StoreAccess::kReadOnly);
      ASSERT_NE(findings, "") << name << " byte " << at << " of " << intact.size();
      ASSERT_NE(findings.find(name), std::string::npos) << "the file is named; byte " << at << ":\n" << findings;
      ++flips[KindOf(name)];
    }
    WriteBytes(PathOf(name), intact);
  }
  EXPECT_EQ(FindingsOf(dir_.Path(), StoreAccess::kReadOnly), "");
  for (const char* kind : {".sst", ".blob", "MANIFEST", "CURRENT", "COMMITS", "CLEAN", "IDENTITY", "OPTIONS"}) {
    EXPECT_GT(flips[kind], 10) << kind;
  }
  EXPECT_EQ(flips.count(".log"), 1U) << "a closed store's log is there; it has no byte to flip";
  for (const auto& [kind, count] : flips) RecordProperty("flips in " + kind, count);
}

TEST_F(DamageTest, LostAndShortenedFilesAreFound) {
  for (const std::string& name : files_) {
    if (name == "CLEAN") continue;  // without it the store counts as not closed cleanly, which loses nothing
    const std::string intact = ReadBytes(PathOf(name));
    WriteBytes(PathOf(name), intact + "x");
    EXPECT_NE(FindingsOf(dir_.Path(), StoreAccess::kReadOnly), "") << name << " with a byte more";
    if (!intact.empty()) {
      WriteBytes(PathOf(name), intact.substr(0, intact.size() - 1));
      EXPECT_NE(FindingsOf(dir_.Path(), StoreAccess::kReadOnly), "") << name << " with a byte less";
    }
    std::filesystem::remove(PathOf(name));
    EXPECT_NE(FindingsOf(dir_.Path(), StoreAccess::kReadOnly), "") << name << " gone";
    const auto writer = OpenRocksDbStore({dir_.Path()});
    EXPECT_EQ(writer.status().code(), StatusCode::kCorruption) << name << ": " << writer.status().ToString();
    WriteBytes(PathOf(name), intact);
  }
  EXPECT_EQ(FindingsOf(dir_.Path(), StoreAccess::kReadOnly), "");
}

// The same through a writer, which changes the store: on a copy each time.
TEST_F(DamageTest, AWriterFindsThemToo) {
  for (const std::string& name : files_) {
    const std::string intact = ReadBytes(PathOf(name));
    for (int round = 0; round < 2 && !intact.empty(); ++round) {
      const std::string copy = dir_.Path("copy");
      std::filesystem::copy(dir_.Path(), copy);
      const std::size_t at = round == 0 ? intact.size() - 1 : random_() % intact.size();
      std::string damaged = intact;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 + random_() % 255));
      WriteBytes(copy + "/" + name, damaged);
      EXPECT_NE(FindingsOf(copy, StoreAccess::kReadWrite), "") << name << " byte " << at;
      std::filesystem::remove_all(copy);
    }
  }
}

// A store whose writer was killed: the log holds documents. A flipped byte in it either is refused as corruption, or
// lies behind everything that was acknowledged.
TEST(StoreLogDamage, NeverDropsAcknowledgedDocuments) {
  TempDir dir;
  const std::string killed = dir.Path("killed");
  {
    auto store = OpenOrFail({dir.Path()});
    for (int i = 0; i < kDocuments; ++i) ASSERT_OK(PutDocument(*store, "c", std::to_string(i), i, kShape));
    { ASSERT_NE(OpenOrFail({dir.Path(), StoreAccess::kReadOnly}), nullptr); }  // so that READERS is there to be copied
    const DocumentId draft = *store->AllocateDocument();
    ASSERT_OK(store->Write(MakeDocument(draft, "draft", 9, kShape).records));
    std::filesystem::copy(dir.Path(), killed);
  }
  std::string log;
  for (const std::string& name : FilesOf(killed)) {
    if (KindOf(name) == ".log") log = name;
  }
  const std::string intact = ReadBytes(killed + "/" + log);
  ASSERT_GT(intact.size(), 10000U);
  std::mt19937_64 random(3);
  std::set<std::size_t> positions = Positions(intact.size(), random);
  for (int i = 0; i < 100; ++i) positions.insert(random() % intact.size());
  int refused = 0;
  int survived = 0;
  int round = 0;
  for (const std::size_t at : positions) {
    std::string damaged = intact;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 + random() % 255));
    // A reader changes nothing, so it may look at the store itself; a writer gets a copy, and fewer of them.
    const bool write = round++ % 8 == 0;
    const std::string path = write ? dir.Path("copy") : killed;
    if (write) std::filesystem::copy(killed, path);
    WriteBytes(path + "/" + log, damaged);
    const std::vector<std::string> files_before = FilesOf(path);
    {
      auto store = OpenRocksDbStore({path, write ? StoreAccess::kReadWrite : StoreAccess::kReadOnly});
      if (!store.ok()) {
        ASSERT_EQ(store.status().code(), StatusCode::kCorruption) << store.status().ToString();
        EXPECT_EQ(ReadBytes(path + "/" + log), damaged) << "a refused store is left as it was";
        EXPECT_EQ(FilesOf(path), files_before);
        ++refused;
      } else {
        ASSERT_EQ(NamesIn(*(*store)->Snapshot(), "c").size(), static_cast<std::size_t>(kDocuments)) << "byte " << at;
        ExpectClean(**store, kDocuments);
        ++survived;
      }
    }
    if (write) std::filesystem::remove_all(path);
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(survived, 0) << "damage in what was not acknowledged";
  RecordProperty("refused", refused);
  RecordProperty("survived", survived);
}

// A torn tail, cut at every length behind the last commit, costs nothing that was acknowledged.
TEST(StoreLogDamage, ATornTailIsNoCorruption) {
  TempDir dir;
  const std::string killed = dir.Path("killed");
  std::uintmax_t acknowledged_bytes = 0;
  std::string log;
  {
    auto store = OpenOrFail({dir.Path()});
    ASSERT_OK(PutDocument(*store, "c", "a", 1, kShape));
    for (const std::string& name : FilesOf(dir.Path())) {
      if (KindOf(name) == ".log") log = name;
    }
    acknowledged_bytes = std::filesystem::file_size(dir.Path("store/" + log));
    const DocumentId draft = *store->AllocateDocument();
    ASSERT_OK(store->Write(MakeDocument(draft, "draft", 9, {.chunks = 2}).records));
    std::filesystem::copy(dir.Path(), killed);
  }
  const std::string intact = ReadBytes(killed + "/" + log);
  ASSERT_GT(intact.size(), acknowledged_bytes);
  const std::string zeros(64, '\0');  // what a file system may leave where data never arrived
  const std::string tails[] = {"", zeros, zeros + "and something" + zeros};
  for (std::size_t size = acknowledged_bytes; size < intact.size(); size += 397) {
    for (const std::string& tail : tails) {
      const std::string copy = dir.Path("copy");
      std::filesystem::copy(killed, copy);
      WriteBytes(copy + "/" + log, intact.substr(0, size) + tail);
      auto store = OpenOrFail({copy});
      ASSERT_NE(store, nullptr) << "cut at " << size;
      ExpectClean(*store, 1);
      store.reset();
      std::filesystem::remove_all(copy);
    }
  }
}

}  // namespace
}  // namespace unfold
