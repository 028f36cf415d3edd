// SPDX-License-Identifier: Apache-2.0
#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>

namespace unfold {
namespace {

constexpr std::uint32_t kGeneration = 1U << 16;
constexpr std::uint32_t kOpen = 1U << 15;
constexpr std::uint32_t kInside = kOpen - 1;
constexpr int kMostThreads = kInside;

// Longer than the serial work between two parallel parts of a decoded token, shorter than two wake-ups.
constexpr std::chrono::microseconds kSpinFor{20};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Whether `done` became true within kSpinFor.
template <typename Done>
bool Spin(const Done& done) {
  const auto until = std::chrono::steady_clock::now() + kSpinFor;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < until);
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  threads = std::min(threads, kMostThreads);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { WorkerLoop(); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  gate_.fetch_add(kGeneration);
  gate_.notify_all();
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
  gate_.store(((gate_.load() & ~(kOpen | kInside)) + kGeneration) | kOpen);
  gate_.notify_all();
  TakeRanges();
  gate_.fetch_and(~kOpen);
  WaitForWorkers();
}

void ThreadPool::WaitForWorkers() {
  const auto empty = [this] { return (gate_.load() & kInside) == 0; };
  if (Spin(empty)) return;
  while (true) {
    const std::uint32_t emptied = emptied_.load();
    if (empty()) return;
    emptied_.wait(emptied);
  }
}

void ThreadPool::TakeRanges() {
  for (std::int64_t begin = next_.fetch_add(grain_); begin < count_; begin = next_.fetch_add(grain_)) {
    (*body_)(begin, std::min(count_, begin + grain_));
  }
}

void ThreadPool::WorkerLoop() {
  std::uint32_t seen = 0;  // generation of the last call taken part in
  while (!stop_.load()) {
    std::uint32_t gate = gate_.load();
    const std::uint32_t generation = gate & ~(kOpen | kInside);
    if ((gate & kOpen) == 0 || generation == seen) {
      if (!Spin([&] { return gate_.load() != gate; })) gate_.wait(gate);
      continue;
    }
    if (!gate_.compare_exchange_strong(gate, gate + 1)) continue;
    seen = generation;
    TakeRanges();
    if ((gate_.fetch_sub(1) & (kOpen | kInside)) != 1) continue;
    emptied_.fetch_add(1);
    emptied_.notify_one();
  }
}

}  // namespace unfold
