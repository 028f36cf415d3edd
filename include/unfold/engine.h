// SPDX-License-Identifier: Apache-2.0
// Engine: documents in, cited answers out. Start here.
//
//   UNFOLD_TRY_ASSIGN(auto engine, Engine::Open({.store_path = "kb", .model_path = "gist-mini"}));
//   UNFOLD_TRY_ASSIGN(DocumentVerdict added, engine->AddDocument("notes", {.name = "a.txt", .text = "..."}));
//   UNFOLD_TRY_ASSIGN(Answer answer, engine->Ask("notes", "Who wrote it?"));
//   for (const Source& source : answer.sources) { /* source.document, source.byte_begin, source.snippet */ }
//
// Documents are encoded once into gist and raw KV and kept in a store. A question is scored by the model's own
// attention against the gist keys; only the best chunks are unfolded to raw KV and attended.
#ifndef UNFOLD_ENGINE_H_
#define UNFOLD_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unfold/answer.h"
#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

// One published document.
struct DocumentInfo {
  std::string name;
  std::string title;  // empty when it has none
  std::uint64_t num_parts = 0;
  std::uint64_t num_tokens = 0;  // raw tokens over all parts (a title counts in each part that repeats it)
  std::uint64_t num_chunks = 0;
  std::uint64_t text_bytes = 0;
  std::uint64_t stored_bytes = 0;  // of all its records
};

// What became of one document of an ingest.
enum class IngestOutcome : std::uint8_t { kAdded, kReplaced, kUnchanged, kFailed, kAbandoned };
struct DocumentVerdict {
  std::string name;
  IngestOutcome outcome = IngestOutcome::kFailed;
  Status status;      // why it failed; Cancelled when abandoned
  DocumentInfo info;  // of the published document, unless failed or abandoned
};

// Counts of a running or finished ingest.
struct IngestProgress {
  std::uint64_t num_documents = 0;  // verdicts given
  std::uint64_t num_added = 0, num_replaced = 0, num_unchanged = 0, num_failed = 0, num_abandoned = 0;
  std::uint64_t num_tokens = 0;        // raw tokens encoded and published
  std::uint64_t text_bytes = 0;        // source bytes that have a verdict
  std::uint64_t tokens_in_flight = 0;  // encoded, not yet published
  std::uint64_t stored_bytes = 0;
  double encode_seconds = 0;  // in the model
  double store_seconds = 0;   // writing and syncing
  double wall_seconds = 0;
};

// Gives the next document of an ingest, or nothing at the end. Called on the thread that called Ingest.
using DocumentSource = std::function<std::optional<DocumentInput>()>;

// Hears each verdict, and the progress at least after every batch. Both may be empty.
struct IngestSink {
  std::function<void(const DocumentVerdict&)> on_verdict{};
  std::function<void(const IngestProgress&)> on_progress{};
};

// Bytes of a store or collection by kind of record.
struct StoreInspection {
  std::string fingerprint;  // JSON
  struct Collection {
    std::string name;
    std::uint64_t num_documents = 0, num_parts = 0, num_tokens = 0, num_chunks = 0;
    std::uint64_t text_bytes = 0, chunk_bytes = 0, gist_bytes = 0, raw_bytes = 0;
  };
  std::vector<Collection> collections;
  std::uint64_t disk_bytes = 0;
};

struct VerifySummary {
  std::uint64_t num_documents = 0, num_records = 0, num_bytes = 0, num_orphans = 0;
  std::vector<std::string> findings;  // empty: sound. Each names the file or record and what is wrong.
};

// What the engine needs to know before an ingest.
struct EncodingCost {
  double stored_bytes_per_text_byte = 0;  // estimate from the model's dimensions and about four bytes a token
  std::uint64_t free_disk_bytes = 0;
};

// Called once, with the answer or why there is none.
using AnswerCallback = std::function<void(Result<Answer> answer)>;

// Thread-safe: any thread may call any method. Work is done by one engine thread, step by step, shared fairly between
// running requests and ingests; requests beyond that wait in a bounded queue.
class UNFOLD_API Engine {
 public:
  // Opens or creates the store and loads the model. NotFound names a missing file; InvalidArgument a setting or config
  // that is not supported; Incompatible when the store was written with another model, tokenizer, gist rule or KV type
  // (the message says what differs; nothing is changed); Unavailable when another process writes the store.
  static Result<std::unique_ptr<Engine>> Open(const EngineOptions& options);
  // Cancels what waits or runs, and closes the store.
  virtual ~Engine() = default;

  // Encodes documents and publishes them in batches. A document is durable and visible when its verdict is heard:
  // unchanged ones (same name and content) are skipped, changed ones replaced in one step. A document that fails does
  // not end the run. An error is returned only when nothing more can be done (disk full, store closed).
  virtual Result<IngestProgress> Ingest(std::string_view collection, const DocumentSource& source,
                                        const IngestOptions& options = {}, const IngestSink& sink = {}) = 0;
  // One document; its verdict's failure is returned as the Status.
  virtual Result<DocumentVerdict> AddDocument(std::string_view collection, const DocumentInput& document,
                                              const IngestOptions& options = {}) = 0;
  // An empty collection; false when there is one of the name. Ingest makes those that it needs.
  virtual Result<bool> CreateCollection(std::string_view name) = 0;
  // Removes a collection and every byte of its documents; an ingest into it ends with an error. NotFound when there is
  // none of the name.
  virtual Status RemoveCollection(std::string_view name) = 0;
  // Removes documents, every byte of them. NotFound names the first that does not exist; then nothing is removed.
  virtual Status Remove(std::string_view collection, const std::vector<std::string>& names) = 0;
  virtual Result<EncodingCost> EstimateCost() const = 0;

  // Answers from the collection. `sink` is called on the caller's thread. ResourceExhausted when the queue is full or
  // named documents exceed the budget, NotFound for an unknown collection or document, Cancelled by token or deadline.
  virtual Result<Answer> Ask(std::string_view collection, std::string_view question, const AskOptions& options = {},
                             const TextSink& sink = {}) = 0;
  // The same without waiting: returns once queued, or why it was not. `sink` and `done` are called on the engine's
  // thread and must not block; `done` is called exactly once if Submit returned Ok.
  virtual Status Submit(std::string_view collection, std::string_view question, const AskOptions& options,
                        TextSink sink, AnswerCallback done) = 0;
  // Routing alone: the best documents, and the parts that would be placed.
  virtual Result<RouteResult> Route(std::string_view collection, std::string_view question,
                                    const AskOptions& options = {}) = 0;

  virtual Result<std::vector<std::string>> Collections() const = 0;
  virtual Result<bool> HasCollection(std::string_view name) const = 0;
  // In order of name. NotFound for an unknown collection; of Find and ReadText, for an unknown document too.
  virtual Result<std::vector<DocumentInfo>> List(std::string_view collection) const = 0;
  virtual Result<DocumentInfo> Find(std::string_view collection, std::string_view document) const = 0;
  // The document as it was given: its sources' bytes are of this text.
  virtual Result<std::string> ReadText(std::string_view collection, std::string_view document) const = 0;
  virtual Result<StoreInspection> Inspect() const = 0;
  // Walks every record and checksum. `progress` (may be empty) gets records checked; returning false cancels.
  virtual Result<VerifySummary> Verify(const std::function<bool(std::uint64_t)>& progress = {}) const = 0;

  // Which backend answers: "cpu", "cuda" or "ref"; empty without a model.
  virtual std::string_view backend_name() const = 0;
};

}  // namespace unfold

#endif  // UNFOLD_ENGINE_H_
