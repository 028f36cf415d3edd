// SPDX-License-Identifier: Apache-2.0
// BenchContext: the context of one layer of a decoding step, made in the backend's memory: documents of 2,048 raw
// tokens, cut as real ones are, KV of random values, every chunk unfolded to a page of its own.
#ifndef UNFOLD_ENGINE_BENCH_CONTEXT_H_
#define UNFOLD_ENGINE_BENCH_CONTEXT_H_

#include <cstdint>
#include <vector>

#include "engine/bench_run.h"
#include "kernels/backend.h"
#include "unfold/base.h"

namespace unfold {

// The tables of a context, by host and by backend.
struct BenchTables {
  std::int64_t num_documents = 0, num_tokens = 0, num_sinks = 0;  // raw tokens
  std::vector<std::int32_t> chunk_tokens;
  struct Level {
    std::vector<std::int32_t> segment;
    std::vector<std::int32_t> child;  // above level 0
    std::int64_t size() const { return segment.back(); }
  };
  std::vector<Level> levels;

  std::int64_t num_chunks() const { return levels[0].size(); }
  std::int64_t num_gists() const;
};

// Thread-compatible; `run` must outlive it.
class BenchContext {
 public:
  // With full attention all tokens are plain rows, in the place of sinks, and there are no chunks.
  static Result<BenchContext> Make(BenchRun& run);

  const BenchTables& tables() const { return tables_; }
  // Copies of what a step reads whole, more than caches hold together. A copy has gists (with full attention: rows) of
  // its own; pages are shared, since other gists choose other chunks.
  const std::vector<ContextView>& copies() const { return copies_; }
  const PagePool& pool() const { return pool_; }
  const Tensor& places() const { return places_; }  // of UnfoldChunksArgs, for layer 0
  const Tensor& found() const { return found_; }    // likewise
  std::int64_t end_position() const { return tables_.num_tokens; }

 private:
  Status MakeTables(BenchRun& run);
  Status MakeShared(BenchRun& run, ContextView& view) const;
  Status MakePool(BenchRun& run);
  Result<int> NumCopies(const BenchRun& run) const;
  Status MakeCopies(BenchRun& run, const ContextView& shared, int copies);

  BenchTables tables_;
  PagePool pool_;
  Tensor places_, found_;
  std::vector<ContextView> copies_;
};

}  // namespace unfold

#endif  // UNFOLD_ENGINE_BENCH_CONTEXT_H_
