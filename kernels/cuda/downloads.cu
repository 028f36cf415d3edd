// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <string>

#include "kernels/cuda/downloads.h"
#include "kernels/cuda/products.h"

namespace unfold {
namespace {

constexpr std::size_t kMostPinned = std::size_t{1} << 46;  // no machine has more; keeps the rounding from wrapping

}  // namespace

Downloads::~Downloads() {
  if (copies_ != nullptr) (void)cudaStreamSynchronize(copies_);
  FreeUnused();
  for (Stage& stage : stages_) {
    if (stage.filled != nullptr) (void)cudaEventDestroy(stage.filled);
    if (stage.copied != nullptr) (void)cudaEventDestroy(stage.copied);
  }
  if (copies_ != nullptr) (void)cudaStreamDestroy(copies_);
}

void Downloads::FreeUnused() {
  const std::lock_guard lock(unused_mutex_);
  for (const Pinned& pinned : unused_) (void)cudaFreeHost(pinned.data);
  unused_.clear();
}

Downloads::Pinned Downloads::TakeUnused(std::size_t bytes) {
  const std::lock_guard lock(unused_mutex_);
  const auto fits = std::find_if(unused_.begin(), unused_.end(), [&](const Pinned& p) { return p.bytes >= bytes; });
  if (fits == unused_.end()) return {};
  const Pinned taken = *fits;
  unused_.erase(fits);
  return taken;
}

Result<Buffer> Downloads::AllocateHost(std::size_t bytes) {
  const auto give_back = [this](std::size_t size) {
    return [this, size](void* data) {
      if (copies_ != nullptr) (void)cudaStreamSynchronize(copies_);  // a copy may be on its way into it
      const std::lock_guard lock(unused_mutex_);
      unused_.push_back({data, size});
    };
  };
  if (const Pinned taken = TakeUnused(bytes); taken.data != nullptr) {
    return Buffer(taken.data, bytes, give_back(taken.bytes));
  }
  FreeUnused();
  // Powers of two: passes of about the same length take each other's memory.
  const std::size_t rounded = std::bit_ceil(std::clamp<std::size_t>(bytes, 4096, kMostPinned));
  void* memory = nullptr;
  const cudaError_t error = bytes > kMostPinned ? cudaErrorMemoryAllocation : cudaMallocHost(&memory, rounded);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return Status::ResourceExhausted("cuda: no pinned host memory for " + std::to_string(bytes) + " bytes");
  }
  UNFOLD_TRY(context_.Explain(error, "pinned memory"));
  return Buffer(memory, bytes, give_back(rounded));
}

Status Downloads::Prepare() {
  if (copies_ == nullptr) {
    UNFOLD_TRY(context_.Explain(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "a stream"));
  }
  for (Stage& stage : stages_) {
    for (cudaEvent_t* event : {&stage.filled, &stage.copied}) {
      if (*event != nullptr) continue;
      UNFOLD_TRY(context_.Explain(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "an event"));
    }
  }
  return Status::Ok();
}

Status Downloads::Start(void* host, const Tensor& device, DType type) {
  UNFOLD_TRY(Prepare());
  Stage& stage = stages_[next_];
  next_ = (next_ + 1) % kStages;
  Tensor staged = device;
  staged.dtype = type;
  if (staged.bytes() > stage.memory.bytes()) {
    stage.memory = Buffer();  // waits for the copy that may still read it: cudaFree waits for the device
    UNFOLD_TRY_ASSIGN(stage.memory, context_.MakeBuffer(staged.bytes() + staged.bytes() / 4));
  }
  staged.data = stage.memory.data();
  const auto must = [&](cudaError_t error) { return context_.Explain(error, "StartDownload"); };
  UNFOLD_TRY(must(cudaStreamWaitEvent(context_.stream(), stage.copied)));
  UNFOLD_TRY(Convert(context_, device, staged));
  UNFOLD_TRY(must(cudaEventRecord(stage.filled, context_.stream())));
  UNFOLD_TRY(must(cudaStreamWaitEvent(copies_, stage.filled)));
  UNFOLD_TRY(must(cudaMemcpyAsync(host, staged.data, staged.bytes(), cudaMemcpyDeviceToHost, copies_)));
  return must(cudaEventRecord(stage.copied, copies_));
}

Status Downloads::Finish() { return copies_ == nullptr ? Status::Ok() : context_.Settle(copies_); }

}  // namespace unfold
