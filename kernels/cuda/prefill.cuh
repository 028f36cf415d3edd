// SPDX-License-Identifier: Apache-2.0
// What the two GistPrefill kernels share: a call's plan (prefill_plan.h) in device memory.
#ifndef UNFOLD_KERNELS_CUDA_PREFILL_CUH_
#define UNFOLD_KERNELS_CUDA_PREFILL_CUH_

#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/prefill_plan.h"

namespace unfold {

// Device memory, and the call's shape.
struct PrefillShape {
  const GistToken* tokens;
  const PrefillTile* tiles;
  const std::int32_t *far, *near;
  const unsigned long long* masks;  // [masks, tile rows], for tiles of kTensorCoreTileRows rows alone
  Index num_tiles;
  MaskRules rules;
  Index heads, kv_heads;

  // Where the row of the call that is key `i` of `tile` stands.
  __device__ const std::int32_t* KeyRow(const PrefillTile& tile, Index i) const {
    return i < tile.far_count ? far + tile.far_begin + i : near + tile.near_begin + i - tile.far_count;
  }
};

// Keeps the last call's plan: the layers of a pass have the same one. Thread-compatible.
class DevicePrefillPlan {
 public:
  explicit DevicePrefillPlan(CudaContext& context) : context_(context) {}
  // Valid until the next call.
  Result<PrefillShape> For(const GistPrefillArgs& args, Index tile_rows);

 private:
  bool Has(const GistPrefillArgs& args, Index tile_rows) const;
  Status Make(const GistPrefillArgs& args, Index tile_rows);
  Status MakeMasks(Index num_masks);

  CudaContext& context_;
  std::vector<GistToken> tokens_;
  std::vector<std::int64_t> sequence_begin_;
  MaskRules rules_;
  Index tile_rows_ = 0;  // 0: there is no plan
  Buffer memory_, masks_;
  PrefillShape shape_{};
};

// GistPrefill in bf16. Takes D of 64, 96, 128 and 256.
constexpr Index kTensorCoreTileRows = 64;
bool TakesPrefillOnTensorCores(const GistPrefillArgs& args);
Status PrefillOnTensorCores(CudaContext& context, const GistPrefillArgs& args, const PrefillShape& shape);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_PREFILL_CUH_
