// SPDX-License-Identifier: Apache-2.0
#include "store/rocksdb_store.h"

#include <algorithm>
#include <map>
#include <set>

#include "store/rocksdb_database.h"
#include "store/rocksdb_snapshot.h"
#include "store/rocksdb_verify.h"

namespace unfold {
namespace {

constexpr const char* kFingerprintKey = "fingerprint";
constexpr const char* kNextDocumentKey = "next_document";
constexpr std::uint64_t kReservedIds = 1024;  // ids taken from the store at a time, so that few of them cost a sync

std::string Little(std::uint64_t value, int width) {
  std::string body;
  PutLittle(&body, value, width);
  return body;
}

// Thread-safe. Ids that were allocated here and neither published nor given up are the only ones that may be written.
class RocksDbStore : public Store {
 public:
  explicit RocksDbStore(std::shared_ptr<Database> database) : database_(std::move(database)) {}
  ~RocksDbStore() override {
    // A failure is kept by the database, which then does not call itself clean.
    if (!closed_) [[maybe_unused]]
      const Status discarded = DiscardOpen();
  }

  // Reads what the store keeps in memory; after a killed writer, clears up what it left.
  Status Start();

  Result<std::string> Fingerprint() const override;
  Status SetFingerprint(std::string_view json) override;
  std::shared_ptr<const StoreSnapshot> Snapshot() const override {
    return std::make_shared<RocksDbSnapshot>(database_);
  }
  Result<CollectionId> EnsureCollection(std::string_view name) override;
  Status RemoveCollection(std::string_view name) override;
  Result<DocumentId> AllocateDocument() override;
  Status Write(std::span<const StoreRecord> records) override;
  Status Publish(std::span<const Publication> publications) override;
  Status Discard(std::span<const DocumentId> documents) override;
  Status Remove(std::string_view collection, std::span<const std::string> names) override;
  Result<VerifyReport> Verify(const std::function<bool(std::uint64_t)>& progress) const override;
  Result<std::uint64_t> DiskBytes() const override;
  Status Close() override;

 private:
  Status SweepOrphans();
  // Gives up what was begun and not published: a store that was closed cleanly holds no orphans.
  Status DiscardOpen();
  Status RequireWritable() const;
  Status RequireOpen(DocumentId document) const;
  Status AddPublication(const Publication& publication, rocksdb::WriteBatch* batch) const;
  Result<CollectionId> IdOf(std::string_view collection) const;
  Status RemoveDocument(CollectionId collection, const PublishedDocument& document, rocksdb::WriteBatch* batch) const;

