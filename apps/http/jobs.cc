// SPDX-License-Identifier: Apache-2.0
#include "apps/http/jobs.h"

#include <utility>

#include "apps/format.h"
#include "apps/http/target.h"

namespace unfold::http {

using cli::Json;

Jobs::Jobs(Engine& engine, Counters& counters) : engine_(engine), counters_(counters), thread_([this] { Loop(); }) {}

Jobs::~Jobs() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    if (running_) running_->stop.request_stop();
  }
  changed_.notify_all();
  thread_.join();
}

Result<std::string> Jobs::Start(const std::string& collection, std::vector<DocumentInput> documents) {
  auto job = std::make_shared<Job>();
  job->id = RandomId("job-");
  job->collection = collection;
  job->num_documents = documents.size();
  job->documents = std::move(documents);
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMostWaiting) return Status::ResourceExhausted("too many ingest jobs wait");
    jobs_.emplace(job->id, job);
    waiting_.push_back(job);
  }
  changed_.notify_all();
  return job->id;
}

std::optional<std::string> Jobs::CollectionOf(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto job = jobs_.find(id);
  return job == jobs_.end() ? std::nullopt : std::optional(job->second->collection);
}

Json Jobs::Describe(const std::string& id) const {
  constexpr const char* kStates[] = {"queued", "running", "done", "cancelled", "failed"};
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return nullptr;
  const Job& job = *found->second;
  Json verdicts = Json::array();
  for (const DocumentVerdict& verdict : job.verdicts) {
    Json json = {{"name", verdict.name}, {"outcome", cli::OutcomeName(verdict.outcome)}};
    if (!verdict.status.ok()) json["error"] = verdict.status.message();
    verdicts.push_back(std::move(json));
  }
  return {{"id", job.id},
          {"object", "ingest_job"},
          {"collection", job.collection},
          {"state", kStates[static_cast<int>(job.state)]},
          {"progress",
           {{"documents", job.num_documents},
            {"done", job.verdicts.size()},
            {"tokens", job.progress.num_tokens},
            {"tokens_in_flight", job.progress.tokens_in_flight},
            {"stored_bytes", job.progress.stored_bytes}}},
          {"documents", std::move(verdicts)},
          {"error", job.status.ok() ? Json(nullptr) : Json(StatusCodeName(job.status.code()))}};
}

void Jobs::Cancel(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto job = jobs_.find(id);
  if (job != jobs_.end()) job->second->stop.request_stop();
}

void Jobs::Run(Job& job) {
  std::size_t next = 0;
  const DocumentSource source = [&]() -> std::optional<DocumentInput> {
    if (next == job.documents.size()) return {};
    return std::move(job.documents[next++]);
  };
  const IngestSink sink{.on_verdict =
                            [&](const DocumentVerdict& verdict) {
                              counters_.CountDocument(verdict);
                              const std::lock_guard lock(mutex_);
                              job.verdicts.push_back(verdict);
                            },
                        .on_progress =
                            [&](const IngestProgress& progress) {
                              const std::lock_guard lock(mutex_);
                              job.progress = progress;
                            }};
  const auto done = engine_.Ingest(job.collection, source, {.stop_token = job.stop.get_token()}, sink);
  if (done.ok()) counters_.CountIngest(*done);
  job.documents.clear();
  const std::lock_guard lock(mutex_);
  job.status = done.status();
  job.state = !done.ok() ? State::kFailed : job.stop.stop_requested() ? State::kCancelled : State::kDone;
  if (done.ok()) job.progress = *done;
}

void Jobs::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
    if (closing_) return;
    running_ = std::move(waiting_.front());
    waiting_.pop_front();
    running_->state = State::kRunning;
    const std::shared_ptr<Job> job = running_;
    lock.unlock();
    Run(*job);
    lock.lock();
    running_.reset();
    ended_.push_back(job->id);
    if (ended_.size() > kMostKept) {
      jobs_.erase(ended_.front());
      ended_.pop_front();
    }
  }
}

}  // namespace unfold::http
