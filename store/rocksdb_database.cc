// SPDX-License-Identifier: Apache-2.0
#include "store/rocksdb_database.h"

#include "store/rocksdb_options.h"

namespace unfold {
namespace {

constexpr std::string_view kCommitsKey = "commits";
constexpr std::string_view kPurgePrefix = "purge/";

std::string MetaName(std::string_view key) { return "meta key '" + std::string(key) + "'"; }

std::string LittleU64(std::uint64_t value) {
  std::string body;
  PutLittle(&body, value, 8);
  return body;
}

}  // namespace

const rocksdb::Snapshot* Database::Acquire() {
  ++num_snapshots_;
  return read_only_ ? nullptr : db_->GetSnapshot();
}

void Database::Release(const rocksdb::Snapshot* snapshot) {
  if (snapshot != nullptr) db_->ReleaseSnapshot(snapshot);
  --num_snapshots_;
}

Result<std::string> Database::ReadMeta(const std::string& key, const rocksdb::Snapshot* snapshot) const {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot;
  std::string value;
  UNFOLD_TRY(FromRocksDb(db_->Get(options, column(Column::kMeta), key, &value), "reading " + MetaName(key)));
  UNFOLD_TRY_ASSIGN(const std::string_view body, OpenMeta(value, MetaName(key)));
  return std::string(body);
}

void Database::PutMeta(rocksdb::WriteBatch* batch, const std::string& key, std::string_view body) const {
  batch->Put(column(Column::kMeta), key, SealMeta(body));
}

Status Database::DeleteMeta(rocksdb::WriteBatch* batch, const std::string& key) const {
  return FromRocksDb(batch->Delete(column(Column::kMeta), key), "removing " + MetaName(key));
}

Status Database::ScanMeta(const std::string& prefix, const rocksdb::Snapshot* snapshot,
                          const std::function<Status(std::string_view, std::string_view)>& visit) const {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, column(Column::kMeta)));
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    const std::string_view key = it->key().ToStringView();
    UNFOLD_TRY_ASSIGN(const std::string_view body, OpenMeta(it->value().ToStringView(), MetaName(key)));
    UNFOLD_TRY(visit(key.substr(prefix.size()), body));
  }
  return FromRocksDb(it->status(), "reading meta keys");
}

Status Database::DeleteRecords(rocksdb::WriteBatch* batch, DocumentId document) const {
  const std::string begin = FirstKeyOf(document);
  const std::string end = FirstKeyOf({document.value + 1});
  for (RecordKind kind : kBulkKinds) {
    UNFOLD_TRY(FromRocksDb(batch->DeleteRange(column(kind), begin, end), "deleting records"));
  }
  return Status::Ok();
}

Status Database::WriteLocked(rocksdb::WriteBatch* batch, bool sync) {
  if (read_only_) return Status::Unavailable("store " + path_ + " was opened for reading");
  {
    const std::lock_guard<std::mutex> guard(failure_mutex_);
    if (!failure_.ok()) return failure_;
  }
  rocksdb::WriteOptions options;
  options.sync = sync;
  Status status = FromRocksDb(sync ? db_->SyncWAL() : rocksdb::Status::OK(), "syncing the log of store " + path_);
  if (status.ok()) status = FromRocksDb(db_->Write(options, batch), "writing to store " + path_);
  if (!status.ok()) {
    const std::lock_guard<std::mutex> guard(failure_mutex_);
    failure_ = status;
  }
  return status;
}

Status Database::Write(rocksdb::WriteBatch* batch) { return WriteLocked(batch, /*sync=*/false); }

Status Database::Commit(rocksdb::WriteBatch* batch) {
  const std::lock_guard<std::mutex> guard(commit_mutex_);
  PutMeta(batch, std::string(kCommitsKey), LittleU64(last_commit_ + 1));
  UNFOLD_TRY(WriteLocked(batch, /*sync=*/true));
  last_commit_sequence_ = db_->GetLatestSequenceNumber();
  ++last_commit_;
  Status status = commit_log_->Append(last_commit_);
  if (!status.ok()) {
    const std::lock_guard<std::mutex> failure_guard(failure_mutex_);
    failure_ = status;
  }
  return status;
}

void Database::MarkForPurge(rocksdb::WriteBatch* batch, DocumentId document, Mark mark) const {
  std::string key(kPurgePrefix);
  PutBig(&key, document.value, 8);
  PutMeta(batch, key, std::string(1, static_cast<char>(mark)));
}

bool Database::OldSnapshotLives() const {
  std::uint64_t oldest = 0;
  db_->GetIntProperty(rocksdb::DB::Properties::kOldestSnapshotSequence, &oldest);
  return oldest != 0 && oldest < last_commit_sequence_.load();
}