  const std::shared_ptr<Database> database_;
  mutable std::mutex mutex_;  // also makes Publish and Remove one step each, from looking up to committing
  CollectionIds collections_;
  // Given once by this handle: what still writes to a removed collection must not publish into another.
  std::uint32_t next_collection_ = 1;
  std::uint64_t next_document_ = 1;
  std::uint64_t reserved_end_ = 1;  // ids below this are reserved on disk
  std::set<DocumentId> open_ids_;   // allocated, neither published nor given up
  bool closed_ = false;
};

Status RocksDbStore::Start() {
  UNFOLD_TRY_ASSIGN(collections_, ReadCollections(*database_, nullptr));
  for (const auto& [name, id] : collections_) next_collection_ = std::max(next_collection_, id.value + 1);
  const Result<std::string> reserved = database_->ReadMeta(kNextDocumentKey);
  if (reserved.ok()) {
    UNFOLD_TRY_ASSIGN(reserved_end_, ReadNumber(*reserved, 8, kNextDocumentKey));
  } else if (reserved.status().code() != StatusCode::kNotFound) {
    return reserved.status();
  }
  next_document_ = reserved_end_;  // what the last writer had reserved and not used is lost: ids are never reused
  if (database_->read_only()) return Status::Ok();
  if (!database_->was_clean()) UNFOLD_TRY(SweepOrphans());
  return database_->Purge();  // of a removal that was cut short
}

Status RocksDbStore::SweepOrphans() {
  std::set<DocumentId> published;
  UNFOLD_TRY(ScanDocuments(*database_, nullptr, nullptr, [&](CollectionId, const PublishedDocument& document) {
    published.insert(document.id);
    return Status::Ok();
  }));
  std::set<DocumentId> orphans;
  for (RecordKind kind : kBulkKinds) {
    const std::unique_ptr<rocksdb::Iterator> it(database_->db()->NewIterator({}, database_->column(kind)));
    it->SeekToFirst();
    while (it->Valid()) {
      UNFOLD_TRY_ASSIGN(const RecordKey key, DecodeRecordKey(kind, it->key().ToStringView()));
      if (published.find(key.document) == published.end()) orphans.insert(key.document);
      it->Seek(FirstKeyOf({key.document.value + 1}));
    }
    UNFOLD_TRY(FromRocksDb(it->status(), "looking for unpublished records in store " + database_->path()));
  }
  if (orphans.empty()) return Status::Ok();
  rocksdb::WriteBatch batch;
  for (DocumentId document : orphans) {
    UNFOLD_TRY(database_->DeleteRecords(&batch, document));
    database_->MarkForPurge(&batch, document, Database::Mark::kRetired);
  }
  return database_->Commit(&batch);
}

Status RocksDbStore::RequireWritable() const {
  if (!database_->read_only()) return Status::Ok();
  return Status::Unavailable("store " + database_->path() + " was opened for reading");
}

Status RocksDbStore::RequireOpen(DocumentId document) const {
  if (open_ids_.find(document) != open_ids_.end()) return Status::Ok();
  return Status::InvalidArgument("document " + std::to_string(document.value) +
                                 " is not one that was allocated here and is neither published nor given up");
}

Result<std::string> RocksDbStore::Fingerprint() const {
  const Result<std::string> fingerprint = database_->ReadMeta(kFingerprintKey);
  if (fingerprint.status().code() == StatusCode::kNotFound) return std::string();
  return fingerprint;
}

Status RocksDbStore::SetFingerprint(std::string_view json) {
  UNFOLD_TRY(RequireWritable());
  const std::lock_guard<std::mutex> guard(mutex_);
  UNFOLD_TRY_ASSIGN(const std::string present, Fingerprint());
  if (!present.empty()) return Status::InvalidArgument("store " + database_->path() + " has a fingerprint already");
  if (json.empty()) return Status::InvalidArgument("an empty fingerprint");
  rocksdb::WriteBatch batch;
  database_->PutMeta(&batch, kFingerprintKey, json);
  return database_->Commit(&batch);
}

Result<CollectionId> RocksDbStore::EnsureCollection(std::string_view name) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const auto found = collections_.find(name);
  if (found != collections_.end()) return found->second;
  UNFOLD_TRY(RequireWritable());
  if (name.empty()) return Status::InvalidArgument("a collection needs a name");
  const CollectionId id{next_collection_};
  rocksdb::WriteBatch batch;
  database_->PutMeta(&batch, kCollectionPrefix + std::string(name), Little(id.value, 4));
  UNFOLD_TRY(database_->Commit(&batch));
  collections_.emplace(name, id);
  ++next_collection_;
  return id;
}

Result<DocumentId> RocksDbStore::AllocateDocument() {
  UNFOLD_TRY(RequireWritable());
  const std::lock_guard<std::mutex> guard(mutex_);
  if (next_document_ == reserved_end_) {
    rocksdb::WriteBatch batch;
    database_->PutMeta(&batch, kNextDocumentKey, Little(reserved_end_ + kReservedIds, 8));
    UNFOLD_TRY(database_->Commit(&batch));
    reserved_end_ += kReservedIds;
  }
  const DocumentId id{next_document_++};
  open_ids_.insert(id);
  return id;
}

Status RocksDbStore::Write(std::span<const StoreRecord> records) {
  UNFOLD_TRY(RequireWritable());
  rocksdb::WriteBatch batch;
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    for (const StoreRecord& record : records) UNFOLD_TRY(RequireOpen(record.key.document));
  }
  for (const StoreRecord& record : records) {
    const rocksdb::Status put = batch.Put(database_->column(record.key.kind), record.key.Encode(), record.value);
    UNFOLD_TRY(FromRocksDb(put, "batching " + record.key.ToString()));
  }
  return database_->Write(&batch);
}

Status RocksDbStore::AddPublication(const Publication& publication, rocksdb::WriteBatch* batch) const {
  const std::string& name = publication.record.name;
  if (name.empty()) return Status::InvalidArgument("a document needs a name");
  const auto same_id = [&](const auto& entry) { return entry.second == publication.collection; };
  if (std::none_of(collections_.begin(), collections_.end(), same_id)) {
    return Status::InvalidArgument("document '" + name + "': no collection has the id " +
                                   std::to_string(publication.collection.value));
  }
  UNFOLD_TRY(RequireOpen(publication.document));
  const Result<PublishedDocument> retired = FindDocument(*database_, nullptr, publication.collection, name);
  if (retired.ok()) {
    UNFOLD_TRY(database_->DeleteRecords(batch, retired->id));
    database_->MarkForPurge(batch, retired->id, Database::Mark::kRetired);
  } else if (retired.status().code() != StatusCode::kNotFound) {
    return retired.status();
  }
  const std::string value = SealPublication(publication.document, publication.record);
  return FromRocksDb(
      batch->Put(database_->column(Column::kDocs), EncodeDocumentKey(publication.collection, name), value), name);
}

Status RocksDbStore::Publish(std::span<const Publication> publications) {
  UNFOLD_TRY(RequireWritable());
  const std::lock_guard<std::mutex> guard(mutex_);
  rocksdb::WriteBatch batch;
  std::set<std::pair<CollectionId, std::string>> names;
  std::set<DocumentId> documents;
  for (const Publication& publication : publications) {
    if (!names.emplace(publication.collection, publication.record.name).second ||
        !documents.insert(publication.document).second) {
      return Status::InvalidArgument("document '" + publication.record.name + "' is published twice in one call");
    }
    UNFOLD_TRY(AddPublication(publication, &batch));
  }
  UNFOLD_TRY(database_->Commit(&batch));
  for (DocumentId document : documents) open_ids_.erase(document);
  database_->DeletePending();
  return Status::Ok();
}

