// SPDX-License-Identifier: Apache-2.0
// Generator: one question over placed documents. Prefill of the question, then one token a step.
#ifndef UNFOLD_RAG_GENERATOR_H_
#define UNFOLD_RAG_GENERATOR_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/gist_config.h"
#include "model/transformer.h"
#include "rag/causal_kv.h"
#include "rag/decode_steps.h"
#include "rag/query_attention.h"
#include "rag/sampler.h"
#include "rag/text_stream.h"
#include "rag/working_set.h"
#include "unfold/answer.h"
#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

// The uncompressed text before the documents: computed once, seen by every question.
struct Prefix {
  CausalKv kv;
  std::int64_t num_tokens = 0;
};
Result<std::unique_ptr<Prefix>> ComputePrefix(Transformer& model, const GistConfig& config, const Tokenizer& tokenizer);

// What questions share. All must outlive the generators.
struct GeneratorContext {
  Transformer* model = nullptr;
  const GistConfig* config = nullptr;
  const Tokenizer* tokenizer = nullptr;
  UnfoldCache* cache = nullptr;
  const Prefix* prefix = nullptr;
  DecodeSteps* steps = nullptr;
  std::int64_t dense_batch_tokens = 2048;
};

// A question made ready: tokens and limits.
struct PreparedQuestion {
  FilledPrompt prompt;
  std::int64_t max_answer_tokens = 0;
  std::int64_t context_budget = 0;  // raw and link tokens that documents may take
  std::int64_t links_per_part = 0;  // link tokens that each placed part takes of it
};
// InvalidArgument for options out of range or an empty question, ResourceExhausted when the window is too small.
Result<PreparedQuestion> PrepareQuestion(const GeneratorContext& context, std::string_view question,
                                         const AskOptions& options);

// Thread-compatible.
class Generator {
 public:
  // Places `parts` and runs the question over them. `check` is asked between layers and tokens.
  static Result<std::unique_ptr<Generator>> Start(const GeneratorContext& context, PreparedQuestion question,
                                                  const AskOptions& options, std::vector<PartRef> parts,
                                                  CancelCheck check);

  // Takes the next token. Returns whether the answer goes on: then Advance is to compute the logits of the one after.
  // `sink` (may be empty) gets text that has become certain.
  Result<bool> Take(const TextSink& sink);
  // Runs the taken tokens of several answers of one context through the model, as one step. What goes wrong is told by
  // the next Take of those that it concerns.
  static void Advance(std::span<Generator* const> answers);
  // Both, for this answer alone.
  Result<bool> Step(const TextSink& sink);

  // After the last Take: text, tokens, sources, shares and counts. Timings of queue and routing are the caller's.
  Result<Answer> TakeAnswer();

  // Logits of the next token before sampling, V values; for tests.
  std::span<const float> logits() const { return logits_; }
  const WorkingSet* working_set() const { return working_set_.get(); }
  const AttentionReport& report() const { return attention_->report(); }
  // When the answer's first and last tokens were taken.
  std::chrono::steady_clock::time_point first_token_time() const { return first_token_time_; }
  std::chrono::steady_clock::time_point last_token_time() const { return last_token_time_; }

 private:
  Generator(const GeneratorContext& context, PreparedQuestion question, const AskOptions& options, CancelCheck check);
  Status Place(std::vector<PartRef> parts);
  Status Prefill();
  std::vector<TokenId> LinkTokens() const;
  bool IsEnd(TokenId token) const;
  Result<bool> End(FinishReason reason, const TextSink& sink);
  static Status RunStep(std::span<Generator* const> answers);
  // Returns false when the sink said no.
  static bool Emit(const TextSink& sink, const std::string& text) { return text.empty() || !sink || sink(text); }

  GeneratorContext context_;
  PreparedQuestion question_;
  AskOptions options_;
  CancelCheck check_;
  Sampler sampler_;
  TextStream text_;
  std::unique_ptr<WorkingSet> working_set_;
  std::unique_ptr<QueryAttention> attention_;
  Status failure_;  // of the last Advance
  std::vector<float> logits_;
  std::vector<TokenId> history_;  // the question's prompt, then the answer
  std::vector<TokenId> answer_;
  FinishReason finish_ = FinishReason::kEnd;
  double place_ms_ = 0, prefill_ms_ = 0;
  std::chrono::steady_clock::time_point first_token_time_, last_token_time_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_GENERATOR_H_
