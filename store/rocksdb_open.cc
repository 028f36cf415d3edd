// SPDX-License-Identifier: Apache-2.0
// Opening a database: locks, CLEAN, COMMITS, format.
#include <rocksdb/env.h>
#include <rocksdb/sst_file_reader.h>

#include <exception>

#include "store/rocksdb_database.h"
#include "store/rocksdb_options.h"

namespace unfold {
namespace {

using rocksdb::IOOptions;

constexpr const char* kFormatKey = "format";

bool Exists(rocksdb::FileSystem* files, const std::string& path) {
  return files->FileExists(path, IOOptions(), nullptr).ok();
}

// Whether a file may lie in the directory of a store whose creation was cut short.
bool MayPrecedeStore(const std::string& name) {
  for (const char* start :
       {"LOCK", "READERS", "LOG", "MANIFEST-", "IDENTITY", "OPTIONS-", "COMMITS", "CURRENT", "CLEAN"}) {
    if (name.rfind(start, 0) == 0) return true;
  }
  return name == "." || name == ".." || (name.find_first_not_of("0123456789") == name.find('.') && name[0] != '.');
}

// Makes the directory when it is missing; refuses one that holds other things than a store.
Status PrepareDirectory(rocksdb::FileSystem* files, const std::string& path) {
  bool is_directory = false;
  const rocksdb::IOStatus found = files->IsDirectory(path, IOOptions(), &is_directory, nullptr);
  if (found.ok() && !is_directory) return Status::InvalidArgument(path + ": is not a directory");
  if (!found.ok()) {
    UNFOLD_TRY(FromRocksDb(files->CreateDirIfMissing(path, IOOptions(), nullptr), "making " + path));
    const std::size_t slash = path.find_last_of('/');
    const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    return SyncDirectory(files, parent);
  }
  if (Exists(files, path + "/CURRENT")) return Status::Ok();
  std::vector<std::string> names;
  UNFOLD_TRY(FromRocksDb(files->GetChildren(path, IOOptions(), &names, nullptr), "listing " + path));
  for (const std::string& name : names) {
    if (!MayPrecedeStore(name)) {
      return Status::InvalidArgument(path + ": holds no store, but other files (" + name +
                                     "); name an empty directory");
    }
  }
  return Status::Ok();
}

// COMMITS comes after CURRENT. Without CURRENT, RocksDB would start a new store over the old one's files.
Status CheckCurrent(rocksdb::FileSystem* files, const std::string& path) {
  if (!Exists(files, path + "/COMMITS") || Exists(files, path + "/CURRENT")) return Status::Ok();
  return Status::Corruption("store " + path + ": its file CURRENT is missing");
}

// RocksDB's answer to damage it did not expect is any code, or an exception such as that of an absurd allocation.
template <typename Open>
Status Guarded(const std::string& what, Open open) {
  try {
    const rocksdb::Status status = open();
    if (status.IsNotSupported()) return Status::Corruption(what + ": " + status.ToString());
    // Column families or settings that this program does not make.
    if (status.IsInvalidArgument()) return Status::Incompatible(what + ": " + status.ToString());
    return FromRocksDb(status, what);
  } catch (const std::exception& e) {
    return Status::Corruption(what + ": RocksDB failed: " + e.what());
  }
}

// The damaged tables of a store that does not open. RocksDB blames MANIFEST for some of them.
std::string DamagedTables(const rocksdb::DBOptions& options, const std::string& path) {
  std::vector<std::string> names;
  std::string damaged;
  options.env->GetFileSystem()->GetChildren(path, IOOptions(), &names, nullptr).PermitUncheckedError();
  for (const std::string& name : names) {
    if (name.size() < 4 || name.substr(name.size() - 4) != ".sst") continue;
    const Status status = Guarded(name, [&] {
      rocksdb::SstFileReader reader(rocksdb::Options(options, rocksdb::ColumnFamilyOptions()));
      const rocksdb::Status opened = reader.Open(path + "/" + name);
      return opened.ok() ? reader.VerifyChecksum() : opened;
    });
    if (!status.ok()) damaged += "; damaged: " + status.message();
  }
  return damaged;
}

template <typename Open>
Status OpenGuarded(const rocksdb::DBOptions& options, const std::string& path, Open open) {
  const Status status = Guarded("opening store " + path, open);
  if (status.code() != StatusCode::kCorruption) return status;
  return Status::Corruption(status.message() + DamagedTables(options, path));
}

}  // namespace

Database::Database(const RocksDbStoreOptions& options)
    : path_(options.path),
      read_only_(options.access == StoreAccess::kReadOnly),
      base_files_(options.file_system != nullptr ? options.file_system : rocksdb::FileSystem::Default()) {}

Result<std::shared_ptr<Database>> Database::Open(const RocksDbStoreOptions& options) {
  std::string path = options.path;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.empty()) return Status::InvalidArgument("a store needs a directory");
  const std::shared_ptr<Database> database(new Database({path, options.access, options.file_system}));
  UNFOLD_TRY(database->read_only_ ? database->OpenForReading() : database->OpenForWriting());
  database->opened_ = true;
  return database;
}

