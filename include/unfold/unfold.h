// SPDX-License-Identifier: Apache-2.0
// The C interface: documents in, cited answers out, for C99 and for what calls C. In C++ start with engine.h.
//
//   unfold_engine_options options;
//   unfold_engine_options_init(&options, sizeof options);
//   options.store_path = "kb";
//   options.model_path = "gist-mini";
//   unfold_engine* engine;
//   char* message;
//   if (unfold_open(&options, &engine, &message) != UNFOLD_OK) { puts(message); unfold_free(message); }
//   unfold_answer* answer;
//   if (unfold_ask(engine, "notes", "Who wrote it?", NULL, NULL, NULL, &answer, NULL) == UNFOLD_OK) {
//     puts(unfold_answer_text(answer));
//     unfold_answer_free(answer);
//   }
//   unfold_close(engine);
//
// Errors    What can fail returns a code. `message` may be NULL; else *message is set: NULL when the call succeeded,
//           otherwise a text that names the thing and the fix, to be freed with unfold_free. It is NULL too when there
//           is no memory for it. No call throws, aborts on bad input, or keeps an error in hidden state.
//           On an error every other output is NULL. A NULL for what must be given is UNFOLD_INVALID_ARGUMENT.
// Strings   UTF-8, ending with a zero byte. What a call is given it does not keep: it may go when the call returns.
// Results   A handle from an output parameter is the caller's, until it is given to its _free function (NULL is
//           allowed there). What an accessor returns belongs to the handle and lives as long. Accessors of a NULL
//           handle, or of an index out of range, give NULL or 0.
// Threads   Any thread may call anything with an engine, also several at once, except that unfold_close must be the
//           only and last call with it. Other handles may be read by several threads at once.
// Callbacks Run on the thread that made the call, and get its `context`. They must return normally: no longjmp and no
//           exception may leave them.
// Growth    Structs that the caller fills begin with their size and are made by their _init function, which sets every
//           default; new fields are added at the end. A program runs with the library of its header's minor version, or
//           a later patch (before 1.0).
#ifndef UNFOLD_UNFOLD_H_
#define UNFOLD_UNFOLD_H_

#include <stddef.h>
#include <stdint.h>

// As in base.h: what the shared library exports.
#if defined(_WIN32)
#define UNFOLD_API
#else
#define UNFOLD_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define UNFOLD_VERSION_MAJOR 0
#define UNFOLD_VERSION_MINOR 1
#define UNFOLD_VERSION_PATCH 0
// Comparable: 10000 * major + 100 * minor + patch.
#define UNFOLD_VERSION_NUMBER (10000 * UNFOLD_VERSION_MAJOR + 100 * UNFOLD_VERSION_MINOR + UNFOLD_VERSION_PATCH)

// UNFOLD_VERSION_NUMBER of the library that runs, and the same as text such as "0.1.0", which lives forever.
UNFOLD_API int32_t unfold_version(void);
UNFOLD_API const char* unfold_version_string(void);

// unfold::StatusCode by the same numbers.
typedef enum unfold_code {
  UNFOLD_OK = 0,
  UNFOLD_INVALID_ARGUMENT = 1,    // the caller's input is wrong
  UNFOLD_NOT_FOUND = 2,           // a collection, document or file does not exist
  UNFOLD_CORRUPTION = 3,          // stored or loaded bytes contradict their checksum or format
  UNFOLD_INCOMPATIBLE = 4,        // bytes are sound, but made by another model, setting or format version
  UNFOLD_UNAVAILABLE = 5,         // cannot be done now: store locked by another writer, engine closing
  UNFOLD_RESOURCE_EXHAUSTED = 6,  // a limit was reached: queue, budget of tokens or bytes, memory, disk
  UNFOLD_CANCELLED = 7,           // an unfold_cancel or a timeout ended it
  UNFOLD_IO = 8,                  // the operating system refused a read or write
  UNFOLD_DEVICE = 9,              // the accelerator failed
  UNFOLD_INTERNAL = 10            // a bug of ours
} unfold_code;

