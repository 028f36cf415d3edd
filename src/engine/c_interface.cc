// SPDX-License-Identifier: Apache-2.0
// The C interface over the public C++ engine. Here exceptions (of allocation) end: every call goes through Guarded.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "engine/c_options.h"
#include "engine/c_results.h"
#include "unfold/engine.h"
#include "unfold/unfold.h"

struct unfold_engine {
  std::unique_ptr<unfold::Engine> engine;
};

namespace unfold {
namespace {

#define UNFOLD_TEXT_INNER(text) #text
#define UNFOLD_TEXT(text) UNFOLD_TEXT_INNER(text)
constexpr char kVersion[] =
    UNFOLD_TEXT(UNFOLD_VERSION_MAJOR) "." UNFOLD_TEXT(UNFOLD_VERSION_MINOR) "." UNFOLD_TEXT(UNFOLD_VERSION_PATCH);
static_assert(std::string_view(kVersion) == UNFOLD_PROJECT_VERSION, "unfold.h and CMakeLists.txt name two versions");
static_assert(UNFOLD_INTERNAL == static_cast<int>(StatusCode::kInternal), "codes have the same numbers");
static_assert(UNFOLD_ABANDONED == static_cast<int>(IngestOutcome::kAbandoned), "outcomes have the same numbers");

unfold_code ToCode(const Status& status) { return static_cast<unfold_code>(status.code()); }
unfold_outcome ToOutcome(IngestOutcome outcome) { return static_cast<unfold_outcome>(outcome); }

unfold_code Fail(unfold_code code, std::string_view text, char** message) noexcept {
  if (message == nullptr) return code;
  *message = static_cast<char*>(std::malloc(text.size() + 1));
  if (*message == nullptr) return code;
  std::memcpy(*message, text.data(), text.size());
  (*message)[text.size()] = '\0';
  return code;
}

// Runs the body of a call, which returns a Status, and turns what comes out of it into a code and a message.
template <typename Body>
unfold_code Guarded(char** message, const Body& body) noexcept {
  if (message != nullptr) *message = nullptr;
  try {
    const Status status = body();
    return status.ok() ? UNFOLD_OK : Fail(ToCode(status), status.message(), message);
  } catch (const std::bad_alloc&) {
    return Fail(UNFOLD_RESOURCE_EXHAUSTED, "out of memory", message);
  } catch (const std::length_error&) {
    return Fail(UNFOLD_RESOURCE_EXHAUSTED, "out of memory: a text longer than memory", message);
  } catch (const std::exception& error) {
    return Fail(UNFOLD_INTERNAL, error.what(), message);
  }
}

// The same for a call that makes a handle: an output must be there, and is NULL unless the call succeeds.
template <typename Handle, typename Body>
unfold_code GuardedMake(Handle** output, const char* what, char** message, const Body& body) noexcept {
  if (output != nullptr) *output = nullptr;
  return Guarded(message, [&]() -> Status {
    UNFOLD_TRY(NeedPointer(output, what));
    UNFOLD_TRY_ASSIGN(std::unique_ptr<Handle> made, body());
    *output = made.release();
    return Status::Ok();
  });
}

Status NeedEngine(const unfold_engine* engine, const char* collection) {
  UNFOLD_TRY(NeedPointer(engine, "engine"));
  return NeedPointer(collection, "collection");
}

// The caller's callbacks for documents. An input that makes no document ends up as its verdict.
DocumentSource SourceOf(unfold_document_source source, void* context) {
  return [=]() -> std::optional<DocumentInput> {
    const unfold_document* given = source(context);
    if (given == nullptr) return std::nullopt;
    Result<DocumentInput> document = ToDocument(given);
    if (document.ok()) return *std::move(document);
    DocumentInput unreadable;
    unreadable.read_status = document.status();
    return unreadable;
  };
}

IngestSink SinkOf(unfold_verdict_sink sink, void* context) {
  if (sink == nullptr) return {};
  return {.on_verdict = [=](const DocumentVerdict& verdict) {
    const bool has_info = verdict.outcome != IngestOutcome::kFailed && verdict.outcome != IngestOutcome::kAbandoned;
    const unfold_document_info info = ViewOf(verdict.info);
    const unfold_verdict view = {.name = verdict.name.c_str(),
                                 .outcome = ToOutcome(verdict.outcome),
                                 .code = ToCode(verdict.status),
                                 .message = verdict.status.ok() ? nullptr : verdict.status.message().c_str(),
                                 .info = has_info ? &info : nullptr};
    sink(context, &view);
  }};
}

TextSink SinkOf(unfold_text_sink sink, void* context) {
  if (sink == nullptr) return {};
  return [=](std::string_view text) { return sink(context, text.data(), text.size()) != 0; };
}

}  // namespace
}  // namespace unfold

