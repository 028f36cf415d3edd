// SPDX-License-Identifier: Apache-2.0
// Ingest jobs: documents that were sent, encoded one job after another beside the questions.
#ifndef UNFOLD_APPS_HTTP_JOBS_H_
#define UNFOLD_APPS_HTTP_JOBS_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "apps/http/counters.h"
#include "apps/http/job_files.h"
#include "apps/json_output.h"
#include "unfold/engine.h"

namespace unfold::http {

// Thread-safe. What Start has taken is encoded also after a crash or a restart, and reported (see JobFiles).
class Jobs {
 public:
  // Goes on with what the last process left in `folder`. `engine` and `counters` must outlive it.
  static Result<std::unique_ptr<Jobs>> Open(Engine& engine, Counters& counters, const std::string& folder);
  // Stops the job that runs after the documents in flight; it and those that wait go on when opened again.
  ~Jobs();

  // The new job's id, once its documents are on disk. Unavailable when as many wait as may, ResourceExhausted when the
  // disk is full.
  Result<std::string> Start(const std::string& collection, std::vector<DocumentInput> documents);
  // The collection of a job, or nothing when there is none of the id.
  std::optional<std::string> CollectionOf(const std::string& id) const;
  // {id, collection, state, progress, documents: verdicts, error}.
  cli::Json Describe(const std::string& id) const;
  // One that waits ends at once; of one that runs the documents in flight are finished.
  void Cancel(const std::string& id);
  // All of a collection.
  void CancelAll(const std::string& collection);

 private:
  enum class State : std::uint8_t { kQueued, kRunning, kDone, kCancelled, kFailed };
  struct Job {
    std::string id, collection;
    std::int64_t created = 0;
    std::stop_source stop;
    bool cancelled = false;
    std::size_t num_documents = 0;
    State state = State::kQueued;
    IngestProgress progress;
    cli::Json verdicts = cli::Json::array();
    std::string error;  // a code; empty: none
  };
  Jobs(Engine& engine, Counters& counters, JobFiles files)
      : engine_(engine), counters_(counters), files_(std::move(files)) {}
  Status Recover();
  void Loop();
  Status Ingest(Job& job);
  void End(Job& job, const Status& status);
  cli::Json DescribeLocked(const Job& job) const;
  void KeepReport(const std::string& id, cli::Json report);

  static constexpr std::size_t kMostWaiting = 64, kMostKept = 1000;  // jobs; ended ones are forgotten, oldest first

  Engine& engine_;
  Counters& counters_;
  const JobFiles files_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<Job>> jobs_;  // that wait or run
  std::map<std::string, cli::Json> reports_;          // of those that have ended
  std::deque<std::string> ended_;
  std::deque<std::shared_ptr<Job>> waiting_;
  std::size_t num_saving_ = 0;  // jobs on their way to the disk
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_JOBS_H_
