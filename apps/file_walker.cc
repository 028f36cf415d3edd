// SPDX-License-Identifier: Apache-2.0
#include "apps/file_walker.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "apps/format.h"
#include "apps/glob.h"

namespace unfold::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBinaryProbeBytes = 8192;

Status ErrnoStatus(int error, const std::string& what) {
  const std::string message = what + ": " + std::generic_category().message(error);
  return error == ENOENT ? Status::NotFound(message) : Status::Io(message);
}

std::string Join(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : folder + "/" + name;
}

bool AnyMatches(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) { return FilterMatch(p, name); });
}

// Walks the arguments one after another. Thread-compatible.
class Walker {
 public:
  explicit Walker(const WalkOptions& options) : options_(options) {}

  void AddArgument(const std::string& argument);
  Result<WalkResult> Finish();

 private:
  struct Folder {
    fs::path path;
    std::string name;  // relative to the argument; empty for the argument itself
  };

  void WalkFolder(const fs::path& root, const std::string& glob);
  void WalkEntries(const Folder& folder, const std::string& glob, std::deque<Folder>& links);
  void VisitEntry(Folder entry, const std::string& glob, std::deque<Folder>& links);
  bool EnterOnce(const struct stat& info) { return visited_.insert({info.st_dev, info.st_ino}).second; }
  void AddFile(const fs::path& path, const std::string& name, TextFormat format, const struct stat* info, int error);
  void AddProblem(const fs::path& path, int error);

  const WalkOptions& options_;
  WalkResult result_;
  std::set<std::pair<dev_t, ino_t>> visited_;  // folders of the current argument
};

void Walker::AddProblem(const fs::path& path, int error) {
  result_.problems.push_back({.name = path.generic_string(),
                              .path = path,
                              .num_bytes = 0,
                              .format = TextFormat::kPlain,
                              .status = ErrnoStatus(error, path.generic_string())});
}

void Walker::AddFile(const fs::path& path, const std::string& name, TextFormat format, const struct stat* info,
                     int error) {
  FoundFile file{.name = name, .path = path, .num_bytes = 0, .format = format, .status = {}};
  if (info == nullptr) {
    file.status = ErrnoStatus(error, path.generic_string());
  } else if (!S_ISREG(info->st_mode)) {
    file.status = Status::InvalidArgument(path.generic_string() + ": not a regular file");
  } else {
    file.num_bytes = static_cast<std::uint64_t>(info->st_size);
  }
  result_.files.push_back(std::move(file));
}

void Walker::VisitEntry(Folder entry, const std::string& glob, std::deque<Folder>& links) {
  struct stat info = {}, link_info = {};
  const int error = stat(entry.path.c_str(), &info) == 0 ? 0 : errno;
  if (error == 0 && S_ISDIR(info.st_mode)) {
    if (AnyMatches(options_.exclude, entry.name)) return;
    const bool is_link = lstat(entry.path.c_str(), &link_info) == 0 && S_ISLNK(link_info.st_mode);
    if (is_link) {
      links.push_back(std::move(entry));
    } else if (EnterOnce(info)) {
      WalkEntries(entry, glob, links);
    }
    return;
  }
  const auto format = FormatOfName(entry.path.native());
  if (!format) {
    if (glob.empty()) ++result_.num_other_types;
    return;
  }
  if (!glob.empty() && !GlobMatch(glob, entry.name)) return;
  if (!options_.include.empty() && !AnyMatches(options_.include, entry.name)) return;
  if (AnyMatches(options_.exclude, entry.name)) return;
  AddFile(entry.path, entry.name, *format, error == 0 ? &info : nullptr, error);
}

void Walker::WalkEntries(const Folder& folder, const std::string& glob, std::deque<Folder>& links) {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator it(folder.path, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    std::string name = it->path().filename().string();
    if (name[0] != '.') names.push_back(std::move(name));
  }
  if (error) AddProblem(folder.path, error.value());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) VisitEntry({folder.path / name, Join(folder.name, name)}, glob, links);
}

// Real folders first, so that a folder keeps its real name where a link leads to it too.
void Walker::WalkFolder(const fs::path& root, const std::string& glob) {
  visited_.clear();
  std::deque<Folder> links;
  struct stat info = {};
  std::error_code error;
  // Neither the folder nor what holds it: a link upward would bring in what was not given.
  for (fs::path outer = fs::canonical(root, error); !error && !outer.empty(); outer = outer.parent_path()) {
    if (stat(outer.c_str(), &info) == 0) EnterOnce(info);
    if (outer == outer.root_path()) break;
  }
  result_.roots.push_back(root);
  WalkEntries({root, ""}, glob, links);
  while (!links.empty()) {
    const Folder folder = std::move(links.front());
    links.pop_front();
    if (stat(folder.path.c_str(), &info) == 0 && EnterOnce(info)) WalkEntries(folder, glob, links);
  }
}

// "a/b/*.md" is the folder "a/b" and the pattern "*.md".
std::pair<std::string, std::string> SplitGlob(const std::string& argument) {
  const std::size_t slash = argument.rfind('/', argument.find_first_of("*?["));
  if (slash == std::string::npos) return {".", argument};
  return {slash == 0 ? "/" : argument.substr(0, slash), argument.substr(slash + 1)};
}