// The code's name, such as "not found"; "unknown code" for a number that is none. Lives forever.
UNFOLD_API const char* unfold_code_name(int32_t code);

// Frees a `message`. NULL is allowed.
UNFOLD_API void unfold_free(void* message);

// ---- cancelling

// Ends calls from another thread: given in the options of any number of calls, requested once, for good.
typedef struct unfold_cancel unfold_cancel;
// NULL when there is no memory.
UNFOLD_API unfold_cancel* unfold_cancel_new(void);
UNFOLD_API void unfold_cancel_request(unfold_cancel* cancel);
// Allowed while calls that were given it still run; they go on.
UNFOLD_API void unfold_cancel_free(unfold_cancel* cancel);

// ---- opening and closing

typedef struct unfold_engine unfold_engine;

typedef struct unfold_engine_options {
  size_t size;                  // set by unfold_engine_options_init
  const char* store_path;       // directory of the store; NULL (default): in memory, gone with the engine
  const char* model_path;       // checkpoint directory with gist_config.json; NULL (default): no model, only
                                // listing, removing and verifying work, and the store must exist
  const char* gist_overrides;   // JSON object merged over gist_config.json; NULL (default): none
  const char* backend;          // "cpu" or "ref"; NULL (default): "cpu"
  const char* kv_type;          // type of stored KV, such as "bf16"; NULL (default): the store's, bf16 for a new one
  int32_t read_only;            // not 0: only asking, listing and verifying, beside a process that writes; default 0
  int32_t num_threads;          // worker threads; 0 (default): one a core
  int32_t encode_batch_tokens;  // tokens encoded in one pass; 0, the default: what keeps the backend busy
  int32_t max_queued_requests;  // more waiting requests are UNFOLD_RESOURCE_EXHAUSTED; default 64
  uint64_t unfold_cache_bytes;  // unfolded raw KV kept between questions; default 512 MiB
  uint64_t block_cache_bytes;   // raw KV as stored, kept to unfold from; default 256 MiB
  uint64_t gist_cache_bytes;    // gist KV of documents, kept to place them again; default 256 MiB
} unfold_engine_options;

// Sets every field to its default. `size` is sizeof *options.
UNFOLD_API void unfold_engine_options_init(unfold_engine_options* options, size_t size);

// Opens or creates the store and loads the model. UNFOLD_NOT_FOUND names a missing file, UNFOLD_INCOMPATIBLE says what
// differs from the model or settings that the store was written with, UNFOLD_UNAVAILABLE: another process writes it.
UNFOLD_API unfold_code unfold_open(const unfold_engine_options* options, unfold_engine** engine, char** message);
// Closes the store. No other call with `engine` may be running, or follow.
UNFOLD_API void unfold_close(unfold_engine* engine);
// "cpu" or "ref", "" without a model; lives as long as the engine.
UNFOLD_API const char* unfold_backend_name(const unfold_engine* engine);

// ---- documents

typedef enum unfold_format {
  UNFOLD_PLAIN = 0,
  UNFOLD_MARKDOWN = 1,
  UNFOLD_HTML = 2  // the file as it is; read without markup, navigation and hidden elements
} unfold_format;

typedef struct unfold_document {
  size_t size;        // set by unfold_document_init
  const char* name;   // unique in its collection, 1 to 1024 bytes
  const char* text;   // UTF-8, may hold zero bytes
  size_t text_bytes;  // without a zero byte at the end
  int32_t format;     // an unfold_format; default UNFOLD_PLAIN
} unfold_document;

UNFOLD_API void unfold_document_init(unfold_document* document, size_t size);

typedef struct unfold_ingest_options {
  size_t size;                  // set by unfold_ingest_options_init
  uint64_t max_document_bytes;  // larger texts fail with their verdict; default 4 MiB
  const unfold_cancel* cancel;  // once requested, the batch in flight is finished and no more is taken; default NULL
} unfold_ingest_options;

UNFOLD_API void unfold_ingest_options_init(unfold_ingest_options* options, size_t size);

