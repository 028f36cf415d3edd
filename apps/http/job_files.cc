// SPDX-License-Identifier: Apache-2.0
#include "apps/http/job_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

#include "apps/text_file.h"

namespace unfold::http {
namespace {

namespace fs = std::filesystem;
using cli::Json;

constexpr const char* kDocuments = ".docs";
constexpr const char* kLog = ".log";
constexpr const char* kReport = ".json";
constexpr const char* kPartial = ".partial";

Status Failure(const fs::path& path, int error) {
  const std::string message = path.string() + ": " + std::generic_category().message(error);
  return error == ENOSPC || error == EDQUOT ? Status::ResourceExhausted("disk full: " + message) : Status::Io(message);
}

// Opens, writes all, syncs if it is to survive power loss.
Status WriteFile(const fs::path& path, int flags, std::string_view bytes, bool sync) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
  if (file < 0) return Failure(path, errno);
  Status status;
  while (status.ok() && !bytes.empty()) {
    const ssize_t size = write(file, bytes.data(), bytes.size());
    if (size < 0 && errno != EINTR) status = Failure(path, errno);
    bytes.remove_prefix(size > 0 ? static_cast<std::size_t>(size) : 0);
  }
  if (status.ok() && sync && fsync(file) != 0) status = Failure(path, errno);
  if (close(file) != 0 && status.ok()) status = Failure(path, errno);
  return status;
}

Status SyncFolder(const fs::path& folder) {
  const int file = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return Failure(folder, errno);
  const Status status = fsync(file) == 0 ? Status::Ok() : Failure(folder, errno);
  close(file);
  return status;
}

bool HasText(const Json& json, const char* field) {
  return json.is_object() && json.contains(field) && json[field].is_string();
}

bool HasInteger(const Json& json, const char* field) {
  return json.is_object() && json.contains(field) && json[field].is_number_integer();
}

// What Finish wrote of the job, or null.
Json ParseReport(const std::string& id, const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool whole = HasText(json, "id") && json["id"] == id && HasText(json, "collection") && HasText(json, "state") &&
                     HasInteger(json, "created");
  return whole ? json : Json();
}

Json ParseLines(std::string_view text) {
  Json lines = Json::array();
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    if (end == text.npos) break;  // cut short by a crash
    Json line = Json::parse(text.substr(0, end), nullptr, /*allow_exceptions=*/false);
    if (HasText(line, "name") && HasText(line, "outcome")) lines.push_back(std::move(line));
    text.remove_prefix(end + 1);
  }
  return lines;
}

}  // namespace

Result<JobFiles> JobFiles::Open(fs::path folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) fs::permissions(folder, fs::perms::owner_all, error);
  if (error) return Status::Io(folder.string() + ": " + error.message());
  return JobFiles(std::move(folder));
}

Status JobFiles::WriteDurably(const fs::path& path, const std::string& bytes) const {
  const fs::path partial = path.string() + kPartial;
  std::error_code error;
  Status status = WriteFile(partial, O_TRUNC, bytes, /*sync=*/true);
  if (status.ok()) {
    fs::rename(partial, path, error);
    status = error ? Failure(path, error.value()) : SyncFolder(folder_);
  }
  if (status.ok()) return status;
  fs::remove(partial, error);
  fs::remove(path, error);
  return status;
}

Status JobFiles::Save(const SavedJob& job) const {
  Json documents = Json::array();
  for (const DocumentInput& document : job.documents) {
    // Bytes, since a text need not be UTF-8: that is for its verdict to say.
    documents.push_back({{"name", document.name},
                         {"text", Json::binary({document.text.begin(), document.text.end()})},
                         {"format", static_cast<int>(document.format)}});
  }
  std::string bytes;
  Json::to_cbor({{"collection", job.collection}, {"created", job.created}, {"documents", std::move(documents)}}, bytes);
  return WriteDurably(PathOf(job.id, kDocuments), bytes);
}

Result<SavedJob> JobFiles::Load(const std::string& id) const {
  const fs::path path = PathOf(id, kDocuments);
  UNFOLD_TRY_ASSIGN(const std::string bytes, cli::ReadTextFile(path.string()));
  const Status damaged = Status::Corruption(path.string() + ": not a job's documents");
  const Json json = Json::from_cbor(bytes, /*strict=*/true, /*allow_exceptions=*/false);
  if (!HasText(json, "collection") || !HasInteger(json, "created") || !json.contains("documents")) return damaged;
  SavedJob job{.id = id, .collection = json["collection"], .created = json["created"], .documents = {}};
  for (const Json& entry : json["documents"]) {
    const bool whole = HasText(entry, "name") && HasInteger(entry, "format") && entry.contains("text");
    if (!whole || !entry["text"].is_binary()) return damaged;
    const auto& text = entry["text"].get_binary();
    const int format = entry["format"];
    if (format < 0 || format > static_cast<int>(TextFormat::kHtml)) return damaged;
    job.documents.push_back(
        {.name = entry["name"], .text = {text.begin(), text.end()}, .format = static_cast<TextFormat>(format)});
  }
  return job;
}

Status JobFiles::AddVerdict(const std::string& id, const Json& verdict) const {
  return WriteFile(PathOf(id, kLog), O_APPEND, cli::DumpJson(verdict) + "\n", /*sync=*/false);
}

Status JobFiles::Finish(const std::string& id, const Json& report) const {
  UNFOLD_TRY(WriteDurably(PathOf(id, kReport), cli::DumpJson(report)));
  std::error_code ignored;  // what stays is removed by the next Scan
  fs::remove(PathOf(id, kDocuments), ignored);
  fs::remove(PathOf(id, kLog), ignored);
  return Status::Ok();
}

void JobFiles::Forget(const std::string& id) const {
  std::error_code ignored;
  for (const char* ending : {kReport, kDocuments, kLog}) fs::remove(PathOf(id, ending), ignored);
}

Result<std::vector<JobFiles::Found>> JobFiles::Scan() const {
  std::vector<Found> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error)) {
    const fs::path& path = entry->path();
    const std::string id = path.stem().string(), ending = path.extension().string();
    std::error_code ignored;
    if (ending == kPartial) {
      fs::remove(path, ignored);
    } else if (ending == kReport) {
      UNFOLD_TRY_ASSIGN(const std::string text, cli::ReadTextFile(path.string()));
      Json report = ParseReport(id, text);
      if (report.is_null()) return Status::Corruption(path.string() + ": not a job's report; remove it to go on");
      found.push_back({id, std::move(report), {}});
      fs::remove(PathOf(id, kDocuments), ignored);
      fs::remove(PathOf(id, kLog), ignored);
    } else if (ending == kDocuments && !fs::exists(PathOf(id, kReport), ignored)) {
      const auto log = cli::ReadTextFile(PathOf(id, kLog).string());
      if (!log.ok() && log.status().code() != StatusCode::kNotFound) return log.status();
      found.push_back({id, nullptr, log.ok() ? ParseLines(*log) : Json::array()});
    }
  }
  if (error) return Failure(folder_, error.value());
  return found;
}

}  // namespace unfold::http
