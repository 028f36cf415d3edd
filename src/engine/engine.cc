// SPDX-License-Identifier: Apache-2.0
#include "unfold/engine.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <future>
#include <mutex>
#include <system_error>
#include <utility>

#include "engine/ask_work.h"
#include "engine/fingerprint.h"
#include "engine/ingest.h"
#include "engine/loaded_model.h"
#include "engine/scheduler.h"
#include "model/checkpoint.h"
#include "store/rocksdb_store.h"

namespace unfold {
namespace {

constexpr std::string_view kWeightsCache = "WEIGHTS";  // beside RocksDB's files; see WeightsIdentity

// One packed pass of an ingest on the engine thread.
class EncodeWork : public Work {
 public:
  EncodeWork(LoadedModel& model, std::span<const EncodeJob> jobs) : model_(model), jobs_(jobs) {}
  std::future<Result<EncodedBatch>> Batch() { return done_.get_future(); }
  Status Check() const override { return Status::Ok(); }
  bool Step() override {
    done_.set_value(Encode());
    return false;
  }
  void Abort(const Status& why) override { done_.set_value(why); }
  bool IsBulk() const override { return true; }

 private:
  Result<EncodedBatch> Encode() {
    const auto begin = std::chrono::steady_clock::now();
    EncodedBatch batch;
    UNFOLD_TRY_ASSIGN(batch.recorder,
                      EncodeJobs(*model_.transformer, model_.kv_type, jobs_, [] { return Status::Ok(); }));
    batch.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return batch;
  }

  LoadedModel& model_;
  std::span<const EncodeJob> jobs_;
  std::promise<Result<EncodedBatch>> done_;
};

// Carries text and the answer from the engine's thread to the thread that asked.
class AnswerChannel {
 public:
  bool Push(std::string_view text) {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    texts_.emplace_back(text);
    changed_.notify_one();
    return true;
  }
  void Finish(Result<Answer> answer) {
    const std::lock_guard lock(mutex_);
    answer_.emplace(std::move(answer));
    changed_.notify_one();
  }
  // Runs the caller's sink on the caller's thread until the answer is there.
  Result<Answer> Drain(const TextSink& sink) {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return !texts_.empty() || answer_.has_value(); });
      while (!texts_.empty()) {
        const std::string text = std::move(texts_.front());
        texts_.pop_front();
        if (closed_ || !sink) continue;
        lock.unlock();
        const bool wants_more = sink(text);
        lock.lock();
        closed_ = !wants_more;
      }
      if (answer_.has_value()) return *std::move(answer_);
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> texts_;
  std::optional<Result<Answer>> answer_;
  bool closed_ = false;  // the caller's sink said no
};

class EngineImpl : public Engine {
 public:
  EngineImpl(EngineOptions options, std::unique_ptr<Store> store, std::unique_ptr<LoadedModel> model);
  ~EngineImpl() override;

  Result<IngestProgress> Ingest(std::string_view collection, const DocumentSource& source, const IngestOptions& options,
                                const IngestSink& sink) override;
  Result<DocumentVerdict> AddDocument(std::string_view collection, const DocumentInput& document,
                                      const IngestOptions& options) override;
  Result<bool> CreateCollection(std::string_view name) override;
  Status RemoveCollection(std::string_view name) override;
  Status Remove(std::string_view collection, const std::vector<std::string>& names) override;
  Result<EncodingCost> EstimateCost() const override;
  Result<Answer> Ask(std::string_view collection, std::string_view question, const AskOptions& options,
                     const TextSink& sink) override;
  Status Submit(std::string_view collection, std::string_view question, const AskOptions& options, TextSink sink,
                AnswerCallback done) override;
  Result<RouteResult> Route(std::string_view collection, std::string_view question, const AskOptions& options) override;
  Result<std::vector<std::string>> Collections() const override;
  Result<bool> HasCollection(std::string_view name) const override { return store_->Snapshot()->HasCollection(name); }
  Result<std::vector<DocumentInfo>> List(std::string_view collection) const override;
  Result<DocumentInfo> Find(std::string_view collection, std::string_view document) const override;
  Result<std::string> ReadText(std::string_view collection, std::string_view document) const override;
  Result<StoreInspection> Inspect() const override;
  Result<VerifySummary> Verify(const std::function<bool(std::uint64_t)>& progress) const override;
  std::string_view backend_name() const override { return model_ == nullptr ? "" : model_->backend->name(); }

 private:
  Status NeedModel() const;
  Status NeedWriting() const;

