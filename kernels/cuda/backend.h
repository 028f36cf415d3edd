// SPDX-License-Identifier: Apache-2.0
// CudaBackend: the operations on one NVIDIA GPU of compute capability 8.0 or above (kernels are built for 8.0 and
// 9.0). Work is queued on one stream; a call returns before its kernels have run, and Download waits. Sums are f32 in
// an order that the shapes of one row fix, so a row's bits depend on that row alone.
//
// Values inside tensors are checked by the kernels that read them, and told by the next Download or Settle. Host memory
// of a call (spans) is copied before the call returns.
//
// Thread-compatible, like Backend. Included by .cu files only.
#ifndef UNFOLD_KERNELS_CUDA_BACKEND_H_
#define UNFOLD_KERNELS_CUDA_BACKEND_H_

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace unfold {

class DevicePrefillPlan;
class Downloads;
class TensorCoreProducts;
class Uploads;

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::unique_ptr<CudaContext> context);
  ~CudaBackend() override;

  std::string_view name() const override { return "cuda"; }
  DType WorkingType(DType compute) const override { return compute; }
  std::int64_t FeedForwardRows() const override { return 24576; }
  std::int64_t EncodeTokens() const override { return 16384; }
  bool SelectsByBest() const override { return true; }
  bool ListsChildren() const override { return true; }
  std::size_t TurnedQueryBytes(const Tensor& q, std::int64_t kv_heads, std::int64_t documents) const override;
  Result<Buffer> Allocate(std::size_t bytes) override;
  Status Upload(const Tensor& device, const void* host) override;
  Status Download(void* host, const Tensor& device) override;
  Result<Buffer> AllocateHost(std::size_t bytes) override;
  bool RunsBehind() const override { return true; }
  Status FinishDownloads() override;
  bool UploadsAhead() const override { return true; }
  Status AwaitUpload(std::uint64_t upload) override;
  Result<Tensor> ImportWeights(const Tensor& host) override;
  Result<std::unique_ptr<Recording>> Record(std::function<Status()> work) override;

 private:
  Status DoStartDownload(void* host, const Tensor& device, DType type) override;
  Result<std::uint64_t> DoStartUpload(const Tensor& device, std::span<const HostPiece> pieces) override;
  Status DoCopy(const Tensor& from, const Tensor& to) override;
  Status DoEmbed(const EmbedArgs& args) override;
  Status DoRmsNorm(const RmsNormArgs& args) override;
  Status DoMatMuls(std::span<const MatMulArgs> products) override;
  Status DoRope(const RopeArgs& args) override;
  Status DoSwiGlu(const SwiGluArgs& args) override;
  Status DoGatedProduct(const GatedProductArgs& args) override;
  Status DoNormedMatMuls(const RmsNormArgs& norm, std::span<const MatMulArgs> products) override;
  Status DoNormedGatedProduct(const RmsNormArgs& norm, const GatedProductArgs& args) override;
  Status DoGistPrefill(const GistPrefillArgs& args) override;
  Status DoUnfold(std::span<const UnfoldArgs> requests) override;
  Status DoGistScore(std::span<const GistScoreArgs> requests) override;
  Status DoSelectChunks(std::span<const SelectChunksArgs> requests) override;
  Status DoUnfoldChunks(std::span<const UnfoldChunksArgs> requests) override;
  Status DoSparseAttention(std::span<const SparseAttentionArgs> requests) override;
  Status DoRouteScores(std::span<const RouteScoreArgs> heads) override;
  Status DoCopyRows(std::span<const RowPiece> pieces) override;
  Status DoXorWords(const XorWordsArgs& args) override;

  std::unique_ptr<CudaContext> context_;
  std::unique_ptr<TensorCoreProducts> tensor_cores_;
  std::unique_ptr<DevicePrefillPlan> prefill_plan_;
  std::unique_ptr<Downloads> downloads_;
  std::unique_ptr<Uploads> uploads_;
  std::vector<Buffer> weights_;  // of ImportWeights
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_BACKEND_H_