// A published document.
typedef struct unfold_document_info {
  const char* name;
  const char* title;    // "" when it has none
  uint64_t num_parts;   // a long document is encoded in parts
  uint64_t num_tokens;  // raw tokens over all parts
  uint64_t num_chunks;
  uint64_t text_bytes;
  uint64_t stored_bytes;  // of all its records
} unfold_document_info;

typedef enum unfold_outcome {
  UNFOLD_ADDED = 0,
  UNFOLD_REPLACED = 1,   // the name was there with another content
  UNFOLD_UNCHANGED = 2,  // the name was there with this content: nothing was done
  UNFOLD_FAILED = 3,
  UNFOLD_ABANDONED = 4  // the ingest ended before this document was complete; nothing of it is stored
} unfold_outcome;

// What became of one document of an ingest.
typedef struct unfold_verdict {
  const char* name;
  unfold_outcome outcome;
  unfold_code code;                  // UNFOLD_OK unless failed or abandoned
  const char* message;               // why; NULL with UNFOLD_OK
  const unfold_document_info* info;  // NULL when failed or abandoned
} unfold_verdict;

// Gives the next document, or NULL at the end. What it points to must live until the next call of this function, or
// until unfold_ingest returns.
typedef const unfold_document* (*unfold_document_source)(void* context);
// Hears a verdict, which lives until this function returns.
typedef void (*unfold_verdict_sink)(void* context, const unfold_verdict* verdict);

// Encodes documents and publishes them in batches. A document is durable and visible when its verdict is heard. One
// that fails does not end the run; an error is returned only when nothing more can be done (disk full, out of memory).
// `sink` and `options` may be NULL. The callbacks must not add documents to this engine.
UNFOLD_API unfold_code unfold_ingest(unfold_engine* engine, const char* collection, unfold_document_source source,
                                     unfold_verdict_sink sink, void* context, const unfold_ingest_options* options,
                                     char** message);
// One document; what its verdict says is returned. `outcome` and `options` may be NULL.
UNFOLD_API unfold_code unfold_add_document(unfold_engine* engine, const char* collection,
                                           const unfold_document* document, const unfold_ingest_options* options,
                                           unfold_outcome* outcome, char** message);
// Removes documents, every byte of them. UNFOLD_NOT_FOUND names the first that does not exist; then nothing is removed.
UNFOLD_API unfold_code unfold_remove(unfold_engine* engine, const char* collection, const char* const* names,
                                     size_t num_names, char** message);

// The documents of a collection, in order of name.
typedef struct unfold_document_list unfold_document_list;
UNFOLD_API unfold_code unfold_list(const unfold_engine* engine, const char* collection, unfold_document_list** list,
                                   char** message);
UNFOLD_API size_t unfold_document_list_size(const unfold_document_list* list);
UNFOLD_API const unfold_document_info* unfold_document_list_at(const unfold_document_list* list, size_t index);
UNFOLD_API void unfold_document_list_free(unfold_document_list* list);

// The names of the collections.
typedef struct unfold_name_list unfold_name_list;
UNFOLD_API unfold_code unfold_collections(const unfold_engine* engine, unfold_name_list** list, char** message);
UNFOLD_API size_t unfold_name_list_size(const unfold_name_list* list);
UNFOLD_API const char* unfold_name_list_at(const unfold_name_list* list, size_t index);
UNFOLD_API void unfold_name_list_free(unfold_name_list* list);

// ---- asking

typedef enum unfold_mode {
  UNFOLD_SSA = 0,    // stored KV: gists are scored, the best chunks unfolded
  UNFOLD_DENSE = 1,  // for comparison: the same documents encoded as plain text, everything attended
  UNFOLD_CLOSED = 2  // no documents
} unfold_mode;