Status Database::OpenForReading() {
  UNFOLD_TRY(CheckCurrent(base_files_.get(), path_));
  if (!Exists(base_files_.get(), path_ + "/CURRENT")) return Status::NotFound("no store at " + path_);
  UNFOLD_TRY_ASSIGN(readers_, ReadersLock::Open(path_ + "/READERS"));
  UNFOLD_TRY(readers_->LockShared());  // before anything is read: from here on no file goes away
  UNFOLD_TRY_ASSIGN(was_clean_, CheckClean(base_files_.get(), path_));
  UNFOLD_TRY_ASSIGN(acknowledged_, CommitLog::Read(base_files_.get(), path_));
  UNFOLD_TRY(OpenReadOnlyDb());
  UNFOLD_TRY(CheckAcknowledged());
  return CheckFormat();
}

Status Database::OpenReadOnlyDb() {
  // A store that is being made has no column families yet, which RocksDB would call an invalid argument.
  std::vector<std::string> names;
  env_ = rocksdb::NewCompositeEnv(std::make_shared<ReaderFileSystem>(base_files_));
  const rocksdb::DBOptions options = MakeDbOptions(env_.get(), /*read_only=*/true);
  const Status listed =
      OpenGuarded(options, path_, [&] { return rocksdb::DB::ListColumnFamilies(options, path_, &names); });
  UNFOLD_TRY(listed);
  if (names.size() < static_cast<std::size_t>(Column::kCount) && acknowledged_ == 0) {
    return Status::NotFound("no finished store at " + path_);
  }
  return OpenGuarded(options, path_, [&] {
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(options, path_, MakeColumns(), &columns_, &db);
    db_.reset(db);
    return status;
  });
}

Status Database::OpenForWriting() {
  UNFOLD_TRY(CheckCurrent(base_files_.get(), path_));
  UNFOLD_TRY(PrepareDirectory(base_files_.get(), path_));
  UNFOLD_TRY_ASSIGN(readers_, ReadersLock::Open(path_ + "/READERS"));
  writer_files_ = std::make_shared<WriterFileSystem>(base_files_, readers_);
  UNFOLD_TRY(writer_files_->LockDirectory(path_));
  UNFOLD_TRY_ASSIGN(was_clean_, CheckClean(base_files_.get(), path_));
  UNFOLD_TRY_ASSIGN(acknowledged_, CommitLog::Read(base_files_.get(), path_));
  if (!was_clean_ && acknowledged_ > 0) {
    // Looked at without touching it: opening for writing drops what it cannot replay.
    UNFOLD_TRY(OpenReadOnlyDb());
    UNFOLD_TRY(CheckAcknowledged());
    UNFOLD_TRY(CheckFormat());
    UNFOLD_TRY(CloseDb());
  }
  UNFOLD_TRY(RemoveClean(base_files_.get(), path_));
  env_ = rocksdb::NewCompositeEnv(writer_files_);
  const rocksdb::DBOptions options = MakeDbOptions(env_.get(), /*read_only=*/false);
  UNFOLD_TRY(OpenGuarded(options, path_, [&] {
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(options, path_, MakeColumns(), &columns_, &db);
    db_.reset(db);
    return status;
  }));
  UNFOLD_TRY(CheckAcknowledged());
  const Status format = CheckFormat();
  if (format.code() == StatusCode::kNotFound && last_commit_ == 0) return Create();
  UNFOLD_TRY(format);
  UNFOLD_TRY_ASSIGN(commit_log_, CommitLog::Create(base_files_.get(), path_, last_commit_));
  return Status::Ok();
}

Status Database::Create() {
  rocksdb::WriteBatch batch;
  std::string format;
  PutLittle(&format, kStoreFormatVersion, 2);
  PutLittle(&format, 0, 2);
  PutLittle(&format, kChunksPerRawBlock, 4);
  std::string commits;
  PutLittle(&commits, 1, 8);
  PutMeta(&batch, kFormatKey, format);
  PutMeta(&batch, "commits", commits);
  UNFOLD_TRY(WriteLocked(&batch, /*sync=*/true));
  last_commit_ = 1;
  UNFOLD_TRY_ASSIGN(commit_log_, CommitLog::Create(base_files_.get(), path_, last_commit_));
  return Status::Ok();
}

Status Database::CheckFormat() const {
  const Result<std::string> format = ReadMeta(kFormatKey);
  if (format.status().code() == StatusCode::kNotFound) return Status::NotFound("no finished store at " + path_);
  if (!format.ok()) return format.status();
  if (format->size() != 8) return Status::Corruption(path_ + ": malformed format record");
  const std::uint64_t version = GetLittle(*format, 2);
  const std::uint64_t block_chunks = GetLittle(std::string_view(*format).substr(4), 4);
  if (version != kStoreFormatVersion || block_chunks != kChunksPerRawBlock) {
    return Status::Incompatible("store " + path_ + ": format version " + std::to_string(version) + " with " +
                                std::to_string(block_chunks) + " chunks in a block; this program reads version " +
                                std::to_string(kStoreFormatVersion) + " with " + std::to_string(kChunksPerRawBlock));
  }
  return Status::Ok();
}

Status Database::CheckAcknowledged() {
  const Result<std::string> commits = ReadMeta("commits");
  if (!commits.ok() && commits.status().code() != StatusCode::kNotFound) return commits.status();
  if (commits.ok() && commits->size() != 8) return Status::Corruption(path_ + ": malformed commit number");
  last_commit_ = commits.ok() ? GetLittle(*commits, 8) : 0;
  if (last_commit_ >= acknowledged_) return Status::Ok();
  return Status::Corruption("store " + path_ + ": its log is damaged: " + std::to_string(acknowledged_) +
                            " commits were acknowledged, " + std::to_string(last_commit_) +
                            " can be read. Nothing was changed; restore a copy, or remove " + path_ +
                            "/COMMITS to open what is left");
}

}  // namespace unfold
