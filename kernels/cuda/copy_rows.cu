// SPDX-License-Identifier: Apache-2.0
// CopyRows: many pieces in one launch, a block for each piece and head.
//
// Bytes: each read and written once.
#include <vector>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 256;

struct HeadPiece {
  const char* from;
  char* to;
  Index from_stride, to_stride, bytes;  // of a head
  Index heads;
};

// One piece a row of the grid, one head a column.
__global__ void __launch_bounds__(kThreads) CopyRowsKernel(const HeadPiece* pieces) {
  const HeadPiece piece = pieces[blockIdx.x];
  if (blockIdx.y >= piece.heads) return;
  const char* from = piece.from + blockIdx.y * piece.from_stride;
  char* to = piece.to + blockIdx.y * piece.to_stride;
  const bool vectors = (reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to)) % 16 == 0;
  const Index whole = vectors ? piece.bytes / 16 * 16 : 0;
#pragma unroll 4
  for (Index at = 16 * threadIdx.x; at < whole; at += 16 * kThreads) {
    *reinterpret_cast<uint4*>(to + at) = __ldg(reinterpret_cast<const uint4*>(from + at));
  }
  for (Index at = whole + threadIdx.x; at < piece.bytes; at += kThreads) to[at] = from[at];
}

}  // namespace

Status CudaBackend::DoCopyRows(std::span<const RowPiece> pieces) {
  std::vector<HeadPiece> table;
  Index most_heads = 0;
  for (const RowPiece& piece : pieces) {
    const Index row = piece.from.dims[2] * static_cast<Index>(DTypeBytes(piece.from.dtype));
    if (piece.count * row * piece.from.dims[0] == 0) continue;
    table.push_back({piece.from.as<const char>() + piece.from_begin * row, piece.to.as<char>() + piece.to_begin * row,
                     piece.from.dims[1] * row, piece.to.dims[1] * row, piece.count * row, piece.from.dims[0]});
    most_heads = std::max(most_heads, piece.from.dims[0]);
  }
  if (table.empty()) return Status::Ok();
  CallMemory memory(*context_, "CopyRows");
  const auto* device = memory.Copy(std::span<const HeadPiece>(table));
  UNFOLD_TRY(memory.status());
  const dim3 grid(static_cast<unsigned>(table.size()), static_cast<unsigned>(most_heads));
  CopyRowsKernel<<<grid, kThreads, 0, context_->stream()>>>(device);
  return context_->Launched("CopyRows");
}

}  // namespace unfold