Status Database::Purge() {
  std::vector<DocumentId> documents;
  bool removed = false;
  const auto collect = [&](std::string_view rest, std::string_view body) {
    if (rest.size() != 8 || body.size() != 1) return Status::Corruption(MetaName(kPurgePrefix) + ": malformed");
    documents.push_back({GetBig(rest, 8)});
    removed = removed || body[0] == static_cast<char>(Mark::kRemoved);
    return Status::Ok();
  };
  UNFOLD_TRY(ScanMeta(std::string(kPurgePrefix), nullptr, collect));
  if (!removed) return Status::Ok();
  if (OldSnapshotLives()) return Status::Ok();
  UNFOLD_TRY(Compact(documents));
  rocksdb::WriteBatch batch;
  for (DocumentId document : documents) {
    std::string key(kPurgePrefix);
    PutBig(&key, document.value, 8);
    batch.Delete(column(Column::kMeta), key);
  }
  UNFOLD_TRY(Write(&batch));  // lost, it only makes the next opening do this again
  // Deletes on this thread what background threads have not deleted yet.
  UNFOLD_TRY(FromRocksDb(db_->DisableFileDeletions(), "purging"));
  UNFOLD_TRY(FromRocksDb(db_->EnableFileDeletions(/*force=*/false), "purging"));
  DeletePending();
  return Status::Ok();
}

void Database::DeletePending() {
  if (writer_files_ != nullptr) writer_files_->DeletePending();
}

Status Database::Compact(std::span<const DocumentId> documents) {
  UNFOLD_TRY(Flush());  // also ends the life of the log files that hold the bytes
  constexpr std::size_t kMaxRanges = 32;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;  // half-open, of ids in ascending order
  for (DocumentId document : documents) {
    const bool joins = !ranges.empty() && (ranges.back().second == document.value || ranges.size() == kMaxRanges);
    if (!joins) ranges.emplace_back(document.value, document.value);
    ranges.back().second = document.value + 1;
  }
  for (RecordKind kind : kBulkKinds) {
    const Column column = ColumnOf(kind);
    for (const auto& [begin, end] : ranges) {
      const std::string first = FirstKeyOf({begin});
      const std::string last = FirstKeyOf({end});
      UNFOLD_TRY(CompactRange(column, &first, &last));
    }
    // A blob file lives as long as any table refers to it, also one outside the ranges: those are rewritten as well.
    if (HoldsBlobGarbage(column)) UNFOLD_TRY(CompactRange(column, nullptr, nullptr));
  }
  return CompactRange(Column::kDocs, nullptr, nullptr);
}

Status Database::CompactRange(Column column_id, const std::string* begin, const std::string* end) {
  rocksdb::CompactRangeOptions options;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
  options.blob_garbage_collection_age_cutoff = 1.0;
  options.allow_write_stall = true;
  const rocksdb::Slice first = begin != nullptr ? rocksdb::Slice(*begin) : rocksdb::Slice();
  const rocksdb::Slice last = end != nullptr ? rocksdb::Slice(*end) : rocksdb::Slice();
  const rocksdb::Status status = db_->CompactRange(options, column(column_id), begin != nullptr ? &first : nullptr,
                                                   end != nullptr ? &last : nullptr);
  return FromRocksDb(status, "compacting store " + path_);
}

bool Database::HoldsBlobGarbage(Column column_id) const {
  rocksdb::ColumnFamilyMetaData meta;
  db_->GetColumnFamilyMetaData(column(column_id), &meta);
  for (const rocksdb::BlobMetaData& blob : meta.blob_files) {
    if (blob.garbage_blob_count > 0) return true;
  }
  return false;
}

Status Database::Flush() {
  rocksdb::FlushOptions options;
  options.allow_write_stall = true;
  return FromRocksDb(db_->Flush(options, columns_), "flushing store " + path_);
}

Status Database::CloseDb() {
  if (db_ == nullptr) return Status::Ok();
  for (rocksdb::ColumnFamilyHandle* handle : columns_) db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  columns_.clear();
  const rocksdb::Status status = db_->Close();
  db_.reset();
  return FromRocksDb(status, "closing store " + path_);
}

Status Database::Close() {
  if (!opened_) return Status::Ok();
  if (const int num_snapshots = num_snapshots_.load(); num_snapshots > 0) {
    return Status::Unavailable("store " + path_ + ": " + std::to_string(num_snapshots) +
                               " snapshots are still open; nothing was closed");
  }
  opened_ = false;
  if (read_only_) return CloseDb();
  Status status;
  {
    const std::lock_guard<std::mutex> guard(failure_mutex_);
    status = failure_;
  }
  if (status.ok()) status = Purge();
  if (status.ok()) status = Flush();
  if (status.ok()) status = commit_log_->Close();
  const Status closed = CloseDb();
  if (status.ok()) status = closed;
  DeletePending();
  if (status.ok()) status = WriteClean(base_files_.get(), path_);
  const Status unlocked = writer_files_->UnlockDirectory();
  return status.ok() ? unlocked : status;
}

Database::~Database() {
  // Snapshots share this object, so none lives here. A destructor cannot report what Close says.
  [[maybe_unused]] const Status closed = Close();
  [[maybe_unused]] const Status db_closed = CloseDb();  // when opening broke off
  if (writer_files_ != nullptr) [[maybe_unused]]
    const Status unlocked = writer_files_->UnlockDirectory();
}

}  // namespace unfold
