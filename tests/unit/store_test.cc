// SPDX-License-Identifier: Apache-2.0
// The store on RocksDB: life of a document, opening and closing, removal, damage.
#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <set>

#include "tests/unit/store_fixture.h"

namespace unfold {
namespace {

TEST(Store, PublishedDocumentsSurviveReopening) {
  TempDir dir;
  {
    auto store = OpenOrFail({dir.Path()});
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(*store->Fingerprint(), "");
    ASSERT_OK(store->SetFingerprint("{\"model\": 1}"));
    EXPECT_EQ(store->SetFingerprint("{}").code(), StatusCode::kInvalidArgument);
    ASSERT_OK(PutDocument(*store, "c", "b.md", 1));
    ASSERT_OK(PutDocument(*store, "c", "a.md", 2, {.parts = 3, .layers = 4, .chunks = 65}));
    ASSERT_OK(PutDocument(*store, "other", "a.md", 3, {.chunks = 1}));
    ASSERT_OK(store->Close());
  }
  auto store = OpenOrFail({dir.Path()});
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(*store->Fingerprint(), "{\"model\": 1}");
  const auto snapshot = store->Snapshot();
  const auto collections = snapshot->Collections();
  ASSERT_TRUE(collections.ok());
  ASSERT_EQ(collections->size(), 2U);
  EXPECT_EQ((*collections)[0].name, "c");
  EXPECT_EQ((*collections)[1].name, "other");
  EXPECT_EQ(NamesIn(*snapshot, "c"), (std::vector<std::string>{"a.md", "b.md"}));
  const auto documents = snapshot->Documents("c");
  ExpectWhole(*snapshot, (*documents)[0], 2, {.parts = 3, .layers = 4, .chunks = 65});
  ExpectWhole(*snapshot, (*documents)[1], 1);
  ExpectClean(*store, 3);
  const Status missing = snapshot->Documents("nope").status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_NE(missing.message().find("it has 'c', 'other'"), std::string::npos) << missing.message();
}

TEST(Store, NothingIsVisibleBeforePublish) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  const CollectionId collection = *store->EnsureCollection("c");
  const DocumentId id = *store->AllocateDocument();
  const TestDocument document = MakeDocument(id, "a", 1);
  ASSERT_OK(store->Write(document.records));
  EXPECT_TRUE(NamesIn(*store->Snapshot(), "c").empty());
  const auto before = store->Snapshot();
  const Publication publication{collection, id, document.record};
  ASSERT_OK(store->Publish({&publication, 1}));
  EXPECT_TRUE(NamesIn(*before, "c").empty()) << "a snapshot sees what was published when it was taken";
  EXPECT_EQ(NamesIn(*store->Snapshot(), "c"), std::vector<std::string>{"a"});
}

TEST(Store, MisuseIsRefusedByName) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  const CollectionId collection = *store->EnsureCollection("c");
  const DocumentId first = *store->AllocateDocument();
  const DocumentId second = *store->AllocateDocument();
  const Publication twice[] = {{collection, first, MakeDocument(first, "a", 1).record},
                               {collection, second, MakeDocument(second, "a", 2).record}};
  EXPECT_EQ(store->Publish(twice).code(), StatusCode::kInvalidArgument);
  const Publication nowhere{{77}, first, MakeDocument(first, "a", 1).record};
  EXPECT_EQ(store->Publish({&nowhere, 1}).code(), StatusCode::kInvalidArgument);
  const StoreRecord stray{{RecordKind::kText, {999}, 0, 0, 0}, SealText("x")};
  EXPECT_EQ(store->Write({&stray, 1}).code(), StatusCode::kInvalidArgument);
  ASSERT_OK(store->Publish({twice, 1}));
  EXPECT_EQ(store->Discard({&first, 1}).code(), StatusCode::kInvalidArgument) << "published, no longer to be given up";
  EXPECT_EQ(store->Publish({twice, 1}).code(), StatusCode::kInvalidArgument);
  const std::string names[] = {"a", "missing"};
  const Status removed = store->Remove("c", names);
  EXPECT_EQ(removed.code(), StatusCode::kNotFound);
  EXPECT_NE(removed.message().find("missing"), std::string::npos);
  EXPECT_EQ(NamesIn(*store->Snapshot(), "c"), std::vector<std::string>{"a"}) << "then nothing is removed";
}

