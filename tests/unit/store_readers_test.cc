// SPDX-License-Identifier: Apache-2.0
// Readers beside a writer: what they saw at opening stays readable, whatever the writer deletes.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tests/unit/store_fixture.h"

namespace unfold {
namespace {

constexpr DocumentShape kShape{.layers = 3, .chunks = 70, .head_dim = 32};

std::string Name(int i) { return "document " + std::to_string(100 + i); }

// Documents 0..count-1, each with its number as the seed.
void ExpectDocuments(const Store& store, int count) {
  const auto snapshot = store.Snapshot();
  const auto documents = snapshot->Documents("c");
  ASSERT_TRUE(documents.ok()) << documents.status().ToString();
  ASSERT_EQ(documents->size(), static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    ASSERT_EQ((*documents)[i].record.name, Name(i));
    ExpectWhole(*snapshot, (*documents)[i], static_cast<std::uint64_t>(i), kShape);
  }
}

std::uint64_t DataBytes(const std::string& directory) {
  std::uint64_t bytes = 0;
  for (const std::string& name : FilesOf(directory)) bytes += std::filesystem::file_size(directory + "/" + name);
  return bytes;
}

// Two readers: one opened on a closed store, one beside the writer, whose last documents stand in the log alone.
TEST(StoreReaders, KeepWhatTheySawWhileTheWriterRemovesAllOfIt) {
  TempDir dir;
  {
    auto writer = OpenOrFail({dir.Path()});
    for (int i = 0; i < 3; ++i) ASSERT_OK(PutDocument(*writer, "c", Name(i), i, kShape));
    ASSERT_OK(writer->Close());
  }
  auto first_reader = OpenOrFail({dir.Path(), StoreAccess::kReadOnly});
  auto writer = OpenOrFail({dir.Path()});
  ASSERT_NE(writer, nullptr);
  for (int i = 3; i < 6; ++i) ASSERT_OK(PutDocument(*writer, "c", Name(i), i, kShape));
  auto second_reader = OpenOrFail({dir.Path(), StoreAccess::kReadOnly});
  ASSERT_NE(second_reader, nullptr);
  for (int i = 0; i < 6; ++i) ASSERT_OK(PutDocument(*writer, "c", Name(i), 50 + i, kShape));  // replaces each
  std::vector<std::string> names;
  for (int i = 0; i < 6; ++i) names.push_back(Name(i));
  ASSERT_OK(writer->Remove("c", names));  // compacts: every file from before is obsolete
  ASSERT_OK(writer->Close());
  {
    auto other_writer = OpenOrFail({dir.Path()});  // an opening cleans up as well
    ASSERT_OK(PutDocument(*other_writer, "c", "new", 1, kShape));
    ASSERT_OK(other_writer->Close());
  }
  ExpectDocuments(*first_reader, 3);
  ExpectDocuments(*second_reader, 6);
  ExpectClean(*first_reader, 3);
  ExpectClean(*second_reader, 6);
  auto late_reader = OpenOrFail({dir.Path(), StoreAccess::kReadOnly});
  EXPECT_EQ(NamesIn(*late_reader->Snapshot(), "c"), std::vector<std::string>{"new"});

  const std::uint64_t held = DataBytes(dir.Path());
  first_reader.reset();
  second_reader.reset();
  late_reader.reset();
  { ASSERT_OK(OpenOrFail({dir.Path()})->Close()); }
  EXPECT_LT(DataBytes(dir.Path()), held / 2) << "what readers held goes when they have gone";
}

TEST(StoreReaders, TheWriterDeletesAsSoonAsTheLastReaderHasGone) {
  TempDir dir;
  auto writer = OpenOrFail({dir.Path()});
  ASSERT_OK(PutDocument(*writer, "c", "a", 1, kShape));
  ASSERT_OK(PutDocument(*writer, "c", "b", 2, {.chunks = 1}));
  auto reader = OpenOrFail({dir.Path(), StoreAccess::kReadOnly});
  const std::string name = "a";
  ASSERT_OK(writer->Remove("c", {&name, 1}));
  const std::uint64_t held = DataBytes(dir.Path());
  reader.reset();
  ASSERT_OK(PutDocument(*writer, "c", "b", 3, {.chunks = 1}));
  EXPECT_LT(DataBytes(dir.Path()), held / 2);
}

TEST(StoreReaders, NeedNoRightToWrite) {
  TempDir dir;
  {
    auto writer = OpenOrFail({dir.Path()});
    ASSERT_OK(PutDocument(*writer, "c", Name(0), 0, kShape));
    ASSERT_OK(writer->Close());
  }
  for (const std::string& name : FilesOf(dir.Path())) chmod(dir.Path("store/" + name).c_str(), 0444);
  chmod(dir.Path().c_str(), 0555);
  // The superuser may write anyway; then the test shows that files without the right are no hindrance.
  auto reader = OpenOrFail({dir.Path(), StoreAccess::kReadOnly});
  if (reader != nullptr) ExpectDocuments(*reader, 1);
  if (geteuid() != 0) {
    const auto writer = OpenRocksDbStore({dir.Path()});
    EXPECT_EQ(writer.status().code(), StatusCode::kIo) << writer.status().ToString();
  }
  chmod(dir.Path().c_str(), 0755);
}

// Readers that open again and again while a writer publishes, replaces and removes: each sees at least what was
// acknowledged before it opened, and every document it sees is whole.
TEST(StoreReaders, OpenAtAnyMomentOfAWriter) {
  TempDir dir;
  auto writer = OpenOrFail({dir.Path()});
  ASSERT_OK(PutDocument(*writer, "c", Name(0), 0, kShape));
  constexpr int kDocuments = 40;
  std::atomic<int> acknowledged{1};
  std::atomic<bool> done{false};
  std::thread writing([&] {
    for (int i = 1; i < kDocuments; ++i) {
      EXPECT_OK(PutDocument(*writer, "c", Name(i), i, kShape));
      acknowledged = i + 1;
      EXPECT_OK(PutDocument(*writer, "other", "always the same", i, kShape));
      const std::string same = "always the same";
      if (i % 5 == 0) {
        EXPECT_OK(writer->Remove("other", {&same, 1}));
      }
    }
    done = true;
  });
  std::thread snapshots([&] {  // on the writer's own handle
    while (!done) {
      const int least = acknowledged;
      const auto snapshot = writer->Snapshot();
      const auto documents = snapshot->Documents("c");
      EXPECT_GE(documents->size(), static_cast<std::size_t>(least));
      const std::size_t last = documents->size() - 1;
      ExpectWhole(*snapshot, (*documents)[last], last, kShape);
    }
  });
  int rounds = 0;
  while (!done || rounds == 0) {
    const int least = acknowledged;
    auto reader = OpenOrFail({dir.Path(), StoreAccess::kReadOnly});
    if (reader == nullptr) break;
    const std::size_t seen = NamesIn(*reader->Snapshot(), "c").size();
    EXPECT_GE(seen, static_cast<std::size_t>(least));
    ExpectDocuments(*reader, static_cast<int>(seen));
    const auto report = reader->Verify({});
    EXPECT_TRUE(report.ok() && report->clean()) << Describe(*report);
    if (testing::Test::HasFailure()) break;
    ++rounds;
  }
  writing.join();
  snapshots.join();
  RecordProperty("readers_opened", rounds);
  ASSERT_OK(writer->Close());
  ExpectDocuments(*OpenOrFail({dir.Path(), StoreAccess::kReadOnly}), kDocuments);
}

TEST(StoreReaders, ManyThreadsPublishAtOnce) {
  TempDir dir;
  auto store = OpenOrFail({dir.Path()});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t; i < 40; i += 4) EXPECT_OK(PutDocument(*store, "c", Name(i), i, kShape));
    });
  }
  for (std::thread& thread : threads) thread.join();
  ExpectDocuments(*store, 40);
  ExpectClean(*store, 40);
}

}  // namespace
}  // namespace unfold
