// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string>
#include <utility>

#include "kernels/cuda/context.h"

namespace unfold {
namespace {

constexpr std::size_t kNumFaults = static_cast<std::size_t>(FaultKind::kCount);
constexpr std::size_t kNotesBytes = kNumFaults * sizeof(FaultNote);

// How a bad value is told: as the host backends do (host_backend.cc). `want` gets the limit put in at '#'.
struct FaultWords {
  std::string_view op_and_field;
  std::string_view want;
};

constexpr std::array<FaultWords, kNumFaults> kWords = {{
    {"Embed: ids", "0 to #"},
    {"Rope: positions", "0 to #"},
    {"Unfold: positions", "0 to #"},
    {"GistScore: positions", "0 to #"},
    {"GistScore: context.segment_offset", "0 to the first query's position #"},
    {"SparseAttention: positions", "0 to #"},
    {"SparseAttention: positions", "a row of the tail, up to #"},
    {"SparseAttention: context.segment_offset", "0 to the first query's position #"},
    {"GistScore: parents.counts", "0 to #"},
    {"GistScore: parents", "0 to #"},
    {"GistScore: parents", "ascending gists"},
    {"SelectChunks: parents.counts", "0 to #"},
    {"SelectChunks: parents", "0 to #"},
    {"SelectChunks: parents", "ascending gists"},
    {"SparseAttention: chosen.counts", "0 to #"},
    {"SparseAttention: chosen", "0 to #"},
    {"SparseAttention: chosen", "ascending gists"},
    {"SparseAttention: chosen", "an unfolded chunk (context.chunk_page is below 0)"},
    {"SparseAttention: context.chunk_page", "a page up to #"},
    {"SparseAttention: context.chunk_tokens", "0 to #"},
    {"SparseAttention: row_documents", "0 to #"},
    {"GistScore: context.gists.segment", "ascending, up to #"},
    {"GistScore: context.gists.child", "ascending, up to #"},
    {"SelectChunks: context.gists.child", "ascending, up to #"},
    {"SparseAttention: context.gists.segment", "ascending, up to #"},
    {"SparseAttention: context.segment_sink", "ascending, up to #"},
}};

Status Tell(std::size_t kind, const FaultNote& note) {
  std::string want(kWords[kind].want);
  if (const std::size_t at = want.find('#'); at != std::string::npos) want.replace(at, 1, std::to_string(note.limit));
  const auto value = static_cast<std::int32_t>(note.index_and_value & 0xffffffffU);
  return Status::InvalidArgument(std::string(kWords[kind].op_and_field) + '[' +
                                 std::to_string(note.index_and_value >> 32) + "] is " + std::to_string(value) +
                                 ", expected " + want);
}

std::string OutOfMemory(std::size_t bytes) {
  std::size_t free_bytes = 0, all_bytes = 0;
  (void)cudaMemGetInfo(&free_bytes, &all_bytes);
  (void)cudaGetLastError();
  return "cuda: no memory for " + std::to_string(bytes) + " bytes; free are " + std::to_string(free_bytes) + " of " +
         std::to_string(all_bytes);
}

// Whether later calls fail too: all errors of execution. What is left are refusals that had no effect.
bool EndsContext(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorLaunchOutOfResources: return false;
    default: return true;
  }
}

}  // namespace

Result<std::unique_ptr<CudaContext>> CudaContext::Make() {
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found != cudaSuccess || devices == 0) {
    (void)cudaGetLastError();
    return Status::Unavailable(std::string("cuda: no usable GPU (") +
                               (found == cudaSuccess ? "none found" : cudaGetErrorString(found)) +
                               "); install NVIDIA's driver, look at CUDA_VISIBLE_DEVICES, or take the backend 'cpu'");
  }
  std::unique_ptr<CudaContext> context(new CudaContext);
  UNFOLD_TRY(context->Explain(cudaSetDevice(0), "cudaSetDevice"));
  UNFOLD_TRY(context->Explain(cudaStreamCreateWithFlags(&context->stream_, cudaStreamNonBlocking), "a stream"));
  if (cublasLtCreate(&context->blas_) != CUBLAS_STATUS_SUCCESS) return Status::Device("cuda: cublasLtCreate failed");
  UNFOLD_TRY_ASSIGN(void* notes, context->Allocate(kNotesBytes));
  context->notes_ = static_cast<FaultNote*>(notes);
  UNFOLD_TRY(context->Explain(cudaMemset(notes, 0xff, kNotesBytes), "cudaMemset"));
  void* host_notes = nullptr;
  UNFOLD_TRY(context->Explain(cudaMallocHost(&host_notes, kNotesBytes), "pinned memory"));
  context->host_notes_ = static_cast<FaultNote*>(host_notes);
  // Memory of calls stays with us between calls.
  cudaMemPool_t pool = nullptr;
  UNFOLD_TRY(context->Explain(cudaDeviceGetDefaultMemPool(&pool, 0), "the memory pool"));
  std::uint64_t keep = UINT64_MAX;
  UNFOLD_TRY(context->Explain(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "the pool"));
  return Result<std::unique_ptr<CudaContext>>(std::move(context));
}

