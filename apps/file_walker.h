// SPDX-License-Identifier: Apache-2.0
// From the paths of a command line to documents: recursion, globs, names, and reading.
#ifndef UNFOLD_APPS_FILE_WALKER_H_
#define UNFOLD_APPS_FILE_WALKER_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold::cli {

inline constexpr std::string_view kFileTypes = ".txt, .md or .html";  // and .htm

// Of a file of kFileTypes, by its name's ending in any case.
std::optional<TextFormat> FormatOfName(std::string_view name);

struct FoundFile {
  std::string name;  // of its document: relative to the folder given, '/' between folders
  std::filesystem::path path;
  std::uint64_t num_bytes = 0;
  TextFormat format = TextFormat::kPlain;
  Status status;  // why it cannot be read, as far as that is known without opening it
};

struct WalkOptions {
  std::vector<std::string> include;  // empty: all; a file must match one (see FilterMatch)
  std::vector<std::string> exclude;  // files and whole folders
};

struct WalkResult {
  std::vector<FoundFile> files;          // in the order of the arguments, each folder by name; no name twice
  std::vector<FoundFile> problems;       // paths that do not exist and folders that cannot be read; `name` is the path
  std::vector<std::string> other_types;  // files given by themselves that are none of kFileTypes
  std::uint64_t num_other_types = 0;     // files of other types inside folders
  std::vector<std::filesystem::path> roots;  // folders that names are relative to
  bool has_folder = false;                   // at least one argument is a folder that exists
};

// Takes files of kFileTypes (any case). Hidden files and folders inside a folder are left out; a folder that can be
// reached twice through symbolic links is walked once, and none that holds the folder given. An argument that does not
// exist and holds * ? or [ is a glob over files, relative to its leading part without them. InvalidArgument when two
// files would have one name.
Result<WalkResult> WalkPaths(const std::vector<std::string>& paths, const WalkOptions& options);

// What reading one file gives.
struct ReadOutcome {
  bool is_binary = false;  // a NUL byte in the first 8 KiB
  DocumentInput document;  // `read_status` says why there is no text
};
// Does not open files larger than `max_bytes` and those whose `status` is not Ok.
ReadOutcome ReadDocument(const FoundFile& file, std::uint64_t max_bytes);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_FILE_WALKER_H_