TEST(Store, ReplaceIsOneStepAndOldSnapshotsKeepTheOld) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  ASSERT_OK(PutDocument(*store, "c", "a", 1));
  auto before = store->Snapshot();
  ASSERT_OK(PutDocument(*store, "c", "a", 2));
  const auto after = store->Snapshot();
  ASSERT_EQ(NamesIn(*after, "c").size(), 1U);
  const PublishedDocument fresh = after->Documents("c")->front();
  const PublishedDocument old = before->Documents("c")->front();
  ExpectWhole(*after, fresh, 2);
  ExpectWhole(*before, old, 1);
  EXPECT_LT(old.id, fresh.id);
  EXPECT_EQ(after->Read({RecordKind::kText, old.id, 0, 0, 0}).status().code(), StatusCode::kNotFound);
  const std::string name = "a";
  ASSERT_OK(store->Remove("c", {&name, 1}));
  ExpectWhole(*after, fresh, 2);
  ExpectWhole(*before, old, 1);
  ExpectClean(*store, 0);
}

TEST(Store, ACollectionGoesWithItsDocuments) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  ASSERT_OK(PutDocument(*store, "kept", "a", 1));
  ASSERT_OK(PutDocument(*store, "c", "a", 2));
  ASSERT_OK(PutDocument(*store, "c", "b", 3));
  EXPECT_EQ(store->RemoveCollection("none").code(), StatusCode::kNotFound);
  const CollectionId gone = *store->EnsureCollection("c");
  const DocumentId late = *store->AllocateDocument();
  const TestDocument document = MakeDocument(late, "late", 4);
  ASSERT_OK(store->Write(document.records));
  ASSERT_OK(store->RemoveCollection("c"));
  EXPECT_FALSE(*store->Snapshot()->HasCollection("c"));
  EXPECT_EQ(store->Snapshot()->Find("c", "a").status().code(), StatusCode::kNotFound);
  ASSERT_OK(store->EnsureCollection("new").status());
  const Publication publication{gone, late, document.record};
  EXPECT_EQ(store->Publish({&publication, 1}).code(), StatusCode::kInvalidArgument) << "not into the next one made";
  ASSERT_OK(store->Discard({&late, 1}));
  ExpectClean(*store, 1);
  EXPECT_EQ(store->Snapshot()->Find("kept", "a")->record.name, "a");
  EXPECT_EQ(store->Snapshot()->Find("kept", "b").status().code(), StatusCode::kNotFound);
  store.reset();
  store = OpenOrFail({dir.Path()});
  EXPECT_EQ(store->Snapshot()->Collections()->size(), 2U);
  ExpectClean(*store, 1);
}

TEST(Store, IdsAreNeverReused) {
  TempDir dir;
  std::set<std::uint64_t> seen;
  for (int round = 0; round < 4; ++round) {
    auto store = OpenOrFail({dir.Path()});
    for (int i = 0; i < 1500; ++i) EXPECT_TRUE(seen.insert(store->AllocateDocument()->value).second);
    ASSERT_OK(store->Close());
  }
}

TEST(Store, OrphansOfAKilledWriterAreSwept) {
  TempDir dir;
  const std::string copy = dir.Path("copy");
  {
    auto store = OpenOrFail({dir.Path()});
    ASSERT_OK(PutDocument(*store, "c", "kept", 1));
    const DocumentId orphan = *store->AllocateDocument();
    ASSERT_OK(store->Write(MakeDocument(orphan, "orphan", 2).records));
    std::filesystem::copy(dir.Path(), copy, std::filesystem::copy_options::recursive);  // as kill -9 would leave it
    ASSERT_OK(store->Discard({&orphan, 1}));
    const auto report = store->Verify({});
    EXPECT_EQ(report->num_orphans, 0U) << "given up";
  }
  {
    auto reader = OpenOrFail({copy, StoreAccess::kReadOnly});
    const auto report = reader->Verify({});
    ASSERT_TRUE(report.ok());
    EXPECT_TRUE(report->clean()) << Describe(*report);
    EXPECT_EQ(report->num_orphans, MakeDocument({2}, "orphan", 2).records.size());
  }
  auto store = OpenOrFail({copy});
  const auto report = store->Verify({});
  EXPECT_EQ(report->num_orphans, 0U) << "swept";
  EXPECT_TRUE(report->clean());
  ExpectWhole(*store->Snapshot(), store->Snapshot()->Documents("c")->front(), 1);
}

TEST(Store, SecondWriterIsRefusedWithTheLocksName) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  const auto second = OpenRocksDbStore({dir.Path()});
  EXPECT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(second.status().message().find(dir.Path() + "/LOCK"), std::string::npos) << second.status().message();
  ASSERT_OK(PutDocument(*store, "c", "a", 1));
  ASSERT_OK(store->Close());
  auto third = OpenOrFail({dir.Path()});
  ExpectClean(*third, 1);
}

