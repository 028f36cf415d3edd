// SPDX-License-Identifier: Apache-2.0
// The power goes at the n-th change of the disk, for every n of a small ingest with replacements, a removal and a
// reopening; what was not synced is lost, in part or as garbage. Afterwards every acknowledged document is there and
// whole, and nothing else is, except that the last step, if it was not acknowledged, may have happened as a whole.
//
// By default every fourth n runs once; UNFOLD_CRASH_FULL=1 runs every n, each with four ways to lose what was not
// synced.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <map>

#include "tests/crash/crash_file_system.h"
#include "tests/unit/store_fixture.h"

namespace unfold {
namespace {

constexpr DocumentShape kShape{.chunks = 34};  // blocks of raw KV above and below the size of a blob

using Model = std::map<std::string, std::uint64_t>;  // name -> seed of what is published

struct Progress {
  Model acknowledged;
  Model possible;  // with the step that was under way
  std::string fingerprint;
  bool fingerprint_tried = false;
  std::uint64_t last_id = 0;  // the largest that was given out
};

// The ingest, up to the first failure. `progress` says what was acknowledged.
class Ingest {
 public:
  Ingest(const RocksDbStoreOptions& options, Progress* progress) : options_(options), progress_(progress) {}

  Status Run() {
    UNFOLD_TRY(Open());
    progress_->fingerprint_tried = true;
    UNFOLD_TRY(store_->SetFingerprint("{}"));
    progress_->fingerprint = "{}";
    UNFOLD_TRY(Put("a", 1));
    UNFOLD_TRY(Put("b", 2));
    UNFOLD_TRY(Put("a", 3));  // replaces
    UNFOLD_TRY(store_->Close());
    UNFOLD_TRY(Open());
    UNFOLD_TRY(Put("c", 4));
    UNFOLD_TRY(Abandon());
    UNFOLD_TRY(Remove("b"));
    UNFOLD_TRY(Put("d", 5));
    return store_->Close();
  }

 private:
  Status Open() {
    store_.reset();
    UNFOLD_TRY_ASSIGN(store_, OpenRocksDbStore(options_));
    return Status::Ok();
  }

  Status Acknowledge() {
    progress_->acknowledged = progress_->possible;
    return Status::Ok();
  }

  Result<DocumentId> WriteRecords(const std::string& name, std::uint64_t seed) {
    UNFOLD_TRY_ASSIGN(const DocumentId id, store_->AllocateDocument());
    progress_->last_id = id.value;
    const TestDocument document = MakeDocument(id, name, seed, kShape);
    const std::span<const StoreRecord> records(document.records);
    UNFOLD_TRY(store_->Write(records.first(records.size() / 2)));
    UNFOLD_TRY(store_->Write(records.subspan(records.size() / 2)));
    return id;
  }

  Status Put(const std::string& name, std::uint64_t seed) {
    UNFOLD_TRY_ASSIGN(const CollectionId collection, store_->EnsureCollection("c"));
    UNFOLD_TRY_ASSIGN(const DocumentId id, WriteRecords(name, seed));
    progress_->possible[name] = seed;
    const Publication publication{collection, id, MakeDocument(id, name, seed, kShape).record};
    UNFOLD_TRY(store_->Publish({&publication, 1}));
    return Acknowledge();
  }

  Status Abandon() { return WriteRecords("never published", 6).status(); }

  Status Remove(const std::string& name) {
    progress_->possible.erase(name);
    UNFOLD_TRY(store_->Remove("c", {&name, 1}));
    return Acknowledge();
  }

