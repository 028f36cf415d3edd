// SPDX-License-Identifier: Apache-2.0
// Options of the engine: plain structs. Every field states its default, its meaning and its unit, and has an
// initializer, so that designated initializers may leave it out without a warning.
#ifndef UNFOLD_OPTIONS_H_
#define UNFOLD_OPTIONS_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "unfold/base.h"

namespace unfold {

enum class StoreAccessMode : std::uint8_t {
  kReadOnly,   // queries, listing, verifying: beside a running ingest, sees what was published at Open
  kReadWrite,  // adding and removing too: one process at a time; creates the store if it does not exist
};

struct EngineOptions {
  // Directory of the store. Empty: a store in memory that ends with the engine.
  std::string store_path{};
  StoreAccessMode access = StoreAccessMode::kReadWrite;

  // A Hugging Face checkpoint directory with gist_config.json. Empty: no model; only List, Collections, Inspect,
  // Verify and Remove work, and the store must exist.
  std::string model_path{};
  // A JSON object merged over gist_config.json (RFC 7396), such as {"chunk_size": 16}. Every field can be set.
  std::string gist_overrides{};

  // "cpu", "ref", or "cuda" in a build with UNFOLD_WITH_CUDA; UNFOLD_BACKEND in the environment wins.
  std::string backend = "cpu";
  int num_threads = 0;  // worker threads of the backend; 0: one per core
  // What products of activations and weights are computed in; part of the store's fingerprint. f32, or bf16:
  // activations are rounded to bf16 before each product (sums stay f32), which CPUs with AVX512-BF16 do in about half
  // the time.
  DType compute = DType::kF32;
  // Type of stored KV, f32, bf16 or int8; part of the store's fingerprint. Unset: the store's, bf16 for a new one.
  std::optional<DType> kv_type{};

  std::uint64_t unfold_cache_bytes = std::uint64_t{512} << 20;  // pages of unfolded raw KV kept between questions
  std::uint64_t block_cache_bytes = std::uint64_t{256} << 20;   // raw KV as stored, kept to unfold from
  std::uint64_t gist_cache_bytes = std::uint64_t{256} << 20;    // gist KV of documents, kept to place them again
  // Tokens encoded in one pass, gists included: bounds working memory. 0: what keeps the backend busy, 2048 on a CPU
  // and 16384 on a GPU. While there are questions a pass has an eighth of them, and every other moment is the
  // questions'.
  int encode_batch_tokens = 0;
  int max_queued_requests = 64;  // more waiting requests are refused with ResourceExhausted
};

// How an answer reads its documents.
enum class AnswerMode : std::uint8_t {
  kSsa,     // stored KV: gists are scored, the best chunks unfolded
  kDense,   // for comparison: the same documents encoded as plain text, everything attended; reads texts, no stored KV
  kFresh,   // for comparison: kSsa over the same documents encoded now with f32 KV; what storing in few bits costs
  kClosed,  // no documents
};

struct SamplingOptions {
  float temperature = 0;         // 0: greedy
  int top_k = 0;                 // 0: off
  float top_p = 1;               // 1: off
  float min_p = 0;               // 0: off
  float repetition_penalty = 1;  // over question and answer, before the temperature; 1: off
  std::uint64_t seed = 0;
};

// Which documents a question is answered from. Both unset: routed over the collection.
struct WorkingSetOptions {
  // These documents, all their parts, in this order; no routing. More than the budget holds is ResourceExhausted.
  std::vector<std::string> documents{};
  // Parts placed when routing; 0: working_set.max_documents of gist_config.json.
  int max_documents = 0;
  // Raw tokens of the working set; 0: the model's window less prefix, question and answer.
  int max_context_tokens = 0;
};

// A text given directly: for ingest, or with a question.
enum class TextFormat : std::uint8_t {
  kPlain = 0,
  kMarkdown = 1,
  kHtml = 2,  // read without markup, navigation and hidden elements (src/text/html_rules.h)
};
struct DocumentInput {
  std::string name{};  // unique in its collection; not empty, at most 1024 bytes, valid UTF-8
  std::string text{};  // UTF-8; of HTML the file as it is, so that sources cite bytes of the file
  TextFormat format = TextFormat::kPlain;
  // Set by a reader that could not deliver the text (unreadable, binary, too large): the verdict reports it as it is.
  Status read_status{};
};

// One turn of a conversation.
enum class TurnRole : std::uint8_t { kUser, kAssistant };
struct Turn {
  TurnRole role = TurnRole::kUser;
  std::string text{};
};

struct AskOptions {
  // Turns before the question, oldest first. With a chat template they stand behind the documents as turns; without one
  // they are joined into the question, a line each. Question and history share max_question_tokens: the earliest turns
  // are left out as a whole, and a question that is longer by itself is cut and stands alone (Answer says both).
  // Routing reads the same prompt without documents, and scores the tokens of the question, not those of the history.
  std::vector<Turn> history{};

  AnswerMode mode = AnswerMode::kSsa;
  WorkingSetOptions working_set{};
  // Texts placed after `working_set.documents`, encoded with the question and forgotten after it. Not stored.
  std::vector<DocumentInput> inline_documents{};

  double compression = 0;  // r of method.md; 0: gist_config.json's. Sets the default number of chunks per head.
  int unfold_top_k = 0;    // > 0: this many chunks per head instead
  float unfold_top_p = 0;  // > 0: the smallest set of chunks whose softmax mass reaches it, instead

  int max_answer_tokens = 0;        // 0: max_answer_tokens of gist_config.json, then 256
  std::vector<std::string> stop{};  // the answer ends before the first of these texts
  SamplingOptions sampling{};
  bool ignore_end_token = false;  // for measurements: go on to max_answer_tokens

  bool explain = false;       // fill Answer::unfolded
  bool always_route = false;  // fill Answer::routed even when documents are named

  // Either ends the request with Cancelled: in the queue, in prefill (between layers) and in decode (between tokens).
  std::stop_token stop_token{};
  std::optional<std::chrono::steady_clock::time_point> deadline{};
};

struct IngestOptions {
  std::uint64_t max_document_bytes = std::uint64_t{4} << 20;  // larger texts are skipped with their verdict
  // When stopped, the batch in flight is finished and published, and no more is taken; a document longer than one
  // batch is given up with nothing left of it.
  std::stop_token stop_token{};
};

}  // namespace unfold

#endif  // UNFOLD_OPTIONS_H_
