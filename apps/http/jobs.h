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
#include "apps/json_output.h"
#include "unfold/engine.h"

namespace unfold::http {

// Thread-safe. Jobs end with the process: what was published stays, what was not has to be sent again.
class Jobs {
 public:
  // `engine` and `counters` must outlive it.
  Jobs(Engine& engine, Counters& counters);
  // Stops the job that runs after the documents in flight, and drops the rest.
  ~Jobs();

  // The new job's id; ResourceExhausted when as many wait as may.
  Result<std::string> Start(const std::string& collection, std::vector<DocumentInput> documents);
  // The collection of a job, or nothing when there is none of the id.
  std::optional<std::string> CollectionOf(const std::string& id) const;
  // {id, collection, state, progress, documents: verdicts, error}.
  cli::Json Describe(const std::string& id) const;
  // The document in flight is finished.
  void Cancel(const std::string& id);

 private:
  enum class State : std::uint8_t { kQueued, kRunning, kDone, kCancelled, kFailed };
  struct Job {
    std::string id, collection;
    std::vector<DocumentInput> documents;  // until it has run
    std::stop_source stop;
    std::size_t num_documents = 0;
    State state = State::kQueued;
    IngestProgress progress;
    std::vector<DocumentVerdict> verdicts;
    Status status;
  };
  void Loop();
  void Run(Job& job);

  static constexpr std::size_t kMostWaiting = 64, kMostKept = 1000;  // jobs; ended ones are forgotten, oldest first

  Engine& engine_;
  Counters& counters_;
  mutable std::mutex mutex_;  // guards all below, and what jobs hold but their documents
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<Job>> jobs_;
  std::deque<std::shared_ptr<Job>> waiting_;
  std::deque<std::string> ended_;
  std::shared_ptr<Job> running_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_JOBS_H_
