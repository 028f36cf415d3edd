// SPDX-License-Identifier: Apache-2.0
#include "store/rocksdb_verify.h"

#include <rocksdb/file_checksum.h>

#include <algorithm>

#include "store/document_check.h"

namespace unfold {
namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 20;
constexpr std::uint64_t kProgressRecords = 64;

// Thread-compatible. Reads a file through and compares its checksum with the one that MANIFEST holds.
Status CheckFile(rocksdb::FileSystem* files, const std::string& path, const std::string& method,
                 const std::string& expected) {
  const auto factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  const auto generator =
      factory->CreateFileChecksumGenerator({.file_name = path, .requested_checksum_func_name = method});
  if (generator == nullptr || generator->Name() != method) {
    return Status::Corruption("has no checksum of a known kind ('" + method + "')");
  }
  std::unique_ptr<rocksdb::FSSequentialFile> file;
  UNFOLD_TRY(FromRocksDb(files->NewSequentialFile(path, rocksdb::FileOptions(), &file, nullptr), "opening"));
  std::string buffer(kReadBytes, '\0');
  rocksdb::Slice got;
  do {
    UNFOLD_TRY(FromRocksDb(file->Read(kReadBytes, rocksdb::IOOptions(), &got, buffer.data(), nullptr), "reading"));
    generator->Update(got.data(), got.size());
  } while (!got.empty());
  generator->Finalize();
  return generator->GetChecksum() == expected ? Status::Ok() : Status::Corruption("file checksum mismatch");
}

// Thread-compatible. One walk over a store.
class Walk {
 public:
  Walk(Database& database, const rocksdb::Snapshot* snapshot, const std::function<bool(std::uint64_t)>& progress)
      : database_(database), progress_(progress) {
    read_options_.snapshot = snapshot;
    read_options_.fill_cache = false;
  }

  Result<VerifyReport> Run() {
    CheckFiles();
    CheckMeta();
    UNFOLD_TRY(ReadDocuments());
    UNFOLD_TRY(ReadBulk());
    if (progress_ && !progress_(report_.num_records)) return Cancelled();
    return std::move(report_);
  }

 private:
  static Status Cancelled() { return Status::Cancelled("verification was stopped"); }

  std::unique_ptr<rocksdb::Iterator> Iterate(rocksdb::ColumnFamilyHandle* column) const {
    return std::unique_ptr<rocksdb::Iterator>(database_.db()->NewIterator(read_options_, column));
  }

  void Find(const std::string& where, const std::string& what) { report_.findings.push_back({where, what}); }

  // Counts a record; Cancelled when the caller wants no more.
  Status Count(std::size_t bytes) {
    ++report_.num_records;
    report_.num_bytes += bytes;
    const bool ask = progress_ && report_.num_records % kProgressRecords == 0;
    return ask && !progress_(report_.num_records) ? Cancelled() : Status::Ok();
  }

  void CheckFiles();
  void CheckMeta();
  Status ReadDocuments();
  Status ReadBulk();
  // Records before `end` of the range that starts where `it` stands; no published document's.
  Status CountOrphans(RecordKind kind, rocksdb::Iterator* it, const std::string& end);
  Status ReadRecords(RecordKind kind, rocksdb::Iterator* it, DocumentId document, DocumentCheck* check);

  Database& database_;
  const std::function<bool(std::uint64_t)>& progress_;
  rocksdb::ReadOptions read_options_;
  VerifyReport report_;
  std::vector<PublishedDocument> documents_;  // in order of id
};

void Walk::CheckFiles() {
  const bool hold = !database_.read_only();  // or compaction deletes a file between its listing and its reading
  if (hold) database_.db()->DisableFileDeletions().PermitUncheckedError();
  const auto check = [&](const std::string& name, const std::string& method, const std::string& expected) {
    const Status status = CheckFile(database_.files(), database_.path() + "/" + name, method, expected);
    if (!status.ok()) Find("file " + database_.path() + "/" + name, status.ToString());
  };
  for (std::size_t i = 0; i < static_cast<std::size_t>(Column::kCount); ++i) {
    rocksdb::ColumnFamilyMetaData meta;
    database_.db()->GetColumnFamilyMetaData(database_.column(static_cast<Column>(i)), &meta);
    for (const rocksdb::LevelMetaData& level : meta.levels) {
      for (const rocksdb::SstFileMetaData& file : level.files) {
        check(file.relative_filename, file.file_checksum_func_name, file.file_checksum);
      }
    }
    for (const rocksdb::BlobMetaData& blob : meta.blob_files) {
      check(blob.blob_file_name, blob.checksum_method, blob.checksum_value);
    }
  }
  if (hold) database_.db()->EnableFileDeletions(/*force=*/false).PermitUncheckedError();
}

void Walk::CheckMeta() {
  const auto it = Iterate(database_.column(Column::kMeta));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const std::string name = "meta key '" + it->key().ToString() + "'";
    const Status status = OpenMeta(it->value().ToStringView(), name).status();
    if (!status.ok()) Find(name, status.ToString());
    ++report_.num_records;
    report_.num_bytes += it->value().size();
  }
  if (!it->status().ok()) Find("column family meta", it->status().ToString());
}