void Walker::AddArgument(const std::string& argument) {
  const fs::path path(argument);
  struct stat info = {}, link_info = {};
  const int error = stat(argument.c_str(), &info) == 0 ? 0 : errno;
  if (error == 0 && S_ISDIR(info.st_mode)) {
    result_.has_folder = true;
    return WalkFolder(path, "");
  }
  const bool is_there = error == 0 || lstat(argument.c_str(), &link_info) == 0;
  if (!is_there && HasGlob(argument)) {
    const auto [folder, glob] = SplitGlob(argument);
    const std::size_t num_before = result_.files.size(), num_problems = result_.problems.size();
    WalkFolder(folder, glob);
    if (result_.files.size() == num_before && result_.problems.size() == num_problems) {
      result_.problems.push_back(
          {.name = argument,
           .path = path,
           .num_bytes = 0,
           .format = TextFormat::kPlain,
           .status = Status::NotFound(argument + ": matches no " + std::string(kFileTypes) + " file")});
    }
    return;
  }
  if (!is_there) return AddProblem(path, error);
  const auto format = FormatOfName(path.native());
  if (!format) return result_.other_types.push_back(argument);
  const std::string name = path.filename().string();
  if (!options_.include.empty() && !AnyMatches(options_.include, name)) return;
  if (AnyMatches(options_.exclude, name)) return;
  result_.roots.push_back(path.has_parent_path() ? path.parent_path() : fs::path("."));
  AddFile(path, name, *format, error == 0 ? &info : nullptr, error);
}

bool SameFile(const fs::path& a, const fs::path& b) {
  std::error_code error;
  return a.lexically_normal() == b.lexically_normal() || fs::equivalent(a, b, error);
}

Result<WalkResult> Walker::Finish() {
  std::map<std::string, fs::path> paths;
  std::vector<FoundFile> unique;
  for (FoundFile& file : result_.files) {
    const auto [it, is_new] = paths.emplace(file.name, file.path);
    if (is_new) {
      unique.push_back(std::move(file));
    } else if (!SameFile(it->second, file.path)) {
      return Status::InvalidArgument("two files would be the document '" + file.name +
                                     "': " + it->second.generic_string() + " and " + file.path.generic_string());
    }
  }
  result_.files = std::move(unique);
  return std::move(result_);
}

// At most max_bytes + 1 bytes: one more tells that the file grew beyond the limit.
Status ReadAll(const std::string& path, std::uint64_t max_bytes, std::string& text) {
  // Non-blocking: a pipe that took the file's place must not hang the run.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, path);
  constexpr std::size_t kStepBytes = std::size_t{1} << 16;
  max_bytes = std::min(max_bytes, std::uint64_t{1} << 62);  // one more must not overflow
  Status status;
  while (text.size() <= max_bytes) {
    const std::size_t old_size = text.size();
    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(kStepBytes, max_bytes + 1 - old_size));
    text.resize(old_size + wanted);
    const ssize_t got = read(fd, text.data() + old_size, wanted);
    const int error = errno;
    text.resize(old_size + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0 && error == EINTR) continue;
    if (got < 0) status = ErrnoStatus(error, path);
    if (got <= 0) break;
  }
  close(fd);
  return status;
}

Status TooLarge(const FoundFile& file, std::uint64_t num_bytes, std::uint64_t max_bytes) {
  return Status::ResourceExhausted(file.path.generic_string() + ": " + HumanBytes(static_cast<double>(num_bytes)) +
                                   " is more than --max-document-bytes (" + std::to_string(max_bytes) + ")");
}

}  // namespace

std::optional<TextFormat> FormatOfName(std::string_view name) {
  std::string extension = fs::path(name).extension().string();
  for (char& c : extension) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  if (extension == ".txt") return TextFormat::kPlain;
  if (extension == ".md") return TextFormat::kMarkdown;
  if (extension == ".html" || extension == ".htm") return TextFormat::kHtml;
  return std::nullopt;
}

Result<WalkResult> WalkPaths(const std::vector<std::string>& paths, const WalkOptions& options) {
  Walker walker(options);
  for (const std::string& path : paths) walker.AddArgument(path);
  return walker.Finish();
}

ReadOutcome ReadDocument(const FoundFile& file, std::uint64_t max_bytes) {
  ReadOutcome outcome;
  outcome.document = {.name = file.name, .text = "", .format = file.format, .read_status = file.status};
  DocumentInput& document = outcome.document;
  if (!file.status.ok()) return outcome;
  if (file.num_bytes > max_bytes) {
    document.read_status = TooLarge(file, file.num_bytes, max_bytes);
    return outcome;
  }
  document.read_status = ReadAll(file.path.string(), max_bytes, document.text);
  if (document.read_status.ok() && document.text.size() > max_bytes) {
    document.read_status = TooLarge(file, document.text.size(), max_bytes);
  }
  const auto probe = std::min(kBinaryProbeBytes, document.text.size());
  outcome.is_binary = document.read_status.ok() && std::memchr(document.text.data(), 0, probe) != nullptr;
  if (!document.read_status.ok() || outcome.is_binary) document.text.clear();
  return outcome;
}

}  // namespace unfold::cli
