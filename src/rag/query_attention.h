// SPDX-License-Identifier: Apache-2.0
// QueryAttention: what the question's and the answer's tokens attend, layer by layer (method.md section 4): score the
// gists, choose chunks per head, unite them per group, unfold what is not resident, attend.
#ifndef UNFOLD_RAG_QUERY_ATTENTION_H_
#define UNFOLD_RAG_QUERY_ATTENTION_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "model/transformer.h"
#include "rag/causal_kv.h"
#include "rag/working_set.h"
#include "unfold/base.h"

namespace unfold {

// How many chunks a head keeps (method.md 4.2).
struct SelectionBudget {
  std::int64_t top_k = 0;
  float top_p = 0;  // > 0: nucleus instead
};

// The default: min(floor(n / (r * G * L)) + 1, max(1, floor(chunks / 4))), n tokens of the context, gists included.
std::int64_t DefaultTopK(std::int64_t num_tokens, double compression, int group_size, int chunk_size,
                         std::int64_t num_chunks);

// What the answer queries did: the prompt's last token, then each generated token but the last.
struct AttentionReport {
  std::vector<float> chunk_mass;  // by chunk of the working set
  double chosen_share_sum = 0;    // chosen / all chunks, summed over selective layers, key/value heads and queries
  std::int64_t num_shares = 0;
  // Chunks that the prompt's last token chose: first_chosen[layer][kv head], ascending. None for layer 0.
  std::vector<std::vector<std::vector<std::int32_t>>> first_chosen;
};

// One question's. Thread-compatible. Model, prefix and working set must outlive it; `context` may be null (no
// documents).
class QueryAttention : public LayerAttention {
 public:
  QueryAttention(Transformer& model, const CausalKv& prefix, std::int64_t prefix_tokens, WorkingSet* context,
                 CausalKv tail, SelectionBudget budget, CancelCheck check);

  // No other question has it, nor had.
  std::uint64_t id() const { return id_; }
  // Announces a pass over `num_tokens` tokens, the next of the tail. The last of them is an answer query. Layers wait
  // for the backend, and read raw KV that is not in memory.
  Status BeginPass(std::int64_t num_tokens);
  // Announces a pass over the next token, which stands at `position`, i32 [1] on the backend, of NextPosition(). With
  // `ahead` no layer waits for the backend, and raw KV that is not in memory is not read.
  Status BeginStep(const Tensor& position, bool ahead);
  std::int32_t NextPosition() const { return static_cast<std::int32_t>(TailPosition() + tail_tokens_ + pass_tokens_); }
  // Before a step: brings tables up to date that it reads. How often memory has moved that it uses.
  Result<std::uint64_t> UpdatePool();
  // After a step; `found` is that of cache(). False when raw KV was lacking: the step is to be done again, not ahead.
  bool EndStep(std::span<const PagesFound> found);
  const UnfoldCache* cache() const;  // null without documents
  // Announces the same pass again, not ahead.
  Status BeginAgain();
  // Announces a pass over link tokens, `num_links` for each document of the context in order (method.md section 6).
  Status BeginLinks(std::int64_t num_links);
  // Counts the last pass into the report: its token became part of the answer. Before the next BeginPass.
  Status CommitPass();
  // Brings the report up to date with the passes that were counted.
  Status UpdateReport();
  Status Attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override;
  // The same for several questions in one pass: their rows stand one behind the other. One that fails, or is cancelled,
  // has its failure(), and nothing more is done for it; the others go on.
  static Status Attend(std::span<QueryAttention* const> questions, int layer, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out);

  const Status& failure() const { return failure_; }
  const AttentionReport& report() const { return report_; }
  std::uint64_t passes_repeated() const { return passes_repeated_; }

 private:
  // A question's part of a layer.
  struct LayerPart {
    QueryAttention* of = nullptr;
    ContextView view;
    SparseAttentionArgs args;
    bool chooses() const { return args.page_k.rank != 0; }
  };
  std::int64_t TailPosition() const { return context_ == nullptr ? prefix_tokens_ : context_->end_position(); }
  Status FillPart(int layer, const Tensor& q, const Tensor& out, LayerPart& part);
  Status PrepareChoice(int layer, LayerPart& part);
  static Status Choose(Backend& backend, int layer, std::span<LayerPart> parts);
  static Status ChooseLevel(Backend& backend, int level, std::span<LayerPart> parts);
  static Status UnfoldAndAttend(Backend& backend, int layer, std::span<LayerPart> parts);
  Status KeepFirst(int layer, const ChosenGists& chunks);
  Status ReportFirst();
  Status GoOn(std::int64_t num_tokens, bool ahead);
  Status PrepareCounts();
  void CountShares(std::span<const std::int32_t> counts, std::int64_t rows);

  const std::uint64_t id_;
  Transformer& model_;
  const CausalKv& prefix_;
  std::int64_t prefix_tokens_;
  WorkingSet* context_;
  CausalKv tail_;
  SelectionBudget budget_;
  CancelCheck check_;

  std::int64_t tail_tokens_ = 0;  // before the running pass
  std::int64_t pass_tokens_ = 0;
  Tensor row_documents_;  // in a pass over links: how many documents each row sees
  bool ahead_ = false;
  Status failure_;
  std::uint64_t passes_repeated_ = 0;
  ScratchBuffer position_memory_, documents_memory_, scores_, best_scores_, mass_memory_, chunks_, chunk_counts_,
      turned_;
  std::array<ScratchBuffer, kMaxGistLevels> chosen_, counts_, children_, child_counts_;
  Tensor positions_;
  Tensor pass_counts_;  // i32 [N, T, Hk]: chunks chosen in the pass, layer 0's not set

  AttentionReport report_;
  // f32 [Hk, C]: of all passes so far, and of those that were counted. Not set without chunks.
  Tensor mass_, counted_mass_;
  ScratchBuffer counted_mass_memory_;
  // Counted passes of one token whose numbers of chunks are not in the report yet: i32 [so many, N, Hk].
  static constexpr std::int64_t kMostWaiting = 256;
  Buffer waiting_counts_;
  std::int64_t num_waiting_ = 0;
  // What the first answer query chose: i32 [N, Hk, C], and how many, by layer and head, once its pass is counted.
  Buffer first_lists_;
  std::vector<std::int32_t> first_counts_;
};

// Runs a question's `ids`, the next of the tail, and gives the logits of the token after them. Its layers read the raw
// KV that is not in memory.
Status RunQueryPass(Transformer& model, QueryAttention& attention, std::span<const TokenId> ids,
                    std::vector<float>& logits);

}  // namespace unfold

#endif  // UNFOLD_RAG_QUERY_ATTENTION_H_
