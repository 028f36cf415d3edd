// SPDX-License-Identifier: Apache-2.0
// Scheduler: one thread that runs work in small steps, in turn, so that answers, routing and ingest share the model
// fairly and each can be cancelled between steps. Work beyond what runs at once waits in a bounded queue. What several
// of them left to be done together is done at the end of a round.
//
// Bulk work, passes of an ingest, has steps as long as tens of others: beside questions it gets half of the time, a
// step only after they had as long as its last one took. It is not bounded: whoever submits it waits for it.
//
// Thread-safe.
#ifndef UNFOLD_ENGINE_SCHEDULER_H_
#define UNFOLD_ENGINE_SCHEDULER_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "unfold/base.h"

namespace unfold {

// Something the engine thread does step by step. Exactly one of "Step returned false" and Abort ends it.
class Work {
 public:
  virtual ~Work() = default;
  // Ok, or Cancelled when its caller gave up or its deadline passed. Asked before every step and while it waits.
  virtual Status Check() const = 0;
  // One bounded step on the engine thread. Returns false when it is finished and has delivered its result.
  virtual bool Step() = 0;
  // Delivers `why` instead of a result.
  virtual void Abort(const Status& why) = 0;
  virtual bool IsBulk() const { return false; }
};

class Scheduler {
 public:
  // `end_round` is called on the engine thread after each piece of running work has had its step.
  Scheduler(std::size_t max_queued, std::function<void()> end_round);
  // Aborts all work with Unavailable.
  ~Scheduler();

  // ResourceExhausted when `max_queued` wait beside all that can run, Unavailable while closing; then the work was not
  // taken.
  Status Submit(std::unique_ptr<Work> work);

  // Whether work that is not bulk waits or runs. Any thread.
  bool HasQuestions() const {
    const std::lock_guard lock(mutex_);
    return !queue_.empty() || num_running_ > 0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  void Loop();
  static bool RunStep(Work& work);  // whether it goes on
  void RunBulk();
  void AbortCancelled();
  void RunRound();

  static constexpr std::size_t kMaxRunning = 16;  // each holds its own KV of question and gists

  const std::size_t max_queued_;
  const std::function<void()> end_round_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Work>> queue_;     // guarded by mutex_
  std::deque<std::unique_ptr<Work>> bulk_;      // guarded by mutex_
  bool closing_ = false;                        // guarded by mutex_
  std::size_t num_running_ = 0;                 // guarded by mutex_
  Clock::duration owed_{};                      // to the others, by bulk work; engine thread only
  std::vector<std::unique_ptr<Work>> running_;  // engine thread only
  std::thread thread_;
};

}  // namespace unfold

#endif  // UNFOLD_ENGINE_SCHEDULER_H_
