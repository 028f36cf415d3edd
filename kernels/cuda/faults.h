// SPDX-License-Identifier: Apache-2.0
// Bad values inside tensors: which there are, and where kernels note them.
#ifndef UNFOLD_KERNELS_CUDA_FAULTS_H_
#define UNFOLD_KERNELS_CUDA_FAULTS_H_

namespace unfold {

// What a kernel can find wrong with a value inside a tensor. The words are in context.cu.
enum class FaultKind : int {
  kEmbedIds,
  kRopePositions,
  kUnfoldPositions,
  kUnfoldOutRows,
  kScorePositions,
  kScoreOffsets,
  kAttentionPositions,
  kAttentionTail,
  kAttentionOffsets,
  kScoreParentCounts,
  kScoreParents,
  kScoreParentOrder,
  kSelectParentCounts,
  kSelectParents,
  kSelectParentOrder,
  kChosenCounts,
  kChosen,
  kChosenOrder,
  kChunks,
  kChunkOrder,
  kPages,
  kChunkTokens,
  kChunkDocument,
  kRowDocuments,
  kScoreSegment,
  kScoreChild,
  kSelectChild,
  kAttentionSegment,
  kAttentionSinks,
  kUnfoldChosenCounts,
  kUnfoldChosen,
  kUnfoldTokens,
  kUnfoldSlot,
  kUnfoldBlock,
  kUnfoldFirstRow,
  kUnfoldRows,
  kUnfoldChunkPosition,
  kCount
};

// The first bad value of one kind, of the first call that met one. All bits set: none.
struct FaultNote {
  unsigned long long index_and_value;  // the lowest index, its value in the low half
  unsigned long long call;
  long long limit;  // the largest right value
};

// Where the kernels of one call note bad values.
struct FaultSink {
  FaultNote* notes = nullptr;  // one of each FaultKind
  unsigned long long call = 0;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_FAULTS_H_
