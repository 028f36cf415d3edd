// SPDX-License-Identifier: Apache-2.0
#include "engine/ask_work.h"

#include <algorithm>
#include <utility>

#include "rag/citations.h"

namespace unfold {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kRoutedDocuments = 10;

double Milliseconds(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double, std::milli>(end - begin).count();
}

Status CheckRequest(const AskOptions& options) {
  if (options.stop_token.stop_requested()) return Status::Cancelled("the caller stopped the request");
  if (options.deadline && Clock::now() >= *options.deadline) return Status::Cancelled("the deadline passed");
  return Status::Ok();
}

CancelCheck CheckOf(const AskRequest& request) {
  return [&request] { return CheckRequest(request.options); };
}

bool SameDocuments(const std::vector<PublishedDocument>& a, const std::vector<PublishedDocument>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const PublishedDocument& x, const PublishedDocument& y) { return x.id == y.id; });
}

// The index of the collection as `documents` has it, brought up to date if they changed.
Result<std::shared_ptr<const RoutingIndex>> CurrentIndex(AskEnvironment& environment, const std::string& collection,
                                                         const StoreSnapshot& snapshot,
                                                         std::vector<PublishedDocument> documents,
                                                         const CancelCheck& check) {
  std::shared_ptr<const RoutingIndex>& kept = environment.indexes[collection];
  if (kept == nullptr || !SameDocuments(kept->documents(), documents)) {
    std::erase_if(environment.indexes, [&](const auto& entry) {
      const auto exists = snapshot.HasCollection(entry.first);
      return exists.ok() && !*exists;
    });
    UNFOLD_TRY_ASSIGN(kept, RoutingIndex::Build(*environment.model->transformer, environment.model->gist, snapshot,
                                                std::move(documents), kept.get(), check));
  }
  return kept;
}

Result<std::vector<PartRef>> NamedParts(const std::vector<PublishedDocument>& documents,
                                        const std::shared_ptr<const StoreSnapshot>& snapshot,
                                        const std::vector<std::string>& names, const std::string& collection) {
  std::vector<PartRef> parts;
  for (const std::string& name : names) {
    const auto it = std::find_if(documents.begin(), documents.end(),
                                 [&](const PublishedDocument& document) { return document.record.name == name; });
    if (it == documents.end()) {
      return Status::NotFound("collection '" + collection + "' has no document '" + name + "'");
    }
    for (std::uint32_t part = 0; part < it->record.parts.size(); ++part) {
      parts.push_back({0, snapshot, it->id, name, part, it->record.parts[part], it->record.format});
    }
  }
  return parts;
}

Status CheckBudget(const std::vector<PartRef>& parts, const PreparedQuestion& question) {
  const std::int64_t budget = question.context_budget;
  std::int64_t tokens = 0;
  for (const PartRef& part : parts) tokens += part.summary.num_tokens + question.links_per_part;
  if (tokens <= budget) return Status::Ok();
  return Status::ResourceExhausted("the documents named take " + std::to_string(tokens) + " tokens, " +
                                   std::to_string(tokens - budget) + " more than the " + std::to_string(budget) +
                                   " that this question leaves room for; name fewer, or raise max_context_tokens up to "
                                   "the model's window");
}

}  // namespace

void AskEnvironment::Advance() {
  constexpr std::size_t kMost = DecodeSteps::kMostAnswers;
  for (std::size_t begin = 0; begin < taken.size(); begin += kMost) {
    Generator::Advance(std::span(taken).subspan(begin, std::min(kMost, taken.size() - begin)));
  }
  taken.clear();
}

Result<QuestionStore> QuestionStore::Make(std::uint64_t source) {
  QuestionStore made{MakeMemoryStore(), {}, source, {}};
  UNFOLD_TRY_ASSIGN(made.collection, made.store->EnsureCollection("question"));
  return made;
}

Status QuestionStore::Add(DocumentId id, std::span<const StoreRecord> records, DocumentRecord record) {
  UNFOLD_TRY(store->Write(records));
  publications.push_back({collection, id, std::move(record)});
  return Status::Ok();
}

Status QuestionStore::Publish(std::span<PartRef> parts) {
  UNFOLD_TRY(store->Publish(publications));
  const std::shared_ptr<const StoreSnapshot> snapshot = store->Snapshot();
  for (PartRef& part : parts) {
    part.source = source;
    part.snapshot = snapshot;
  }
  return Status::Ok();
}

