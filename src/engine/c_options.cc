// SPDX-License-Identifier: Apache-2.0
#include "engine/c_options.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace unfold {
namespace {

// What an _init function leaves: zeros, and the defaults that are not zero.
unfold_engine_options DefaultsOf(const unfold_engine_options* /*type*/) {
  const EngineOptions defaults;
  unfold_engine_options options{};
  options.encode_batch_tokens = defaults.encode_batch_tokens;
  options.max_queued_requests = defaults.max_queued_requests;
  options.unfold_cache_bytes = defaults.unfold_cache_bytes;
  options.block_cache_bytes = defaults.block_cache_bytes;
  options.gist_cache_bytes = defaults.gist_cache_bytes;
  return options;
}

unfold_ingest_options DefaultsOf(const unfold_ingest_options* /*type*/) {
  unfold_ingest_options options{};
  options.max_document_bytes = IngestOptions().max_document_bytes;
  return options;
}

unfold_ask_options DefaultsOf(const unfold_ask_options* /*type*/) {
  unfold_ask_options options{};
  options.top_p = SamplingOptions().top_p;
  options.repetition_penalty = SamplingOptions().repetition_penalty;
  return options;
}

unfold_document DefaultsOf(const unfold_document* /*type*/) { return {}; }

// Fields that a later header has and this library has not become zeros, which is how ReadSized knows them unused.
template <typename Struct>
void InitSized(Struct* options, std::size_t size) {
  if (options == nullptr) return;
  std::memset(options, 0, size);
  Struct defaults = DefaultsOf(options);
  defaults.size = size;
  std::memcpy(options, &defaults, std::min(size, sizeof(Struct)));
}

// A copy of what the caller filled. All structs are in their first version, so none is shorter than ours.
template <typename Struct>
Result<Struct> ReadSized(const Struct* given, const char* what) {
  UNFOLD_TRY(NeedPointer(given, what));
  const std::string name(what);
  if (given->size < sizeof(Struct)) {
    return Status::InvalidArgument(name + "->size is " + std::to_string(given->size) + ", not the " +
                                   std::to_string(sizeof(Struct)) + " that its _init function sets");
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  const auto is_set = [](unsigned char byte) { return byte != 0; };
  if (std::any_of(bytes + sizeof(Struct), bytes + given->size, is_set)) {
    return Status::InvalidArgument(name + " uses fields of a later version than this library, " +
                                   unfold_version_string());
  }
  return *given;
}

std::string OrEmpty(const char* text) { return text == nullptr ? std::string() : std::string(text); }

Result<DType> ToKvType(const char* name) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kInt8, DType::kInt32}) {
    if (DTypeName(type) == name) return type;
  }
  return Status::InvalidArgument("kv_type '" + std::string(name) + "' is not known");
}

std::stop_token TokenOf(const unfold_cancel* cancel) {
  return cancel == nullptr ? std::stop_token() : cancel->source.get_token();
}

constexpr TextFormat kFormats[] = {TextFormat::kPlain, TextFormat::kMarkdown, TextFormat::kHtml};
constexpr AnswerMode kModes[] = {AnswerMode::kSsa, AnswerMode::kDense, AnswerMode::kClosed};

// The value that number `index` of the C interface stands for.
template <typename Enum, std::size_t kCount>
Result<Enum> Choose(const Enum (&values)[kCount], std::int32_t index, const char* what) {
  if (index < 0 || static_cast<std::size_t>(index) >= kCount) {
    return Status::InvalidArgument(std::string(what) + " " + std::to_string(index) + " is not known");
  }
  return values[index];
}

}  // namespace

Status NeedPointer(const void* given, const char* what) {
  return given != nullptr ? Status::Ok() : Status::InvalidArgument(std::string(what) + " is NULL");
}

Result<std::vector<std::string>> ToStrings(const char* const* given, std::size_t count, const char* what) {
  std::vector<std::string> strings;
  if (count > 0) UNFOLD_TRY(NeedPointer(given, what));
  for (std::size_t i = 0; i < count; ++i) {
    if (given[i] == nullptr) {
      return Status::InvalidArgument(std::string(what) + "[" + std::to_string(i) + "] is NULL");
    }
    strings.emplace_back(given[i]);
  }
  return strings;
}

