// SPDX-License-Identifier: Apache-2.0
// XOR of the words of an array: a plain read of memory, which is what bandwidth is measured with. A block reads one
// stretch, 16 bytes a load and kLoads loads in flight a thread; its result is one atomic on the output.
//
// Bytes: those of the array.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 512;
constexpr int kLoads = 8;
constexpr int kWordsALoad = 4;

__device__ __forceinline__ unsigned WarpXor(unsigned value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value ^= __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// `vectors` whole loads, then words up to `words`.
__global__ void __launch_bounds__(kThreads)
    XorWordsKernel(const unsigned* array, Index vectors, Index words, unsigned* out) {
  const Index first = Index{blockIdx.x} * kThreads * kLoads + threadIdx.x;
  uint4 loaded[kLoads] = {};
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const Index at = first + Index{i} * kThreads;
    if (at < vectors) loaded[i] = __ldcs(reinterpret_cast<const uint4*>(array) + at);
  }
  unsigned mine = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) mine ^= loaded[i].x ^ loaded[i].y ^ loaded[i].z ^ loaded[i].w;
  if (blockIdx.x == 0) {
    for (Index at = vectors * kWordsALoad + threadIdx.x; at < words; at += kThreads) mine ^= array[at];
  }
  mine = WarpXor(mine);
  __shared__ unsigned shared[kThreads / kWarp];
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = mine;
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  mine = WarpXor(threadIdx.x < kThreads / kWarp ? shared[threadIdx.x] : 0);
  if (threadIdx.x == 0 && mine != 0) atomicXor(out, mine);
}

}  // namespace

Status CudaBackend::DoXorWords(const XorWordsArgs& args) {
  const Index words = args.words.size();
  const Index vectors = HasVectors(args.words.data) ? words / kWordsALoad : 0;
  auto* out = args.out.as<unsigned>();
  UNFOLD_TRY(context_->Explain(cudaMemsetAsync(out, 0, sizeof *out, context_->stream()), "XorWords"));
  const unsigned blocks = Blocks(vectors == 0 ? 1 : vectors, Index{kThreads} * kLoads);
  XorWordsKernel<<<blocks, kThreads, 0, context_->stream()>>>(args.words.as<const unsigned>(), vectors, words, out);
  return context_->Launched("XorWords");
}

}  // namespace unfold
