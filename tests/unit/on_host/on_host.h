// SPDX-License-Identifier: Apache-2.0
// Runs kernels of kernels/cuda on the host, so that what they do is tested where there is no GPU: a block at a time, in
// the order in which they come up, a thread of the host for each of its threads. Include this first, then the .cu file.
//
// Shown: what is computed; that nothing is read before a wait for its copy; what a launch leaves behind; and, built by
// `cmake --preset tsan -DUNFOLD_WITH_CUDA=ON`, that barriers stand where threads share memory. Not shown: the order of
// memory between blocks, speed.
#ifndef UNFOLD_TESTS_UNIT_ON_HOST_ON_HOST_H_
#define UNFOLD_TESTS_UNIT_ON_HOST_ON_HOST_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#undef __noinline__
#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__

namespace unfold {

constexpr int kMostSharedBytes = 227 << 10;  // of a block, as on an H200

namespace {
[[maybe_unused]] alignas(
    128) unsigned char memory[kMostSharedBytes];  // a block's, by the name that kernels of this file know it by
}

namespace on_host {

struct Place {
  unsigned x = 0, y = 0, z = 0;
};
inline thread_local Place thread, block;
inline Place grid_dim, block_dim;

// What the lanes of a warp show each other.
struct Warp {
  std::barrier<> barrier{32};
  unsigned words[32][6];
};
inline std::vector<std::unique_ptr<Warp>> warps;
inline std::unique_ptr<std::barrier<>> block_barrier;
inline unsigned Lane() { return thread.x % 32; }
inline Warp& OwnWarp() { return *warps[thread.x / 32]; }

template <typename T>
T FromLane(T value, unsigned lane) {
  static_assert(sizeof(T) <= sizeof(Warp::words[0]));
  Warp& warp = OwnWarp();
  std::memcpy(warp.words[Lane()], &value, sizeof(T));
  warp.barrier.arrive_and_wait();
  std::memcpy(&value, warp.words[lane], sizeof(T));
  warp.barrier.arrive_and_wait();
  return value;
}

// Copies of 16 bytes that a thread has begun: done as late as a wait allows.
struct Copy {
  void* to;
  const void* from;  // null: zeros
};
inline thread_local std::vector<std::vector<Copy>> groups;
inline thread_local std::vector<Copy> open_group;

inline void FinishCopies(std::size_t open) {
  while (groups.size() > open) {
    for (const Copy& copy : groups.front()) {
      if (copy.from != nullptr) std::memcpy(copy.to, copy.from, 16);
      if (copy.from == nullptr) std::memset(copy.to, 0, 16);
    }
    groups.erase(groups.begin());
  }
}

inline void RunBlocks(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  grid_dim = {blocks, 1, 1}, block_dim = {threads, 1, 1};
  for (unsigned b = 0; b < blocks; ++b) {
    warps.clear();
    for (unsigned w = 0; w < threads / 32; ++w) warps.push_back(std::make_unique<Warp>());
    block_barrier = std::make_unique<std::barrier<>>(threads);
    std::vector<std::jthread> running;
    for (unsigned t = 0; t < threads; ++t) {
      running.emplace_back([&, t] {
        thread = {t, 0, 0}, block = {b, 0, 0};
        kernel();
      });
    }
  }
}

}  // namespace on_host
}  // namespace unfold

#define threadIdx (unfold::on_host::thread)
#define blockIdx (unfold::on_host::block)
#define gridDim (unfold::on_host::grid_dim)
#define blockDim (unfold::on_host::block_dim)

// What kernels call, by CUDA's names.
inline void __syncthreads() { unfold::on_host::block_barrier->arrive_and_wait(); }
inline void __threadfence() {}  // blocks run one after another
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return unfold::on_host::FromLane(value, static_cast<unsigned>(lane) % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return unfold::on_host::FromLane(value, unfold::on_host::Lane() ^ static_cast<unsigned>(mask));
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int step) {
  const unsigned lane = unfold::on_host::Lane(), back = static_cast<unsigned>(step);
  return unfold::on_host::FromLane(value, lane < back ? lane : lane - back);
}
template <typename T>
T __ldcg(const T* from) {
  return *from;
}
inline void __stcg(unsigned long long* to, unsigned long long value) { std::atomic_ref(*to).store(value); }
inline unsigned atomicInc(unsigned* at, unsigned last) {
  std::atomic_ref<unsigned> value(*at);
  unsigned before = value.load();
  while (!value.compare_exchange_weak(before, before >= last ? 0 : before + 1)) {
  }
  return before;
}
inline unsigned long long atomicExch(unsigned long long* at, unsigned long long value) {
  return std::atomic_ref(*at).exchange(value);
}
inline unsigned long long atomicMin(unsigned long long* at, unsigned long long value) {
  return std::exchange(*at, std::min(*at, value));
}
inline unsigned atomicOr(unsigned* at, unsigned bits) { return std::atomic_ref(*at).fetch_or(bits); }
template <typename T>
T atomicAdd(T* at, std::type_identity_t<T> more) {
  return std::atomic_ref(*at).fetch_add(more);
}
inline unsigned atomicMin(unsigned* at, unsigned value) {
  std::atomic_ref<unsigned> least(*at);
  unsigned before = least.load();
  while (value < before && !least.compare_exchange_weak(before, value)) {
  }
  return before;
}
inline unsigned atomicMax(unsigned* at, unsigned value) {
  std::atomic_ref<unsigned> largest(*at);
  unsigned before = largest.load();
  while (value > before && !largest.compare_exchange_weak(before, value)) {
  }
  return before;
}
// Of the words of all lanes one, the same in each.
template <typename T, typename Reduce>
T OfAllLanes(T value, Reduce reduce) {
  unfold::on_host::Warp& warp = unfold::on_host::OwnWarp();
  warp.words[unfold::on_host::Lane()][0] = std::bit_cast<unsigned>(value);
  warp.barrier.arrive_and_wait();
  T all = std::bit_cast<T>(warp.words[0][0]);
  for (unsigned lane = 1; lane < 32; ++lane) all = reduce(all, std::bit_cast<T>(warp.words[lane][0]));
  warp.barrier.arrive_and_wait();
  return all;
}
inline unsigned __reduce_min_sync(unsigned, unsigned value) {
  return OfAllLanes(value, [](unsigned a, unsigned b) { return std::min(a, b); });
}
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  return OfAllLanes(value, [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline int __reduce_add_sync(unsigned, int value) { return OfAllLanes(value, std::plus<int>()); }
inline unsigned __ballot_sync(unsigned, bool value) {
  return OfAllLanes(value ? 1U << unfold::on_host::Lane() : 0U, std::bit_or<unsigned>());
}
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __clzll(long long value) { return std::countl_zero(static_cast<unsigned long long>(value)); }
inline int __ffs(int bits) { return bits == 0 ? 0 : std::countr_zero(static_cast<unsigned>(bits)) + 1; }
inline unsigned long long __double2ull_ru(double value) { return static_cast<unsigned long long>(std::ceil(value)); }
using std::isfinite;
using std::isnan;
template <typename T>
T __ldg(const T* from) {
  return *from;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
template <typename A, typename B>
auto min(A a, B b) {
  return a < b ? a : b;
}
template <typename A, typename B>
auto max(A a, B b) {
  return a > b ? a : b;
}

#endif  // UNFOLD_TESTS_UNIT_ON_HOST_ON_HOST_H_
