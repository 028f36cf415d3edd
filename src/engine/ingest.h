// SPDX-License-Identifier: Apache-2.0
// Ingest: documents pulled from a source, tokenized on the caller's thread, encoded in packed passes on the engine's
// thread. While one pass runs, the caller's thread seals and writes what the pass before it left, and publishes
// documents that are complete.
#ifndef UNFOLD_ENGINE_INGEST_H_
#define UNFOLD_ENGINE_INGEST_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "rag/encoder.h"
#include "store/store.h"
#include "unfold/base.h"
#include "unfold/engine.h"

namespace unfold {

// A packed pass that the engine's thread is done with.
struct EncodedBatch {
  std::unique_ptr<KvRecorder> recorder;
  double seconds = 0;  // that it took
};
// Has one packed pass run on the engine's thread. `jobs` must outlive what the future gives.
using EncodeRunner = std::function<Result<std::future<Result<EncodedBatch>>>(std::span<const EncodeJob> jobs)>;

DocumentInfo InfoOf(const DocumentRecord& record);

// InvalidArgument unless `name` may be that of "a document" or "a collection", which is `whose`.
Status CheckName(const char* whose, std::string_view name);

// One run of Engine::Ingest. Thread-compatible: lives on the caller's thread.
class IngestSession {
 public:
  // A pass has at most `batch_tokens`, and as many as `pass_tokens` says when it begins; at least a part.
  IngestSession(Store& store, const LoadedModel& model, EncodeRunner encode, std::int64_t batch_tokens,
                std::function<std::int64_t()> pass_tokens, const IngestOptions& options, const IngestSink& sink)
      : store_(store),
        model_(model),
        encode_(std::move(encode)),
        batch_tokens_(batch_tokens),
        pass_tokens_(std::move(pass_tokens)),
        options_(options),
        sink_(sink) {}

  Result<IngestProgress> Run(std::string_view collection, const DocumentSource& source);

 private:
  using Clock = std::chrono::steady_clock;
  // A document taken, not yet published.
  struct Pending {
    DocumentId id;
    PreparedDocument prepared;
    bool replaces = false;
    std::uint32_t num_taken = 0, num_encoded = 0;  // parts: given to the encoder, written
  };
  struct Batch {
    std::vector<EncodeJob> jobs;
    EncodedBatch encoded;
  };

  Status Accept(DocumentInput input);
  Status Validate(const DocumentInput& input) const;
  // The parts at the front of the queue that make one batch.
  std::vector<EncodeJob> NextJobs() const;
  // Has one batch encoded and meanwhile writes the one before it.
  Status RunBatch();
  // Writes the batch that was encoded last, if there is one, and publishes documents that are complete.
  Status WriteBatch();
  Status PublishComplete();
  // After a stop: finishes what fits the batch in flight, gives up the rest.
  Status Wind();
  Status AbandonAll(const Status& why);
  void Report(DocumentVerdict verdict, std::uint64_t text_bytes);
  void ReportProgress();

  Store& store_;
  const LoadedModel& model_;
  EncodeRunner encode_;
  std::int64_t batch_tokens_;
  std::function<std::int64_t()> pass_tokens_;
  const IngestOptions& options_;
  const IngestSink& sink_;

  std::string collection_name_;
  CollectionId collection_;
  std::set<std::string, std::less<>> taken_;  // names of this run
  std::deque<Pending> pending_;               // parts are encoded front to back
  std::int64_t pending_tokens_ = 0;           // of parts not yet given to the encoder, gists included
  std::optional<Batch> encoded_;              // and not yet written
  IngestProgress progress_;
  Clock::time_point begin_ = Clock::now();
};

}  // namespace unfold

#endif  // UNFOLD_ENGINE_INGEST_H_
