// SPDX-License-Identifier: Apache-2.0
// A disk that fills up or fails to sync: the message says so, nothing that was acknowledged is lost, and the store
// works again when the disk does.
#include <gtest/gtest.h>

#include "tests/crash/crash_file_system.h"
#include "tests/unit/store_fixture.h"

namespace unfold {
namespace {

constexpr DocumentShape kShape{.chunks = 34};
constexpr int kDocuments = 4;

struct FaultyDisk {
  FaultyDisk() { std::filesystem::create_directory(dir.Path("graveyard")); }
  RocksDbStoreOptions Options() const { return {dir.Path(), StoreAccess::kReadWrite, files}; }

  TempDir dir;
  std::shared_ptr<CrashFileSystem> files = std::make_shared<CrashFileSystem>(dir.Path("graveyard"));
};

// Publishes documents until one fails; the number that was acknowledged.
int PutAll(Store& store, Status* status) {
  for (int i = 0; i < kDocuments; ++i) {
    *status = PutDocument(store, "c", std::to_string(i), i, kShape);
    if (!status->ok()) return i;
  }
  return kDocuments;
}

void ExpectDocuments(const Store& store, int acknowledged) {
  const auto snapshot = store.Snapshot();
  const auto documents = snapshot->Documents("c");
  const std::size_t found = documents.ok() ? documents->size() : 0;
  // The one whose publication failed may be there too, whole.
  ASSERT_GE(found, static_cast<std::size_t>(acknowledged));
  ASSERT_LE(found, static_cast<std::size_t>(acknowledged) + 1);
  for (std::size_t i = 0; i < found; ++i) ExpectWhole(*snapshot, (*documents)[i], i, kShape);
}

void ExpectHealthyAgain(const std::string& path, int acknowledged) {
  auto store = OpenOrFail({path});
  ASSERT_NE(store, nullptr);
  ExpectDocuments(*store, acknowledged);
  const auto report = store->Verify({});
  EXPECT_TRUE(report.ok() && report->clean()) << Describe(*report);
  EXPECT_EQ(report->num_orphans, 0U);
  Status status;
  EXPECT_EQ(PutAll(*store, &status), kDocuments) << status.ToString();
  ASSERT_OK(store->Close());
  store = OpenOrFail({path});
  ExpectDocuments(*store, kDocuments);
}

std::uint64_t BytesOfWholeIngest() {
  FaultyDisk disk;
  auto store = OpenOrFail(disk.Options());
  Status status;
  EXPECT_EQ(PutAll(*store, &status), kDocuments) << status.ToString();
  EXPECT_OK(store->Close());
  return disk.files->bytes_written();
}

TEST(DiskFull, AtAnyByteNothingAcknowledgedIsLost) {
  const std::uint64_t total = BytesOfWholeIngest();
  int failures = 0;
  for (std::uint64_t space = 0; space < total; space += total / 19) {
    SCOPED_TRACE("space for " + std::to_string(space) + " of " + std::to_string(total) + " bytes");
    FaultyDisk disk;
    disk.files->LimitBytes(space);
    int acknowledged = 0;
    {
      auto store = OpenRocksDbStore(disk.Options());
      Status status = store.status();
      if (store.ok()) {
        acknowledged = PutAll(**store, &status);
        ExpectDocuments(**store, acknowledged);  // still readable
        if (!status.ok()) {
          const Status again = (*store)->AllocateDocument().status();
          const Status write = PutDocument(**store, "other", "x", 1, kShape);
          EXPECT_FALSE(write.ok()) << "a store that could not write stays closed for writing";
          EXPECT_TRUE(again.ok() || again.code() == StatusCode::kResourceExhausted) << again.ToString();
        }
        const Status closed = (*store)->Close();
        if (status.ok()) status = closed;
        EXPECT_FALSE(closed.ok());
        EXPECT_FALSE(std::filesystem::exists(disk.dir.Path("store/CLEAN")));
      }
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
      EXPECT_EQ(status.message().find("disk full: "), 0U) << status.message();
      ++failures;
    }
    ExpectHealthyAgain(disk.dir.Path(), acknowledged);
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(failures, 15);
}

TEST(FailedSync, EndsWritingUntilTheStoreIsOpenedAgain) {
  int failed_in_publish = 0;
  for (std::uint64_t syncs = 0; syncs < 16; ++syncs) {
    SCOPED_TRACE("sync number " + std::to_string(syncs + 1) + " fails");
    FaultyDisk disk;
    auto store = OpenOrFail(disk.Options());
    ASSERT_NE(store, nullptr);
    disk.files->FailSyncAfter(syncs);
    Status status;
    const int acknowledged = PutAll(*store, &status);
    if (!status.ok()) {
      ++failed_in_publish;
      EXPECT_EQ(status.code(), StatusCode::kIo) << status.ToString();
      EXPECT_FALSE(PutDocument(*store, "c", "next", 1, kShape).ok())
          << "the disk is well again, the log is not known to be";
      EXPECT_FALSE(store->Close().ok());
    }
    store.reset();
    ExpectHealthyAgain(disk.dir.Path(), acknowledged);
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(failed_in_publish, 5);
}

}  // namespace
}  // namespace unfold
