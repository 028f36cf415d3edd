// SPDX-License-Identifier: Apache-2.0
// What UnfoldChunks and SparseAttention know of unfolded chunks: where chunks are found, their raw rows, the pool of
// pages. Structs that a backend has in its own memory.
#ifndef UNFOLD_KERNELS_PAGE_POOL_H_
#define UNFOLD_KERNELS_PAGE_POOL_H_

#include <cstdint>

#include "kernels/tensor.h"

namespace unfold {

// Where a chunk's pages and raw rows are found (PagePool). Of layer n and key/value head hk of Hk the slot is
// slot + n * slots_of_layer + hk * (slots_of_layer / Hk), and of layer n the block is block + n * blocks_of_layer.
struct ChunkPlace {
  std::int32_t slot = 0, slots_of_layer = 0;
  std::int32_t block = 0, blocks_of_layer = 0;
  std::int32_t first_row = 0;  // in its block
  std::int32_t tokens = 0;     // raw ones, a row each
  std::int32_t position = 0;   // of the first, inside its document
  std::int32_t document = 0;
};

// Raw rows as stored, of some chunks that follow each other: in memory of AllocateHost or the backend's own, at
// multiples of 16 bytes.
struct RawRows {
  const void* k = nullptr;  // `dtype` [num_rows, Hk, D], not rotated. Null: not in memory
  const void* v = nullptr;
  const void* k_scale = nullptr;  // bf16 [Hk, D]; with int8 only
  const void* v_scale = nullptr;
  std::int32_t num_rows = 0;
  DType dtype = DType::kF32;   // f32, bf16 or int8
  std::uint32_t asked_by = 0;  // the last call that found them not in memory
};

// What UnfoldChunks found and did for a request, added up.
struct PagesFound {
  std::uint64_t pages_hit = 0;       // pages that a call found unfolded, each counted once a call
  std::uint64_t pages_unfolded = 0;  // pages that were filled
  std::uint64_t raw_bytes = 0;       // that were read for it: what crosses the bus where there is one
  std::uint64_t left_out = 0;        // chosen chunks that got no page, for want of raw rows or of pages
};

// What UnfoldChunks remembers of a pool.
struct PageCounts {
  std::uint32_t calls = 0;     // counts on from 0 after the largest
  std::uint32_t oldest = 0;    // pages that were last used by this call or an earlier one may be taken
  std::int32_t next_page = 0;  // from where to look for one
  std::int32_t num_used = 0;   // pages [0, num_used) have been taken once
  // Of the last call: blocks of raw rows it wanted that are not in memory, of which `missing` has as many as it holds,
  // and pages it wanted when all were in use.
  std::int32_t num_missing = 0;
  std::int32_t pages_lacking = 0;
};

// Pages of unfolded raw KV. A page holds the raw tokens of one chunk, layer and key/value head, keys rotated to
// positions inside their own document, so it is valid wherever that document is placed. A *slot* stands for such a
// chunk, layer and head, whether it has a page or not.
struct PagePool {
  Tensor page_k;     // kv [P, L_max, D]
  Tensor page_v;     // kv [P, L_max, D]
  Tensor page_slot;  // i32 [P]: whose page it was last
  Tensor page_call;  // i32 [P]: the call that used it last (PageCounts::calls)
  Tensor slot_page;  // i32 [S]: -1: none
  Tensor raw;        // int8 [R, sizeof(RawRows)]
  Tensor counts;     // int8 [sizeof(PageCounts)]; PageCounts{} at the beginning
  Tensor missing;    // i32 [at least 1]: indices into `raw`, each once
};

// A chosen chunk as attention reads it.
struct ChosenChunk {
  std::int32_t chunk = 0;
  std::int32_t page = -1;     // -1: left out
  std::int32_t tokens = 0;    // raw ones
  std::int32_t document = 0;  // whose it is
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_PAGE_POOL_H_
