// SPDX-License-Identifier: Apache-2.0
// A file system for one directory that loses power: it counts operations that change the disk, stops all effect at the
// chosen one, and then takes back what was not synced, data and names. It can also run out of space.
#ifndef UNFOLD_TESTS_CRASH_CRASH_FILE_SYSTEM_H_
#define UNFOLD_TESTS_CRASH_CRASH_FILE_SYSTEM_H_

#include <rocksdb/file_system.h>

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace unfold {

// How far each file's data got: what a power cut may take is [synced, written).
struct TrackedFile {
  std::uint64_t written = 0;
  std::uint64_t synced = 0;
};

// Thread-safe.
class CrashFileSystem : public rocksdb::FileSystemWrapper {
 public:
  // `graveyard` is an existing directory for files that a power cut may bring back.
  explicit CrashFileSystem(std::string graveyard)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), graveyard_(std::move(graveyard)) {}

  const char* Name() const override { return "CrashFileSystem"; }

  // From operation number `operation` on (counted from 1) nothing has effect; every change fails.
  void CrashAt(std::uint64_t operation) { crash_at_ = operation; }
  // Appending fails for want of space once so many bytes have been written in all.
  void LimitBytes(std::uint64_t bytes) { space_left_ = bytes; }
  // The next so many syncs of data work, the one after fails once.
  void FailSyncAfter(std::uint64_t syncs) { fail_sync_after_ = syncs; }
  std::uint64_t num_operations() const { return num_operations_; }
  std::uint64_t bytes_written() const { return bytes_written_; }
  bool crashed() const { return num_operations_ >= crash_at_; }

  // After the store is gone: the disk as it may look after the power cut. Of the names not synced a random number of
  // the last ones is taken back, of each file's data not synced a random length, and some of what is left is garbage
  // (not in MANIFEST).
  void LosePower(std::mt19937_64& random);

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewDirectory(const std::string& name, const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* directory,
                                 rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;

  // For the files made here.
  rocksdb::IOStatus Append(rocksdb::FSWritableFile* real, TrackedFile* file, const rocksdb::Slice& data);
  rocksdb::IOStatus Sync(TrackedFile* file);
  rocksdb::IOStatus SyncNames();

 private:
  // A change of names that no sync of the directory has made lasting.
  struct NameChange {
    std::string made;   // a name that appeared, or empty
    std::string from;   // the name it had before, empty for a new file
    std::string lost;   // a name whose file went away, or empty
    std::string grave;  // where that file lies now
    std::shared_ptr<TrackedFile> lost_file;
  };

  // Counts one operation; an error when the power is gone.
  rocksdb::IOStatus Count();
  void Bury(const std::string& name, NameChange* change);
  void TakeBack(const NameChange& change);

  const std::string graveyard_;
  std::mutex mutex_;  // guards all below; the counters are also read while nothing runs
  std::uint64_t num_operations_ = 0;
  std::uint64_t bytes_written_ = 0;
  std::uint64_t crash_at_ = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t space_left_ = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t fail_sync_after_ = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t num_graves_ = 0;
  std::map<std::string, std::shared_ptr<TrackedFile>> files_;  // by name
  std::vector<NameChange> changes_;
};

}  // namespace unfold

#endif  // UNFOLD_TESTS_CRASH_CRASH_FILE_SYSTEM_H_
