// SPDX-License-Identifier: Apache-2.0
// What CudaContext::Launch is told beside a kernel and its arguments.
#ifndef UNFOLD_KERNELS_CUDA_LAUNCH_SHAPE_H_
#define UNFOLD_KERNELS_CUDA_LAUNCH_SHAPE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace unfold {

struct LaunchShape {
  std::int64_t blocks;
  int threads;
  std::size_t shared_bytes;
  std::string_view op;
  bool streams = false;
  int requests = 1;  // of as many blocks each, by blockIdx.y (together.cuh)
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_LAUNCH_SHAPE_H_
