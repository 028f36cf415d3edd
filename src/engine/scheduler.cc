// SPDX-License-Identifier: Apache-2.0
#include "engine/scheduler.h"

#include <utility>

namespace unfold {

Scheduler::Scheduler(std::size_t max_queued, std::function<void()> end_round)
    : max_queued_(max_queued), end_round_(std::move(end_round)), thread_([this] { Loop(); }) {}

Scheduler::~Scheduler() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Status Scheduler::Submit(std::unique_ptr<Work> work) {
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return Status::Unavailable("the engine is closing");
    if (work->IsBulk()) {
      bulk_.push_back(std::move(work));
    } else if (queue_.size() + num_running_ >= max_queued_ + kMaxRunning) {
      return Status::ResourceExhausted(std::to_string(max_queued_) + " requests wait already; try again later");
    } else {
      queue_.push_back(std::move(work));
    }
  }
  changed_.notify_all();
  return Status::Ok();
}

// Ends waiting work whose caller gave up. Aborting runs callbacks, so it happens outside the lock.
void Scheduler::AbortCancelled() {
  std::vector<std::pair<std::unique_ptr<Work>, Status>> cancelled;
  {
    const std::lock_guard lock(mutex_);
    for (auto it = queue_.begin(); it != queue_.end();) {
      Status status = (*it)->Check();
      if (status.ok()) {
        ++it;
        continue;
      }
      cancelled.emplace_back(std::move(*it), std::move(status));
      it = queue_.erase(it);
    }
  }
  for (auto& [work, status] : cancelled) work->Abort(status);
}

bool Scheduler::RunStep(Work& work) {
  const Status status = work.Check();
  if (status.ok()) return work.Step();
  work.Abort(status);
  return false;
}

// A step of the first bulk work, if its turn has come.
void Scheduler::RunBulk() {
  std::unique_ptr<Work> work;
  {
    const std::lock_guard lock(mutex_);
    const bool beside_questions = !queue_.empty() || !running_.empty();
    if (bulk_.empty() || (owed_ > Clock::duration::zero() && beside_questions)) return;
    work = std::move(bulk_.front());
    bulk_.pop_front();
  }
  const Clock::time_point begin = Clock::now();
  const bool goes_on = RunStep(*work);
  owed_ = Clock::now() - begin;
  if (!goes_on) return;
  const std::lock_guard lock(mutex_);
  bulk_.push_front(std::move(work));
}

void Scheduler::RunRound() {
  const Clock::time_point begin = Clock::now();
  for (auto it = running_.begin(); it != running_.end();) {
    it = RunStep(**it) ? it + 1 : running_.erase(it);
    AbortCancelled();
  }
  end_round_();
  owed_ -= Clock::now() - begin;
  RunBulk();
}

void Scheduler::Loop() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closing_ || !queue_.empty() || !running_.empty() || !bulk_.empty(); });
      if (closing_) break;
      while (running_.size() < kMaxRunning && !queue_.empty()) {
        running_.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      num_running_ = running_.size();
    }
    RunRound();
    const std::lock_guard lock(mutex_);
    num_running_ = running_.size();
  }
  const Status closing = Status::Unavailable("the engine is closing");
  for (const auto& work : running_) work->Abort(closing);
  running_.clear();
  for (auto* waiting : {&queue_, &bulk_}) {  // closing_ keeps Submit from adding more
    for (const auto& work : *waiting) work->Abort(closing);
    waiting->clear();
  }
}

}  // namespace unfold
