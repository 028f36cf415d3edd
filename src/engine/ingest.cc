// SPDX-License-Identifier: Apache-2.0
#include "engine/ingest.h"

#include <algorithm>
#include <utility>

#include "text/tokenizer.h"

namespace unfold {
namespace {

constexpr std::size_t kMaxNameBytes = 1024;

std::int64_t SequenceTokens(const PreparedPart& part) { return static_cast<std::int64_t>(part.sequence.ids.size()); }

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

DocumentInfo InfoOf(const DocumentRecord& record) {
  DocumentInfo info;
  info.name = record.name;
  info.title = record.title;
  info.num_parts = record.parts.size();
  for (const PartSummary& part : record.parts) {
    info.num_tokens += part.num_tokens;
    info.num_chunks += part.num_chunks;
  }
  info.text_bytes = record.text_bytes;
  for (const std::uint64_t bytes : record.stored_bytes) info.stored_bytes += bytes;
  return info;
}

Status CheckName(const char* whose, std::string_view name) {
  if (!name.empty() && name.size() <= kMaxNameBytes && FindInvalidUtf8(name) == std::string::npos) return Status::Ok();
  return Status::InvalidArgument(std::string(whose) + "'s name must be UTF-8 of 1 to " + std::to_string(kMaxNameBytes) +
                                 " bytes");
}

Status IngestSession::Validate(const DocumentInput& input) const {
  UNFOLD_TRY(input.read_status);
  UNFOLD_TRY(CheckName("a document", input.name));
  if (taken_.contains(input.name)) return Status::InvalidArgument("the name was given twice in this ingest");
  if (input.text.size() > options_.max_document_bytes) {
    return Status::ResourceExhausted(std::to_string(input.text.size()) + " bytes, more than the limit of " +
                                     std::to_string(options_.max_document_bytes) + " (max_document_bytes)");
  }
  return Status::Ok();
}

void IngestSession::Report(DocumentVerdict verdict, std::uint64_t text_bytes) {
  ++progress_.num_documents;
  progress_.text_bytes += text_bytes;
  switch (verdict.outcome) {
    case IngestOutcome::kAdded: ++progress_.num_added; break;
    case IngestOutcome::kReplaced: ++progress_.num_replaced; break;
    case IngestOutcome::kUnchanged: ++progress_.num_unchanged; break;
    case IngestOutcome::kFailed: ++progress_.num_failed; break;
    case IngestOutcome::kAbandoned: ++progress_.num_abandoned; break;
  }
  if (sink_.on_verdict) sink_.on_verdict(verdict);
}

void IngestSession::ReportProgress() {
  progress_.wall_seconds = SecondsSince(begin_);
  if (sink_.on_progress) sink_.on_progress(progress_);
}

// Takes one document into the queue, or gives its verdict. An error here is one of the store.
Status IngestSession::Accept(DocumentInput input) {
  const std::uint64_t text_bytes = input.text.size();
  if (Status status = Validate(input); !status.ok()) {
    Report({input.name, IngestOutcome::kFailed, std::move(status), {}}, text_bytes);
    return Status::Ok();
  }
  taken_.insert(input.name);
  std::uint64_t hash[2];
  HashContent(input, hash);
  const Result<PublishedDocument> known = store_.Snapshot()->Find(collection_name_, input.name);
  if (!known.ok() && known.status().code() != StatusCode::kNotFound) return known.status();
  if (known.ok() && std::equal(hash, hash + 2, known->record.content_hash)) {
    Report({input.name, IngestOutcome::kUnchanged, Status::Ok(), InfoOf(known->record)}, text_bytes);
    return Status::Ok();
  }
  Result<PreparedDocument> prepared = PrepareDocument(input, model_.text);
  if (!prepared.ok()) {
    Report({input.name, IngestOutcome::kFailed, prepared.status(), {}}, text_bytes);
    return Status::Ok();
  }
  Pending pending;
  UNFOLD_TRY_ASSIGN(pending.id, store_.AllocateDocument());
  pending.prepared = *std::move(prepared);
  pending.replaces = known.ok();
  for (const PreparedPart& part : pending.prepared.parts) pending_tokens_ += SequenceTokens(part);
  const std::vector<StoreRecord> records = TextRecords(pending.id, input.text, pending.prepared);
  for (const StoreRecord& record : records) {
    pending.prepared.record.stored_bytes[static_cast<int>(record.key.kind)] += record.value.size();
  }
  pending_.push_back(std::move(pending));
  return store_.Write(records);
}

std::vector<EncodeJob> IngestSession::NextJobs() const {
  std::vector<EncodeJob> jobs;
  const std::int64_t most = pass_tokens_();
  std::int64_t tokens = 0;
  for (const Pending& pending : pending_) {
    const auto& parts = pending.prepared.parts;
    for (std::uint32_t part = pending.num_taken; part < parts.size(); ++part) {
      tokens += SequenceTokens(parts[part]);
      if (!jobs.empty() && tokens > most) return jobs;
      jobs.push_back({pending.id, part, &parts[part]});
    }
  }
  return jobs;
}

Status IngestSession::RunBatch() {
  Batch batch;
  batch.jobs = NextJobs();
  UNFOLD_TRY_ASSIGN(std::future<Result<EncodedBatch>> running, encode_(batch.jobs));
  for (const EncodeJob& job : batch.jobs) pending_tokens_ -= SequenceTokens(*job.prepared);
  std::size_t left = batch.jobs.size();
  for (Pending& pending : pending_) {  // jobs are of the front's parts, in their order
    const std::size_t taken = std::min(left, pending.prepared.parts.size() - pending.num_taken);
    pending.num_taken += static_cast<std::uint32_t>(taken);
    left -= taken;
  }
  // Whatever becomes of the batch before, a caller's sink that throws included: the pass reads the jobs.
  struct Awaited {
    std::future<Result<EncodedBatch>>& pass;
    ~Awaited() {
      if (pass.valid()) pass.wait();
    }
  } const awaited{running};
  const Status written = WriteBatch();
  Result<EncodedBatch> encoded = running.get();
  UNFOLD_TRY(written);
  UNFOLD_TRY_ASSIGN(batch.encoded, std::move(encoded));
  progress_.encode_seconds += batch.encoded.seconds;
  for (const EncodeJob& job : batch.jobs) progress_.tokens_in_flight += job.prepared->summary.num_tokens;
  encoded_ = std::move(batch);
  ReportProgress();
  return Status::Ok();
}

Status IngestSession::WriteBatch() {
  if (!encoded_) return Status::Ok();
  const Clock::time_point store_begin = Clock::now();
  const Batch batch = *std::exchange(encoded_, std::nullopt);
  std::vector<StoreRecord> records;
  batch.encoded.recorder->Finish(records);

  std::map<DocumentId, Pending*> by_id;
  for (Pending& pending : pending_) by_id[pending.id] = &pending;
  for (const EncodeJob& job : batch.jobs) ++by_id[job.document]->num_encoded;
  for (const StoreRecord& record : records) {
    DocumentRecord& document = by_id[record.key.document]->prepared.record;
    document.stored_bytes[static_cast<int>(record.key.kind)] += record.value.size();
  }
  UNFOLD_TRY(store_.Write(records));
  UNFOLD_TRY(PublishComplete());
  progress_.store_seconds += SecondsSince(store_begin);
  ReportProgress();
  return Status::Ok();
}

Status IngestSession::PublishComplete() {
  std::vector<Publication> publications;
  for (const Pending& pending : pending_) {
    if (pending.num_encoded < pending.prepared.parts.size()) break;
    publications.push_back({collection_, pending.id, pending.prepared.record});
  }
  if (publications.empty()) return Status::Ok();
  UNFOLD_TRY(store_.Publish(publications));
  for (const Publication& publication : publications) {
    const DocumentInfo info = InfoOf(publication.record);
    progress_.num_tokens += info.num_tokens;
    progress_.tokens_in_flight -= info.num_tokens;
    progress_.stored_bytes += info.stored_bytes;
    const IngestOutcome outcome = pending_.front().replaces ? IngestOutcome::kReplaced : IngestOutcome::kAdded;
    pending_.pop_front();
    Report({info.name, outcome, Status::Ok(), info}, info.text_bytes);
  }
  return Status::Ok();
}

Status IngestSession::AbandonAll(const Status& why) {
  encoded_.reset();
  std::vector<DocumentId> ids;
  for (const Pending& pending : pending_) ids.push_back(pending.id);
  const Status discarded = ids.empty() ? Status::Ok() : store_.Discard(ids);
  for (const Pending& pending : pending_) {
    const DocumentRecord& record = pending.prepared.record;
    Report({record.name, IngestOutcome::kAbandoned, why, {}}, record.text_bytes);
  }
  pending_.clear();
  pending_tokens_ = 0;
  progress_.tokens_in_flight = 0;
  return discarded;
}

Status IngestSession::Wind() {
  if (pending_tokens_ <= batch_tokens_) {
    while (pending_tokens_ > 0) UNFOLD_TRY(RunBatch());
    return WriteBatch();
  }
  UNFOLD_TRY(WriteBatch());
  return AbandonAll(Status::Cancelled("stopped before it was complete; nothing of it is stored"));
}

Result<IngestProgress> IngestSession::Run(std::string_view collection, const DocumentSource& source) {
  UNFOLD_TRY(CheckName("a collection", collection));
  collection_name_ = collection;
  UNFOLD_TRY_ASSIGN(collection_, store_.EnsureCollection(collection));
  Status status;
  bool more = true;
  while (status.ok() && more && !options_.stop_token.stop_requested()) {
    std::optional<DocumentInput> input = source();
    more = input.has_value();
    if (more) {
      status = Accept(*std::move(input));
      ReportProgress();
    }
    while (status.ok() && !options_.stop_token.stop_requested() &&
           (pending_tokens_ >= batch_tokens_ || (!more && pending_tokens_ > 0))) {
      status = RunBatch();
    }
  }
  if (status.ok()) status = Wind();
  if (!status.ok()) {
    (void)AbandonAll(status);  // best effort: what cannot be discarded now is swept at the next open
    return status;
  }
  ReportProgress();
  return progress_;
}

}  // namespace unfold
