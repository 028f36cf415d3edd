// SPDX-License-Identifier: Apache-2.0
// CLEAN and COMMITS.
#include "store/store_files.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <vector>

#include "store/kv_format.h"

namespace unfold {
namespace {

using rocksdb::FileOptions;
using rocksdb::IOOptions;

constexpr std::string_view kCleanHead = "unfold clean 1\n";
constexpr std::uint64_t kBulkTailBytes = 64;  // RocksDB's SST footer has 53 bytes, a blob file's 32
constexpr std::string_view kCommitMagic = "UNFC";
constexpr std::size_t kCommitBytes = 16;  // magic 4, commit 8, CRC32C of both 4

struct CleanEntry {
  std::string name;
  std::uint64_t size = 0;
  std::uint64_t covered = 0;  // last bytes that the CRC covers
  std::uint32_t crc = 0;
  friend bool operator==(const CleanEntry&, const CleanEntry&) = default;
};

bool StartsWith(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

bool HasExtension(std::string_view name, std::string_view extension) {
  return name.size() > extension.size() && name.substr(name.size() - extension.size()) == extension;
}

bool IsBulk(std::string_view name) { return HasExtension(name, ".sst") || HasExtension(name, ".blob"); }

// Files that say what the store holds. LOCK, READERS and LOG hold no data; what else lies there is not ours.
bool IsData(std::string_view name) {
  return IsBulk(name) || HasExtension(name, ".log") || StartsWith(name, "MANIFEST-") || name == "CURRENT" ||
         name == "IDENTITY" || (StartsWith(name, "OPTIONS-") && !HasExtension(name, ".dbtmp")) || name == "COMMITS";
}

// Writes and syncs `content` under a passing name, then gives it its own: the file is there whole or not at all.
// Returns the file, still open for appending.
Result<std::unique_ptr<rocksdb::FSWritableFile>> Replace(rocksdb::FileSystem* files, const std::string& directory,
                                                         const std::string& name, std::string_view content) {
  const std::string path = directory + "/" + name;
  const std::string passing = path + ".tmp";
  std::unique_ptr<rocksdb::FSWritableFile> file;
  rocksdb::IOStatus status = files->NewWritableFile(passing, FileOptions(), &file, nullptr);
  if (status.ok()) status = file->Append(rocksdb::Slice(content.data(), content.size()), IOOptions(), nullptr);
  if (status.ok()) status = file->Sync(IOOptions(), nullptr);
  if (status.ok()) status = files->RenameFile(passing, path, IOOptions(), nullptr);
  UNFOLD_TRY(FromRocksDb(status, "writing " + path));
  UNFOLD_TRY(SyncDirectory(files, directory));
  return file;
}

// The last `count` bytes of a file of `size` bytes.
Result<std::string> ReadTail(rocksdb::FileSystem* files, const std::string& path, std::uint64_t size,
                             std::uint64_t count) {
  std::unique_ptr<rocksdb::FSRandomAccessFile> file;
  rocksdb::IOStatus status = files->NewRandomAccessFile(path, FileOptions(), &file, nullptr);
  std::string bytes(count, '\0');
  rocksdb::Slice got;
  if (status.ok() && count > 0) {
    status = file->Read(size - count, count, IOOptions(), &got, bytes.data(), nullptr);
    if (status.ok() && got.size() != count) return Status::Io(path + ": could not be read whole");
    if (status.ok() && got.data() != bytes.data()) bytes.assign(got.data(), got.size());
  }
  UNFOLD_TRY(FromRocksDb(status, "reading " + path));
  return bytes;
}

Result<std::string> ReadWhole(rocksdb::FileSystem* files, const std::string& path) {
  std::uint64_t size = 0;
  UNFOLD_TRY(FromRocksDb(files->GetFileSize(path, IOOptions(), &size, nullptr), "reading " + path));
  return ReadTail(files, path, size, size);
}

Result<CleanEntry> Describe(rocksdb::FileSystem* files, const std::string& directory, const std::string& name) {
  const std::string path = directory + "/" + name;
  CleanEntry entry{.name = name};
  UNFOLD_TRY(FromRocksDb(files->GetFileSize(path, IOOptions(), &entry.size, nullptr), "measuring " + path));
  entry.covered = IsBulk(name) ? std::min(entry.size, kBulkTailBytes) : entry.size;
  UNFOLD_TRY_ASSIGN(const std::string tail, ReadTail(files, path, entry.size, entry.covered));
  entry.crc = Crc32c(tail);
  return entry;
}

std::string Hex(std::uint32_t value) {
  std::array<char, 9> text{};
  std::snprintf(text.data(), text.size(), "%08x", value);
  return text.data();
}

// One number off the front of `line`, and the space after it.
bool TakeNumber(std::string_view* line, int base, std::uint64_t* value) {
  const auto [end, error] = std::from_chars(line->data(), line->data() + line->size(), *value, base);
  if (error != std::errc()) return false;
  line->remove_prefix(end - line->data());
  if (StartsWith(*line, " ")) line->remove_prefix(1);
  return true;
}

bool ParseEntry(std::string_view line, CleanEntry* entry) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return false;
  entry->name = line.substr(0, space);
  line.remove_prefix(space + 1);
  std::uint64_t crc = 0;
  if (!TakeNumber(&line, 10, &entry->size) || !TakeNumber(&line, 10, &entry->covered) || !TakeNumber(&line, 16, &crc)) {
    return false;
  }
  entry->crc = static_cast<std::uint32_t>(crc);
  return line.empty() && entry->covered <= entry->size;
}

Result<std::vector<CleanEntry>> ParseClean(std::string_view text, const std::string& path) {
  const std::size_t seal = text.size() < 13 ? 0 : text.size() - 13;  // "crc 01234567\n"
  if (!StartsWith(text, kCleanHead) || text.substr(seal) != "crc " + Hex(Crc32c(text.substr(0, seal))) + "\n") {
    return Status::Corruption(path + ": contradicts its own checksum");
  }
  std::string_view rest = text.substr(kCleanHead.size(), seal - kCleanHead.size());
  std::vector<CleanEntry> entries;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size() - 1);
    if (!ParseEntry(rest.substr(0, end), &entries.emplace_back())) {
      return Status::Corruption(path + ": a line that is no entry");
    }
    rest.remove_prefix(end + 1);
  }
  return entries;
}