Result<EngineOptions> ToEngineOptions(const unfold_engine_options* given) {
  UNFOLD_TRY_ASSIGN(const unfold_engine_options read, ReadSized(given, "options"));
  EngineOptions options;
  options.store_path = OrEmpty(read.store_path);
  options.model_path = OrEmpty(read.model_path);
  options.gist_overrides = OrEmpty(read.gist_overrides);
  if (read.backend != nullptr) options.backend = read.backend;
  if (read.kv_type != nullptr) {
    UNFOLD_TRY_ASSIGN(options.kv_type, ToKvType(read.kv_type));
  }
  options.access = read.read_only != 0 ? StoreAccessMode::kReadOnly : StoreAccessMode::kReadWrite;
  options.num_threads = read.num_threads;
  options.encode_batch_tokens = read.encode_batch_tokens;
  options.max_queued_requests = read.max_queued_requests;
  options.unfold_cache_bytes = read.unfold_cache_bytes;
  options.block_cache_bytes = read.block_cache_bytes;
  options.gist_cache_bytes = read.gist_cache_bytes;
  return options;
}

Result<IngestOptions> ToIngestOptions(const unfold_ingest_options* given) {
  IngestOptions options;
  if (given == nullptr) return options;
  UNFOLD_TRY_ASSIGN(const unfold_ingest_options read, ReadSized(given, "options"));
  options.max_document_bytes = read.max_document_bytes;
  options.stop_token = TokenOf(read.cancel);
  return options;
}

Result<DocumentInput> ToDocument(const unfold_document* given) {
  UNFOLD_TRY_ASSIGN(const unfold_document read, ReadSized(given, "document"));
  UNFOLD_TRY(NeedPointer(read.name, "document->name"));
  if (read.text_bytes > 0) UNFOLD_TRY(NeedPointer(read.text, "document->text"));
  DocumentInput document;
  document.name = read.name;
  if (read.text_bytes > 0) document.text.assign(read.text, read.text_bytes);
  UNFOLD_TRY_ASSIGN(document.format, Choose(kFormats, read.format, "document->format"));
  return document;
}

Result<AskOptions> ToAskOptions(const unfold_ask_options* given) {
  AskOptions options;
  if (given == nullptr) return options;
  UNFOLD_TRY_ASSIGN(const unfold_ask_options read, ReadSized(given, "options"));
  UNFOLD_TRY_ASSIGN(options.mode, Choose(kModes, read.mode, "options->mode"));
  UNFOLD_TRY_ASSIGN(options.working_set.documents, ToStrings(read.documents, read.num_documents, "options->documents"));
  options.working_set.max_documents = read.max_documents;
  options.working_set.max_context_tokens = read.max_context_tokens;
  if (read.num_inline_documents > 0) UNFOLD_TRY(NeedPointer(read.inline_documents, "options->inline_documents"));
  for (std::size_t i = 0; i < read.num_inline_documents; ++i) {
    UNFOLD_TRY_ASSIGN(DocumentInput document, ToDocument(read.inline_documents[i]));
    options.inline_documents.push_back(std::move(document));
  }
  options.compression = read.compression;
  options.unfold_top_k = read.unfold_top_k;
  options.unfold_top_p = read.unfold_top_p;
  options.max_answer_tokens = read.max_answer_tokens;
  UNFOLD_TRY_ASSIGN(options.stop, ToStrings(read.stop, read.num_stop, "options->stop"));
  options.ignore_end_token = read.ignore_end_token != 0;
  options.sampling = {.temperature = read.temperature,
                      .top_k = read.top_k,
                      .top_p = read.top_p,
                      .min_p = read.min_p,
                      .repetition_penalty = read.repetition_penalty,
                      .seed = read.seed};
  options.always_route = read.always_route != 0;
  if (read.timeout_ms > 0) {
    constexpr std::int64_t kForeverMs = 1'000'000'000'000;  // what the clock can still count
    options.deadline =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(std::min(read.timeout_ms, kForeverMs));
  }
  options.stop_token = TokenOf(read.cancel);
  return options;
}

}  // namespace unfold

void unfold_engine_options_init(unfold_engine_options* options, size_t size) { unfold::InitSized(options, size); }
void unfold_ingest_options_init(unfold_ingest_options* options, size_t size) { unfold::InitSized(options, size); }
void unfold_ask_options_init(unfold_ask_options* options, size_t size) { unfold::InitSized(options, size); }
void unfold_document_init(unfold_document* document, size_t size) { unfold::InitSized(document, size); }