TEST(Store, WhatIsNoStoreIsRefused) {
  TempDir dir;
  EXPECT_EQ(OpenRocksDbStore({dir.Path(), StoreAccess::kReadOnly}).status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(dir.Path())) << "a reader makes nothing";
  const auto deep = OpenRocksDbStore({dir.Path("no/such/store")});
  EXPECT_EQ(deep.status().code(), StatusCode::kIo) << "only the last component is made";
  std::filesystem::create_directory(dir.Path("home"));
  WriteBytes(dir.Path("home/letter.txt"), "dear");
  const auto foreign = OpenRocksDbStore({dir.Path("home")});
  EXPECT_EQ(foreign.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(foreign.status().message().find("letter.txt"), std::string::npos);
  EXPECT_EQ(FilesOf(dir.Path("home")), std::vector<std::string>{"letter.txt"});
  const auto file = OpenRocksDbStore({dir.Path("home/letter.txt")});
  EXPECT_EQ(file.status().code(), StatusCode::kInvalidArgument);
}

TEST(Store, ReadOnlyRefusesToWrite) {
  TempDir dir;
  { ASSERT_OK(PutDocument(*OpenOrFail({dir.Path()}), "c", "a", 1)); }
  const std::vector<std::string> files = FilesOf(dir.Path());
  {
    auto reader = OpenOrFail({dir.Path(), StoreAccess::kReadOnly});
    ASSERT_NE(reader, nullptr);
    ExpectClean(*reader, 1);
    EXPECT_TRUE(reader->EnsureCollection("c").ok());
    EXPECT_EQ(reader->EnsureCollection("new").status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(reader->AllocateDocument().status().code(), StatusCode::kUnavailable);
    const std::string name = "a";
    EXPECT_EQ(reader->Remove("c", {&name, 1}).code(), StatusCode::kUnavailable);
    ASSERT_OK(reader->Close());
  }
  EXPECT_EQ(FilesOf(dir.Path()), files);
}

TEST(Store, CloseWaitsForSnapshots) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  ASSERT_OK(PutDocument(*store, "c", "a", 1));
  auto snapshot = store->Snapshot();
  const Status busy = store->Close();
  EXPECT_EQ(busy.code(), StatusCode::kUnavailable);
  EXPECT_NE(busy.message().find("1 snapshots"), std::string::npos) << busy.message();
  ASSERT_OK(PutDocument(*store, "c", "b", 1)) << "nothing was closed";
  store.reset();  // the snapshot keeps the files open, and closes them
  ExpectWhole(*snapshot, snapshot->Documents("c")->front(), 1);
  EXPECT_EQ(OpenRocksDbStore({dir.Path()}).status().code(), StatusCode::kUnavailable);
  EXPECT_FALSE(std::filesystem::exists(dir.Path("store/CLEAN")));
  snapshot.reset();
  EXPECT_TRUE(std::filesystem::exists(dir.Path("store/CLEAN")));
  ExpectClean(*OpenOrFail({dir.Path()}), 2);
}

TEST(Store, VerifyStopsWhenAsked) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  ASSERT_OK(PutDocument(*store, "c", "a", 1, {.layers = 40}));
  const auto report = store->Verify([](std::uint64_t) { return false; });
  EXPECT_EQ(report.status().code(), StatusCode::kCancelled);
}

// A store that lacks, or has too much of, any one record of a document says which.
TEST(Store, VerifyMissesEachRecord) {
  const DocumentShape shape{.parts = 2, .layers = 3, .chunks = 40};
  const std::size_t num_records = MakeDocument({1}, "a", 1, shape).records.size();
  for (const bool in_memory : {true, false}) {
    TempDir dir;
    auto store = in_memory ? MakeMemoryStore() : OpenOrFail({dir.Path()});
    const CollectionId collection = *store->EnsureCollection("c");
    std::vector<std::string> missing;
    for (std::size_t i = 0; i < num_records; ++i) {
      const DocumentId id = *store->AllocateDocument();
      TestDocument document = MakeDocument(id, "document " + std::to_string(i), 1, shape);
      missing.push_back(document.records[i].key.ToString());
      document.record.stored_bytes[static_cast<std::size_t>(document.records[i].key.kind)] -=
          document.records[i].value.size();
      document.records.erase(document.records.begin() + static_cast<std::ptrdiff_t>(i));
      ASSERT_OK(store->Write(document.records));
      const Publication publication{collection, id, document.record};
      ASSERT_OK(store->Publish({&publication, 1}));
    }
    const auto report = store->Verify({});
    ASSERT_TRUE(report.ok());
    for (const std::string& name : missing) {
      const bool named = std::any_of(report->findings.begin(), report->findings.end(), [&](const auto& finding) {
        return finding.where.find(name + " ('") == 0 && finding.what == "missing";
      });
      EXPECT_TRUE(named) << name << "\n" << Describe(*report);
    }
  }
}

