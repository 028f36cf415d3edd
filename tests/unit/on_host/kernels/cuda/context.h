// SPDX-License-Identifier: Apache-2.0
// In the place of kernels/cuda/context.h, for kernels that run on the host (on_host.h): a chip of few multiprocessors.
#ifndef UNFOLD_KERNELS_CUDA_CONTEXT_H_
#define UNFOLD_KERNELS_CUDA_CONTEXT_H_

#include <cublasLt.h>

#include <cstddef>
#include <string_view>

#include "kernels/cuda/faults.h"
#include "kernels/cuda/launch_shape.h"
#include "kernels/tensor.h"
#include "tests/unit/on_host/on_host.h"
#include "unfold/base.h"

namespace unfold {

class CudaContext {
 public:
  // `shared` is the memory of a block, kMostSharedBytes.
  CudaContext(int multiprocessors, unsigned char* shared)
      : multiprocessors_(multiprocessors), shared_(shared), counters_(std::size_t{1} << 18) {}

  int num_multiprocessors() const { return multiprocessors_; }
  int most_shared_bytes() const { return kMostSharedBytes; }
  Result<unsigned*> Counters(std::int64_t count, std::string_view) {
    if (count > static_cast<std::int64_t>(counters_.size())) return Status::Internal("so many counters");
    return counters_.data();
  }
  // Whether all counters are at zero, as a launch must leave them.
  bool CountersAreZero() const {
    return std::all_of(counters_.begin(), counters_.end(), [](unsigned count) { return count == 0; });
  }

  template <typename... Params, typename... Args>
  Status Launch(void (*kernel)(Params...), const LaunchShape& work, Args... args) {
    if (work.requests != 1) return Status::Internal("several requests");
    if (work.shared_bytes > kMostSharedBytes) return Status::Internal("so much shared memory");
    std::memset(shared_, 0xff, work.shared_bytes);  // NaN
    on_host::RunBlocks(static_cast<unsigned>(work.blocks), static_cast<unsigned>(work.threads),
                       [&] { kernel(static_cast<Params>(args)...); });
    return Status::Ok();
  }

 private:
  int multiprocessors_;
  unsigned char* shared_;
  std::vector<unsigned> counters_;
};

class CallMemory {
 public:
  CallMemory(CudaContext&, std::string_view) {}
  template <typename T>
  T* Array(std::int64_t count) {
    blocks_.emplace_back(static_cast<std::size_t>(count) * sizeof(T) / sizeof(std::max_align_t) + 1);
    return reinterpret_cast<T*>(blocks_.back().data());
  }
  Status status() const { return Status::Ok(); }

 private:
  std::vector<std::vector<std::max_align_t>> blocks_;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_CONTEXT_H_
