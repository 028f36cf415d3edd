// SPDX-License-Identifier: Apache-2.0
// Uploads: copies from pinned host memory on a stream of their own, by the copy engine, beside the kernels that come
// after. It brings more of the bus (H200: 55 GB/s) than kernels that read the host (50).
//
// Thread-compatible. Included by .cu files only.
#ifndef UNFOLD_KERNELS_CUDA_UPLOADS_H_
#define UNFOLD_KERNELS_CUDA_UPLOADS_H_

#include <array>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace unfold {

class Uploads {
 public:
  explicit Uploads(CudaContext& context) : context_(context) {}
  ~Uploads();
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;

  // Numbers count up from 1.
  Result<std::uint64_t> Start(const Tensor& device, std::span<const HostPiece> pieces);
  Status Await(std::uint64_t upload);
  // The host waits for all.
  void Finish();

 private:
  static constexpr std::uint64_t kEvents =
      8;  // an upload that is so many ago is waited for by the one that has its event
  Status Prepare();

  CudaContext& context_;
  cudaStream_t copies_ = nullptr;
  cudaEvent_t given_ = nullptr;  // the work given before an upload
  std::array<cudaEvent_t, kEvents> done_{};
  std::uint64_t started_ = 0;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_UPLOADS_H_
