// SPDX-License-Identifier: Apache-2.0
// CudaContext: one device, one stream, the cuBLASLt handle, and what goes wrong on them as Status.
//
// Two kinds of trouble come late. A kernel that meets a bad value (an id outside the table) leaves its output row
// alone and notes the value in device memory; Settle reads the notes. A device error (an illegal address) makes the
// CUDA context unusable for good; from then on every call says so.
//
// All work stands in one stream, so memory that a call is done with serves the next one at once: calls take theirs from
// blocks that stay (CallMemory), and recorded work can rely on its addresses.
//
// Thread-compatible, like Backend. Included by .cu files only.
#ifndef UNFOLD_KERNELS_CUDA_CONTEXT_H_
#define UNFOLD_KERNELS_CUDA_CONTEXT_H_

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "kernels/cuda/faults.h"
#include "kernels/cuda/launch_shape.h"
#include "kernels/tensor.h"
#include "unfold/base.h"

namespace unfold {

class CudaContext {
 public:
  // Device 0 of those that CUDA_VISIBLE_DEVICES leaves. Unavailable without a driver or a device.
  static Result<std::unique_ptr<CudaContext>> Make();
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  cudaStream_t stream() const { return stream_; }
  cublasLtHandle_t blas() const { return blas_; }
  int num_multiprocessors() const { return num_multiprocessors_; }
  int most_shared_bytes() const { return most_shared_bytes_; }  // that a block can have

  // Device memory, not initialised. ResourceExhausted names what was asked and what is free.
  Result<Buffer> MakeBuffer(std::size_t bytes);
  // `host` is pageable memory, and may change on return.
  Status CopyIn(void* device, const void* host, std::size_t bytes);
  // Complete on return; tells bad values and errors of the work before.
  Status CopyOut(void* host, const void* device, std::size_t bytes);

  // Between the two, operations are recorded instead of run. What is recorded is run as often as wanted, then
  // forgotten.
  Status BeginRecording();
  Result<cudaGraphExec_t> EndRecording();
  Status Run(cudaGraphExec_t recorded);
  void Forget(cudaGraphExec_t recorded);

  // Words by which the blocks of a launch tell each other what they have done: zero before it, and left at zero.
  Result<unsigned*> Counters(std::int64_t count, std::string_view op);

  // A new call's place for bad values.
  FaultSink NextCall() { return {notes_, ++calls_}; }
  // Waits for the stream; the first bad value since the last time, or the device's error.
  Status Settle() { return Settle(stream_); }
  // Waits for another stream alone: what its work waited for has noted its bad values.
  Status Settle(cudaStream_t stream);
  // Launches a kernel that begins with WaitForWorkBefore (common.cuh): its blocks come up before the work before ends.
  // All of an SM's memory that can be shared memory is: kernels that differ in it wait for each other. But one that
  // streams is launched after the work before, with a large L1, where its loads under way find room.
  template <typename... Params, typename... Args>
  Status Launch(void (*kernel)(Params...), const LaunchShape& work, Args... args) {
    UNFOLD_TRY(Prepare(reinterpret_cast<const void*>(kernel), work.op));
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
    attributes[0].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t launch{};
    launch.gridDim = dim3(static_cast<unsigned>(work.blocks), static_cast<unsigned>(work.requests));
    launch.blockDim = dim3(static_cast<unsigned>(work.threads));
    launch.dynamicSmemBytes = work.shared_bytes;
    launch.stream = stream_;
    launch.attrs = attributes;
    launch.numAttrs = work.streams ? 0 : launches_early_ ? 2 : 1;
    return Explain(cudaLaunchKernelEx(&launch, kernel, static_cast<Params>(args)...), work.op);
  }
  // What `error` means, ok for cudaSuccess; remembers errors that end the context.
  Status Explain(cudaError_t error, std::string_view what);
  // The state after kernels were launched.
  Status Launched(std::string_view op) { return Explain(cudaGetLastError(), op); }

 private:
  friend class CallMemory;
  // Once for each kernel: lets it take all shared memory that there is.
  Status Prepare(const void* kernel, std::string_view op);
  struct Block {
    void* memory;
    std::size_t bytes, used;
  };

  CudaContext() = default;
  Result<void*> Allocate(std::size_t bytes);
  bool GiveBlocksBack();
  // Of the blocks for calls.
  Result<void*> TakeScratch(std::size_t bytes);
  Status NotRecording(std::string_view what) const;

  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t blas_ = nullptr;
  int num_multiprocessors_ = 1, most_shared_bytes_ = 0;
  bool launches_early_ = false;  // compute capability 9.0
  FaultNote* notes_ = nullptr;
  FaultNote* host_notes_ = nullptr;  // pinned: where Settle reads them
  unsigned long long calls_ = 0;
  std::vector<Block> blocks_;
  std::unordered_set<const void*> prepared_;  // kernels
  std::vector<Buffer> counters_;              // the last one is in use; recordings may have others
  std::int64_t num_counters_ = 0;
  bool recording_ = false;
  int recordings_ = 0;
  Status broken_;
};

// Device memory of one call, free again for the next one when this goes. Those of nested calls go in turn.
class CallMemory {
 public:
  CallMemory(CudaContext& context, std::string_view op);
  ~CallMemory();
  CallMemory(const CallMemory&) = delete;
  CallMemory& operator=(const CallMemory&) = delete;

  // `count` elements, not initialised. Null after a failure, which status() tells.
  template <typename T>
  T* Array(std::int64_t count) {
    return static_cast<T*>(Take(static_cast<std::size_t>(count) * sizeof(T)));
  }
  // All bytes zero.
  template <typename T>
  T* Zeros(std::int64_t count) {
    return static_cast<T*>(Cleared(Take(static_cast<std::size_t>(count) * sizeof(T)), count * sizeof(T)));
  }
  // Host memory, copied; the caller may change it at once.
  template <typename T>
  const T* Copy(std::span<const T> host) {
    return static_cast<const T*>(Filled(Take(host.size_bytes()), host.data(), host.size_bytes()));
  }

  const Status& status() const { return status_; }
  // Keeps the first failure.
  void Note(const Status& status) {
    if (status_.ok()) status_ = status;
  }

 private:
  void* Take(std::size_t bytes);
  void* Cleared(void* memory, std::size_t bytes);
  void* Filled(void* memory, const void* host, std::size_t bytes);

  CudaContext& context_;
  std::string_view op_;
  std::vector<std::size_t> used_before_;  // of each block
  Status status_;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_CONTEXT_H_