TEST(Store, DiskBytesCountsWhatIsStored) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  const std::uint64_t empty = *store->DiskBytes();
  ASSERT_OK(PutDocument(*store, "c", "a", 1, {.chunks = 320}));
  std::uint64_t written = 0;
  for (const StoreRecord& record : MakeDocument({1}, "a", 1, {.chunks = 320}).records) written += record.value.size();
  EXPECT_GE(*store->DiskBytes(), empty + written);
  EXPECT_LT(*store->DiskBytes(), empty + 2 * written);
  ASSERT_OK(store->Close());
  auto reader = OpenOrFail({dir.Path(), StoreAccess::kReadOnly});
  EXPECT_GE(*reader->DiskBytes(), written);
  EXPECT_LT(*reader->DiskBytes(), empty + 2 * written);
}

// What stands in any file of a store's directory.
bool AnyFileHolds(const std::string& directory, const std::string& bytes) {
  for (const std::string& name : FilesOf(directory)) {
    if (ReadBytes(directory + "/" + name).find(bytes) != std::string::npos) return true;
  }
  return false;
}

struct Markers {
  std::string text = "TEXT-MARKER-0123456789-abcdefghij";
  std::string kv = "KV-MARKER-0123456789-abcdefghijkl";
  std::string name = "name-of-the-document-to-be-removed";
};

// A document with the markers in its text, gist KV and raw KV (small and large values, so in tables and blob files).
Status PutMarked(Store& store, const Markers& markers, DocumentShape shape) {
  UNFOLD_TRY_ASSIGN(const CollectionId collection, store.EnsureCollection("c"));
  UNFOLD_TRY_ASSIGN(const DocumentId id, store.AllocateDocument());
  TestDocument document = MakeDocument(id, markers.name, 5, shape);
  for (StoreRecord& record : document.records) {
    if (record.key.kind == RecordKind::kText) record.value = SealText(markers.text + std::string(300, ' '));
    if (record.key.kind != RecordKind::kGist && record.key.kind != RecordKind::kRaw) continue;
    const KvView view = *OpenKv(record.key.kind, record.value, "");
    std::string payload(view.payload);
    payload.replace(payload.size() / 2, markers.kv.size(), markers.kv);
    record.value = SealKv(record.key.kind, view.header, payload);
  }
  UNFOLD_TRY(store.Write(document.records));
  const Publication publication{collection, id, document.record};
  return store.Publish({&publication, 1});
}

class RemoveTest : public testing::TestWithParam<bool> {};

// Between other documents, in the log or in tables and blob files (by reopening), replaced before it is removed.
TEST_P(RemoveTest, TakesEveryByteOffTheDisk) {
  const bool reopen = GetParam();
  const Markers markers;
  const DocumentShape shape{.layers = 3, .chunks = 100, .head_dim = 32};
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  const auto reopened = [&] {
    if (!reopen) return;
    ASSERT_OK(store->Close());
    store = OpenOrFail({dir.Path()});
  };
  ASSERT_OK(PutDocument(*store, "c", "before", 1, shape));
  ASSERT_OK(PutMarked(*store, markers, shape));
  ASSERT_OK(PutDocument(*store, "c", "after", 2, shape));
  reopened();
  EXPECT_TRUE(AnyFileHolds(dir.Path(), markers.text));
  EXPECT_TRUE(AnyFileHolds(dir.Path(), markers.kv));
  ASSERT_OK(PutMarked(*store, markers, shape));  // the first one's bytes must go with the second's
  ASSERT_OK(PutDocument(*store, "c", "last", 3, shape));
  reopened();
  ASSERT_OK(store->Remove("c", {&markers.name, 1}));
  ASSERT_OK(store->Close());
  EXPECT_FALSE(AnyFileHolds(dir.Path(), markers.text));
  EXPECT_FALSE(AnyFileHolds(dir.Path(), markers.kv));
  store = OpenOrFail({dir.Path()});
  EXPECT_FALSE(AnyFileHolds(dir.Path(), markers.name));
  const auto snapshot = store->Snapshot();
  EXPECT_EQ(NamesIn(*snapshot, "c"), (std::vector<std::string>{"after", "before", "last"}));
  const auto documents = snapshot->Documents("c");
  ExpectWhole(*snapshot, (*documents)[0], 2, shape);
  ExpectWhole(*snapshot, (*documents)[1], 1, shape);
  ExpectWhole(*snapshot, (*documents)[2], 3, shape);
  ExpectClean(*store, 3);
}