Status CompareWithClean(rocksdb::FileSystem* files, const std::string& directory, const std::string& text) {
  UNFOLD_TRY_ASSIGN(const std::vector<CleanEntry> entries, ParseClean(text, directory + "/CLEAN"));
  for (const CleanEntry& entry : entries) {
    const std::string path = directory + "/" + entry.name;
    const Result<CleanEntry> found = Describe(files, directory, entry.name);
    if (!found.ok()) {
      return Status::Corruption(
          path + ": was there when the store was closed, now it cannot be read: " + found.status().message());
    }
    if (*found != entry) {
      return Status::Corruption(path + ": differs from what it was when the store was closed (" +
                                std::to_string(found->size) + " of " + std::to_string(entry.size) + " bytes, CRC32C " +
                                Hex(found->crc) + " instead of " + Hex(entry.crc) + ")");
    }
  }
  return Status::Ok();
}

std::string EncodeCommit(std::uint64_t commit) {
  std::string bytes(kCommitMagic);
  PutLittle(&bytes, commit, 8);
  PutLittle(&bytes, Crc32c(bytes), 4);
  return bytes;
}

}  // namespace

Status SyncDirectory(rocksdb::FileSystem* files, const std::string& directory) {
  std::unique_ptr<rocksdb::FSDirectory> handle;
  rocksdb::IOStatus status = files->NewDirectory(directory, IOOptions(), &handle, nullptr);
  if (status.ok()) status = handle->FsyncWithDirOptions(IOOptions(), nullptr, rocksdb::DirFsyncOptions());
  return FromRocksDb(status, "syncing directory " + directory);
}