typedef struct unfold_ask_options {
  size_t size;   // set by unfold_ask_options_init
  int32_t mode;  // an unfold_mode; default UNFOLD_SSA

  // Which documents: these, all their parts, in this order; with both counts 0 (default) the question is routed.
  const char* const* documents;
  size_t num_documents;
  const unfold_document* const* inline_documents;  // placed after them, encoded with the question, not stored
  size_t num_inline_documents;
  int32_t max_documents;       // parts placed when routing; 0 (default): as gist_config.json says
  int32_t max_context_tokens;  // raw tokens of the documents; 0 (default): what the model's window holds

  double compression;    // r of the method; 0 (default): gist_config.json's
  int32_t unfold_top_k;  // > 0: this many chunks per head instead; default 0
  float unfold_top_p;    // > 0: the fewest chunks whose softmax mass reaches it, instead; default 0

  int32_t max_answer_tokens;  // 0 (default): as gist_config.json says
  const char* const* stop;    // the answer ends before the first of these texts; default none
  size_t num_stop;
  int32_t ignore_end_token;  // not 0: go on to max_answer_tokens; default 0

  float temperature;         // 0 (default): the likeliest token each time
  int32_t top_k;             // 0 (default): off
  float top_p;               // 1 (default): off
  float min_p;               // 0 (default): off
  float repetition_penalty;  // 1 (default): off
  uint64_t seed;             // default 0

  int32_t always_route;         // not 0: rank documents even when they are named; default 0
  int64_t timeout_ms;           // > 0: UNFOLD_CANCELLED when the answer is not complete by then; default 0
  const unfold_cancel* cancel;  // ends the request in the queue, in prefill and in decode; default NULL
} unfold_ask_options;

UNFOLD_API void unfold_ask_options_init(unfold_ask_options* options, size_t size);

typedef enum unfold_finish {
  UNFOLD_FINISH_END = 0,     // the model's end token
  UNFOLD_FINISH_STOP = 1,    // a stop text
  UNFOLD_FINISH_LENGTH = 2,  // max_answer_tokens
  UNFOLD_FINISH_SINK = 3     // the sink returned 0
} unfold_finish;

// Where an answer comes from: one part of a document, and in it the chunks that drew the most attention.
typedef struct unfold_source {
  const char* document;
  const char* snippet;  // those bytes; of HTML the text in them
  size_t snippet_bytes;
  double share;                   // of the attention on chosen chunks; the shares of an answer sum to 1
  uint32_t part;                  // of the document
  uint32_t byte_begin, byte_end;  // of the document's source text, half-open
} unfold_source;

// One document of a collection as routing ranks it.
typedef struct unfold_routed {
  const char* document;
  double score;
  uint32_t part;  // its best part
} unfold_routed;

typedef struct unfold_usage {
  uint64_t prompt_tokens;      // prefix, documents (raw) and question
  uint64_t cached_tokens;      // of those, served from the store or the prefix cache
  uint64_t completion_tokens;  // generated, the end token not counted
  uint64_t context_chunks;     // chunks of the documents placed
  uint64_t kv_bytes_read;      // read from the store
  uint64_t pages_hit;          // chunk pages found unfolded
  uint64_t pages_missed;       // chunk pages unfolded for this answer
} unfold_usage;

typedef struct unfold_timings {  // milliseconds
  double queue_ms;
  double route_ms;
  double place_ms;
  double prefill_ms;
  double unfold_ms;  // of prefill and decoding: raw KV and unfolding, except within a GPU's steps
  double ttft_ms;    // request received to first token
  double decode_ms;  // first token to last
  double total_ms;
  double tokens_per_second;  // decode steps after the first token
} unfold_timings;

// Gets text as it is generated: whole UTF-8 characters, no zero byte at the end. Returning 0 ends the answer early,
// which is no error.
typedef int (*unfold_text_sink)(void* context, const char* text, size_t text_bytes);

// Answers from the collection. `options`, `sink` and `context` may be NULL. UNFOLD_RESOURCE_EXHAUSTED when the queue is
// full or named documents exceed the budget, UNFOLD_NOT_FOUND for an unknown collection or document.
typedef struct unfold_answer unfold_answer;
UNFOLD_API unfold_code unfold_ask(unfold_engine* engine, const char* collection, const char* question,
                                  const unfold_ask_options* options, unfold_text_sink sink, void* context,
                                  unfold_answer** answer, char** message);