using unfold::Guarded;
using unfold::GuardedMake;
using unfold::NeedEngine;
using unfold::NeedPointer;
using unfold::Status;
template <typename Handle>
using Made = unfold::Result<std::unique_ptr<Handle>>;

int32_t unfold_version(void) { return UNFOLD_VERSION_NUMBER; }
const char* unfold_version_string(void) { return unfold::kVersion; }

const char* unfold_code_name(int32_t code) {
  if (code < UNFOLD_OK || code > UNFOLD_INTERNAL) return "unknown code";
  return unfold::StatusCodeName(static_cast<unfold::StatusCode>(code)).data();  // a literal: ends with a zero byte
}

void unfold_free(void* message) { std::free(message); }

unfold_cancel* unfold_cancel_new(void) {
  try {
    return new unfold_cancel;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void unfold_cancel_request(unfold_cancel* cancel) {
  if (cancel != nullptr) cancel->source.request_stop();
}
void unfold_cancel_free(unfold_cancel* cancel) { delete cancel; }

unfold_code unfold_open(const unfold_engine_options* options, unfold_engine** engine, char** message) {
  return GuardedMake(engine, "engine", message, [&]() -> Made<unfold_engine> {
    UNFOLD_TRY_ASSIGN(const unfold::EngineOptions read, unfold::ToEngineOptions(options));
    UNFOLD_TRY_ASSIGN(std::unique_ptr<unfold::Engine> opened, unfold::Engine::Open(read));
    return std::unique_ptr<unfold_engine>(new unfold_engine{std::move(opened)});
  });
}
void unfold_close(unfold_engine* engine) { delete engine; }
const char* unfold_backend_name(const unfold_engine* engine) {
  return engine == nullptr ? nullptr : engine->engine->backend_name().data();
}

unfold_code unfold_ingest(unfold_engine* engine, const char* collection, unfold_document_source source,
                          unfold_verdict_sink sink, void* context, const unfold_ingest_options* options,
                          char** message) {
  return Guarded(message, [&]() -> Status {
    UNFOLD_TRY(NeedEngine(engine, collection));
    if (source == nullptr) return Status::InvalidArgument("source is NULL");
    UNFOLD_TRY_ASSIGN(const unfold::IngestOptions read, unfold::ToIngestOptions(options));
    return engine->engine->Ingest(collection, unfold::SourceOf(source, context), read, unfold::SinkOf(sink, context))
        .status();
  });
}

unfold_code unfold_add_document(unfold_engine* engine, const char* collection, const unfold_document* document,
                                const unfold_ingest_options* options, unfold_outcome* outcome, char** message) {
  if (outcome != nullptr) *outcome = UNFOLD_FAILED;
  return Guarded(message, [&]() -> Status {
    UNFOLD_TRY(NeedEngine(engine, collection));
    UNFOLD_TRY_ASSIGN(const unfold::DocumentInput input, unfold::ToDocument(document));
    UNFOLD_TRY_ASSIGN(const unfold::IngestOptions read, unfold::ToIngestOptions(options));
    UNFOLD_TRY_ASSIGN(const unfold::DocumentVerdict verdict, engine->engine->AddDocument(collection, input, read));
    if (outcome != nullptr) *outcome = unfold::ToOutcome(verdict.outcome);
    return Status::Ok();
  });
}

unfold_code unfold_remove(unfold_engine* engine, const char* collection, const char* const* names, size_t num_names,
                          char** message) {
  return Guarded(message, [&]() -> Status {
    UNFOLD_TRY(NeedEngine(engine, collection));
    UNFOLD_TRY_ASSIGN(const std::vector<std::string> given, unfold::ToStrings(names, num_names, "names"));
    return engine->engine->Remove(collection, given);
  });
}

unfold_code unfold_list(const unfold_engine* engine, const char* collection, unfold_document_list** list,
                        char** message) {
  return GuardedMake(list, "list", message, [&]() -> Made<unfold_document_list> {
    UNFOLD_TRY(NeedEngine(engine, collection));
    UNFOLD_TRY_ASSIGN(std::vector<unfold::DocumentInfo> infos, engine->engine->List(collection));
    return std::make_unique<unfold_document_list>(std::move(infos));
  });
}

unfold_code unfold_collections(const unfold_engine* engine, unfold_name_list** list, char** message) {
  return GuardedMake(list, "list", message, [&]() -> Made<unfold_name_list> {
    UNFOLD_TRY(NeedPointer(engine, "engine"));
    UNFOLD_TRY_ASSIGN(std::vector<std::string> names, engine->engine->Collections());
    return std::unique_ptr<unfold_name_list>(new unfold_name_list{std::move(names)});
  });
}

unfold_code unfold_ask(unfold_engine* engine, const char* collection, const char* question,
                       const unfold_ask_options* options, unfold_text_sink sink, void* context, unfold_answer** answer,
                       char** message) {
  return GuardedMake(answer, "answer", message, [&]() -> Made<unfold_answer> {
    UNFOLD_TRY(NeedEngine(engine, collection));
    UNFOLD_TRY(NeedPointer(question, "question"));
    UNFOLD_TRY_ASSIGN(const unfold::AskOptions read, unfold::ToAskOptions(options));
    UNFOLD_TRY_ASSIGN(unfold::Answer given,
                      engine->engine->Ask(collection, question, read, unfold::SinkOf(sink, context)));
    return std::make_unique<unfold_answer>(std::move(given));
  });
}

unfold_code unfold_route_question(unfold_engine* engine, const char* collection, const char* question,
                                  const unfold_ask_options* options, unfold_route** route, char** message) {
  return GuardedMake(route, "route", message, [&]() -> Made<unfold_route> {
    UNFOLD_TRY(NeedEngine(engine, collection));
    UNFOLD_TRY(NeedPointer(question, "question"));
    UNFOLD_TRY_ASSIGN(const unfold::AskOptions read, unfold::ToAskOptions(options));
    UNFOLD_TRY_ASSIGN(unfold::RouteResult result, engine->engine->Route(collection, question, read));
    return std::make_unique<unfold_route>(std::move(result));
  });
}

unfold_code unfold_verify(const unfold_engine* engine, unfold_progress_sink progress, void* context,
                          unfold_verification** verification, char** message) {
  return GuardedMake(verification, "verification", message, [&]() -> Made<unfold_verification> {
    UNFOLD_TRY(NeedPointer(engine, "engine"));
    std::function<bool(std::uint64_t)> sink;
    if (progress != nullptr) sink = [=](std::uint64_t num_records) { return progress(context, num_records) != 0; };
    UNFOLD_TRY_ASSIGN(unfold::VerifySummary summary, engine->engine->Verify(sink));
    const unfold_verify_counts counts = {.num_documents = summary.num_documents,
                                         .num_records = summary.num_records,
                                         .num_bytes = summary.num_bytes,
                                         .num_orphans = summary.num_orphans};
    return std::unique_ptr<unfold_verification>(new unfold_verification{counts, std::move(summary.findings)});
  });
}
