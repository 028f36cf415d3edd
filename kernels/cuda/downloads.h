// SPDX-License-Identifier: Apache-2.0
// Downloads: copies to pinned host memory on a stream of their own, beside the kernels that come after. What is copied
// is first converted into staging memory in the order of the kernels' stream, so its source is free at once.
//
// Thread-compatible. Included by .cu files only.
#ifndef UNFOLD_KERNELS_CUDA_DOWNLOADS_H_
#define UNFOLD_KERNELS_CUDA_DOWNLOADS_H_

#include <array>
#include <cstddef>
#include <mutex>
#include <vector>

#include "kernels/cuda/context.h"
#include "kernels/tensor.h"

namespace unfold {

class Downloads {
 public:
  explicit Downloads(CudaContext& context) : context_(context) {}
  ~Downloads();
  Downloads(const Downloads&) = delete;
  Downloads& operator=(const Downloads&) = delete;

  // Pinned memory. To pin takes long (0.3 ms a MiB), so what is given back is kept for the next that asks.
  Result<Buffer> AllocateHost(std::size_t bytes);
  Status Start(void* host, const Tensor& device, DType type);
  // Waits for the copies; tells bad values and errors of the work before them.
  Status Finish();

 private:
  static constexpr int kStages = 4;  // k and v of two layers
  struct Stage {
    Buffer memory;
    cudaEvent_t filled = nullptr;
    cudaEvent_t copied = nullptr;
  };
  struct Pinned {
    void* data = nullptr;
    std::size_t bytes = 0;
  };
  Status Prepare();
  void FreeUnused();
  // With at least `bytes`; null when there is none.
  Pinned TakeUnused(std::size_t bytes);

  CudaContext& context_;
  cudaStream_t copies_ = nullptr;
  std::array<Stage, kStages> stages_;
  int next_ = 0;
  std::mutex unused_mutex_;  // memory may be given back on another thread
  std::vector<Pinned> unused_;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_DOWNLOADS_H_
