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
    if (queue_.size() + num_running_ >= max_queued_ + kMaxRunning) {
      return Status::ResourceExhausted(std::to_string(max_queued_) + " requests wait already; try again later");
    }
    queue_.push_back(std::move(work));
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

void Scheduler::RunRound() {
  for (auto it = running_.begin(); it != running_.end();) {
    const Status status = (*it)->Check();
    bool goes_on = false;
    if (status.ok()) {
      goes_on = (*it)->Step();
    } else {
      (*it)->Abort(status);
    }
    it = goes_on ? it + 1 : running_.erase(it);
    AbortCancelled();
  }
  end_round_();
}

void Scheduler::Loop() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closing_ || !queue_.empty() || !running_.empty(); });
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
  for (const auto& work : queue_) work->Abort(closing);  // closing_ keeps Submit from adding more
  queue_.clear();
}

}  // namespace unfold
