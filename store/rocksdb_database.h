// SPDX-License-Identifier: Apache-2.0
// The RocksDB below a store: opening, the column families, commits that survive, giving space back, closing.
#ifndef UNFOLD_STORE_ROCKSDB_DATABASE_H_
#define UNFOLD_STORE_ROCKSDB_DATABASE_H_

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "store/kv_format.h"
#include "store/rocksdb_store.h"
#include "store/store_files.h"

namespace unfold {

// Column families, in the order of their handles. RocksDB insists on `default`; it stays empty.
enum class Column : std::size_t { kDefault, kMeta, kDocs, kText, kChunks, kGist, kRaw, kCount };

inline constexpr std::array kBulkKinds = {RecordKind::kText, RecordKind::kChunks, RecordKind::kGist, RecordKind::kRaw};

constexpr Column ColumnOf(RecordKind kind) {
  return static_cast<Column>(static_cast<std::size_t>(Column::kText) + static_cast<std::size_t>(kind) - 1);
}

// Thread-safe. Shared by the store and its snapshots, so that the last of them closes the files.
class Database {
 public:
  // Everything OpenRocksDbStore says of failures. What a killed writer left is still there (see was_clean).
  static Result<std::shared_ptr<Database>> Open(const RocksDbStoreOptions& options);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  const std::string& path() const { return path_; }
  bool read_only() const { return read_only_; }
  bool was_clean() const { return was_clean_; }  // the last writer closed the store
  rocksdb::DB* db() const { return db_.get(); }
  rocksdb::FileSystem* files() const { return base_files_.get(); }
  rocksdb::ColumnFamilyHandle* column(Column column) const { return columns_[static_cast<std::size_t>(column)]; }
  rocksdb::ColumnFamilyHandle* column(RecordKind kind) const { return column(ColumnOf(kind)); }

  int num_snapshots() const { return num_snapshots_.load(); }
  // Null for a read-only database, which never changes. Each is given back by Release.
  const rocksdb::Snapshot* Acquire();
  void Release(const rocksdb::Snapshot* snapshot);

  // Value of a `meta` key, opened. NotFound when it is absent.
  Result<std::string> ReadMeta(const std::string& key, const rocksdb::Snapshot* snapshot = nullptr) const;
  void PutMeta(rocksdb::WriteBatch* batch, const std::string& key, std::string_view body) const;
  Status DeleteMeta(rocksdb::WriteBatch* batch, const std::string& key) const;
  // Calls `visit` for each `meta` key that begins with `prefix`: the rest of the key, and the value opened.
  Status ScanMeta(const std::string& prefix, const rocksdb::Snapshot* snapshot,
                  const std::function<Status(std::string_view rest, std::string_view body)>& visit) const;
  // Deletes all bulk records of a document.
  Status DeleteRecords(rocksdb::WriteBatch* batch, DocumentId document) const;

  // Through the log, not synced. The first write that fails is the last: later ones give its Status again, so that
  // nothing is acknowledged behind a gap. Opening the store again starts afresh.
  Status Write(rocksdb::WriteBatch* batch);
  // Syncs all that was written before; then `batch`, atomic and synced; then its number into COMMITS. Survives power
  // loss when it returns Ok.
  Status Commit(rocksdb::WriteBatch* batch);

  // Marks a document whose deleted bytes Purge must still take off the disk: soon, when it was removed or given
  // up; with the next such one, when it was replaced or swept.
  enum class Mark : std::uint8_t { kRetired = 0, kRemoved = 1 };
  void MarkForPurge(rocksdb::WriteBatch* batch, DocumentId document, Mark mark) const;
  // Unless nothing was removed: rewrites the files that hold bytes of marked documents. Does nothing while a snapshot
  // from before the removal lives: then the marks stay for Close or the next opening.
  Status Purge();
  // Deletes files that had to wait for readers.
  void DeletePending();

  // Unavailable while snapshots live; then nothing has changed. Else flushes, closes, and writes CLEAN.
  Status Close();

 private:
  explicit Database(const RocksDbStoreOptions& options);

  Status OpenForReading();
  Status OpenForWriting();
  Status OpenReadOnlyDb();
  Status CheckAcknowledged();
  Status CheckFormat() const;
  Status Create();
  Status CloseDb();
  Status WriteLocked(rocksdb::WriteBatch* batch, bool sync);
  Status Compact(std::span<const DocumentId> documents);
  Status CompactRange(Column column, const std::string* begin, const std::string* end);
  bool HoldsBlobGarbage(Column column) const;
  bool OldSnapshotLives() const;
  Status Flush();

  const std::string path_;
  const bool read_only_;
  bool was_clean_ = false;
  bool opened_ = false;  // Open succeeded and Close has not
  std::shared_ptr<rocksdb::FileSystem> base_files_;
  std::shared_ptr<ReadersLock> readers_;
  std::shared_ptr<WriterFileSystem> writer_files_;  // null when read-only
  std::unique_ptr<rocksdb::Env> env_;               // outlives db_
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> columns_;
  std::atomic<int> num_snapshots_{0};

  std::uint64_t acknowledged_ = 0;  // what COMMITS said at opening
  std::mutex commit_mutex_;
  std::uint64_t last_commit_ = 0;                       // under commit_mutex_
  std::unique_ptr<CommitLog> commit_log_;               // under commit_mutex_
  std::atomic<std::uint64_t> last_commit_sequence_{0};  // RocksDB's sequence number after the last commit
  std::mutex failure_mutex_;
  Status failure_;  // under failure_mutex_
};

}  // namespace unfold

#endif  // UNFOLD_STORE_ROCKSDB_DATABASE_H_
