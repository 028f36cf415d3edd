// SPDX-License-Identifier: Apache-2.0
// The store on RocksDB does what the store in memory does, for random operations with reopenings between them.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/unit/store_fixture.h"

namespace unfold {
namespace {

// One document being written, in both stores.
struct Draft {
  DocumentId on_disk;
  DocumentId in_memory;
  std::string name;
  std::uint64_t seed;
};

struct SnapshotPair {
  std::shared_ptr<const StoreSnapshot> on_disk;
  std::shared_ptr<const StoreSnapshot> in_memory;
};

class Twins {
 public:
  explicit Twins(std::uint64_t seed) : random_(seed) { disk_ = OpenOrFail({dir_.Path()}); }

  void Step();
  void CompareSnapshots(const SnapshotPair& pair);
  SnapshotPair TakeSnapshots() const { return {disk_->Snapshot(), memory_->Snapshot()}; }
  void CompareReports();

 private:
  static constexpr int kCollections = 2;

  std::uint64_t Random(std::uint64_t below) { return random_() % below; }
  std::string RandomName() { return "name " + std::to_string(Random(6)); }
  std::string RandomCollection() { return "collection " + std::to_string(Random(kCollections)); }
  DocumentShape ShapeOf(std::uint64_t seed) const {
    return {.parts = static_cast<std::uint32_t>(1 + seed % 2), .chunks = static_cast<std::uint32_t>(1 + seed % 50)};
  }
  // Both stores must answer alike.
  void ExpectSame(const Status& on_disk, const Status& in_memory) {
    EXPECT_EQ(on_disk.code(), in_memory.code()) << on_disk.ToString() << " / " << in_memory.ToString();
  }
  void Begin();
  void PublishSome();
  void DiscardOne();
  void RemoveSome();
  void Reopen();

