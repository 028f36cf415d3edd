// SPDX-License-Identifier: Apache-2.0
#include "apps/http/jobs.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "apps/format.h"
#include "apps/http/target.h"

namespace unfold::http {
namespace {

using cli::Json;

std::int64_t Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

Json VerdictJson(const DocumentVerdict& verdict) {
  Json json = {{"name", verdict.name}, {"outcome", cli::OutcomeName(verdict.outcome)}};
  if (!verdict.status.ok()) json["error"] = verdict.status.message();
  return json;
}

}  // namespace

Result<std::unique_ptr<Jobs>> Jobs::Open(Engine& engine, Counters& counters, const std::string& folder) {
  UNFOLD_TRY_ASSIGN(JobFiles files, JobFiles::Open(folder));
  std::unique_ptr<Jobs> jobs(new Jobs(engine, counters, std::move(files)));
  UNFOLD_TRY(jobs->Recover());
  jobs->thread_ = std::thread([jobs = jobs.get()] { jobs->Loop(); });
  return jobs;
}

Jobs::~Jobs() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    for (const auto& [id, job] : jobs_) job->stop.request_stop();
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Status Jobs::Recover() {
  UNFOLD_TRY_ASSIGN(std::vector<JobFiles::Found> found, files_.Scan());
  std::vector<std::pair<std::int64_t, Json>> ended;
  for (JobFiles::Found& one : found) {
    if (one.report.is_object()) {
      const std::int64_t created = one.report["created"];
      ended.emplace_back(created, std::move(one.report));
      continue;
    }
    auto job = std::make_shared<Job>();
    job->id = one.id;
    job->verdicts = std::move(one.verdicts);
    const auto saved = files_.Load(one.id);
    if (saved.ok()) {
      job->collection = saved->collection;
      job->created = saved->created;
      job->num_documents = saved->documents.size();
    }
    jobs_.emplace(job->id, job);
    waiting_.push_back(std::move(job));  // a damaged one fails when its turn comes
  }
  std::sort(waiting_.begin(), waiting_.end(), [](const auto& a, const auto& b) { return a->created < b->created; });
  std::sort(ended.begin(), ended.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [created, report] : ended) {
    const std::string id = report["id"];
    KeepReport(id, std::move(report));
  }
  return Status::Ok();
}

Result<std::string> Jobs::Start(const std::string& collection, std::vector<DocumentInput> documents) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() + num_saving_ >= kMostWaiting) return Status::Unavailable("too many ingest jobs wait");
    ++num_saving_;
  }
  auto job = std::make_shared<Job>();
  job->id = RandomId("job-");
  job->collection = collection;
  job->created = Now();
  job->num_documents = documents.size();
  const Status saved = files_.Save({job->id, collection, job->created, std::move(documents)});
  {
    const std::lock_guard lock(mutex_);
    --num_saving_;
    if (!saved.ok()) return saved;
    jobs_.emplace(job->id, job);
    waiting_.push_back(job);
  }
  changed_.notify_all();
  return job->id;
}

std::optional<std::string> Jobs::CollectionOf(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  if (const auto job = jobs_.find(id); job != jobs_.end()) return job->second->collection;
  const auto report = reports_.find(id);
  return report == reports_.end() ? std::nullopt : std::optional(report->second.value("collection", ""));
}

Json Jobs::DescribeLocked(const Job& job) const {
  constexpr const char* kStates[] = {"queued", "running", "done", "cancelled", "failed"};
  return {{"id", job.id},
          {"object", "ingest_job"},
          {"collection", job.collection},
          {"created", job.created},
          {"state", kStates[static_cast<int>(job.state)]},
          {"progress",
           {{"documents", job.num_documents},
            {"done", job.verdicts.size()},
            {"tokens", job.progress.num_tokens},
            {"tokens_in_flight", job.progress.tokens_in_flight},
            {"stored_bytes", job.progress.stored_bytes}}},
          {"documents", job.verdicts},
          {"error", job.error.empty() ? Json(nullptr) : Json(job.error)}};
}

