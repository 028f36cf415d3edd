// SPDX-License-Identifier: Apache-2.0
// CpuBackend: the ops on host memory with SIMD row kernels (simd.h) and a thread pool. Every output row is made by
// one thread from its own inputs in a fixed order, so threads, tiles and batches never show in the bits.
//
// Thread-compatible: one call at a time.
#ifndef UNFOLD_KERNELS_CPU_BACKEND_H_
#define UNFOLD_KERNELS_CPU_BACKEND_H_

#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/prefill_plan.h"
#include "kernels/cpu/simd.h"
#include "kernels/host_backend.h"

namespace unfold {

// Keys that see the query at one position, since they lie in one document (or, by global positions, outside of all).
struct CpuKeySpan {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t position = 0;  // of the query
};

// Softmax terms of one head so far: relative to the largest logit, and their sum.
struct CpuSoftmax {
  float largest = 0;
  float sum = 0;
};

// Working memory of one task. Vectors only grow, so a steady decode loop allocates nothing.
struct CpuScratch {
  std::vector<float> query;              // query heads of one or more rows, rotated
  std::vector<float> logits;             // G rows of logits, then softmax terms
  std::vector<const float*> heads;       // the G query rows
  std::vector<const void*> keys;         // key rows in the order of the sum
  std::vector<const float*> values;      // value rows, likewise
  std::vector<CpuKeySpan> spans;         // of keys
  std::vector<std::int64_t> chunk_ends;  // per chosen chunk: end of its keys
  std::vector<float> sums;               // of each head's softmax terms
  std::vector<float> largest;            // logit of each head
  std::vector<float> partial;            // weighted values over one block of keys
  std::vector<float> far;                // the same over all blocks so far
  std::vector<CpuSoftmax> far_softmax;   // of them
  std::vector<std::int64_t> near;        // near rows of each row of a task
  std::vector<std::int64_t> near_begin;  // where each row's begin in it
  std::vector<std::uint64_t> ranking;    // scores as sortable integers
  std::vector<double> mass;              // softmax terms, best first
  std::vector<std::uint8_t> chosen;      // flags per candidate
  std::vector<std::int32_t> candidates;  // gists to score
  std::vector<std::int64_t> level_ends;  // with all gists: end of each level's keys
  std::int64_t chunks_begin = 0;         // first key of chosen chunks, or of all gists
  std::vector<float> row;                // a dequantised row
};

// Thread-safe. Lends scratch to tasks; there are never more pieces than threads.
class CpuScratchPool {
 public:
  // Returns on destruction.
  class Lease {
   public:
    explicit Lease(CpuScratchPool& pool) : pool_(pool), scratch_(pool.Take()) {}
    ~Lease() { pool_.Return(std::move(scratch_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    CpuScratch* operator->() { return scratch_.get(); }
    CpuScratch& operator*() { return *scratch_; }

   private:
    CpuScratchPool& pool_;
    std::unique_ptr<CpuScratch> scratch_;
  };

 private:
  std::unique_ptr<CpuScratch> Take();
  void Return(std::unique_ptr<CpuScratch> scratch);

  std::mutex mutex_;
  std::vector<std::unique_ptr<CpuScratch>> free_;
};

// One product of a MatMul call, cut into tasks: blocks of rows times blocks of columns.
struct CpuProduct {
  const MatMulArgs* args = nullptr;
  const float* x = nullptr;               // rows to multiply, or
  const std::uint16_t* x_bf16 = nullptr;  // the same in bf16, when the products of pairs do it
  std::int64_t column_block = 0;
  std::int64_t column_blocks = 0;
  std::int64_t end_task = 0;  // of the call's tasks, those before are of this product or an earlier one
};

class CpuBackend final : public HostBackend {
 public:
  CpuBackend(const SimdKernels& kernels, int threads) : simd_(kernels), pool_(threads) {}

  std::string_view name() const override { return "cpu"; }
  // Copies: a decoded token reads all weights, and from a mapped file, in pages of 4 KiB, that is slower (gist-mini on
  // two Zen 4 cores, runs in turn: 2.0 ms a token against 1.8). Tensors are valid while the backend lives.
  Result<Tensor> ImportWeights(const Tensor& host) override;
  std::string_view isa_name() const { return simd_.name; }

 private:
  Status DoEmbed(const EmbedArgs& args) override;
  Status DoRmsNorm(const RmsNormArgs& args) override;
  Status DoMatMuls(std::span<const MatMulArgs> products) override;
  Status DoRope(const RopeArgs& args) override;
  Status DoSwiGlu(const SwiGluArgs& args) override;
  Status DoGistPrefill(const GistPrefillArgs& args) override;
  Status UnfoldOne(const UnfoldArgs& args) override;
  Status ScoreGists(std::span<const GistScoreArgs> requests) override;
  Status DoSelectChunks(std::span<const SelectChunksArgs> requests) override;
  Status SparseAttentionOne(const SparseAttentionArgs& args) override;
  Status DoRouteScores(std::span<const RouteScoreArgs> heads) override;
  Status DoXorWords(const XorWordsArgs& args) override;

  // Splits [0, count) over the pool; `item_work` is roughly the multiply-adds, or bytes, of one item. Small work stays
  // on the calling thread, since waking another costs more.
  template <typename Body>
  void Split(std::int64_t count, std::int64_t item_work, const Body& body) {
    const std::int64_t total = count * (item_work + 1);
    const std::int64_t grain = total < kSmallWork ? count : GrainFor(count, item_work);
    pool_.ParallelFor(count, grain, std::cref(body));  // by reference: no allocation
  }
  std::int64_t GrainFor(std::int64_t count, std::int64_t item_work) const;

  // Lists of several requests, each query row's and key/value head's, in one call of the pool: `lists(args)` of a
  // request, of about `item_work` each, body(args, list, scratch) for each.
  template <typename Args, typename Lists, typename Body>
  void SplitLists(std::span<const Args> requests, const Lists& lists, std::int64_t item_work, const Body& body) {
    std::int64_t total = 0;
    for (const Args& args : requests) total += lists(args);
    Split(total, item_work, [&](std::int64_t begin, std::int64_t end) {
      CpuScratchPool::Lease scratch(scratch_);
      std::int64_t first = 0;  // of the request's lists, among all
      for (const Args& args : requests) {
        const std::int64_t last = first + lists(args);
        for (std::int64_t at = std::max(begin, first); at < std::min(end, last); ++at) body(args, at - first, *scratch);
        first = last;
      }
    });
  }

  static Status TakesF32(std::string_view op, std::initializer_list<Tensor> activations);
  // x in the type that the product computes in; rounded once for neighbours in the list that share it.
  void PrepareRows(CpuProduct& product, const CpuProduct* before);
  void RunProductTask(const CpuProduct& product, std::int64_t task);

  // Turns `group` rows of scratch.logits, num_keys each, into softmax terms; scratch.sums and largest are set.
  void SoftmaxTerms(CpuScratch& scratch, std::int64_t group, std::int64_t num_keys, float scale);
  // out = terms * scratch.values, for `group` heads of head_dim floats. Rows of terms are `stride` apart.
  void SumValues(const CpuScratch& scratch, std::int64_t group, std::int64_t stride, std::int64_t head_dim, float* out);
  void MergeSoftmax(CpuSoftmax& state, float* out, const CpuSoftmax& other, const float* other_out,
                    std::int64_t head_dim);
  void TurnKeys(const GistPrefillArgs& args, std::int64_t block);
  void PrefillBlock(const GistPrefillArgs& args, std::size_t sequence, std::int64_t block, std::int64_t kv_head,
                    std::int64_t begin_head, CpuScratch& scratch);
  void PrefillFar(const GistPrefillArgs& args, std::size_t sequence, std::int64_t begin, std::int64_t end,
                  std::int64_t kv_head, CpuScratch& scratch);
  void PrefillNear(const GistPrefillArgs& args, std::int64_t row, std::int64_t kv_head,
                   std::span<const std::int64_t> near, CpuScratch& scratch, float* out);
  void PrefillRows(const GistPrefillArgs& args, std::size_t sequence, std::int64_t begin, std::int64_t end,
                   CpuScratch& scratch);
  void ScoreList(const GistScoreArgs& args, std::int64_t list, CpuScratch& scratch);
  // `mass`, when not null, gets the attention mass of each chosen chunk.
  void SparseRow(const SparseAttentionArgs& args, std::int64_t row, std::int64_t kv_head, double* mass,
                 CpuScratch& scratch);
  void RouteHead(const RouteScoreArgs& args);
  // The G query heads of (row, kv_head), turned to `position`, into scratch.query and scratch.heads.
  void RotateHeads(const Tensor& q, const RopeTable& rope, std::int64_t row, std::int64_t kv_head, std::int64_t group,
                   std::int64_t position, CpuScratch& scratch);

  static constexpr std::int64_t kSmallWork = 1 << 17;

  const SimdKernels& simd_;
  ThreadPool pool_;
  std::vector<Buffer> weights_;                      // slabs, filled from the front
  std::size_t weights_used_ = 0;                     // bytes of the last slab
  std::vector<CpuProduct> products_;                 // MatMul
  std::vector<std::vector<std::uint16_t>> rounded_;  // MatMul: x of each product in bf16
  std::vector<std::vector<float>> widened_;          // MatMul: the same in f32
  CpuScratchPool scratch_;
  std::vector<double> list_mass_;  // SparseAttention: mass per chosen chunk of each key/value head, the last row's
  std::vector<std::int64_t> list_begin_;  // where each row's and key/value head's entries begin in it
  PrefillPlan plan_;                      // GistPrefill
  std::vector<float> turned_keys_;        // GistPrefill: [block, Hk, D, kBlock]
  std::vector<double> unit_sums_;         // RouteScore: sums and sums of squares per row and unit
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CPU_BACKEND_H_