Status WriteClean(rocksdb::FileSystem* files, const std::string& directory) {
  std::vector<std::string> names;
  UNFOLD_TRY(FromRocksDb(files->GetChildren(directory, IOOptions(), &names, nullptr), "listing " + directory));
  std::sort(names.begin(), names.end());
  std::string text(kCleanHead);
  for (const std::string& name : names) {
    if (!IsData(name)) continue;
    UNFOLD_TRY_ASSIGN(const CleanEntry entry, Describe(files, directory, name));
    text += name + " " + std::to_string(entry.size) + " " + std::to_string(entry.covered) + " " + Hex(entry.crc) + "\n";
  }
  text += "crc " + Hex(Crc32c(text)) + "\n";
  UNFOLD_TRY_ASSIGN(const auto file, Replace(files, directory, "CLEAN", text));
  return FromRocksDb(file->Close(IOOptions(), nullptr), "closing " + directory + "/CLEAN");
}

Result<bool> CheckClean(rocksdb::FileSystem* files, const std::string& directory) {
  const std::string path = directory + "/CLEAN";
  if (!files->FileExists(path, IOOptions(), nullptr).ok()) return false;
  const Result<std::string> text = ReadWhole(files, path);
  const Status compared = text.ok() ? CompareWithClean(files, directory, *text) : text.status();
  if (compared.ok()) return true;
  // A writer that has just opened the store removed CLEAN before it changed a file: then the difference is its work.
  const Result<std::string> again = ReadWhole(files, path);
  if (text.ok() && again.ok() && *again == *text) return compared;
  if (!files->FileExists(path, IOOptions(), nullptr).ok()) return false;
  return text.ok() ? Status::Unavailable(path + ": changed while the store was opened; try again") : text.status();
}

Status RemoveClean(rocksdb::FileSystem* files, const std::string& directory) {
  const std::string path = directory + "/CLEAN";
  if (!files->FileExists(path, IOOptions(), nullptr).ok()) return Status::Ok();
  UNFOLD_TRY(FromRocksDb(files->DeleteFile(path, IOOptions(), nullptr), "removing " + path));
  return SyncDirectory(files, directory);
}

Result<std::uint64_t> CommitLog::Read(rocksdb::FileSystem* files, const std::string& directory) {
  const std::string path = directory + "/COMMITS";
  if (!files->FileExists(path, IOOptions(), nullptr).ok()) return std::uint64_t{0};
  UNFOLD_TRY_ASSIGN(const std::string bytes, ReadWhole(files, path));
  std::uint64_t last = 0;
  for (std::size_t at = 0; at + kCommitBytes <= bytes.size(); at += kCommitBytes) {
    const std::string_view record = std::string_view(bytes).substr(at, kCommitBytes);
    const std::uint64_t commit = GetLittle(record.substr(4), 8);
    if (record == EncodeCommit(commit)) last = std::max(last, commit);  // a torn or damaged record counts for nothing
  }
  if (last == 0) return Status::Corruption(path + ": holds no valid commit number");
  return last;
}

Result<std::unique_ptr<CommitLog>> CommitLog::Create(rocksdb::FileSystem* files, const std::string& directory,
                                                     std::uint64_t commit) {
  UNFOLD_TRY_ASSIGN(auto file, Replace(files, directory, "COMMITS", EncodeCommit(commit)));
  return std::unique_ptr<CommitLog>(new CommitLog(directory + "/COMMITS", std::move(file)));
}

Status CommitLog::Append(std::uint64_t commit) {
  rocksdb::IOStatus status = file_->Append(EncodeCommit(commit), IOOptions(), nullptr);
  if (status.ok()) status = file_->Sync(IOOptions(), nullptr);
  return FromRocksDb(status, "writing " + path_);
}

Status CommitLog::Close() { return FromRocksDb(file_->Close(IOOptions(), nullptr), "closing " + path_); }

}  // namespace unfold
