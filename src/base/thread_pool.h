// SPDX-License-Identifier: Apache-2.0
// ThreadPool: splits index ranges over parked worker threads. Workers sleep on a futex between calls; nothing spins,
// since cores are shared with the application.
//
// Thread-compatible: one ParallelFor at a time.
#ifndef UNFOLD_BASE_THREAD_POOL_H_
#define UNFOLD_BASE_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace unfold {

class ThreadPool {
 public:
  // `threads` counts the calling thread; 0 means one per core.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end) on disjoint ranges that cover [0, count), each of at most `grain` indices, on any thread.
  // Returns when all are done. Which thread takes which range is not fixed, so results must not depend on it.
  void ParallelFor(std::int64_t count, std::int64_t grain,
                   const std::function<void(std::int64_t begin, std::int64_t end)>& body);

 private:
  void WorkerLoop();
  void TakeRanges();

  std::vector<std::thread> workers_;
  const std::function<void(std::int64_t, std::int64_t)>* body_ = nullptr;
  std::int64_t count_ = 0;
  std::int64_t grain_ = 1;
  std::atomic<std::int64_t> next_{0};
  std::atomic<std::uint32_t> generation_{0};  // bumped per call; workers wait for a change
  std::atomic<std::uint32_t> busy_{0};        // workers that have not finished the current call
  std::atomic<bool> stop_{false};
};

}  // namespace unfold

#endif  // UNFOLD_BASE_THREAD_POOL_H_