Json Jobs::Describe(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  if (const auto job = jobs_.find(id); job != jobs_.end()) return DescribeLocked(*job->second);
  const auto report = reports_.find(id);
  return report == reports_.end() ? Json(nullptr) : report->second;
}

void Jobs::Cancel(const std::string& id) {
  std::shared_ptr<Job> waited;
  {
    const std::lock_guard lock(mutex_);
    const auto found = jobs_.find(id);
    if (found == jobs_.end()) return;
    found->second->cancelled = true;
    found->second->stop.request_stop();
    const auto place = std::find(waiting_.begin(), waiting_.end(), found->second);
    if (place == waiting_.end()) return;
    waited = std::move(*place);
    waiting_.erase(place);
  }
  End(*waited, Status::Ok());
}

void Jobs::CancelAll(const std::string& collection) {
  std::vector<std::string> ids;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, job] : jobs_) {
      if (job->collection == collection) ids.push_back(id);
    }
  }
  for (const std::string& id : ids) Cancel(id);
}

Status Jobs::Ingest(Job& job) {
  UNFOLD_TRY_ASSIGN(SavedJob saved, files_.Load(job.id));
  std::set<std::string> through;  // in a process before this one
  for (const Json& verdict : job.verdicts) through.insert(verdict["name"]);
  std::size_t next = 0;
  const DocumentSource source = [&]() -> std::optional<DocumentInput> {
    while (next < saved.documents.size() && through.contains(saved.documents[next].name)) ++next;
    if (next == saved.documents.size()) return {};
    return std::move(saved.documents[next++]);
  };
  const IngestSink sink{.on_verdict =
                            [&](const DocumentVerdict& verdict) {
                              const std::lock_guard lock(mutex_);
                              if (closing_ && verdict.outcome == IngestOutcome::kAbandoned) return;  // taken again then
                              counters_.CountDocument(verdict);
                              job.verdicts.push_back(VerdictJson(verdict));
                              // A line that is lost is of a document that is found unchanged when the job goes on.
                              (void)files_.AddVerdict(job.id, job.verdicts.back());
                            },
                        .on_progress =
                            [&](const IngestProgress& progress) {
                              const std::lock_guard lock(mutex_);
                              job.progress = progress;
                            }};
  UNFOLD_TRY_ASSIGN(const IngestProgress done,
                    engine_.Ingest(job.collection, source, {.stop_token = job.stop.get_token()}, sink));
  counters_.CountIngest(done);
  return Status::Ok();
}

void Jobs::End(Job& job, const Status& status) {
  Json report;
  {
    const std::lock_guard lock(mutex_);
    if (closing_ && !job.cancelled) return;  // it goes on when opened again
    if (!status.ok()) job.error = StatusCodeName(status.code());
    const bool incomplete = job.verdicts.size() < job.num_documents;
    job.state = job.cancelled && incomplete ? State::kCancelled : !status.ok() ? State::kFailed : State::kDone;
    report = DescribeLocked(job);
  }
  (void)files_.Finish(job.id, report);  // else it is run again after a restart, and finds its documents unchanged
  const std::lock_guard lock(mutex_);
  jobs_.erase(job.id);
  KeepReport(job.id, std::move(report));
}

void Jobs::KeepReport(const std::string& id, Json report) {
  reports_[id] = std::move(report);
  ended_.push_back(id);
  if (ended_.size() <= kMostKept) return;
  files_.Forget(ended_.front());
  reports_.erase(ended_.front());
  ended_.pop_front();
}

void Jobs::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
    if (closing_) return;
    const std::shared_ptr<Job> job = std::move(waiting_.front());
    waiting_.pop_front();
    job->state = State::kRunning;
    lock.unlock();
    End(*job, Ingest(*job));
    lock.lock();
  }
}

}  // namespace unfold::http