CudaContext::~CudaContext() {
  if (notes_ != nullptr) (void)cudaFree(notes_);
  if (host_notes_ != nullptr) (void)cudaFreeHost(host_notes_);
  if (blas_ != nullptr) (void)cublasLtDestroy(blas_);
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

Result<void*> CudaContext::Allocate(std::size_t bytes) {
  UNFOLD_TRY(broken_);
  void* memory = nullptr;
  cudaError_t error = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  if (error == cudaErrorMemoryAllocation) {  // the pool of calls may hold what is wanted
    (void)cudaGetLastError();
    cudaMemPool_t pool = nullptr;
    (void)cudaStreamSynchronize(stream_);
    if (cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess) (void)cudaMemPoolTrimTo(pool, 0);
    error = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  }
  if (error == cudaErrorMemoryAllocation) return Status::ResourceExhausted(OutOfMemory(bytes));
  UNFOLD_TRY(Explain(error, "cudaMalloc"));
  return memory;
}

Result<Buffer> CudaContext::MakeBuffer(std::size_t bytes) {
  UNFOLD_TRY_ASSIGN(void* memory, Allocate(bytes));
  return Buffer(memory, bytes, [this](void* data) {
    (void)cudaStreamSynchronize(stream_);  // kernels may still read it
    (void)cudaFree(data);
  });
}

// From pageable memory, which all of ours is: the driver has taken the bytes when the call returns, and the copy stands
// in the stream before the kernels that read it.
Status CudaContext::CopyIn(void* device, const void* host, std::size_t bytes) {
  UNFOLD_TRY(broken_);
  return Explain(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "Upload");
}

Status CudaContext::CopyOut(void* host, const void* device, std::size_t bytes) {
  UNFOLD_TRY(broken_);
  UNFOLD_TRY(Explain(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "Download"));
  return Settle();
}

Status CudaContext::Settle(cudaStream_t stream) {
  UNFOLD_TRY(broken_);
  UNFOLD_TRY(Explain(cudaMemcpyAsync(host_notes_, notes_, kNotesBytes, cudaMemcpyDeviceToHost, stream), "Download"));
  UNFOLD_TRY(Explain(cudaStreamSynchronize(stream), "the work before"));
  std::size_t first = kNumFaults;
  for (std::size_t kind = 0; kind < kNumFaults; ++kind) {
    if (host_notes_[kind].index_and_value == ~0ULL) continue;
    if (first == kNumFaults || host_notes_[kind].call < host_notes_[first].call) first = kind;
  }
  if (first == kNumFaults) return Status::Ok();
  UNFOLD_TRY(Explain(cudaMemsetAsync(notes_, 0xff, kNotesBytes, stream_), "cudaMemset"));
  return Tell(first, host_notes_[first]);
}

Status CudaContext::Explain(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return broken_;
  (void)cudaGetLastError();
  if (error == cudaErrorMemoryAllocation)
    return Status::ResourceExhausted(OutOfMemory(0) + " (" + std::string(what) + ")");
  Status status = Status::Device("cuda: " + std::string(what) + ": " + cudaGetErrorString(error) + " (" +
                                 cudaGetErrorName(error) + ")");
  if (EndsContext(error) && broken_.ok()) broken_ = status;
  return status;
}

CallMemory::~CallMemory() {
  for (void* memory : taken_) (void)cudaFreeAsync(memory, context_.stream());
}

void* CallMemory::Take(std::size_t bytes) {
  if (!status_.ok()) return nullptr;
  void* memory = nullptr;
  const cudaError_t error = cudaMallocAsync(&memory, bytes == 0 ? 1 : bytes, context_.stream());
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    status_ = Status::ResourceExhausted(std::string(op_) + ": " + OutOfMemory(bytes));
  } else {
    status_ = context_.Explain(error, op_);
  }
  if (!status_.ok()) return nullptr;
  taken_.push_back(memory);
  return memory;
}

void* CallMemory::Cleared(void* memory, std::size_t bytes) {
  if (memory != nullptr) status_ = context_.Explain(cudaMemsetAsync(memory, 0, bytes, context_.stream()), op_);
  return memory;
}

void* CallMemory::Filled(void* memory, const void* host, std::size_t bytes) {
  if (memory == nullptr || bytes == 0) return memory;
  // From pageable memory: the driver has taken the bytes when this returns.
  status_ = context_.Explain(cudaMemcpyAsync(memory, host, bytes, cudaMemcpyHostToDevice, context_.stream()), op_);
  return memory;
}

}  // namespace unfold