  TempDir dir_;
  std::mt19937_64 random_;
  std::unique_ptr<Store> disk_;
  std::unique_ptr<Store> memory_ = MakeMemoryStore();
  std::vector<Draft> drafts_;
  std::vector<SnapshotPair> snapshots_;
  std::map<std::uint64_t, std::uint64_t> memory_id_;  // of published and drafted documents, by id on disk
  std::uint64_t next_seed_ = 1;
};

void Twins::Begin() {
  Draft draft{*disk_->AllocateDocument(), *memory_->AllocateDocument(), RandomName(), next_seed_++};
  const TestDocument on_disk = MakeDocument(draft.on_disk, draft.name, draft.seed, ShapeOf(draft.seed));
  const TestDocument in_memory = MakeDocument(draft.in_memory, draft.name, draft.seed, ShapeOf(draft.seed));
  ExpectSame(disk_->Write(on_disk.records), memory_->Write(in_memory.records));
  ASSERT_TRUE(memory_id_.emplace(draft.on_disk.value, draft.in_memory.value).second) << "an id was used twice";
  drafts_.push_back(draft);
}

void Twins::PublishSome() {
  const std::string collection = RandomCollection();
  const auto on_disk_id = disk_->EnsureCollection(collection);
  const auto in_memory_id = memory_->EnsureCollection(collection);
  std::vector<Publication> on_disk;
  std::vector<Publication> in_memory;
  std::shuffle(drafts_.begin(), drafts_.end(), random_);
  const std::size_t count = std::min<std::size_t>(1 + Random(3), drafts_.size());
  for (std::size_t i = 0; i < count; ++i) {
    const Draft& draft = drafts_[i];
    const DocumentRecord record = MakeDocument(draft.on_disk, draft.name, draft.seed, ShapeOf(draft.seed)).record;
    on_disk.push_back({*on_disk_id, draft.on_disk, record});
    in_memory.push_back({*in_memory_id, draft.in_memory, record});
  }
  const Status status = disk_->Publish(on_disk);
  ExpectSame(status, memory_->Publish(in_memory));  // InvalidArgument when two of them have one name
  if (status.ok()) drafts_.erase(drafts_.begin(), drafts_.begin() + static_cast<std::ptrdiff_t>(count));
}

void Twins::DiscardOne() {
  if (drafts_.empty()) return;
  const Draft draft = drafts_.back();
  drafts_.pop_back();
  ExpectSame(disk_->Discard({&draft.on_disk, 1}), memory_->Discard({&draft.in_memory, 1}));
}

void Twins::RemoveSome() {
  const std::string collection = RandomCollection();
  if (Random(6) == 0) return ExpectSame(disk_->RemoveCollection(collection), memory_->RemoveCollection(collection));
  std::vector<std::string> names = {RandomName()};
  if (Random(2) == 0) names.push_back(RandomName());
  ExpectSame(disk_->Remove(collection, names), memory_->Remove(collection, names));
}

void Twins::Reopen() {
  for (const SnapshotPair& pair : snapshots_) CompareSnapshots(pair);
  snapshots_.clear();
  if (Random(2) == 0) {
    ASSERT_OK(disk_->Close());
  }
  disk_.reset();
  disk_ = OpenOrFail({dir_.Path()});
  for (const Draft& draft : drafts_) {  // what was not published is lost with the writer
    EXPECT_EQ(disk_->Discard({&draft.on_disk, 1}).code(), StatusCode::kInvalidArgument);
    ASSERT_OK(memory_->Discard({&draft.in_memory, 1}));
  }
  drafts_.clear();
}

void Twins::Step() {
  switch (Random(16)) {
    case 0: return Reopen();
    case 1: return DiscardOne();
    case 2:
    case 3: return RemoveSome();
    case 4: return snapshots_.push_back(TakeSnapshots());
    case 5:
      if (!snapshots_.empty()) {
        CompareSnapshots(snapshots_.front());
        snapshots_.erase(snapshots_.begin());
      }
      return;
    case 6:
    case 7:
    case 8:
    case 9: return PublishSome();
    default: return Begin();
  }
}

void Twins::CompareSnapshots(const SnapshotPair& pair) {
  const auto on_disk = pair.on_disk->Collections();
  const auto in_memory = pair.in_memory->Collections();
  ASSERT_TRUE(on_disk.ok() && in_memory.ok());
  ASSERT_EQ(on_disk->size(), in_memory->size());
  for (std::size_t c = 0; c < on_disk->size(); ++c) {
    EXPECT_EQ((*on_disk)[c].name, (*in_memory)[c].name);
    EXPECT_TRUE(*pair.on_disk->HasCollection((*on_disk)[c].name) && *pair.in_memory->HasCollection((*on_disk)[c].name));
    const auto disk_documents = pair.on_disk->Documents((*on_disk)[c].name);
    const auto memory_documents = pair.in_memory->Documents((*on_disk)[c].name);
    ASSERT_TRUE(disk_documents.ok() && memory_documents.ok());
    ASSERT_EQ(disk_documents->size(), memory_documents->size());
    for (std::size_t d = 0; d < disk_documents->size(); ++d) {
      const PublishedDocument& document = (*disk_documents)[d];
      EXPECT_EQ(document.record, (*memory_documents)[d].record);
      EXPECT_EQ(pair.on_disk->Find((*on_disk)[c].name, document.record.name)->id, document.id);
      ASSERT_EQ(memory_id_.at(document.id.value), (*memory_documents)[d].id.value);
      const std::uint64_t seed = document.record.content_hash[0];
      ExpectWhole(*pair.on_disk, document, seed, ShapeOf(seed));
      ExpectWhole(*pair.in_memory, (*memory_documents)[d], seed, ShapeOf(seed));
    }
  }
  EXPECT_EQ(pair.on_disk->Documents("nowhere").status().code(), pair.in_memory->Documents("nowhere").status().code());
}

void Twins::CompareReports() {
  const auto on_disk = disk_->Verify({});
  const auto in_memory = memory_->Verify({});
  ASSERT_TRUE(on_disk.ok() && in_memory.ok());
  EXPECT_TRUE(on_disk->clean()) << Describe(*on_disk);
  EXPECT_TRUE(in_memory->clean()) << Describe(*in_memory);
  EXPECT_EQ(on_disk->num_documents, in_memory->num_documents);
  EXPECT_EQ(on_disk->num_orphans, in_memory->num_orphans);
}

TEST(StoreProperty, DiskAndMemoryAgree) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Twins twins(seed);
    for (int step = 0; step < 120; ++step) {
      twins.Step();
      if (step % 20 == 0) twins.CompareSnapshots(twins.TakeSnapshots());
      if (testing::Test::HasFailure()) return;
    }
    twins.CompareSnapshots(twins.TakeSnapshots());
    twins.CompareReports();
  }
}

}  // namespace
}  // namespace unfold
