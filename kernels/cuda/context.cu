// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
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
    {"Unfold: positions", "those of out_k's rows, up to #"},
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
    {"SparseAttention: chunks", "0 to #"},
    {"SparseAttention: chunks", "ascending chunks"},
    {"SparseAttention: chunks.page", "a page up to #"},
    {"SparseAttention: chunks.tokens", "0 to #"},
    {"SparseAttention: chunks.document", "0 to #"},
    {"SparseAttention: row_documents", "0 to #"},
    {"GistScore: context.gists.segment", "ascending, up to #"},
    {"GistScore: context.gists.child", "ascending, up to #"},
    {"SelectChunks: context.gists.child", "ascending, up to #"},
    {"SparseAttention: context.gists.segment", "ascending, up to #"},
    {"SparseAttention: context.segment_sink", "ascending, up to #"},
    {"UnfoldChunks: chosen.counts", "0 to #"},
    {"UnfoldChunks: chosen", "0 to #"},
    {"UnfoldChunks: places.tokens", "0 to #"},
    {"UnfoldChunks: places, a chunk's slot", "0 to #"},
    {"UnfoldChunks: places, a chunk's block", "0 to #"},
    {"UnfoldChunks: places.first_row", "0 to #"},
    {"UnfoldChunks: places, a chunk's rows", "to end by row # of their block"},
    {"UnfoldChunks: places.position", "0 to #"},
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
  int major = 0;
  const auto ask = [&](int& value, cudaDeviceAttr attribute) {
    return context->Explain(cudaDeviceGetAttribute(&value, attribute, 0), "the device");
  };
  UNFOLD_TRY(ask(context->num_multiprocessors_, cudaDevAttrMultiProcessorCount));
  UNFOLD_TRY(ask(context->most_shared_bytes_, cudaDevAttrMaxSharedMemoryPerBlockOptin));
  UNFOLD_TRY(ask(major, cudaDevAttrComputeCapabilityMajor));
  context->launches_early_ = major >= 9;
  UNFOLD_TRY(context->Explain(cudaStreamCreateWithFlags(&context->stream_, cudaStreamNonBlocking), "a stream"));
  if (cublasLtCreate(&context->blas_) != CUBLAS_STATUS_SUCCESS) return Status::Device("cuda: cublasLtCreate failed");
  UNFOLD_TRY_ASSIGN(void* notes, context->Allocate(kNotesBytes));
  context->notes_ = static_cast<FaultNote*>(notes);
  UNFOLD_TRY(context->Explain(cudaMemset(notes, 0xff, kNotesBytes), "cudaMemset"));
  void* host_notes = nullptr;
  UNFOLD_TRY(context->Explain(cudaMallocHost(&host_notes, kNotesBytes), "pinned memory"));
  context->host_notes_ = static_cast<FaultNote*>(host_notes);
  return Result<std::unique_ptr<CudaContext>>(std::move(context));
}

CudaContext::~CudaContext() {
  counters_.clear();
  for (const Block& block : blocks_) (void)cudaFree(block.memory);
  if (notes_ != nullptr) (void)cudaFree(notes_);
  if (host_notes_ != nullptr) (void)cudaFreeHost(host_notes_);
  if (blas_ != nullptr) (void)cublasLtDestroy(blas_);
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

// The same for every context of the process, which have their kernels in common.
Status CudaContext::Prepare(const void* kernel, std::string_view op) {
  if (prepared_.contains(kernel)) return Status::Ok();
  cudaFuncAttributes attributes{};
  UNFOLD_TRY(Explain(cudaFuncGetAttributes(&attributes, kernel), op));
  UNFOLD_TRY(Explain(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          most_shared_bytes_ - static_cast<int>(attributes.sharedSizeBytes)),
                     op));
  prepared_.insert(kernel);
  return Status::Ok();
}

Result<void*> CudaContext::Allocate(std::size_t bytes) {
  UNFOLD_TRY(broken_);
  void* memory = nullptr;
  cudaError_t error = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  if (error == cudaErrorMemoryAllocation && GiveBlocksBack()) error = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  if (error == cudaErrorMemoryAllocation) return Status::ResourceExhausted(OutOfMemory(bytes));
  UNFOLD_TRY(Explain(error, "cudaMalloc"));
  return memory;
}

// Of calls that are done, if no recording has their addresses. Whether there were any.
bool CudaContext::GiveBlocksBack() {
  (void)cudaGetLastError();
  const bool used = std::any_of(blocks_.begin(), blocks_.end(), [](const Block& block) { return block.used > 0; });
  if (blocks_.empty() || used || recordings_ > 0 || recording_) return false;
  (void)cudaStreamSynchronize(stream_);
  for (const Block& block : blocks_) (void)cudaFree(block.memory);
  blocks_.clear();
  return true;
}