Result<ChosenDocuments> ChooseDocuments(AskEnvironment& environment, const AskRequest& request,
                                        const PreparedQuestion& question, const CancelCheck& check) {
  ChosenDocuments chosen;
  const WorkingSetOptions& set = request.options.working_set;
  const bool fixed = !set.documents.empty() || !request.options.inline_documents.empty();
  const bool closed = request.options.mode == AnswerMode::kClosed;
  const bool routes = request.options.always_route || (!fixed && !closed);
  if (set.documents.empty() && !routes) return chosen;
  const std::shared_ptr<const StoreSnapshot> snapshot = environment.snapshot();
  UNFOLD_TRY_ASSIGN(std::vector<PublishedDocument> documents, snapshot->Documents(request.collection));
  if (!closed) {
    UNFOLD_TRY_ASSIGN(chosen.parts, NamedParts(documents, snapshot, set.documents, request.collection));
  }
  if (!routes) return chosen;

  const Clock::time_point begin = Clock::now();
  if (documents.empty()) return Status::NotFound("collection '" + request.collection + "' holds no documents");
  const LoadedModel& model = *environment.model;
  UNFOLD_TRY_ASSIGN(const auto index,
                    CurrentIndex(environment, request.collection, *snapshot, std::move(documents), check));
  UNFOLD_TRY_ASSIGN(const RoutingQueries queries,
                    ComputeRoutingQueries(*model.transformer, model.gist, *model.tokenizer, request.question,
                                          request.options.history, check));
  UNFOLD_TRY_ASSIGN(const std::vector<double> scores,
                    index->Score(*model.transformer, model.gist, queries.queries, queries.num_tokens));
  const std::vector<std::size_t> ranked = RankUnits(scores);
  chosen.routed = BestDocuments(*index, ranked, scores, kRoutedDocuments);
  chosen.question_truncated = queries.truncated;
  if (!fixed && !closed) {
    const int max_units = set.max_documents > 0 ? set.max_documents : model.gist.max_documents;
    chosen.parts = ChooseUnits(*index, snapshot, ranked, max_units, question.context_budget, question.links_per_part);
    if (chosen.parts.empty()) {
      return Status::ResourceExhausted("no part of the collection fits the " + std::to_string(question.context_budget) +
                                       " tokens that this question leaves room for");
    }
  }
  chosen.route_ms = Milliseconds(begin, Clock::now());
  return chosen;
}

Status AskWork::Check() const { return CheckRequest(request_.options); }

bool AskWork::Step() {
  Result<bool> goes_on = StepPhase();
  if (!goes_on.ok()) {
    Abort(goes_on.status());
    return false;
  }
  return *goes_on;
}

Result<bool> AskWork::StepPhase() {
  switch (phase_) {
    case Phase::kChoose:
      started_ = Clock::now();
      UNFOLD_TRY(Choose());
      phase_ = Phase::kStart;
      return true;
    case Phase::kStart: {
      UNFOLD_TRY_ASSIGN(generator_, Generator::Start(environment_.model->Context(*environment_.options), question_,
                                                     request_.options, std::move(chosen_.parts), CheckOf(request_)));
      phase_ = Phase::kDecode;
      return true;
    }
    case Phase::kDecode: return Decode();
  }
  return Status::Internal("unknown phase of a question");
}

Status AskWork::Choose() {
  UNFOLD_TRY_ASSIGN(question_, PrepareQuestion(environment_.model->Context(*environment_.options), request_.question,
                                               request_.options));
  UNFOLD_TRY_ASSIGN(chosen_, ChooseDocuments(environment_, request_, question_, CheckOf(request_)));
  if (!request_.options.inline_documents.empty() && request_.options.mode != AnswerMode::kClosed) {
    UNFOLD_TRY(EncodeInline());
  }
  UNFOLD_TRY(CheckBudget(chosen_.parts, question_));
  return request_.options.mode == AnswerMode::kFresh ? EncodeFresh() : Status::Ok();
}

// Replaces the chosen parts by the same parts encoded now, with f32 KV, in a store of their own.
Status AskWork::EncodeFresh() {
  LoadedModel& model = *environment_.model;
  UNFOLD_TRY_ASSIGN(fresh_, QuestionStore::Make(environment_.next_source++));
  for (PartRef& part : chosen_.parts) {
    UNFOLD_TRY_ASSIGN(const DocumentId id, fresh_.store->AllocateDocument());
    std::vector<StoreRecord> records;
    for (const RecordKind kind : {RecordKind::kText, RecordKind::kChunks}) {
      const std::uint32_t index = kind == RecordKind::kText ? 0 : part.part;
      UNFOLD_TRY_ASSIGN(std::string sealed, part.snapshot->Read({kind, part.id, index, 0, 0}));
      records.push_back({{kind, id, index, 0, 0}, std::move(sealed)});
    }
    PreparedPart prepared;
    UNFOLD_TRY_ASSIGN(prepared.table, OpenChunks(records.back().value, records.back().key.ToString()));
    prepared.sequence = BuildGistSequence(prepared.table.token_ids, model.gist.rules, model.text.word_starts);
    const EncodeJob job{id, part.part, &prepared};
    UNFOLD_TRY(EncodeParts(*model.transformer, DType::kF32, std::span(&job, 1), CheckOf(request_), records));
    DocumentRecord record;
    record.name = std::to_string(id.value);
    UNFOLD_TRY(fresh_.Add(id, records, std::move(record)));
    part.id = id;
  }
  return fresh_.Publish(std::span(chosen_.parts));
}