Status Walk::ReadDocuments() {
  const auto it = Iterate(database_.column(Column::kDocs));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    UNFOLD_TRY(Count(it->value().size()));
    const auto key = DecodeDocumentKey(it->key().ToStringView());
    const std::string where = key.ok() ? "document '" + key->second + "'" : "a document key";
    auto value = OpenPublication(it->value().ToStringView(), where);
    if (!key.ok() || !value.ok()) {
      Find(where, (key.ok() ? value.status() : key.status()).ToString());
    } else if (value->second.name != key->second) {
      Find(where, "its record names another document, '" + value->second.name + "'");
    } else {
      documents_.push_back({value->first, std::move(value->second)});
    }
  }
  if (!it->status().ok()) Find("column family docs", it->status().ToString());
  report_.num_documents = documents_.size();
  std::sort(documents_.begin(), documents_.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  const auto same = [](const auto& a, const auto& b) { return a.id == b.id; };
  const auto twice = std::adjacent_find(documents_.begin(), documents_.end(), same);
  if (twice != documents_.end()) Find("document " + std::to_string(twice->id.value), "published twice");
  return Status::Ok();
}

Status Walk::ReadBulk() {
  std::vector<std::unique_ptr<rocksdb::Iterator>> iterators;
  for (RecordKind kind : kBulkKinds) iterators.push_back(Iterate(database_.column(kind)));
  for (const auto& it : iterators) it->SeekToFirst();
  for (const PublishedDocument& document : documents_) {
    DocumentCheck check(document, &report_);
    for (std::size_t i = 0; i < kBulkKinds.size(); ++i) {
      UNFOLD_TRY(CountOrphans(kBulkKinds[i], iterators[i].get(), FirstKeyOf(document.id)));
      UNFOLD_TRY(ReadRecords(kBulkKinds[i], iterators[i].get(), document.id, &check));
    }
    check.Finish();
  }
  for (std::size_t i = 0; i < kBulkKinds.size(); ++i) {
    UNFOLD_TRY(CountOrphans(kBulkKinds[i], iterators[i].get(), ""));
  }
  return Status::Ok();
}

Status Walk::CountOrphans(RecordKind kind, rocksdb::Iterator* it, const std::string& end) {
  for (; it->Valid() && (end.empty() || it->key().ToStringView() < end); it->Next()) {
    ++report_.num_orphans;
    UNFOLD_TRY(Count(it->value().size()));
    const Result<RecordKey> key = DecodeRecordKey(kind, it->key().ToStringView());
    const Status status = key.ok() ? CheckRecord(*key, it->value().ToStringView()) : key.status();
    if (!status.ok()) Find(key.ok() ? key->ToString() : "an orphan record", status.ToString());
  }
  if (!it->status().ok()) {
    Find("an orphan record", it->status().ToString());
    if (!end.empty()) it->Seek(end);
  }
  return Status::Ok();
}

Status Walk::ReadRecords(RecordKind kind, rocksdb::Iterator* it, DocumentId document, DocumentCheck* check) {
  const std::string begin = FirstKeyOf(document);
  const std::string end = FirstKeyOf({document.value + 1});
  if (!it->Valid()) it->Seek(begin);
  for (; it->Valid() && it->key().ToStringView() < end; it->Next()) {
    UNFOLD_TRY(Count(it->value().size()));
    const Result<RecordKey> key = DecodeRecordKey(kind, it->key().ToStringView());
    if (key.ok()) {
      check->Add(*key, it->value().ToStringView());
    } else {
      Find("document " + std::to_string(document.value), key.status().ToString());
    }
  }
  if (!it->status().ok()) {
    Find(RecordKey{kind, document, 0, 0, 0}.ToString() + " or behind it", it->status().ToString());
    check->SkipCompleteness();
    it->Seek(end);  // goes on behind this document, so that its damage does not hide the others
  }
  return Status::Ok();
}

}  // namespace

Result<VerifyReport> VerifyDatabase(Database& database, const rocksdb::Snapshot* snapshot,
                                    const std::function<bool(std::uint64_t)>& progress) {
  return Walk(database, snapshot, progress).Run();
}

}  // namespace unfold