Status RocksDbStore::Discard(std::span<const DocumentId> documents) {
  UNFOLD_TRY(RequireWritable());
  const std::lock_guard<std::mutex> guard(mutex_);
  rocksdb::WriteBatch batch;
  for (DocumentId document : documents) {
    UNFOLD_TRY(RequireOpen(document));
    UNFOLD_TRY(database_->DeleteRecords(&batch, document));
    database_->MarkForPurge(&batch, document, Database::Mark::kRemoved);
  }
  UNFOLD_TRY(database_->Write(&batch));  // lost, its records are orphans, which the next opening sweeps
  for (DocumentId document : documents) open_ids_.erase(document);
  return Status::Ok();
}

Status RocksDbStore::DiscardOpen() {
  const std::vector<DocumentId> documents(open_ids_.begin(), open_ids_.end());
  return documents.empty() ? Status::Ok() : Discard(documents);
}

Status RocksDbStore::Close() {
  if (closed_) return Status::Ok();
  if (database_->num_snapshots() == 0) {
    closed_ = true;
    const Status discarded = DiscardOpen();
    const Status closed = database_->Close();
    return discarded.ok() ? closed : discarded;
  }
  return database_->Close();  // says that it cannot
}

Result<CollectionId> RocksDbStore::IdOf(std::string_view collection) const {
  const auto found = collections_.find(collection);
  if (found != collections_.end()) return found->second;
  return Status::NotFound("no collection '" + std::string(collection) + "' in store " + database_->path());
}

Status RocksDbStore::RemoveDocument(CollectionId collection, const PublishedDocument& document,
                                    rocksdb::WriteBatch* batch) const {
  const std::string& name = document.record.name;
  UNFOLD_TRY(FromRocksDb(batch->Delete(database_->column(Column::kDocs), EncodeDocumentKey(collection, name)),
                         "removing " + name));
  UNFOLD_TRY(database_->DeleteRecords(batch, document.id));
  database_->MarkForPurge(batch, document.id, Database::Mark::kRemoved);
  return Status::Ok();
}

Status RocksDbStore::Remove(std::string_view collection, std::span<const std::string> names) {
  UNFOLD_TRY(RequireWritable());
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    UNFOLD_TRY_ASSIGN(const CollectionId id, IdOf(collection));
    rocksdb::WriteBatch batch;
    for (const std::string& name : std::set<std::string>(names.begin(), names.end())) {
      const Result<PublishedDocument> document = FindDocument(*database_, nullptr, id, name);
      if (document.status().code() == StatusCode::kNotFound) {
        return Status::NotFound("no document '" + name + "' in collection '" + std::string(collection) + "'");
      }
      if (!document.ok()) return document.status();
      UNFOLD_TRY(RemoveDocument(id, *document, &batch));
    }
    if (batch.Count() == 0) return Status::Ok();
    UNFOLD_TRY(database_->Commit(&batch));
  }
  return database_->Purge();
}

Status RocksDbStore::RemoveCollection(std::string_view name) {
  UNFOLD_TRY(RequireWritable());
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    UNFOLD_TRY_ASSIGN(const CollectionId id, IdOf(name));
    rocksdb::WriteBatch batch;
    UNFOLD_TRY(ScanDocuments(*database_, nullptr, &id, [&](CollectionId, const PublishedDocument& document) {
      return RemoveDocument(id, document, &batch);
    }));
    UNFOLD_TRY(database_->DeleteMeta(&batch, kCollectionPrefix + std::string(name)));
    UNFOLD_TRY(database_->Commit(&batch));
    collections_.erase(collections_.find(name));
  }
  return database_->Purge();
}

Result<VerifyReport> RocksDbStore::Verify(const std::function<bool(std::uint64_t)>& progress) const {
  const RocksDbSnapshot snapshot(database_);
  return VerifyDatabase(*database_, snapshot.get(), progress);
}

Result<std::uint64_t> RocksDbStore::DiskBytes() const {
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(Column::kCount); ++i) {
    rocksdb::ColumnFamilyMetaData meta;
    database_->db()->GetColumnFamilyMetaData(database_->column(static_cast<Column>(i)), &meta);
    bytes += meta.size + meta.blob_file_size;
  }
  rocksdb::VectorLogPtr logs;
  UNFOLD_TRY(FromRocksDb(database_->db()->GetSortedWalFiles(logs), "listing the logs of store " + database_->path()));
  for (const auto& log : logs) bytes += log->SizeFileBytes();
  return bytes;
}

}  // namespace

Result<std::unique_ptr<Store>> OpenRocksDbStore(const RocksDbStoreOptions& options) {
  UNFOLD_TRY_ASSIGN(std::shared_ptr<Database> database, Database::Open(options));
  auto store = std::make_unique<RocksDbStore>(std::move(database));
  UNFOLD_TRY(store->Start());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace unfold