UNFOLD_API const char* unfold_answer_text(const unfold_answer* answer);
UNFOLD_API size_t unfold_answer_text_bytes(const unfold_answer* answer);
UNFOLD_API const int32_t* unfold_answer_tokens(const unfold_answer* answer);  // generated ids, without the end token
UNFOLD_API size_t unfold_answer_num_tokens(const unfold_answer* answer);
UNFOLD_API unfold_finish unfold_answer_finish(const unfold_answer* answer);
// By share, largest first; none for UNFOLD_DENSE and UNFOLD_CLOSED.
UNFOLD_API size_t unfold_answer_num_sources(const unfold_answer* answer);
UNFOLD_API const unfold_source* unfold_answer_source(const unfold_answer* answer, size_t index);
// The ten best documents, best first; none when nothing was routed.
UNFOLD_API size_t unfold_answer_num_routed(const unfold_answer* answer);
UNFOLD_API const unfold_routed* unfold_answer_routed(const unfold_answer* answer, size_t index);
// Documents that the answer read, in placement order, each once.
UNFOLD_API size_t unfold_answer_num_placed(const unfold_answer* answer);
UNFOLD_API const char* unfold_answer_placed(const unfold_answer* answer, size_t index);
UNFOLD_API double unfold_answer_unfolded_share(const unfold_answer* answer);  // chunks unfolded / chunks placed
UNFOLD_API int unfold_answer_question_truncated(const unfold_answer* answer);
UNFOLD_API const unfold_usage* unfold_answer_usage(const unfold_answer* answer);
UNFOLD_API const unfold_timings* unfold_answer_timings(const unfold_answer* answer);
UNFOLD_API void unfold_answer_free(unfold_answer* answer);

// Routing alone: the ten best documents, and the parts that an answer would read. Arguments and errors as unfold_ask.
typedef struct unfold_route unfold_route;
UNFOLD_API unfold_code unfold_route_question(unfold_engine* engine, const char* collection, const char* question,
                                             const unfold_ask_options* options, unfold_route** route, char** message);
UNFOLD_API size_t unfold_route_num_documents(const unfold_route* route);
UNFOLD_API const unfold_routed* unfold_route_document(const unfold_route* route, size_t index);  // best first
UNFOLD_API size_t unfold_route_num_placed(const unfold_route* route);
// In placement order: the part's whole range, share 0, snippet "".
UNFOLD_API const unfold_source* unfold_route_placed(const unfold_route* route, size_t index);
UNFOLD_API double unfold_route_ms(const unfold_route* route);
UNFOLD_API int unfold_route_question_truncated(const unfold_route* route);
UNFOLD_API void unfold_route_free(unfold_route* route);

// ---- verifying

typedef struct unfold_verify_counts {
  uint64_t num_documents;
  uint64_t num_records;
  uint64_t num_bytes;
  uint64_t num_orphans;  // records of no published document, which an ingest sweeps
} unfold_verify_counts;

// Gets the number of records checked so far. Returning 0 ends the walk with UNFOLD_CANCELLED.
typedef int (*unfold_progress_sink)(void* context, uint64_t num_records);

// Walks every record and checksum. UNFOLD_OK means that the walk went through; the store is sound when it has no
// finding, each of which names a file or record and what is wrong. `progress` and `context` may be NULL.
typedef struct unfold_verification unfold_verification;
UNFOLD_API unfold_code unfold_verify(const unfold_engine* engine, unfold_progress_sink progress, void* context,
                                     unfold_verification** verification, char** message);
UNFOLD_API const unfold_verify_counts* unfold_verification_counts(const unfold_verification* verification);
UNFOLD_API size_t unfold_verification_num_findings(const unfold_verification* verification);
UNFOLD_API const char* unfold_verification_finding(const unfold_verification* verification, size_t index);
UNFOLD_API void unfold_verification_free(unfold_verification* verification);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // UNFOLD_UNFOLD_H_
