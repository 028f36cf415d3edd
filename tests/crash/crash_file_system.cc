// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/crash_file_system.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace unfold {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

// RocksDB's own log is no data; it is written past this file system.
bool IsLog(const std::string& name) { return name.substr(name.rfind('/') + 1).rfind("LOG", 0) == 0; }

class CrashWritableFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  CrashWritableFile(std::unique_ptr<rocksdb::FSWritableFile> real, std::shared_ptr<TrackedFile> file,
                    CrashFileSystem* files)
      : FSWritableFileOwnerWrapper(std::move(real)), file_(std::move(file)), files_(files) {}

  IOStatus Append(const Slice& data, const IOOptions&, IODebugContext*) override {
    return files_->Append(target(), file_.get(), data);
  }
  IOStatus Append(const Slice& data, const IOOptions&, const rocksdb::DataVerificationInfo&, IODebugContext*) override {
    return files_->Append(target(), file_.get(), data);
  }
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return files_->Sync(file_.get()); }
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return files_->Sync(file_.get()); }
  IOStatus RangeSync(std::uint64_t, std::uint64_t, const IOOptions&, IODebugContext*) override {
    return IOStatus::OK();
  }
  IOStatus Allocate(std::uint64_t, std::uint64_t, const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  void PrepareWrite(std::size_t, std::size_t, const IOOptions&, IODebugContext*) override {}

 private:
  std::shared_ptr<TrackedFile> file_;
  CrashFileSystem* files_;
};

class CrashDirectory : public rocksdb::FSDirectory {
 public:
  explicit CrashDirectory(CrashFileSystem* files) : files_(files) {}
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return files_->SyncNames(); }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }

 private:
  CrashFileSystem* files_;
};

void CutAndScramble(const std::string& name, const TrackedFile& file, std::mt19937_64& random) {
  const std::uint64_t unsynced = file.written - file.synced;
  if (unsynced == 0) return;
  const std::uint64_t kept = random() % 3 == 0 ? 0 : random() % (unsynced + 1);
  std::filesystem::resize_file(name, file.synced + kept);
  // RocksDB takes a MANIFEST that was cut short, but refuses one with garbage at its end (FORMAT.md, limits).
  const bool is_manifest = name.find("/MANIFEST-") != std::string::npos;
  if (kept == 0 || is_manifest || random() % 3 != 0) return;
  std::fstream out(name, std::ios::in | std::ios::out | std::ios::binary);
  const std::uint64_t begin = file.synced + random() % kept;
  out.seekp(static_cast<std::streamoff>(begin));
  const bool zeros = random() % 2 == 0;
  for (std::uint64_t i = begin; i < file.synced + kept; ++i) out.put(zeros ? '\0' : static_cast<char>(random()));
}

}  // namespace

IOStatus CrashFileSystem::Count() {
  ++num_operations_;
  return num_operations_ >= crash_at_ ? IOStatus::IOError("the power is gone") : IOStatus::OK();
}

void CrashFileSystem::Bury(const std::string& name, NameChange* change) {
  if (!std::filesystem::exists(name)) return;
  change->lost = name;
  change->grave = graveyard_ + "/" + std::to_string(num_graves_++);
  std::filesystem::rename(name, change->grave);
  const auto found = files_.find(name);
  if (found == files_.end()) return;
  change->lost_file = found->second;
  files_.erase(found);
}

void CrashFileSystem::TakeBack(const NameChange& change) {
  if (!change.made.empty()) {
    if (change.from.empty()) {
      std::filesystem::remove(change.made);
    } else {
      std::filesystem::rename(change.made, change.from);
      files_[change.from] = files_[change.made];
    }
    files_.erase(change.made);
  }
  if (change.lost.empty()) return;
  std::filesystem::rename(change.grave, change.lost);
  if (change.lost_file != nullptr) files_[change.lost] = change.lost_file;
}

void CrashFileSystem::LosePower(std::mt19937_64& random) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const std::size_t kept = random() % 3 == 0 ? 0 : random() % (changes_.size() + 1);
  while (changes_.size() > kept) {
    TakeBack(changes_.back());
    changes_.pop_back();
  }
  for (const auto& [name, file] : files_) {
    if (file != nullptr) CutAndScramble(name, *file, random);
  }
}

