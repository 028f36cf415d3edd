// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/backend.h"
#include "kernels/cuda/downloads.h"
#include "kernels/cuda/prefill.cuh"
#include "kernels/cuda/products.h"
#include "kernels/cuda/uploads.h"

namespace unfold {
namespace {

class RecordedGraph final : public Recording {
 public:
  RecordedGraph(CudaContext& context, cudaGraphExec_t recorded) : context_(context), recorded_(recorded) {}
  ~RecordedGraph() override { context_.Forget(recorded_); }
  Status Run() override { return context_.Run(recorded_); }

 private:
  CudaContext& context_;
  cudaGraphExec_t recorded_;
};

}  // namespace

CudaBackend::CudaBackend(std::unique_ptr<CudaContext> context)
    : context_(std::move(context)),
      tensor_cores_(std::make_unique<TensorCoreProducts>(*context_)),
      prefill_plan_(std::make_unique<DevicePrefillPlan>(*context_)),
      downloads_(std::make_unique<Downloads>(*context_)),
      uploads_(std::make_unique<Uploads>(*context_)) {}

CudaBackend::~CudaBackend() = default;

Result<Buffer> CudaBackend::Allocate(std::size_t bytes) { return context_->MakeBuffer(bytes); }

Status CudaBackend::Upload(const Tensor& device, const void* host) {
  if (device.bytes() == 0) return Status::Ok();
  if (device.data == nullptr || host == nullptr) return Status::InvalidArgument("Upload: no memory");
  return context_->CopyIn(device.data, host, device.bytes());
}

Status CudaBackend::Download(void* host, const Tensor& device) {
  if (device.bytes() == 0) return context_->Settle();
  if (device.data == nullptr || host == nullptr) return Status::InvalidArgument("Download: no memory");
  return context_->CopyOut(host, device.data, device.bytes());
}

Result<Buffer> CudaBackend::AllocateHost(std::size_t bytes) { return downloads_->AllocateHost(bytes); }

Result<std::uint64_t> CudaBackend::DoStartUpload(const Tensor& device, std::span<const HostPiece> pieces) {
  return uploads_->Start(device, pieces);
}

Status CudaBackend::AwaitUpload(std::uint64_t upload) { return uploads_->Await(upload); }

Status CudaBackend::DoStartDownload(void* host, const Tensor& device, DType type) {
  return downloads_->Start(host, device, type);
}

Status CudaBackend::DoCopy(const Tensor& from, const Tensor& to) {
  return context_->Explain(
      cudaMemcpyAsync(to.data, from.data, from.bytes(), cudaMemcpyDeviceToDevice, context_->stream()), "Copy");
}

Status CudaBackend::FinishDownloads() { return downloads_->Finish(); }

Result<Tensor> CudaBackend::ImportWeights(const Tensor& host) {
  UNFOLD_TRY_ASSIGN(Buffer memory, Allocate(host.bytes()));
  Tensor device = host;
  device.data = memory.data();
  UNFOLD_TRY(Upload(device, host.data));
  weights_.push_back(std::move(memory));
  return device;
}

Result<std::unique_ptr<Recording>> CudaBackend::Record(std::function<Status()> work) {
  UNFOLD_TRY(context_->BeginRecording());
  const Status worked = work();
  UNFOLD_TRY_ASSIGN(cudaGraphExec_t recorded, context_->EndRecording());  // in any case
  std::unique_ptr<Recording> recording = std::make_unique<RecordedGraph>(*context_, recorded);
  UNFOLD_TRY(worked);  // what was recorded until then is forgotten
  return Result<std::unique_ptr<Recording>>(std::move(recording));
}

Result<std::unique_ptr<Backend>> MakeCudaBackend() {
  UNFOLD_TRY_ASSIGN(std::unique_ptr<CudaContext> context, CudaContext::Make());
  return std::unique_ptr<Backend>(std::make_unique<CudaBackend>(std::move(context)));
}

}  // namespace unfold
