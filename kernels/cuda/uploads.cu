// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/uploads.h"

namespace unfold {

Uploads::~Uploads() {
  Finish();
  for (const cudaEvent_t event : done_) {
    if (event != nullptr) (void)cudaEventDestroy(event);
  }
  if (given_ != nullptr) (void)cudaEventDestroy(given_);
  if (copies_ != nullptr) (void)cudaStreamDestroy(copies_);
}

void Uploads::Finish() {
  if (copies_ != nullptr) (void)cudaStreamSynchronize(copies_);
}

Status Uploads::Prepare() {
  if (copies_ == nullptr) {
    UNFOLD_TRY(context_.Explain(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "a stream"));
  }
  const auto make = [&](cudaEvent_t& event) -> Status {
    if (event != nullptr) return Status::Ok();
    return context_.Explain(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
  };
  UNFOLD_TRY(make(given_));
  for (cudaEvent_t& event : done_) UNFOLD_TRY(make(event));
  return Status::Ok();
}

Result<std::uint64_t> Uploads::Start(const Tensor& device, std::span<const HostPiece> pieces) {
  UNFOLD_TRY(Prepare());
  const auto must = [&](cudaError_t error) { return context_.Explain(error, "StartUpload"); };
  UNFOLD_TRY(must(cudaEventRecord(given_, context_.stream())));
  UNFOLD_TRY(must(cudaStreamWaitEvent(copies_, given_)));
  for (const HostPiece& piece : pieces) {
    UNFOLD_TRY(must(
        cudaMemcpyAsync(device.as<std::byte>() + piece.to, piece.from, piece.bytes, cudaMemcpyHostToDevice, copies_)));
  }
  UNFOLD_TRY(must(cudaEventRecord(done_[++started_ % kEvents], copies_)));
  return started_;
}

Status Uploads::Await(std::uint64_t upload) {
  if (upload == 0 || upload > started_) return Status::InvalidArgument("AwaitUpload: there is no such upload");
  return context_.Explain(cudaStreamWaitEvent(context_.stream(), done_[upload % kEvents]), "AwaitUpload");
}

}  // namespace unfold
