// SPDX-License-Identifier: Apache-2.0
// HostBackend: what backends whose tensors lie in host memory share: memory, and checks of values inside tensors.
//
// Thread-compatible, like Backend.
#ifndef UNFOLD_KERNELS_HOST_BACKEND_H_
#define UNFOLD_KERNELS_HOST_BACKEND_H_

#include <string_view>

#include "kernels/backend.h"

namespace unfold {

class HostBackend : public Backend {
 public:
  Result<Buffer> Allocate(std::size_t bytes) override;
  Status Upload(const Tensor& device, const void* host) override;
  Status Download(void* host, const Tensor& device) override;
  Result<Tensor> ImportWeights(const Tensor& host) override;
};

// Each value of `indices` is in [0, limit).
Status CheckIndices(std::string_view op, std::string_view field, const Tensor& indices, std::int64_t limit);

// Each position has a row in the table, also when counted from the first token of any document before it.
Status CheckQueryPositions(std::string_view op, const Tensor& positions, const RopeTable& rope,
                           const ContextView* context);

// Chosen chunks ascend, exist and are unfolded. Only for calls that read them.
Status CheckChosen(const SparseAttentionArgs& args);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_HOST_BACKEND_H_