  RocksDbStoreOptions options_;
  Progress* progress_;
  std::unique_ptr<Store> store_;
};

Model PublishedIn(const Store& store) {
  Model model;
  const auto snapshot = store.Snapshot();
  const auto documents = snapshot->Documents("c");
  if (!documents.ok()) {
    EXPECT_EQ(documents.status().code(), StatusCode::kNotFound) << documents.status().ToString();
    return model;
  }
  for (const PublishedDocument& document : *documents) {
    const std::uint64_t seed = document.record.content_hash[0];
    model[document.record.name] = seed;
    ExpectWhole(*snapshot, document, seed, kShape);
  }
  return model;
}

void ExpectAcknowledged(const Store& store, const Progress& progress, bool may_hold_orphans) {
  const Model published = PublishedIn(store);
  EXPECT_TRUE(published == progress.acknowledged || published == progress.possible)
      << published.size() << " documents; acknowledged " << progress.acknowledged.size();
  const auto report = store.Verify({});
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_TRUE(report->clean()) << Describe(*report);
  if (!may_hold_orphans) {
    EXPECT_EQ(report->num_orphans, 0U);
  }
  const auto fingerprint = store.Fingerprint();
  ASSERT_TRUE(fingerprint.ok());
  EXPECT_TRUE(*fingerprint == progress.fingerprint || (progress.fingerprint_tried && *fingerprint == "{}"));
}

void ExpectRecovered(const std::string& path, const Progress& progress) {
  {
    const auto reader = OpenRocksDbStore({path, StoreAccess::kReadOnly});
    if (reader.ok()) {
      ExpectAcknowledged(**reader, progress, /*may_hold_orphans=*/true);
    } else {
      EXPECT_EQ(reader.status().code(), StatusCode::kNotFound) << reader.status().ToString();
      EXPECT_TRUE(progress.acknowledged.empty() && progress.fingerprint.empty());
    }
  }
  auto store = OpenOrFail({path});
  ASSERT_NE(store, nullptr);
  ExpectAcknowledged(*store, progress, /*may_hold_orphans=*/false);
  EXPECT_GT(store->AllocateDocument()->value, progress.last_id) << "an id was given out twice";
  const Model before = PublishedIn(*store);
  ASSERT_OK(PutDocument(*store, "c", "after", 7, kShape));
  ASSERT_OK(store->Close());
  store = OpenOrFail({path});
  Model expected = before;
  expected["after"] = 7;
  EXPECT_EQ(PublishedIn(*store), expected);
}

struct Outcome {
  Progress progress;
  std::uint64_t num_operations = 0;
  bool finished = false;
};

Outcome RunAndCrash(std::uint64_t crash_at, std::uint64_t seed,
                    const std::function<void(const std::string&, const Outcome&)>& check) {
  TempDir dir;
  std::filesystem::create_directory(dir.Path("graveyard"));
  const auto files = std::make_shared<CrashFileSystem>(dir.Path("graveyard"));
  files->CrashAt(crash_at);
  Outcome run;
  {
    Ingest ingest({dir.Path(), StoreAccess::kReadWrite, files}, &run.progress);
    const Status status = ingest.Run();
    run.finished = status.ok();
    EXPECT_TRUE(status.ok() || files->crashed()) << status.ToString();
  }
  run.num_operations = files->num_operations();
  std::mt19937_64 random(seed);
  files->LosePower(random);
  check(dir.Path(), run);
  return run;
}

// What one process did of all crashes.
struct Share {
  std::uint64_t num_operations = 0;
  std::uint64_t num_crashes = 0;
  std::uint64_t acknowledged = 0;  // bit i: some crash found i documents acknowledged
  std::uint64_t failed = 0;
};

Share CrashAtShare(std::uint64_t first, std::uint64_t step, std::uint64_t variants) {
  Share share;
  share.num_operations = RunAndCrash(UINT64_MAX, 1, [](const std::string&, const Outcome&) {}).num_operations;
  for (std::uint64_t n = first; n <= share.num_operations && !testing::Test::HasFailure(); n += step) {
    for (std::uint64_t variant = 0; variant < variants; ++variant) {
      SCOPED_TRACE("power gone at operation " + std::to_string(n) + " of " + std::to_string(share.num_operations) +
                   ", variant " + std::to_string(variant));
      RunAndCrash(n, n * 31 + variant, [&](const std::string& path, const Outcome& outcome) {
        share.acknowledged |= std::uint64_t{1} << outcome.progress.acknowledged.size();
        ExpectRecovered(path, outcome.progress);
      });
      ++share.num_crashes;
    }
  }
  share.failed = testing::Test::HasFailure() ? 1 : 0;
  return share;
}

// In several processes, because RocksDB sleeps for a second after each flush that failed. Must come first: a process
// that RocksDB has given threads cannot fork.
TEST(PowerLoss, AtEveryOperation) {
  const char* full = std::getenv("UNFOLD_CRASH_FULL");
  const bool every = full != nullptr && std::string(full) == "1";
  constexpr std::uint64_t kProcesses = 16;
  const std::uint64_t stride = every ? 1 : 4;
  const std::uint64_t variants = every ? 4 : 1;
  int channel[2];
  ASSERT_EQ(pipe(channel), 0);
  for (std::uint64_t p = 0; p < kProcesses; ++p) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child != 0) continue;
    const Share share = CrashAtShare(1 + p * stride, kProcesses * stride, variants);
    std::fflush(stdout);
    _exit(write(channel[1], &share, sizeof(share)) == sizeof(share) ? 0 : 1);
  }
  close(channel[1]);
  Share all;
  std::uint64_t num_reports = 0;
  for (Share share; read(channel[0], &share, sizeof(share)) == sizeof(share); ++num_reports) {
    all.num_operations = std::max(all.num_operations, share.num_operations);
    all.num_crashes += share.num_crashes;
    all.acknowledged |= share.acknowledged;
    all.failed += share.failed;
  }
  while (wait(nullptr) > 0) continue;
  EXPECT_EQ(num_reports, kProcesses) << "a process ended early";
  EXPECT_EQ(all.failed, 0U) << "the failures are above";
  EXPECT_GE(all.num_crashes, (all.num_operations - kProcesses) / stride * variants);
  EXPECT_EQ(all.acknowledged, 0b1111U) << "crashes fell between all steps";
  std::printf("%d operations, %d crashes\n", static_cast<int>(all.num_operations), static_cast<int>(all.num_crashes));
}

TEST(PowerLoss, AfterTheLastOperationNothingIsLost) {
  const Outcome run = RunAndCrash(UINT64_MAX, 1, [](const std::string& path, const Outcome& done) {
    EXPECT_TRUE(done.finished);
    EXPECT_EQ(done.progress.acknowledged, (Model{{"a", 3}, {"c", 4}, {"d", 5}}));
    EXPECT_TRUE(std::filesystem::exists(path + "/CLEAN")) << "closed, synced: not even CLEAN is lost";
    ExpectRecovered(path, done.progress);
  });
  EXPECT_GT(run.num_operations, 100U);
}

}  // namespace
}  // namespace unfold
