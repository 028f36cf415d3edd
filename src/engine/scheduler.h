// SPDX-License-Identifier: Apache-2.0
// Scheduler: one thread that runs work in small steps, in turn, so that answers, routing and ingest share the model
// fairly and each can be cancelled between steps. Work beyond what runs at once waits in a bounded queue. What several
// of them left to be done together is done at the end of a round.
//
// Thread-safe.
#ifndef UNFOLD_ENGINE_SCHEDULER_H_
#define UNFOLD_ENGINE_SCHEDULER_H_

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

 private:
  void Loop();
  void AbortCancelled();
  void RunRound();

  static constexpr std::size_t kMaxRunning = 8;  // each holds its own KV of question and gists

  const std::size_t max_queued_;
  const std::function<void()> end_round_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Work>> queue_;     // guarded by mutex_
  bool closing_ = false;                        // guarded by mutex_
  std::size_t num_running_ = 0;                 // guarded by mutex_
  std::vector<std::unique_ptr<Work>> running_;  // engine thread only
  std::thread thread_;
};

}  // namespace unfold

#endif  // UNFOLD_ENGINE_SCHEDULER_H_
