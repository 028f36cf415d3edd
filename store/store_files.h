// SPDX-License-Identifier: Apache-2.0
// The files of a store directory that are ours, not RocksDB's: READERS, CLEAN and COMMITS (FORMAT.md), and the file
// system through which RocksDB sees the directory.
#ifndef UNFOLD_STORE_STORE_FILES_H_
#define UNFOLD_STORE_STORE_FILES_H_

#include <rocksdb/file_system.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "unfold/base.h"

namespace unfold {

// Maps an outcome of RocksDB or its file system; `what` says what was tried. No space is ResourceExhausted.
Status FromRocksDb(const rocksdb::Status& status, const std::string& what);

// Thread-safe. The lock on READERS: each reader holds it shared for its life, and the writer takes it exclusively for
// the moment in which it deletes a file. So a file that a reader may still need is never deleted.
class ReadersLock {
 public:
  // Makes the file when it is missing. For reading alone an existing file is enough.
  static Result<std::shared_ptr<ReadersLock>> Open(const std::string& path);
  ~ReadersLock();
  ReadersLock(const ReadersLock&) = delete;
  ReadersLock& operator=(const ReadersLock&) = delete;

  Status LockShared();
  // Runs `action` while no reader is there, and returns true; false, without running it, when there is one.
  template <typename Action>
  bool WithoutReaders(Action action) {
    const std::lock_guard<std::mutex> guard(mutex_);  // the lock belongs to the descriptor, not to a thread
    if (!TryExclusive()) return false;
    action();
    Release();
    return true;
  }

 private:
  ReadersLock(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  bool TryExclusive();
  void Release();

  std::string path_;
  int descriptor_;
  std::mutex mutex_;
};

// Thread-safe. What a writer's RocksDB sees: the deletion of a file of data waits while a reader is there. A deletion
// that never comes to pass is made up for at the next opening, when RocksDB deletes the files it does not know.
class WriterFileSystem : public rocksdb::FileSystemWrapper {
 public:
  WriterFileSystem(std::shared_ptr<rocksdb::FileSystem> base, std::shared_ptr<ReadersLock> readers)
      : FileSystemWrapper(base), readers_(std::move(readers)) {}

  // Takes RocksDB's own LOCK, before RocksDB does and for longer, so that CLEAN is written under it too.
  Status LockDirectory(const std::string& path);
  Status UnlockDirectory();
  // Tries again what had to wait.
  void DeletePending();

  const char* Name() const override { return "UnfoldWriterFileSystem"; }
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus LockFile(const std::string& name, const rocksdb::IOOptions& options, rocksdb::FileLock** lock,
                             rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus UnlockFile(rocksdb::FileLock* lock, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;

 private:
  std::shared_ptr<ReadersLock> readers_;
  rocksdb::FileLock* lock_ = nullptr;
  std::mutex mutex_;
  std::set<std::string> pending_;  // under mutex_
};

// Thread-safe. What a reader's RocksDB sees: it can change nothing, whatever RocksDB tries.
class ReaderFileSystem : public rocksdb::FileSystemWrapper {
 public:
  explicit ReaderFileSystem(const std::shared_ptr<rocksdb::FileSystem>& base) : FileSystemWrapper(base) {}

  const char* Name() const override { return "UnfoldReaderFileSystem"; }
  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus ReopenWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                       std::unique_ptr<rocksdb::FSWritableFile>* file,
                                       rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
};

// CLEAN: written after the last byte of a clean closing, removed before the first byte of the next writing. It lists
// the store's files with size and CRC32C: small files whole, bulk files by their last bytes, because RocksDB trusts
// those unchecked when it opens a file (the rest of a bulk file has its checksum in MANIFEST).
Status WriteClean(rocksdb::FileSystem* files, const std::string& directory);
// Whether CLEAN is there; Corruption naming the file that contradicts it.
Result<bool> CheckClean(rocksdb::FileSystem* files, const std::string& directory);
Status RemoveClean(rocksdb::FileSystem* files, const std::string& directory);

// Makes the names in a directory survive power loss.
Status SyncDirectory(rocksdb::FileSystem* files, const std::string& directory);

// Thread-compatible. COMMITS: the number of the last acknowledged commit, appended and synced after each one. RocksDB's
// log ends, for RocksDB, where it stops making sense; only this number tells a torn tail, which held nothing that was
// acknowledged, from a damaged log, which did.
class CommitLog {
 public:
  // 0 when the file does not exist; Corruption when it holds no valid number.
  static Result<std::uint64_t> Read(rocksdb::FileSystem* files, const std::string& directory);
  // Replaces the file by one that says `commit`.
  static Result<std::unique_ptr<CommitLog>> Create(rocksdb::FileSystem* files, const std::string& directory,
                                                   std::uint64_t commit);
  Status Append(std::uint64_t commit);
  Status Close();

 private:
  CommitLog(std::string path, std::unique_ptr<rocksdb::FSWritableFile> file)
      : path_(std::move(path)), file_(std::move(file)) {}
  std::string path_;
  std::unique_ptr<rocksdb::FSWritableFile> file_;
};

}  // namespace unfold

#endif  // UNFOLD_STORE_STORE_FILES_H_
