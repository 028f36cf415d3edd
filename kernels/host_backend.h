// SPDX-License-Identifier: Apache-2.0
// HostBackend: what backends whose tensors lie in host memory share: memory, and checks of values inside tensors.
//
// Thread-compatible, like Backend.
#ifndef UNFOLD_KERNELS_HOST_BACKEND_H_
#define UNFOLD_KERNELS_HOST_BACKEND_H_

#include <span>
#include <string_view>
#include <vector>

#include "kernels/backend.h"

namespace unfold {

class HostBackend : public Backend {
 public:
  Result<Buffer> Allocate(std::size_t bytes) override;
  Status Upload(const Tensor& device, const void* host) override;
  Status Download(void* host, const Tensor& device) override;
  Result<Buffer> AllocateHost(std::size_t bytes) override { return Allocate(bytes); }
  Status FinishDownloads() override { return Status::Ok(); }  // StartDownload does it all
  Result<Tensor> ImportWeights(const Tensor& host) override;

 protected:
  // Requests one after another.
  template <typename Of, typename Args>
  static Status InTurn(std::span<const Args> requests, Of& of, Status (Of::*one)(const Args&)) {
    for (const Args& args : requests) UNFOLD_TRY((of.*one)(args));
    return Status::Ok();
  }

 private:
  Status DoStartDownload(void* host, const Tensor& device, DType type) override;
  Status DoCopy(const Tensor& from, const Tensor& to) override { return Upload(to, from.data); }
  Status DoCopyRows(std::span<const RowPiece> pieces) override;
  Status DoUnfold(std::span<const UnfoldArgs> requests) override {
    return InTurn(requests, *this, &HostBackend::UnfoldOne);
  }
  Status DoGistScore(std::span<const GistScoreArgs> requests) override;
  Status DoSparseAttention(std::span<const SparseAttentionArgs> requests) override {
    return InTurn(requests, *this, &HostBackend::SparseAttentionOne);
  }
  // In one call of the pool.
  Status DoUnfoldChunks(std::span<const UnfoldChunksArgs> requests) override;
  virtual Status UnfoldOne(const UnfoldArgs& args) = 0;
  // All but `best`.
  virtual Status ScoreGists(std::span<const GistScoreArgs> requests) = 0;
  virtual Status SparseAttentionOne(const SparseAttentionArgs& args) = 0;
};

// Each value of `indices` is in [0, limit).
Status CheckIndices(std::string_view op, std::string_view field, const Tensor& indices, std::int64_t limit);

// The values of an int32 tensor in host memory; none when it is not set.
inline std::span<const std::int32_t> Ints(const Tensor& tensor) {
  return {tensor.as<const std::int32_t>(), tensor.rank == 0 ? 0 : static_cast<std::size_t>(tensor.size())};
}

// Each position of Unfold has a row in the table and, where it says to which row of `out_k` it goes, there.
Status CheckUnfoldPositions(const UnfoldArgs& args);
// To which row of `out_k` row t goes.
inline std::int64_t OutRow(const UnfoldArgs& args, std::int64_t t) {
  return args.first_position < 0 ? args.row_begin + t : Ints(args.positions)[t] - args.first_position;
}

// Segments and children of all levels: they begin at 0, do not descend and end at their total. With `sinks` theirs too.
Status CheckContext(std::string_view op, const ContextView& context, bool sinks);

// Each position has a row in the table, also when counted from the first token of any document before it.
Status CheckQueryPositions(std::string_view op, const Tensor& positions, const RopeTable& rope,
                           const ContextView* context);

// What a call of SparseAttention reads of its tensors of integers: positions have a row in the table and in the tail,
// rows see documents that exist, chosen gists of each level ascend and exist, pages of chosen chunks exist or are none.
Status CheckAttention(const SparseAttentionArgs& args);
// Likewise for the parents of candidates of `level`, when they are set.
Status CheckParents(std::string_view op, const ContextView* context, int level, const ChosenGists& parents);
// The gists of `level` that are candidates for entry `list` of `parents`, ascending (GistScoreArgs).
void CollectCandidates(const ContextView& context, int level, const ChosenGists& parents, std::int64_t list,
                       std::vector<std::int32_t>* candidates);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_HOST_BACKEND_H_
