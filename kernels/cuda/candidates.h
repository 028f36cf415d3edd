// SPDX-License-Identifier: Apache-2.0
// The gists that are candidates under chosen parents (method.md 4.4), as lists in device memory. Included by .cu files
// only.
#ifndef UNFOLD_KERNELS_CUDA_CANDIDATES_H_
#define UNFOLD_KERNELS_CUDA_CANDIDATES_H_

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace unfold {

// The lists of candidates under chosen parents, and how many each has.
struct Candidates {
  const std::int32_t* gists = nullptr;   // [lists, C_level], null: all of the level, C_level in each list
  const std::int32_t* counts = nullptr;  // [lists]
};

// The faults that lists of chosen gists can have.
struct ListFaults {
  FaultKind counts, gists, order, child;
};

// The lists of one request: `parents` chosen of the level above, `child` as in GistLevel, `gists` of the level below.
struct CandidateRequest {
  ChosenGists parents;
  Tensor child;
  std::int64_t gists = 0;
};

// Lists of all candidates where `parents` is not set, as it is for all requests or for none; parents.children where
// those are set. A list with a bad value becomes empty and gets a note.
std::vector<Candidates> CollectCandidates(CudaContext& context, CallMemory& memory,
                                          const std::vector<CandidateRequest>& requests, const ListFaults& faults);

// Fills in parents.children, which are set for all requests or for none.
void ListChildren(CudaContext& context, CallMemory& memory, const std::vector<CandidateRequest>& requests,
                  const ListFaults& faults);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_CANDIDATES_H_
