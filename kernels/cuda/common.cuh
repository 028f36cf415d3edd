// SPDX-License-Identifier: Apache-2.0
// What CUDA kernels share: loads that widen, sums over a warp in fixed order, notes of bad values, launch arithmetic.
#ifndef UNFOLD_KERNELS_CUDA_COMMON_CUH_
#define UNFOLD_KERNELS_CUDA_COMMON_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/context.h"
#include "unfold/base.h"

namespace unfold {

using Index = std::int64_t;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;

// When blocks of the work after may come up, to wait in their turn: at once, or when the work before is done. At once
// is better where they then have loads or searches to begin with; but what they take up is taken from this work.
// Measured (H200, ms a token of Qwen2-7B at 8K and 128K tokens): all when the work before is done 4.98 and (another
// machine) 5.84; all at once 5.11 and 5.81, on the other machine 5.02 and 5.64; at once but for products and merging
// splits 5.08 and 5.74. Finding and filling pages at once: 0.08 and 0.10 more than without. 32 answers at 8K: 8.16
// and 7.70. What is here, products, merging, finding and filling when the work before is done: 4.81 and 5.66, beside
// 4.86 and 5.85 for the form that all this began with.
enum class WorkAfter { kAtOnce, kWithThis };

// Lets blocks of the work after come up.
__device__ __forceinline__ void LetWorkAfterComeUp() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Begins a kernel that CudaContext::Launch launches: waits until the work before is done. Every block comes here, so
// that the work before that one is done too. What a kernel reads before it, launches before must not write: weights,
// and contexts and positions, which are put in place by copies, which no launch overtakes.
template <WorkAfter kAfter = WorkAfter::kAtOnce>
__device__ __forceinline__ void WaitForWorkBefore() {
  if constexpr (kAfter == WorkAfter::kAtOnce) LetWorkAfterComeUp();
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  if constexpr (kAfter == WorkAfter::kWithThis) LetWorkAfterComeUp();
}

__device__ __forceinline__ float Widen(float value) { return value; }
__device__ __forceinline__ float Widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float Widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float Widen(std::int8_t value) { return static_cast<float>(value); }

// Sums and maxima of all lanes, the same bits in every lane: a tree that depends on lane numbers alone.
__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}
__device__ __forceinline__ double WarpSum(double value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

__device__ __forceinline__ float WarpMax(float value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

// The sum of this lane's value and those of the lanes before it. All lanes take part.
__device__ __forceinline__ int WarpSumThrough(int value) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int before = __shfl_up_sync(kAllLanes, value, step);
    if (static_cast<int>(threadIdx.x) % kWarp >= step) value += before;
  }
  return value;
}

// The sum over a block of up to 1,024 threads, in every thread. `shared` has an entry for each warp; a barrier stands
// before and after its use.
template <typename T>
__device__ T BlockSum(T value, T* shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = (blockDim.x + kWarp - 1) / kWarp;
  value = WarpSum(value);
  __syncthreads();
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < warps; ++w) sum += shared[w];
  return sum;
}

// Notes a bad value. Of one call the lowest index is kept, of several the first call.
__device__ __forceinline__ void NoteFault(const FaultSink& sink, FaultKind kind, Index index, std::int32_t value,
                                          Index limit) {
  FaultNote& note = sink.notes[static_cast<int>(kind)];
  if (atomicMin(&note.call, sink.call) < sink.call) return;
  note.limit = limit;  // the same from all threads of a call
  atomicMin(&note.index_and_value, static_cast<unsigned long long>(index) << 32 | static_cast<std::uint32_t>(value));
}

// Whether `value` is in [0, limit); notes it if not.
__device__ __forceinline__ bool InRange(const FaultSink& sink, FaultKind kind, Index index, std::int32_t value,
                                        Index limit) {
  if (value >= 0 && value < limit) return true;
  NoteFault(sink, kind, index, value, limit - 1);
  return false;
}

__host__ __device__ constexpr Index CeilDiv(Index a, Index b) { return (a + b - 1) / b; }
inline unsigned Blocks(Index work, Index per_block) { return static_cast<unsigned>(CeilDiv(work, per_block)); }

// Whether memory can be loaded 16 bytes at a time.
inline bool HasVectors(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory) % 16 == 0; }

// What RmsNorm multiplies a row of `width` elements with, from the sum of their squares.
__device__ __forceinline__ float NormScale(float squares, Index width, float epsilon) {
  return 1.0F / sqrtf(squares / static_cast<float>(width) + epsilon);
}

__device__ __forceinline__ float Silu(float value) { return value / (1.0F + expf(-value)); }

// Narrows to what is stored, to nearest, ties to even.
__device__ __forceinline__ void Narrow(float value, float& to) { to = value; }
__device__ __forceinline__ void Narrow(float value, __nv_bfloat16& to) { to = __float2bfloat16_rn(value); }

// Four neighbours of a row, as one load or store when `whole` (there are four, at an address of as many bytes), else
// one by one: those of the first `count`. What is not loaded is 0.
template <typename Element>
struct alignas(4 * sizeof(Element)) Four {
  Element values[4];
};
template <typename Element>
__device__ __forceinline__ void LoadFour(const Element* from, bool whole, Index count, float (&to)[4]) {
  Four<Element> four;
  if (whole) four = *reinterpret_cast<const Four<Element>*>(from);
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = whole ? Widen(four.values[i]) : i < count ? Widen(from[i]) : 0.0F;
}
// The same as they are, to be widened where they are used: until then nothing waits for the load.
template <typename Element>
__device__ __forceinline__ Four<Element> LoadFour(const Element* from, bool whole, Index count) {
  Four<Element> four{};
  if (whole) {
    if (count > 0) four = *reinterpret_cast<const Four<Element>*>(from);
    return four;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count) four.values[i] = from[i];
  }
  return four;
}
template <typename Element>
__device__ __forceinline__ void StoreFour(const float (&from)[4], bool whole, Index count, Element* to) {
  if (whole) {
    Four<Element> four;
#pragma unroll
    for (int i = 0; i < 4; ++i) Narrow(from[i], four.values[i]);
    *reinterpret_cast<Four<Element>*>(to) = four;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count) Narrow(from[i], to[i]);
  }
}

// Calls `run` with a null pointer of the type that holds activations, or KV of a context, of `type`.
template <typename Run>
void WithActivationType(DType type, Run run) {
  if (type == DType::kBF16) return run(static_cast<__nv_bfloat16*>(nullptr));
  return run(static_cast<float*>(nullptr));
}

// Calls `run` with a null pointer of the type that holds elements of `type`.
template <typename Run>
void WithWeightType(DType type, Run run) {
  switch (type) {
    case DType::kF16: return run(static_cast<const __half*>(nullptr));
    case DType::kBF16: return run(static_cast<const __nv_bfloat16*>(nullptr));
    default: return run(static_cast<const float*>(nullptr));
  }
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_COMMON_CUH_