  const EngineOptions options_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<LoadedModel> model_;
  AskEnvironment environment_;
  std::mutex ingest_mutex_;               // one ingest at a time
  std::unique_ptr<Scheduler> scheduler_;  // last: its thread uses all of the above
};

EngineImpl::EngineImpl(EngineOptions options, std::unique_ptr<Store> store, std::unique_ptr<LoadedModel> model)
    : options_(std::move(options)), store_(std::move(store)), model_(std::move(model)) {
  environment_.options = &options_;
  environment_.model = model_.get();
  environment_.snapshot = [this] { return store_->Snapshot(); };
  if (model_ != nullptr) {
    scheduler_ = std::make_unique<Scheduler>(options_.max_queued_requests, [this] { environment_.Advance(); });
  }
}

EngineImpl::~EngineImpl() {
  scheduler_.reset();
  environment_.indexes.clear();
  (void)store_->Close();  // a failure to flush is found by the next open, which recovers from the log
}

Status EngineImpl::NeedModel() const {
  return model_ != nullptr ? Status::Ok() : Status::InvalidArgument("the engine was opened without a model");
}

Status EngineImpl::NeedWriting() const {
  return options_.access == StoreAccessMode::kReadWrite ? Status::Ok()
                                                        : Status::InvalidArgument("the store was opened read-only");
}

Result<IngestProgress> EngineImpl::Ingest(std::string_view collection, const DocumentSource& source,
                                          const IngestOptions& options, const IngestSink& sink) {
  UNFOLD_TRY(NeedModel());
  UNFOLD_TRY(NeedWriting());
  const std::lock_guard lock(ingest_mutex_);
  const EncodeRunner encode = [this](std::span<const EncodeJob> jobs) -> Result<std::future<Result<EncodedBatch>>> {
    auto work = std::make_unique<EncodeWork>(*model_, jobs);
    std::future<Result<EncodedBatch>> batch = work->Batch();
    UNFOLD_TRY(scheduler_->Submit(std::move(work)));
    return batch;
  };
  // Beside questions in smaller passes, since they wait for each.
  constexpr std::int64_t kSmaller = 8;
  const std::int64_t tokens = model_->EncodeBatchTokens(options_);
  const auto pass_tokens = [this, tokens] { return scheduler_->HasQuestions() ? tokens / kSmaller : tokens; };
  IngestSession session(*store_, *model_, encode, tokens, pass_tokens, options, sink);
  return session.Run(collection, source);
}

Result<DocumentVerdict> EngineImpl::AddDocument(std::string_view collection, const DocumentInput& document,
                                                const IngestOptions& options) {
  DocumentVerdict verdict;
  bool given = false;
  const DocumentSource source = [&]() -> std::optional<DocumentInput> {
    if (std::exchange(given, true)) return std::nullopt;
    return document;
  };
  const IngestSink sink{[&](const DocumentVerdict& heard) { verdict = heard; }, {}};
  UNFOLD_TRY_ASSIGN([[maybe_unused]] const IngestProgress progress, Ingest(collection, source, options, sink));
  if (!verdict.status.ok()) {
    return Status(verdict.status.code(), "document '" + document.name + "': " + verdict.status.message());
  }
  return verdict;
}

Result<bool> EngineImpl::CreateCollection(std::string_view name) {
  UNFOLD_TRY(NeedWriting());
  UNFOLD_TRY(CheckName("a collection", name));
  UNFOLD_TRY_ASSIGN(const bool exists, HasCollection(name));
  UNFOLD_TRY(store_->EnsureCollection(name).status());
  return !exists;
}

Status EngineImpl::RemoveCollection(std::string_view name) {
  UNFOLD_TRY(NeedWriting());
  return store_->RemoveCollection(name);
}

Status EngineImpl::Remove(std::string_view collection, const std::vector<std::string>& names) {
  UNFOLD_TRY(NeedWriting());
  return store_->Remove(collection, names);
}

Result<EncodingCost> EngineImpl::EstimateCost() const {
  UNFOLD_TRY(NeedModel());
  constexpr double kTextBytesPerToken = 4;
  const ModelConfig& config = model_->transformer->config();
  const GistConfig& gist = model_->gist;
  const double row_bytes = 2.0 * config.kv_heads * config.head_dim * static_cast<double>(DTypeBytes(model_->kv_type));
  double gist_rows = 1.0 / gist.rules.chunk_size;
  for (int level = 1; level < gist.rules.num_levels(); ++level) gist_rows += gist_rows / gist.rules.section_size;
  gist_rows += static_cast<double>(gist.rules.sink_size) / gist.part_tokens;
  const double token_bytes = row_bytes * (config.num_layers - 1 + config.num_layers * gist_rows) + sizeof(ByteSpan) + 6;
  EncodingCost cost;
  cost.stored_bytes_per_text_byte = token_bytes / kTextBytesPerToken + 1;
  std::error_code error;
  const auto space = std::filesystem::space(options_.store_path.empty() ? "." : options_.store_path, error);
  if (error) return Status::Io(options_.store_path + ": free space is unknown: " + error.message());
  cost.free_disk_bytes = space.available;
  return cost;
}

Status EngineImpl::Submit(std::string_view collection, std::string_view question, const AskOptions& options,
                          TextSink sink, AnswerCallback done) {
  UNFOLD_TRY(NeedModel());
  AskRequest request{std::string(collection), std::string(question), options};
  return scheduler_->Submit(
      std::make_unique<AskWork>(environment_, std::move(request), std::move(sink), std::move(done)));
}

Result<Answer> EngineImpl::Ask(std::string_view collection, std::string_view question, const AskOptions& options,
                               const TextSink& sink) {
  AnswerChannel channel;
  UNFOLD_TRY(Submit(
      collection, question, options, [&channel](std::string_view text) { return channel.Push(text); },
      [&channel](Result<Answer> answer) { channel.Finish(std::move(answer)); }));
  return channel.Drain(sink);
}

Result<RouteResult> EngineImpl::Route(std::string_view collection, std::string_view question,
                                      const AskOptions& options) {
  UNFOLD_TRY(NeedModel());
  std::promise<Result<RouteResult>> done;
  AskRequest request{std::string(collection), std::string(question), options};
  UNFOLD_TRY(scheduler_->Submit(std::make_unique<RouteWork>(
      environment_, std::move(request), [&done](Result<RouteResult> result) { done.set_value(std::move(result)); })));
  return done.get_future().get();
}

Result<std::vector<std::string>> EngineImpl::Collections() const {
  UNFOLD_TRY_ASSIGN(const std::vector<CollectionInfo> collections, store_->Snapshot()->Collections());
  std::vector<std::string> names;
  for (const CollectionInfo& collection : collections) names.push_back(collection.name);
  return names;
}

Result<std::vector<DocumentInfo>> EngineImpl::List(std::string_view collection) const {
  UNFOLD_TRY_ASSIGN(const std::vector<PublishedDocument> documents, store_->Snapshot()->Documents(collection));
  std::vector<DocumentInfo> infos;
  for (const PublishedDocument& document : documents) infos.push_back(InfoOf(document.record));
  return infos;
}

Result<DocumentInfo> EngineImpl::Find(std::string_view collection, std::string_view document) const {
  UNFOLD_TRY_ASSIGN(const PublishedDocument found, store_->Snapshot()->Find(collection, document));
  return InfoOf(found.record);
}

Result<std::string> EngineImpl::ReadText(std::string_view collection, std::string_view document) const {
  const std::shared_ptr<const StoreSnapshot> snapshot = store_->Snapshot();
  UNFOLD_TRY_ASSIGN(const PublishedDocument found, snapshot->Find(collection, document));
  UNFOLD_TRY_ASSIGN(const std::string sealed, snapshot->Read({RecordKind::kText, found.id, 0, 0, 0}));
  UNFOLD_TRY_ASSIGN(const std::string_view text, OpenText(sealed, "text of '" + std::string(document) + "'"));
  return std::string(text);
}

Result<StoreInspection> EngineImpl::Inspect() const {
  StoreInspection inspection;
  UNFOLD_TRY_ASSIGN(inspection.fingerprint, store_->Fingerprint());
  UNFOLD_TRY_ASSIGN(inspection.disk_bytes, store_->DiskBytes());
  const std::shared_ptr<const StoreSnapshot> snapshot = store_->Snapshot();
  UNFOLD_TRY_ASSIGN(const std::vector<CollectionInfo> collections, snapshot->Collections());
  for (const CollectionInfo& info : collections) {
    UNFOLD_TRY_ASSIGN(const std::vector<PublishedDocument> documents, snapshot->Documents(info.name));
    StoreInspection::Collection sum;
    sum.name = info.name;
    sum.num_documents = documents.size();
    for (const PublishedDocument& document : documents) {
      const DocumentInfo one = InfoOf(document.record);
      sum.num_parts += one.num_parts;
      sum.num_tokens += one.num_tokens;
      sum.num_chunks += one.num_chunks;
      const auto bytes = [&](RecordKind kind) { return document.record.stored_bytes[static_cast<int>(kind)]; };
      sum.text_bytes += bytes(RecordKind::kText);
      sum.chunk_bytes += bytes(RecordKind::kChunks);
      sum.gist_bytes += bytes(RecordKind::kGist);
      sum.raw_bytes += bytes(RecordKind::kRaw);
    }
    inspection.collections.push_back(std::move(sum));
  }
  return inspection;
}

Result<VerifySummary> EngineImpl::Verify(const std::function<bool(std::uint64_t)>& progress) const {
  UNFOLD_TRY_ASSIGN(const VerifyReport report, store_->Verify(progress));
  VerifySummary summary{report.num_documents, report.num_records, report.num_bytes, report.num_orphans, {}};
  for (const VerifyFinding& finding : report.findings) summary.findings.push_back(finding.where + ": " + finding.what);
  return summary;
}

Result<std::unique_ptr<Store>> OpenStore(const EngineOptions& options) {
  if (options.store_path.empty()) {
    if (options.access == StoreAccessMode::kReadOnly)
      return Status::InvalidArgument("a read-only engine needs a store");
    return MakeMemoryStore();
  }
  std::error_code ignored;
  if (options.model_path.empty() && !std::filesystem::exists(options.store_path, ignored)) {
    return Status::NotFound(options.store_path + ": no such store");
  }
  // To RocksDB a directory that may not be read holds nothing.
  if (std::filesystem::is_directory(options.store_path, ignored) &&
      access(options.store_path.c_str(), R_OK | X_OK) != 0) {
    return Status::Io(options.store_path + ": " + std::generic_category().message(errno));
  }
  const bool writes = options.access == StoreAccessMode::kReadWrite;
  return OpenRocksDbStore({.path = options.store_path,
                           .access = writes ? StoreAccess::kReadWrite : StoreAccess::kReadOnly,
                           .file_system = nullptr});
}

// Holds the model to the store's fingerprint, or writes it into a new store.
Status MatchStore(const EngineOptions& options, Store& store, LoadedModel& model) {
  const std::string cache = options.store_path.empty() ? "" : options.store_path + "/" + std::string(kWeightsCache);
  UNFOLD_TRY_ASSIGN(const std::string weights_hash, WeightsIdentity(model.transformer->checkpoint(), cache));
  UNFOLD_TRY_ASSIGN(const std::string stored, store.Fingerprint());
  if (!stored.empty()) {
    UNFOLD_TRY_ASSIGN(model.kv_type, FingerprintKvType(stored));
  }
  if (options.kv_type) model.kv_type = *options.kv_type;
  const std::string current = MakeFingerprint(model.transformer->config(), model.gist, weights_hash,
                                              model.tokenizer_hash, model.kv_type, model.transformer->compute());
  if (!stored.empty()) return CompareFingerprints(stored, current, options.store_path);
  if (options.access == StoreAccessMode::kReadOnly)
    return Status::NotFound(options.store_path + ": the store is empty");
  return store.SetFingerprint(current);
}

Status CheckOptions(const EngineOptions& options) {
  if (options.kv_type && !IsKvType(*options.kv_type)) {
    return Status::InvalidArgument("kv_type must be f32, bf16 or int8, found " +
                                   std::string(DTypeName(*options.kv_type)));
  }
  if (options.compute != DType::kF32 && options.compute != DType::kBF16) {
    return Status::InvalidArgument("compute must be f32 or bf16, found " + std::string(DTypeName(options.compute)));
  }
  if (options.encode_batch_tokens < 0) return Status::InvalidArgument("encode_batch_tokens must not be negative");
  if (options.max_queued_requests < 1) return Status::InvalidArgument("max_queued_requests must be at least 1");
  if (options.num_threads < 0) return Status::InvalidArgument("num_threads must not be negative");
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Open(const EngineOptions& options) {
  UNFOLD_TRY(CheckOptions(options));
  std::unique_ptr<LoadedModel> model;
  // The model first: a wrong model directory must not leave an empty store behind. Only its weights are read after the
  // store is there, which remembers their hash.
  if (!options.model_path.empty()) {
    UNFOLD_TRY_ASSIGN(model, LoadModel(options));
  }
  UNFOLD_TRY_ASSIGN(std::unique_ptr<Store> store, OpenStore(options));
  if (model != nullptr) UNFOLD_TRY(MatchStore(options, *store, *model));
  return std::unique_ptr<Engine>(new EngineImpl(options, std::move(store), std::move(model)));
}

}  // namespace unfold
