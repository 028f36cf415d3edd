// SPDX-License-Identifier: Apache-2.0
// One launch for several requests: its inputs as parameters of the kernel, those of a request by blockIdx.y. For one
// request a kernel has a form of its own, in which they stand where they always do.
#ifndef UNFOLD_KERNELS_CUDA_TOGETHER_CUH_
#define UNFOLD_KERNELS_CUDA_TOGETHER_CUH_

#include <algorithm>
#include <vector>

#include "kernels/cuda/common.cuh"

namespace unfold {

constexpr int kMostParameterBytes = 32764;  // of a kernel: CUDA 12.1, compute capability 7.0
constexpr int kMostRequests = 64;

// How many requests a launch takes: kMostRequests, or fewer, where their inputs are large.
template <typename Inputs>
constexpr int kMostTogether = std::min<int>(kMostRequests, (kMostParameterBytes - 512) / sizeof(Inputs));

template <typename Inputs, int kMost>
struct Together {
  Inputs of[kMost];
  __device__ __forceinline__ const Inputs& operator()() const { return of[kMost == 1 ? 0 : blockIdx.y]; }
};

// Calls launch(inputs, how many) with the inputs of one request, or of as many as a launch takes.
template <typename Inputs, typename Launch>
Status LaunchTogether(const std::vector<Inputs>& requests, Launch launch) {
  if (requests.size() == 1) return launch(Together<Inputs, 1>{{requests[0]}}, 1);
  constexpr auto kMost = static_cast<std::size_t>(kMostTogether<Inputs>);
  static_assert(kMost > 1);
  for (std::size_t begin = 0; begin < requests.size(); begin += kMost) {
    const std::size_t count = std::min(kMost, requests.size() - begin);
    Together<Inputs, static_cast<int>(kMost)> inputs;
    std::copy_n(requests.begin() + static_cast<std::ptrdiff_t>(begin), count, inputs.of);
    UNFOLD_TRY(launch(inputs, static_cast<int>(count)));
  }
  return Status::Ok();
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_TOGETHER_CUH_
