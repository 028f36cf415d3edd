// SPDX-License-Identifier: Apache-2.0
// What of a RocksDB store can be looked up, as it is or as a snapshot saw it (`snapshot` null: as it is).
#ifndef UNFOLD_STORE_ROCKSDB_SNAPSHOT_H_
#define UNFOLD_STORE_ROCKSDB_SNAPSHOT_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "store/rocksdb_database.h"
#include "store/store.h"

namespace unfold {

inline constexpr const char* kCollectionPrefix = "collection/";

// The body of a `meta` key, of `width` bytes.
Result<std::uint64_t> ReadNumber(std::string_view body, int width, const std::string& name);

using CollectionIds = std::map<std::string, CollectionId, std::less<>>;
Result<CollectionIds> ReadCollections(const Database& database, const rocksdb::Snapshot* snapshot);
// Calls `visit` with the documents of a collection (with all, when it is null) in order of key.
Status ScanDocuments(const Database& database, const rocksdb::Snapshot* snapshot, const CollectionId* collection,
                     const std::function<Status(CollectionId, const PublishedDocument&)>& visit);
// NotFound when no document of that name is published.
Result<PublishedDocument> FindDocument(const Database& database, const rocksdb::Snapshot* snapshot,
                                       CollectionId collection, const std::string& name);

// Thread-safe. Holds the database open, also past the store it came from.
class RocksDbSnapshot : public StoreSnapshot {
 public:
  explicit RocksDbSnapshot(std::shared_ptr<Database> database)
      : database_(std::move(database)), snapshot_(database_->Acquire()) {}
  ~RocksDbSnapshot() override { database_->Release(snapshot_); }

  const rocksdb::Snapshot* get() const { return snapshot_; }

  Result<std::vector<CollectionInfo>> Collections() const override;
  Result<bool> HasCollection(std::string_view name) const override;
  Result<std::vector<PublishedDocument>> Documents(std::string_view collection) const override;
  Result<PublishedDocument> Find(std::string_view collection, std::string_view name) const override;
  Result<std::string> Read(const RecordKey& key) const override;
  Result<std::vector<std::string>> ReadMany(std::span<const RecordKey> keys) const override;

 private:
  rocksdb::ReadOptions Options() const {
    rocksdb::ReadOptions options;
    options.snapshot = snapshot_;
    return options;
  }
  Status Check(const RecordKey& key, const rocksdb::Status& status, std::string_view sealed) const;
  Result<CollectionId> IdOf(std::string_view collection) const;

  std::shared_ptr<Database> database_;
  const rocksdb::Snapshot* snapshot_;
};

}  // namespace unfold

#endif  // UNFOLD_STORE_ROCKSDB_SNAPSHOT_H_