IOStatus CrashFileSystem::NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                          std::unique_ptr<rocksdb::FSWritableFile>* file, IODebugContext* debug) {
  const std::lock_guard<std::mutex> guard(mutex_);
  IOStatus status = Count();
  if (!status.ok()) return status;
  NameChange change;
  Bury(name, &change);
  std::unique_ptr<rocksdb::FSWritableFile> real;
  status = target()->NewWritableFile(name, options, &real, debug);
  if (!status.ok()) return status;
  change.made = name;
  changes_.push_back(change);
  const auto tracked = std::make_shared<TrackedFile>();
  files_[name] = tracked;
  *file = std::make_unique<CrashWritableFile>(std::move(real), tracked, this);
  return IOStatus::OK();
}

IOStatus CrashFileSystem::NewDirectory(const std::string& name, const IOOptions& options,
                                       std::unique_ptr<rocksdb::FSDirectory>* directory, IODebugContext* debug) {
  std::unique_ptr<rocksdb::FSDirectory> real;
  const IOStatus status = target()->NewDirectory(name, options, &real, debug);
  if (status.ok()) *directory = std::make_unique<CrashDirectory>(this);
  return status;
}

IOStatus CrashFileSystem::DeleteFile(const std::string& name, const IOOptions& options, IODebugContext* debug) {
  if (IsLog(name)) return target()->DeleteFile(name, options, debug);
  const std::lock_guard<std::mutex> guard(mutex_);
  const IOStatus status = Count();
  if (!status.ok()) return status;
  NameChange change;
  Bury(name, &change);
  if (change.lost.empty()) return IOStatus::PathNotFound(name);
  changes_.push_back(change);
  return IOStatus::OK();
}

IOStatus CrashFileSystem::RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                                     IODebugContext* debug) {
  if (IsLog(from)) return target()->RenameFile(from, to, options, debug);
  const std::lock_guard<std::mutex> guard(mutex_);
  IOStatus status = Count();
  if (!status.ok()) return status;
  NameChange change;
  Bury(to, &change);
  status = target()->RenameFile(from, to, options, debug);
  if (!status.ok()) return status;
  change.made = to;
  change.from = from;
  changes_.push_back(change);
  files_[to] = files_[from];
  files_.erase(from);
  return IOStatus::OK();
}

IOStatus CrashFileSystem::Append(rocksdb::FSWritableFile* real, TrackedFile* file, const Slice& data) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const bool had_power = num_operations_ + 1 < crash_at_;
  IOStatus status = Count();
  Slice part = data;
  if (!status.ok()) {
    // The operation at which the power goes may have reached the disk in part; later ones have not.
    part = Slice(data.data(), num_operations_ == crash_at_ ? data.size() / 2 : 0);
  } else if (data.size() > space_left_) {
    part = Slice(data.data(), space_left_);
    status = IOStatus::NoSpace("no space left in the test");
  }
  if (had_power) space_left_ -= part.size();
  bytes_written_ += part.size();
  file->written += part.size();
  if (part.empty()) return status;
  const IOStatus written = real->Append(part, IOOptions(), nullptr);
  return status.ok() ? written : status;
}

IOStatus CrashFileSystem::Sync(TrackedFile* file) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const IOStatus status = Count();
  if (!status.ok()) return status;
  if (fail_sync_after_ == 0) {
    fail_sync_after_ = std::numeric_limits<std::uint64_t>::max();
    return IOStatus::IOError("a sync that failed");
  }
  if (fail_sync_after_ != std::numeric_limits<std::uint64_t>::max()) --fail_sync_after_;
  file->synced = file->written;
  return IOStatus::OK();
}

IOStatus CrashFileSystem::SyncNames() {
  const std::lock_guard<std::mutex> guard(mutex_);
  const IOStatus status = Count();
  if (status.ok()) changes_.clear();
  return status;
}

}  // namespace unfold