// From the first block that has room; else from a new one, as large as all before, so that there are few.
Result<void*> CudaContext::TakeScratch(std::size_t bytes) {
  constexpr std::size_t kAlignment = 256, kLeast = std::size_t{1} << 20;
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  std::size_t all = kLeast;
  for (Block& block : blocks_) {
    all += block.bytes;
    if (block.bytes - block.used < rounded) continue;
    void* taken = static_cast<char*>(block.memory) + block.used;
    block.used += rounded;
    return taken;
  }
  Result<void*> memory = Allocate(std::max(all, rounded));
  std::size_t got = std::max(all, rounded);
  if (!memory.ok() && memory.status().code() == StatusCode::kResourceExhausted && got > rounded) {
    got = rounded;
    memory = Allocate(got);
  }
  UNFOLD_TRY(memory.status());
  blocks_.push_back({*memory, got, rounded});
  return *memory;
}

Result<unsigned*> CudaContext::Counters(std::int64_t count, std::string_view op) {
  if (count > num_counters_) {
    const std::int64_t more = std::max<std::int64_t>({count, 2 * num_counters_, 1024});
    const auto bytes = static_cast<std::size_t>(more) * sizeof(unsigned);
    Result<Buffer> made = MakeBuffer(bytes);
    if (!made.ok()) return Status(made.status().code(), std::string(op) + ": " + made.status().message());
    Buffer memory = *std::move(made);
    // Not in our stream: the memory is new, and this is no part of what may be recorded.
    UNFOLD_TRY(Explain(cudaMemset(memory.data(), 0, bytes), "counters"));
    UNFOLD_TRY(Explain(cudaStreamSynchronize(nullptr), "counters"));
    counters_.push_back(std::move(memory));
    num_counters_ = more;
  }
  return static_cast<unsigned*>(counters_.back().data());
}

Status CudaContext::NotRecording(std::string_view what) const {
  if (!recording_) return Status::Ok();
  return Status::InvalidArgument("cuda: " + std::string(what) + " cannot be part of recorded work");
}

Status CudaContext::BeginRecording() {
  UNFOLD_TRY(broken_);
  UNFOLD_TRY(NotRecording("a recording"));
  // Relaxed: a call may still need a new block of memory.
  UNFOLD_TRY(Explain(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "recording"));
  recording_ = true;
  return Status::Ok();
}

Result<cudaGraphExec_t> CudaContext::EndRecording() {
  recording_ = false;
  cudaGraph_t graph = nullptr;
  UNFOLD_TRY(Explain(cudaStreamEndCapture(stream_, &graph), "recording"));
  cudaGraphExec_t ready = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&ready, graph, 0);
  (void)cudaGraphDestroy(graph);
  UNFOLD_TRY(Explain(error, "recording"));
  ++recordings_;
  return ready;
}

Status CudaContext::Run(cudaGraphExec_t recorded) {
  UNFOLD_TRY(broken_);
  UNFOLD_TRY(NotRecording("a recording"));
  return Explain(cudaGraphLaunch(recorded, stream_), "recorded work");
}

void CudaContext::Forget(cudaGraphExec_t recorded) {
  (void)cudaStreamSynchronize(stream_);
  (void)cudaGraphExecDestroy(recorded);
  --recordings_;
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
  UNFOLD_TRY(NotRecording("Upload"));
  return Explain(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "Upload");
}

Status CudaContext::CopyOut(void* host, const void* device, std::size_t bytes) {
  UNFOLD_TRY(broken_);
  UNFOLD_TRY(NotRecording("Download"));
  UNFOLD_TRY(Explain(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "Download"));
  return Settle();
}

Status CudaContext::Settle(cudaStream_t stream) {
  UNFOLD_TRY(broken_);
  UNFOLD_TRY(NotRecording("Download"));
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

CallMemory::CallMemory(CudaContext& context, std::string_view op) : context_(context), op_(op) {
  for (const CudaContext::Block& block : context.blocks_) used_before_.push_back(block.used);
}

CallMemory::~CallMemory() {
  for (std::size_t i = 0; i < context_.blocks_.size(); ++i) {
    context_.blocks_[i].used = i < used_before_.size() ? used_before_[i] : 0;
  }
}

void* CallMemory::Take(std::size_t bytes) {
  if (!status_.ok()) return nullptr;
  Result<void*> memory = context_.TakeScratch(bytes);
  if (memory.ok()) return *memory;
  status_ = Status(memory.status().code(), std::string(op_) + ": " + memory.status().message());
  return nullptr;
}

void* CallMemory::Cleared(void* memory, std::size_t bytes) {
  if (memory != nullptr) status_ = context_.Explain(cudaMemsetAsync(memory, 0, bytes, context_.stream()), op_);
  return memory;
}

void* CallMemory::Filled(void* memory, const void* host, std::size_t bytes) {
  if (memory == nullptr || bytes == 0) return memory;
  status_ = context_.NotRecording(op_);
  if (!status_.ok()) return memory;
  // From pageable memory: the driver has taken the bytes when this returns.
  status_ = context_.Explain(cudaMemcpyAsync(memory, host, bytes, cudaMemcpyHostToDevice, context_.stream()), op_);
  return memory;
}

}  // namespace unfold
