// SPDX-License-Identifier: Apache-2.0
#include "base/thread_pool.h"

#include <algorithm>

namespace unfold {

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { WorkerLoop(); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(std::int64_t count, std::int64_t grain,
                             const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(1, grain);
  if (workers_.empty() || count <= grain) {
    for (std::int64_t begin = 0; begin < count; begin += grain) body(begin, std::min(count, begin + grain));
    return;
  }
  body_ = &body;
  count_ = count;
  grain_ = grain;
  next_.store(0);
  busy_.store(static_cast<std::uint32_t>(workers_.size()));
  generation_.fetch_add(1);
  generation_.notify_all();
  TakeRanges();
  for (std::uint32_t busy = busy_.load(); busy != 0; busy = busy_.load()) busy_.wait(busy);
}

void ThreadPool::TakeRanges() {
  for (std::int64_t begin = next_.fetch_add(grain_); begin < count_; begin = next_.fetch_add(grain_)) {
    (*body_)(begin, std::min(count_, begin + grain_));
  }
}

void ThreadPool::WorkerLoop() {
  std::uint32_t seen = 0;
  while (true) {
    generation_.wait(seen);
    seen = generation_.load();
    if (stop_.load()) return;
    TakeRanges();
    if (busy_.fetch_sub(1) == 1) busy_.notify_one();
  }
}

}  // namespace unfold
