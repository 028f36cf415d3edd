// SPDX-License-Identifier: Apache-2.0
#include "store/rocksdb_snapshot.h"

#include <utility>

namespace unfold {

Result<std::uint64_t> ReadNumber(std::string_view body, int width, const std::string& name) {
  if (body.size() != static_cast<std::size_t>(width)) return Status::Corruption("meta key '" + name + "': malformed");
  return GetLittle(body, width);
}

Result<CollectionIds> ReadCollections(const Database& database, const rocksdb::Snapshot* snapshot) {
  CollectionIds collections;
  UNFOLD_TRY(database.ScanMeta(kCollectionPrefix, snapshot, [&](std::string_view name, std::string_view body) {
    UNFOLD_TRY_ASSIGN(const std::uint64_t id, ReadNumber(body, 4, kCollectionPrefix + std::string(name)));
    collections[std::string(name)] = {static_cast<std::uint32_t>(id)};
    return Status::Ok();
  }));
  return collections;
}

Status ScanDocuments(const Database& database, const rocksdb::Snapshot* snapshot, const CollectionId* collection,
                     const std::function<Status(CollectionId, const PublishedDocument&)>& visit) {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot;
  const std::unique_ptr<rocksdb::Iterator> it(database.db()->NewIterator(options, database.column(Column::kDocs)));
  const std::string prefix = collection == nullptr ? "" : EncodeDocumentKey(*collection, "");
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    UNFOLD_TRY_ASSIGN(auto key, DecodeDocumentKey(it->key().ToStringView()));
    UNFOLD_TRY_ASSIGN(auto value, OpenPublication(it->value().ToStringView(), "document '" + key.second + "'"));
    UNFOLD_TRY(visit(key.first, {value.first, std::move(value.second)}));
  }
  return FromRocksDb(it->status(), "reading the documents of store " + database.path());
}

Result<PublishedDocument> FindDocument(const Database& database, const rocksdb::Snapshot* snapshot,
                                       CollectionId collection, const std::string& name) {
  const std::string where = "document '" + name + "'";
  rocksdb::ReadOptions options;
  options.snapshot = snapshot;
  std::string sealed;
  UNFOLD_TRY(FromRocksDb(
      database.db()->Get(options, database.column(Column::kDocs), EncodeDocumentKey(collection, name), &sealed),
      where));
  UNFOLD_TRY_ASSIGN(auto value, OpenPublication(sealed, where));
  return PublishedDocument{value.first, std::move(value.second)};
}

Result<std::vector<CollectionInfo>> RocksDbSnapshot::Collections() const {
  UNFOLD_TRY_ASSIGN(const CollectionIds ids, ReadCollections(*database_, snapshot_));
  std::vector<CollectionInfo> collections;
  for (const auto& [name, id] : ids) collections.push_back({id, name});
  return collections;
}

Result<bool> RocksDbSnapshot::HasCollection(std::string_view name) const {
  const Result<std::string> body = database_->ReadMeta(kCollectionPrefix + std::string(name), snapshot_);
  if (body.status().code() == StatusCode::kNotFound) return false;
  UNFOLD_TRY(body.status());
  return true;
}

Result<CollectionId> RocksDbSnapshot::IdOf(std::string_view collection) const {
  const std::string key = kCollectionPrefix + std::string(collection);
  const Result<std::string> body = database_->ReadMeta(key, snapshot_);
  if (body.status().code() == StatusCode::kNotFound) {
    UNFOLD_TRY_ASSIGN(const CollectionIds ids, ReadCollections(*database_, snapshot_));
    std::string message = "no collection '" + std::string(collection) + "' in store " + database_->path();
    for (const auto& [name, id] : ids) message += (name == ids.begin()->first ? "; it has '" : "', '") + name;
    return Status::NotFound(message + (ids.empty() ? "; it has none" : "'"));
  }
  UNFOLD_TRY(body.status());
  UNFOLD_TRY_ASSIGN(const std::uint64_t id, ReadNumber(*body, 4, key));
  return CollectionId{static_cast<std::uint32_t>(id)};
}

Result<std::vector<PublishedDocument>> RocksDbSnapshot::Documents(std::string_view collection) const {
  UNFOLD_TRY_ASSIGN(const CollectionId id, IdOf(collection));
  std::vector<PublishedDocument> documents;
  UNFOLD_TRY(ScanDocuments(*database_, snapshot_, &id, [&](CollectionId, const PublishedDocument& document) {
    documents.push_back(document);
    return Status::Ok();
  }));
  return documents;
}

Result<PublishedDocument> RocksDbSnapshot::Find(std::string_view collection, std::string_view name) const {
  UNFOLD_TRY_ASSIGN(const CollectionId id, IdOf(collection));
  return FindDocument(*database_, snapshot_, id, std::string(name));
}

Status RocksDbSnapshot::Check(const RecordKey& key, const rocksdb::Status& status, std::string_view sealed) const {
  if (!status.ok()) return FromRocksDb(status, "reading " + key.ToString());
  return CheckSealed(key.kind, sealed, key.ToString());
}

Result<std::string> RocksDbSnapshot::Read(const RecordKey& key) const {
  std::string sealed;
  const rocksdb::Status status = database_->db()->Get(Options(), database_->column(key.kind), key.Encode(), &sealed);
  UNFOLD_TRY(Check(key, status, sealed));
  return sealed;
}

Result<std::vector<std::string>> RocksDbSnapshot::ReadMany(std::span<const RecordKey> keys) const {
  std::vector<std::string> encoded;
  std::vector<rocksdb::Slice> slices;
  std::vector<rocksdb::ColumnFamilyHandle*> columns;
  encoded.reserve(keys.size());
  for (const RecordKey& key : keys) {
    slices.emplace_back(encoded.emplace_back(key.Encode()));
    columns.push_back(database_->column(key.kind));
  }
  std::vector<rocksdb::PinnableSlice> values(keys.size());
  std::vector<rocksdb::Status> statuses(keys.size());
  if (!keys.empty()) {
    database_->db()->MultiGet(Options(), keys.size(), columns.data(), slices.data(), values.data(), statuses.data());
  }
  std::vector<std::string> sealed;
  sealed.reserve(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    UNFOLD_TRY(Check(keys[i], statuses[i], values[i].ToStringView()));
    sealed.push_back(values[i].ToString());
    values[i].Reset();
  }
  return sealed;
}

}  // namespace unfold
