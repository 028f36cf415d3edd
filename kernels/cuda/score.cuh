// SPDX-License-Identifier: Apache-2.0
// What the two forms of GistScore share.
#ifndef UNFOLD_KERNELS_CUDA_SCORE_CUH_
#define UNFOLD_KERNELS_CUDA_SCORE_CUH_

#include "kernels/cuda/candidates.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/queries.cuh"
#include "kernels/cuda/query_fragments.cuh"

namespace unfold {

template <typename Kv>
struct ScoreInputs {
  QueryInputs queries;
  const Kv* keys;  // [Hk, gists, D]
  const std::int32_t* segment;
  Candidates candidates;
  Index kv_heads, gists;
  bool vectors;  // keys can be loaded 16 bytes at a time

  __device__ Index Count(Index list) const { return candidates.gists == nullptr ? gists : candidates.counts[list]; }
  __device__ Index GistAt(Index list, Index i) const {
    return candidates.gists == nullptr ? i : Index{candidates.gists[list * gists + i]};
  }
  // queries.documents when the segments end too early.
  __device__ Index DocumentOf(Index gist) const {
    return FirstNotBelow(segment + 1, queries.documents, static_cast<std::int32_t>(gist) + 1);
  }
  // `document`, as found; notes segments that end too early.
  __device__ Index Checked(Index document) const {
    if (document == queries.documents) {
      NoteFault(queries.faults, FaultKind::kScoreSegment, document, segment[document], gists);
    }
    return document;
  }
};

// A request of the form on tensor cores.
struct ScoreRequest {
  ScoreInputs<__nv_bfloat16> in;
  RotatedQueries queries;
  float* scores;
  float* best;  // null: not wanted
};
// The form on tensor cores (score_bf16.cu): where TakesTensorCores; `lists` of each request, all of as many heads.
Status LaunchTensorCoreScore(CudaContext& context, const std::vector<ScoreRequest>& requests, Index lists);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_SCORE_CUH_