INSTANTIATE_TEST_SUITE_P(FreshAndReopened, RemoveTest, testing::Bool());

// Blob files shared by several tables: rewriting the tables of the removed document alone would leave its bytes in a
// file that the others keep alive.
TEST(Store, RemovalReachesBlobFilesThatOtherTablesShare) {
  const Markers markers;
  const DocumentShape blobs{.chunks = 100};                // gist KV of 4 KiB and more
  const DocumentShape tables{.layers = 40, .chunks = 20};  // less: 118 KB of table
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  ASSERT_OK(PutMarked(*store, markers, blobs));
  for (int i = 0; i < 28; ++i) ASSERT_OK(PutDocument(*store, "c", "filler " + std::to_string(i), i, tables));
  ASSERT_OK(PutDocument(*store, "c", "last", 1, blobs));
  const std::string middle = "filler 14";
  ASSERT_OK(store->Remove("c", {&middle, 1}));  // compacts into several tables and one blob file
  EXPECT_TRUE(AnyFileHolds(dir.Path(), markers.kv));
  ASSERT_OK(store->Remove("c", {&markers.name, 1}));
  ASSERT_OK(store->Close());
  EXPECT_FALSE(AnyFileHolds(dir.Path(), markers.kv));
  EXPECT_FALSE(AnyFileHolds(dir.Path(), markers.text));
}

// A snapshot from before holds the bytes; they go when it has gone and the store is closed.
TEST(Store, RemovalHeldUpByASnapshotIsMadeUpFor) {
  const Markers markers;
  const DocumentShape shape{.chunks = 100};
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  ASSERT_OK(PutMarked(*store, markers, shape));
  auto snapshot = store->Snapshot();
  ASSERT_OK(store->Remove("c", {&markers.name, 1}));
  EXPECT_TRUE(AnyFileHolds(dir.Path(), markers.kv)) << "the snapshot may still read it";
  EXPECT_TRUE(snapshot->Read({RecordKind::kRaw, snapshot->Documents("c")->front().id, 0, 1, 0}).ok());
  snapshot.reset();
  ASSERT_OK(store->Close());
  EXPECT_FALSE(AnyFileHolds(dir.Path(), markers.text));
  EXPECT_FALSE(AnyFileHolds(dir.Path(), markers.kv));
}

TEST(Store, AStrangersDatabaseIsIncompatible) {
  TempDir dir;
  {
    rocksdb::Options options;
    options.create_if_missing = true;
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(options, dir.Path(), &db).ok());
    rocksdb::ColumnFamilyHandle* column = nullptr;
    ASSERT_TRUE(db->CreateColumnFamily({}, "theirs", &column).ok());
    ASSERT_TRUE(db->Put({}, "key", "value").ok());
    ASSERT_TRUE(db->DestroyColumnFamilyHandle(column).ok());
    delete db;
  }
  const Status writer = OpenRocksDbStore({dir.Path()}).status();
  EXPECT_EQ(writer.code(), StatusCode::kIncompatible) << writer.ToString();
  EXPECT_NE(writer.message().find("theirs"), std::string::npos) << writer.message();
  EXPECT_FALSE(OpenRocksDbStore({dir.Path(), StoreAccess::kReadOnly}).ok());
}

TEST(Store, UnknownFormatVersionIsIncompatible) {
  TempDir dir;
  { ASSERT_OK(PutDocument(*OpenOrFail({dir.Path()}), "c", "a", 1)); }
  auto store = OpenOrFail({dir.Path()});
  const CollectionId collection = *store->EnsureCollection("c");
  const DocumentId id = *store->AllocateDocument();
  TestDocument document = MakeDocument(id, "b", 1);
  document.records.back().value[4] = 9;  // the version's low byte
  ASSERT_OK(store->Write(document.records));
  const Publication publication{collection, id, document.record};
  ASSERT_OK(store->Publish({&publication, 1}));
  EXPECT_EQ(store->Snapshot()->Read(document.records.back().key).status().code(), StatusCode::kIncompatible);
  const auto report = store->Verify({});
  ASSERT_EQ(report->findings.size(), 1U) << Describe(*report);
  EXPECT_NE(report->findings[0].what.find("format version 9"), std::string::npos);
}

}  // namespace
}  // namespace unfold
