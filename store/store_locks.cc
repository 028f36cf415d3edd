// SPDX-License-Identifier: Apache-2.0
// Who may write and who may delete: LOCK, READERS, and the file systems that hold RocksDB to both.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "store/store_files.h"

namespace unfold {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

bool EndsWith(std::string_view name, std::string_view end) {
  return name.size() >= end.size() && name.substr(name.size() - end.size()) == end;
}

// Files that a reader opens by a name it learned earlier.
bool ReadersMayNeed(const std::string& path) {
  const std::string_view name = std::string_view(path).substr(path.rfind('/') + 1);
  return EndsWith(name, ".sst") || EndsWith(name, ".blob") || EndsWith(name, ".log") ||
         name.substr(0, 9) == "MANIFEST-";
}

// Stands for the LOCK that LockDirectory holds; letting go of it changes nothing.
class BorrowedLock : public rocksdb::FileLock {};

IOStatus Refused(const std::string& name) { return IOStatus::IOError("opened for reading, not changed", name); }

}  // namespace

Status FromRocksDb(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return Status::Ok();
  const std::string message = what + ": " + status.ToString();
  if (status.IsNoSpace() || status.subcode() == rocksdb::Status::kSpaceLimit)
    return Status::ResourceExhausted("disk full: " + message);
  if (status.IsCorruption()) return Status::Corruption(message);
  if (status.IsNotFound()) return Status::NotFound(message);
  if (status.IsIOError()) return Status::Io(message);
  if (status.IsBusy() || status.IsTimedOut() || status.IsTryAgain() || status.IsShutdownInProgress()) {
    return Status::Unavailable(message);
  }
  return Status::Internal(message);
}

Result<std::shared_ptr<ReadersLock>> ReadersLock::Open(const std::string& path) {
  int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
    descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);  // enough for the lock
    if (descriptor < 0 && errno == ENOENT) {
      return Status::Io(path +
                        ": does not exist and cannot be made here. Readers need it to keep a writer from deleting "
                        "what they read; make an empty file of that name, readable for all");
    }
  }
  if (descriptor < 0) return Status::Io(path + ": " + std::strerror(errno));
  return std::shared_ptr<ReadersLock>(new ReadersLock(path, descriptor));
}

ReadersLock::~ReadersLock() { close(descriptor_); }

Status ReadersLock::LockShared() {
  while (flock(descriptor_, LOCK_SH) != 0) {
    if (errno != EINTR) return Status::Io(path_ + ": cannot be locked: " + std::strerror(errno));
  }
  return Status::Ok();
}

bool ReadersLock::TryExclusive() { return flock(descriptor_, LOCK_EX | LOCK_NB) == 0; }

void ReadersLock::Release() { flock(descriptor_, LOCK_UN); }

Status WriterFileSystem::LockDirectory(const std::string& path) {
  const std::string name = path + "/LOCK";
  // Told apart from a lock that is held, because RocksDB gives one code for both. LOCK is not opened here: closing any
  // descriptor of it would drop a lock that this process holds.
  const bool exists = access(name.c_str(), F_OK) == 0;
  if (access(exists ? name.c_str() : path.c_str(), W_OK) != 0) {
    return Status::Io(path + ": cannot be written: " + std::strerror(errno));
  }
  const IOStatus status = target()->LockFile(name, IOOptions(), &lock_, nullptr);
  if (status.ok()) return Status::Ok();
  lock_ = nullptr;
  if (status.IsNoSpace()) return FromRocksDb(status, "taking the lock " + name);
  return Status::Unavailable("store " + path + " is being written by another process (lock " + name +
                             "); wait for it or stop it");
}

Status WriterFileSystem::UnlockDirectory() {
  if (lock_ == nullptr) return Status::Ok();
  rocksdb::FileLock* lock = lock_;
  lock_ = nullptr;
  return FromRocksDb(target()->UnlockFile(lock, IOOptions(), nullptr), "giving up LOCK");
}

IOStatus WriterFileSystem::LockFile(const std::string& name, const IOOptions& options, rocksdb::FileLock** lock,
                                    IODebugContext* debug) {
  if (lock_ == nullptr) return target()->LockFile(name, options, lock, debug);
  *lock = new BorrowedLock;
  return IOStatus::OK();
}

IOStatus WriterFileSystem::UnlockFile(rocksdb::FileLock* lock, const IOOptions& options, IODebugContext* debug) {
  if (dynamic_cast<BorrowedLock*>(lock) == nullptr) return target()->UnlockFile(lock, options, debug);
  delete lock;
  return IOStatus::OK();
}

IOStatus WriterFileSystem::DeleteFile(const std::string& name, const IOOptions& options, IODebugContext* debug) {
  if (!ReadersMayNeed(name)) return target()->DeleteFile(name, options, debug);
  IOStatus status;
  if (readers_->WithoutReaders([&] { status = target()->DeleteFile(name, options, debug); })) return status;
  const std::lock_guard<std::mutex> guard(mutex_);
  pending_.insert(name);
  return IOStatus::OK();
}

void WriterFileSystem::DeletePending() {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (pending_.empty()) return;
  readers_->WithoutReaders([&] {
    for (const std::string& name : pending_) {
      // A file that cannot be deleted now goes at the next opening.
      target()->DeleteFile(name, IOOptions(), nullptr).PermitUncheckedError();
    }
    pending_.clear();
  });
}

IOStatus ReaderFileSystem::NewWritableFile(const std::string& name, const rocksdb::FileOptions&,
                                           std::unique_ptr<rocksdb::FSWritableFile>*, IODebugContext*) {
  return Refused(name);
}

IOStatus ReaderFileSystem::ReopenWritableFile(const std::string& name, const rocksdb::FileOptions&,
                                              std::unique_ptr<rocksdb::FSWritableFile>*, IODebugContext*) {
  return Refused(name);
}

IOStatus ReaderFileSystem::DeleteFile(const std::string& name, const IOOptions&, IODebugContext*) {
  return Refused(name);
}

IOStatus ReaderFileSystem::RenameFile(const std::string& from, const std::string&, const IOOptions&, IODebugContext*) {
  return Refused(from);
}

}  // namespace unfold
