// SPDX-License-Identifier: Apache-2.0
// ThreadPool: splits index ranges over worker threads. Cores are shared with the application and with other engines,
// so nothing waits for a thread that the system has not scheduled: the caller takes ranges itself, and at the end waits
// only for workers that are inside a range. A worker that comes late finds the call closed.
//
// Between calls a worker looks for the next one for at most 20 us, then sleeps on a futex; so does the caller at the
// end. That is all an idle worker can take from others. (Measured, two Zen 4 cores, a call of two empty ranges: 0.4 us
// with the worker awake. A sleeping one comes 10 to 40 us later; the caller works meanwhile.)
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
  void WaitForWorkers();

  std::vector<std::thread> workers_;
  const std::function<void(std::int64_t, std::int64_t)>* body_ = nullptr;
  std::int64_t count_ = 0;
  std::int64_t grain_ = 1;
  alignas(64) std::atomic<std::int64_t> next_{0};
  // Generation of the call in the upper half, whether it is open, and the number of workers inside. A worker enters by
  // adding one to an open gate; what it then reads of the call stays until it leaves.
  alignas(64) std::atomic<std::uint32_t> gate_{0};
  std::atomic<std::uint32_t> emptied_{0};  // bumped when the last worker leaves a closed gate
  std::atomic<bool> stop_{false};
};

}  // namespace unfold

#endif  // UNFOLD_BASE_THREAD_POOL_H_