// Documents given with the question go through the same records as stored ones, so an answer from them equals, bit for
// bit, the answer from a store.
Status AskWork::EncodeInline() {
  LoadedModel& model = *environment_.model;
  UNFOLD_TRY_ASSIGN(inline_, QuestionStore::Make(environment_.next_source++));
  const std::size_t first = chosen_.parts.size();
  for (const DocumentInput& input : request_.options.inline_documents) {
    UNFOLD_TRY_ASSIGN(const PreparedDocument prepared, PrepareDocument(input, model.text));
    UNFOLD_TRY_ASSIGN(const DocumentId id, inline_.store->AllocateDocument());
    std::vector<StoreRecord> records = TextRecords(id, input.text, prepared);
    const DocumentRecord& record = prepared.record;
    for (std::uint32_t part = 0; part < prepared.parts.size(); ++part) {
      const EncodeJob job{id, part, &prepared.parts[part]};
      UNFOLD_TRY(EncodeParts(*model.transformer, model.kv_type, std::span(&job, 1), CheckOf(request_), records));
      chosen_.parts.push_back({0, nullptr, id, record.name, part, record.parts[part], record.format});
    }
    UNFOLD_TRY(inline_.Add(id, records, record));
  }
  return inline_.Publish(std::span(chosen_.parts).subspan(first));
}

Result<bool> AskWork::Decode() {
  UNFOLD_TRY_ASSIGN(const bool goes_on,
                    generator_->Take([this](std::string_view text) { return !sink_ || sink_(text); }));
  if (goes_on) {
    environment_.taken.push_back(generator_.get());
  } else {
    UNFOLD_TRY(Deliver());
  }
  return goes_on;
}

Status AskWork::Deliver() {
  UNFOLD_TRY_ASSIGN(Answer answer, generator_->TakeAnswer());
  const Clock::time_point now = Clock::now();
  Timings& timings = answer.timings;
  timings.queue_ms = Milliseconds(request_.received, started_);
  timings.route_ms = chosen_.route_ms;
  timings.ttft_ms = Milliseconds(request_.received, generator_->first_token_time());
  timings.decode_ms = Milliseconds(generator_->first_token_time(), generator_->last_token_time());
  timings.total_ms = Milliseconds(request_.received, now);
  // Steps after the first token; the one that gave the end token counts.
  const auto steps = static_cast<double>(answer.tokens.size()) - (answer.finish == FinishReason::kEnd ? 0 : 1);
  if (steps > 0 && timings.decode_ms > 0) timings.tokens_per_second = 1e3 * steps / timings.decode_ms;
  answer.routed = std::move(chosen_.routed);
  answer.question_truncated |= chosen_.question_truncated;
  done_(std::move(answer));
  return Status::Ok();
}

Status RouteWork::Check() const { return CheckRequest(request_.options); }

bool RouteWork::Step() {
  done_(Run());
  return false;
}

Result<RouteResult> RouteWork::Run() {
  request_.options.always_route = true;
  UNFOLD_TRY_ASSIGN(const PreparedQuestion question, PrepareQuestion(environment_.model->Context(*environment_.options),
                                                                     request_.question, request_.options));
  UNFOLD_TRY_ASSIGN(ChosenDocuments chosen, ChooseDocuments(environment_, request_, question, CheckOf(request_)));
  UNFOLD_TRY(CheckBudget(chosen.parts, question));
  RouteResult result;
  result.documents = std::move(chosen.routed);
  result.question_truncated = chosen.question_truncated;
  result.num_turns_dropped = question.prompt.num_turns_dropped;
  result.route_ms = chosen.route_ms;
  for (const PartRef& part : chosen.parts) {
    result.placed.push_back({part.document, part.part, part.summary.body.begin, part.summary.body.end, "", 0});
  }
  return result;
}

}  // namespace unfold
