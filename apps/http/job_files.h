// SPDX-License-Identifier: Apache-2.0
// Ingest jobs on disk, so that what was accepted is encoded also after a crash: of each job either
//   ID.docs  what it was given (CBOR), from before the client hears its id until its end, and
//   ID.log   a line of JSON for each document that is through,
// or ID.json, what its end reported.
#ifndef UNFOLD_APPS_HTTP_JOB_FILES_H_
#define UNFOLD_APPS_HTTP_JOB_FILES_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/json_output.h"
#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold::http {

struct SavedJob {
  std::string id, collection;
  std::int64_t created = 0;  // microseconds since 1970: jobs run in this order
  std::vector<DocumentInput> documents;
};

// Thread-compatible: one thread for one job at a time.
class JobFiles {
 public:
  struct Found {
    std::string id;
    cli::Json report;    // of its end; null: it has not ended
    cli::Json verdicts;  // otherwise: an array of what is through
  };

  // Makes the folder, for its owner alone. Io names it and says why not.
  static Result<JobFiles> Open(std::filesystem::path folder);

  // Survives power loss when it returns Ok. ResourceExhausted when the disk is full; then nothing is left of it.
  Status Save(const SavedJob& job) const;
  Result<SavedJob> Load(const std::string& id) const;
  // Survives the end of the process.
  Status AddVerdict(const std::string& id, const cli::Json& verdict) const;
  // Survives power loss when it returns Ok.
  Status Finish(const std::string& id, const cli::Json& report) const;
  void Forget(const std::string& id) const;
  // In no order. What a crash left half written is removed.
  Result<std::vector<Found>> Scan() const;

 private:
  explicit JobFiles(std::filesystem::path folder) : folder_(std::move(folder)) {}
  std::filesystem::path PathOf(const std::string& id, const char* ending) const { return folder_ / (id + ending); }
  Status WriteDurably(const std::filesystem::path& path, const std::string& bytes) const;

  std::filesystem::path folder_;
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_JOB_FILES_H_
