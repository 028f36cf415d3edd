// SPDX-License-Identifier: Apache-2.0
// Query rows as the keys of documents want them: rotated to their position inside each document. What scoring and
// attention share. Included by .cu files only.
#ifndef UNFOLD_KERNELS_CUDA_QUERIES_H_
#define UNFOLD_KERNELS_CUDA_QUERIES_H_

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace unfold {

// A call's query rows at their own position and inside every document.
struct RotatedQueries {
  const float* at = nullptr;  // [T, m + 1, H, D]; entry m is the row at its global position
  std::int64_t documents = 0;
};

// The faults that a call's positions and offsets can have.
struct QueryFaults {
  FaultKind positions, offsets;
};

// `segment_offset` as in ContextView; not set: no documents. Rows whose position is bad get zeros and a note.
RotatedQueries RotateQueries(CudaContext& context, CallMemory& memory, const Tensor& q, const Tensor& positions,
                             const RopeTable& rope, const Tensor& segment_offset, const QueryFaults& faults);

// The lists of candidates under chosen parents, and how many each has.
struct Candidates {
  const std::int32_t* gists = nullptr;   // [lists, C_level], null: all of the level, C_level in each list
  const std::int32_t* counts = nullptr;  // [lists]
};

// The faults that lists of chosen gists can have.
struct ListFaults {
  FaultKind counts, gists, order, child;
};

// Lists of all candidates when `parents` is not set; `child` as in GistLevel, `gists` of the level below. A list with a
// bad value becomes empty and gets a note.
Candidates CollectCandidates(CudaContext& context, CallMemory& memory, const ChosenGists& parents, const Tensor& child,
                             std::int64_t gists, const ListFaults& faults);

// How many rows of a call fit into the memory that a call may take when one row takes `bytes`; at least one.
std::int64_t RowsAtOnce(std::int64_t rows, std::int64_t bytes);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_QUERIES_H_
