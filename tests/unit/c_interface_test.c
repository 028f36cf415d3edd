// SPDX-License-Identifier: Apache-2.0
// The C interface from C99: ingesting, asking, streaming, cancelling, threads, and every kind of refusal.
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unfold/unfold.h>

#define MODEL UNFOLD_SOURCE_DIR "/datasets/gist-mini"

static int num_failures = 0;

static void Check(int holds, const char* what, int line) {
  if (holds) return;
  fprintf(stderr, "c_interface_test.c:%d: %s\n", line, what);
  ++num_failures;
}
#define CHECK(holds) Check((holds) ? 1 : 0, #holds, __LINE__)

// A call's code, and a part of its message (NULL: no message). Frees the message.
static void CheckCode(unfold_code found, unfold_code wanted, char* message, const char* part, int line) {
  const int fits = part == NULL ? message == NULL : message != NULL && strstr(message, part) != NULL;
  if (found != wanted || !fits) {
    fprintf(stderr, "c_interface_test.c:%d: %s: %s; wanted %s: %s\n", line, unfold_code_name((int32_t)found),
            message == NULL ? "(none)" : message, unfold_code_name((int32_t)wanted), part == NULL ? "(none)" : part);
    ++num_failures;
  }
  unfold_free(message);
}
// The call comes first: it sets `message`.
#define CHECK_CODE(call, wanted, part)                     \
  do {                                                     \
    const unfold_code found = (call);                      \
    CheckCode(found, (wanted), message, (part), __LINE__); \
  } while (0)
#define CHECK_OK(call) CHECK_CODE(call, UNFOLD_OK, NULL)

static const char kBridge[] = "The bridge over the river was built by Peter in 1911.";
static const char kLamp[] = "The lamp of the lighthouse was lit by Anna every evening.";
static const char kQuestion[] = "who built the bridge over the river";

static unfold_document Document(const char* name, const char* text) {
  unfold_document document;
  unfold_document_init(&document, sizeof document);
  document.name = name;
  document.text = text;
  document.text_bytes = strlen(text);
  return document;
}

static unfold_engine* OpenInMemory(void) {
  unfold_engine_options options;
  unfold_engine_options_init(&options, sizeof options);
  options.model_path = MODEL;
  unfold_engine* engine = NULL;
  char* message = NULL;
  CHECK_OK(unfold_open(&options, &engine, &message));
  if (engine == NULL) exit(1);  // nothing else can be tested
  return engine;
}

static void TestVersionsAndNames(void) {
  CHECK(unfold_version() == UNFOLD_VERSION_NUMBER);
  char text[32];
  snprintf(text, sizeof text, "%d.%d.%d", UNFOLD_VERSION_MAJOR, UNFOLD_VERSION_MINOR, UNFOLD_VERSION_PATCH);
  CHECK(strcmp(unfold_version_string(), text) == 0);
  CHECK(strcmp(unfold_code_name(UNFOLD_NOT_FOUND), "not found") == 0);
  CHECK(strcmp(unfold_code_name(UNFOLD_INTERNAL), "internal") == 0);
  CHECK(strcmp(unfold_code_name(11), "unknown code") == 0);
  CHECK(strcmp(unfold_code_name(-1), "unknown code") == 0);
}

static void TestOptionsThatAreNotSound(void) {
  unfold_engine* engine = (unfold_engine*)&num_failures;  // must become NULL
  char* message = NULL;
  CHECK_CODE(unfold_open(NULL, &engine, &message), UNFOLD_INVALID_ARGUMENT, "options is NULL");
  CHECK(engine == NULL);
  unfold_engine_options options;
  memset(&options, 0, sizeof options);
  CHECK_CODE(unfold_open(&options, &engine, &message), UNFOLD_INVALID_ARGUMENT, "options->size is 0");
  unfold_engine_options_init(&options, sizeof options);
  CHECK(options.encode_batch_tokens == 0 && options.max_queued_requests == 64);
  CHECK(options.unfold_cache_bytes == (uint64_t)512 << 20 && options.gist_cache_bytes == (uint64_t)256 << 20);
  CHECK(options.model_path == NULL);
  CHECK_CODE(unfold_open(&options, NULL, &message), UNFOLD_INVALID_ARGUMENT, "engine is NULL");
  options.model_path = UNFOLD_SOURCE_DIR "/datasets/no-model";
  CHECK_CODE(unfold_open(&options, &engine, &message), UNFOLD_NOT_FOUND, "datasets/no-model");
  CHECK(engine == NULL);
  CHECK(unfold_open(&options, &engine, NULL) == UNFOLD_NOT_FOUND);  // no message wanted
  options.model_path = MODEL;
  options.kv_type = "f64";
  CHECK_CODE(unfold_open(&options, &engine, &message), UNFOLD_INVALID_ARGUMENT, "kv_type 'f64'");
  options.kv_type = NULL;
  options.backend = "abacus";
  CHECK_CODE(unfold_open(&options, &engine, &message), UNFOLD_INVALID_ARGUMENT, "abacus");
  options.backend = "ref";
  options.gist_overrides = "{\"chunk_size\": 0}";
  CHECK_CODE(unfold_open(&options, &engine, &message), UNFOLD_INVALID_ARGUMENT, "chunk_size");
}

// A program built with a later header: its struct is longer than the library's.
static void TestALaterHeader(unfold_engine* engine) {
  struct {
    unfold_ask_options known;
    double unknown;
  } later;
  char* message = NULL;
  unfold_answer* answer = NULL;
  unfold_ask_options_init(&later.known, sizeof later);
  CHECK(later.unknown == 0 && later.known.top_p == 1 && later.known.repetition_penalty == 1);
  later.known.mode = UNFOLD_CLOSED;
  later.known.max_answer_tokens = 1;
  CHECK_OK(unfold_ask(engine, "notes", kQuestion, &later.known, NULL, NULL, &answer, &message));
  unfold_answer_free(answer);
  later.unknown = 0.5;
  CHECK_CODE(unfold_ask(engine, "notes", kQuestion, &later.known, NULL, NULL, &answer, &message),
             UNFOLD_INVALID_ARGUMENT, "a later version");
  CHECK(answer == NULL);
}

// ---- documents

typedef struct {
  unfold_document documents[4];
  size_t next, count;
  int outcomes[5];  // by unfold_outcome
  char failure[256];
} Feed;

static const unfold_document* NextDocument(void* context) {
  Feed* feed = context;
  return feed->next < feed->count ? &feed->documents[feed->next++] : NULL;
}

static void HearVerdict(void* context, const unfold_verdict* verdict) {
  Feed* feed = context;
  ++feed->outcomes[verdict->outcome];
  if (verdict->outcome == UNFOLD_FAILED) {
    CHECK(verdict->code != UNFOLD_OK && verdict->info == NULL);
    snprintf(feed->failure, sizeof feed->failure, "%s", verdict->message);
  } else {
    CHECK(verdict->code == UNFOLD_OK && verdict->message == NULL);
    CHECK(verdict->info != NULL && strcmp(verdict->info->name, verdict->name) == 0 && verdict->info->num_tokens > 0);
  }
}

static void TestIngest(unfold_engine* engine) {
  char* message = NULL;
  Feed feed;
  memset(&feed, 0, sizeof feed);
  feed.documents[0] = Document("lamp.txt", kLamp);
  feed.documents[1] = Document("bridge.txt", "# Bridge\n\nstill unknown");
  feed.documents[1].format = UNFOLD_MARKDOWN;
  feed.documents[2] = Document(NULL, "a text");
  feed.documents[3] = Document("bad.txt", "ab\xff");
  feed.count = 4;
  CHECK_OK(unfold_ingest(engine, "notes", NextDocument, HearVerdict, &feed, NULL, &message));
  CHECK(feed.outcomes[UNFOLD_ADDED] == 2 && feed.outcomes[UNFOLD_FAILED] == 2);
  CHECK(strstr(feed.failure, "byte 2") != NULL);

  unfold_outcome outcome = UNFOLD_FAILED;
  unfold_document bridge = Document("bridge.txt", kBridge);
  CHECK_OK(unfold_add_document(engine, "notes", &bridge, NULL, &outcome, &message));
  CHECK(outcome == UNFOLD_REPLACED);
  CHECK_OK(unfold_add_document(engine, "notes", &bridge, NULL, &outcome, &message));
  CHECK(outcome == UNFOLD_UNCHANGED);

  unfold_ingest_options options;
  unfold_ingest_options_init(&options, sizeof options);
  CHECK(options.max_document_bytes == (uint64_t)4 << 20);
  options.max_document_bytes = 10;
  CHECK_CODE(unfold_add_document(engine, "notes", &bridge, &options, &outcome, &message), UNFOLD_RESOURCE_EXHAUSTED,
             "max_document_bytes");
  CHECK(outcome == UNFOLD_FAILED);
  // A cancel that is requested before: nothing is taken.
  options.max_document_bytes = 1000;
  unfold_cancel* cancel = unfold_cancel_new();
  options.cancel = cancel;
  unfold_cancel_request(cancel);
  feed.next = 0;
  CHECK_OK(unfold_ingest(engine, "notes", NextDocument, HearVerdict, &feed, &options, &message));
  CHECK(feed.next == 0);
  unfold_cancel_free(cancel);
  // What throws inside ends as a code.
  unfold_document endless = bridge;
  endless.text_bytes = SIZE_MAX;
  CHECK_CODE(unfold_add_document(engine, "notes", &endless, NULL, NULL, &message), UNFOLD_RESOURCE_EXHAUSTED,
             "out of memory");
  bridge.format = 77;
  CHECK_CODE(unfold_add_document(engine, "notes", &bridge, NULL, NULL, &message), UNFOLD_INVALID_ARGUMENT,
             "document->format 77");
}

static void TestLists(unfold_engine* engine) {
  char* message = NULL;
  unfold_document_list* list = NULL;
  CHECK_OK(unfold_list(engine, "notes", &list, &message));
  CHECK(unfold_document_list_size(list) == 2);
  const unfold_document_info* info = unfold_document_list_at(list, 0);
  CHECK(info != NULL && strcmp(info->name, "bridge.txt") == 0 && info->text_bytes == strlen(kBridge));
  CHECK(info != NULL && info->num_parts == 1 && info->num_chunks > 0 && info->stored_bytes > info->text_bytes);
  CHECK(unfold_document_list_at(list, 2) == NULL);
  unfold_document_list_free(list);
  CHECK_CODE(unfold_list(engine, "nowhere", &list, &message), UNFOLD_NOT_FOUND, "nowhere");
  CHECK(list == NULL);
  unfold_name_list* names = NULL;
  CHECK_OK(unfold_collections(engine, &names, &message));
  CHECK(unfold_name_list_size(names) == 1 && strcmp(unfold_name_list_at(names, 0), "notes") == 0);
  CHECK(unfold_name_list_at(names, 1) == NULL);
  unfold_name_list_free(names);
}

// ---- asking

typedef struct {
  char text[4096];
  size_t num_bytes;
  int num_calls, max_calls;
  unfold_cancel* cancel;  // requested from another thread at the first call
} Stream;

static void* RequestCancel(void* cancel) {
  unfold_cancel_request(cancel);
  return NULL;
}

static int HearText(void* context, const char* text, size_t num_bytes) {
  Stream* stream = context;
  if (stream->num_bytes + num_bytes < sizeof stream->text) memcpy(stream->text + stream->num_bytes, text, num_bytes);
  stream->num_bytes += num_bytes;
  ++stream->num_calls;
  if (stream->cancel != NULL && stream->num_calls == 1) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, RequestCancel, stream->cancel) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
  }
  return stream->max_calls == 0 || stream->num_calls < stream->max_calls;
}

static void CheckSources(const unfold_answer* answer) {
  double total = 0;
  int has_bridge = 0;
  for (size_t i = 0; i < unfold_answer_num_sources(answer); ++i) {
    const unfold_source* source = unfold_answer_source(answer, i);
    const char* text = strcmp(source->document, "bridge.txt") == 0 ? kBridge : kLamp;
    has_bridge |= text == kBridge;
    CHECK(source->byte_begin < source->byte_end && source->byte_end <= strlen(text));
    CHECK(source->snippet_bytes == source->byte_end - source->byte_begin);
    CHECK(strncmp(source->snippet, text + source->byte_begin, source->snippet_bytes) == 0);
    total += source->share;
  }
  CHECK(has_bridge);
  CHECK(fabs(total - 1) < 1e-9);
  CHECK(unfold_answer_source(answer, unfold_answer_num_sources(answer)) == NULL);
}

static void TestAsk(unfold_engine* engine) {
  char* message = NULL;
  unfold_answer* answer = NULL;
  Stream stream;
  memset(&stream, 0, sizeof stream);
  CHECK_OK(unfold_ask(engine, "notes", kQuestion, NULL, HearText, &stream, &answer, &message));
  CHECK(strstr(unfold_answer_text(answer), "Peter") != NULL);
  CHECK(unfold_answer_text_bytes(answer) == strlen(unfold_answer_text(answer)));
  CHECK(stream.num_bytes == unfold_answer_text_bytes(answer) && stream.num_calls > 0);
  CHECK(memcmp(stream.text, unfold_answer_text(answer), stream.num_bytes) == 0);
  CHECK(unfold_answer_finish(answer) == UNFOLD_FINISH_END && unfold_answer_question_truncated(answer) == 0);
  CheckSources(answer);
  CHECK(unfold_answer_num_routed(answer) == 2 && unfold_answer_num_placed(answer) == 2);
  const unfold_routed* best = unfold_answer_routed(answer, 0);
  CHECK(best != NULL && strcmp(best->document, "bridge.txt") == 0);
  CHECK(best != NULL && best->score > unfold_answer_routed(answer, 1)->score);
  CHECK(strcmp(unfold_answer_placed(answer, 1), "bridge.txt") == 0);  // the best stands last
  const unfold_usage* usage = unfold_answer_usage(answer);
  CHECK(usage->completion_tokens == unfold_answer_num_tokens(answer) && usage->prompt_tokens > usage->cached_tokens);
  CHECK(usage->context_chunks > 0 && usage->kv_bytes_read > 0 && usage->pages_missed > 0);
  const unfold_timings* timings = unfold_answer_timings(answer);
  CHECK(timings->unfold_ms > 0 && timings->unfold_ms <= timings->total_ms);
  CHECK(timings->ttft_ms > 0 && timings->total_ms >= timings->ttft_ms);
  CHECK(unfold_answer_unfolded_share(answer) > 0 && unfold_answer_unfolded_share(answer) <= 1);
  unfold_answer_free(answer);

  CHECK_CODE(unfold_ask(engine, "nowhere", kQuestion, NULL, NULL, NULL, &answer, &message), UNFOLD_NOT_FOUND,
             "nowhere");
  CHECK(answer == NULL);
}

static unfold_ask_options LongAnswer(void) {
  unfold_ask_options options;
  unfold_ask_options_init(&options, sizeof options);
  options.max_answer_tokens = 1500;
  options.ignore_end_token = 1;
  return options;
}

static void TestWaysToEndAnAnswer(unfold_engine* engine) {
  char* message = NULL;
  unfold_answer* answer = NULL;
  Stream stream;
  memset(&stream, 0, sizeof stream);
  stream.max_calls = 2;
  unfold_ask_options options = LongAnswer();
  CHECK_OK(unfold_ask(engine, "notes", kQuestion, &options, HearText, &stream, &answer, &message));
  CHECK(unfold_answer_finish(answer) == UNFOLD_FINISH_SINK && stream.num_calls == 2);
  CHECK(unfold_answer_num_tokens(answer) < 1500);
  unfold_answer_free(answer);

  memset(&stream, 0, sizeof stream);
  stream.cancel = unfold_cancel_new();
  options.cancel = stream.cancel;
  CHECK_CODE(unfold_ask(engine, "notes", kQuestion, &options, HearText, &stream, &answer, &message), UNFOLD_CANCELLED,
             "stopped");
  CHECK(answer == NULL && stream.num_calls > 0);
  CHECK_CODE(unfold_ask(engine, "notes", kQuestion, &options, NULL, NULL, &answer, &message), UNFOLD_CANCELLED, "");
  unfold_cancel_free(stream.cancel);

  options = LongAnswer();
  options.timeout_ms = 1;
  CHECK_CODE(unfold_ask(engine, "notes", kQuestion, &options, NULL, NULL, &answer, &message), UNFOLD_CANCELLED,
             "deadline");

  const char* stop[] = {"Pet"};
  options = LongAnswer();
  options.stop = stop;
  options.num_stop = 1;
  CHECK_OK(unfold_ask(engine, "notes", kQuestion, &options, NULL, NULL, &answer, &message));
  CHECK(unfold_answer_finish(answer) == UNFOLD_FINISH_STOP && strstr(unfold_answer_text(answer), "Pet") == NULL);
  unfold_answer_free(answer);
  options.stop = NULL;
  CHECK_CODE(unfold_ask(engine, "notes", kQuestion, &options, NULL, NULL, &answer, &message), UNFOLD_INVALID_ARGUMENT,
             "options->stop is NULL");
}

static void TestDocumentsGivenWithTheQuestion(unfold_engine* engine) {
  char* message = NULL;
  unfold_answer* answer = NULL;
  const unfold_document given = Document("given.txt", kBridge);
  const unfold_document* inline_documents[] = {&given};
  unfold_ask_options options;
  unfold_ask_options_init(&options, sizeof options);
  options.inline_documents = inline_documents;
  options.num_inline_documents = 1;
  CHECK_OK(unfold_ask(engine, "notes", kQuestion, &options, NULL, NULL, &answer, &message));
  CHECK(unfold_answer_num_placed(answer) == 1 && strcmp(unfold_answer_placed(answer, 0), "given.txt") == 0);
  CHECK(unfold_answer_num_sources(answer) == 1);
  CHECK(strstr(kBridge, unfold_answer_source(answer, 0)->snippet) != NULL);
  unfold_answer_free(answer);
  options.num_inline_documents = 0;
  const char* documents[] = {"lamp.txt", NULL};
  options.documents = documents;
  options.num_documents = 2;
  CHECK_CODE(unfold_ask(engine, "notes", kQuestion, &options, NULL, NULL, &answer, &message), UNFOLD_INVALID_ARGUMENT,
             "options->documents[1] is NULL");
  options.num_documents = 1;
  CHECK_OK(unfold_ask(engine, "notes", "who lit the lamp", &options, NULL, NULL, &answer, &message));
  CHECK(unfold_answer_num_placed(answer) == 1 && strcmp(unfold_answer_placed(answer, 0), "lamp.txt") == 0);
  CHECK(unfold_answer_num_routed(answer) == 0);
  unfold_answer_free(answer);
  options.mode = 3;
  CHECK_CODE(unfold_ask(engine, "notes", kQuestion, &options, NULL, NULL, &answer, &message), UNFOLD_INVALID_ARGUMENT,
             "options->mode 3");
}

static void* AskForPeter(void* engine) {
  size_t num_right = 0;
  for (int i = 0; i < 4; ++i) {
    unfold_answer* answer = NULL;
    if (unfold_ask(engine, "notes", kQuestion, NULL, NULL, NULL, &answer, NULL) == UNFOLD_OK) {
      num_right += strstr(unfold_answer_text(answer), "Peter") != NULL;
    }
    unfold_answer_free(answer);
  }
  return (void*)num_right;
}

static void TestThreads(unfold_engine* engine) {
  pthread_t threads[2];
  for (int i = 0; i < 2; ++i) CHECK(pthread_create(&threads[i], NULL, AskForPeter, engine) == 0);
  for (int i = 0; i < 2; ++i) {
    void* num_right = NULL;
    CHECK(pthread_join(threads[i], &num_right) == 0);
    CHECK((size_t)num_right == 4);
  }
}

// ---- the rest

static void TestRoute(unfold_engine* engine) {
  char* message = NULL;
  unfold_route* route = NULL;
  CHECK_OK(unfold_route_question(engine, "notes", kQuestion, NULL, &route, &message));
  CHECK(unfold_route_num_documents(route) == 2 && unfold_route_num_placed(route) == 2);
  CHECK(strcmp(unfold_route_document(route, 0)->document, "bridge.txt") == 0);
  const unfold_source* placed = unfold_route_placed(route, 1);
  CHECK(strcmp(placed->document, "bridge.txt") == 0 && placed->byte_end == strlen(kBridge) && placed->share == 0);
  CHECK(placed->snippet_bytes == 0 && placed->snippet[0] == '\0');
  CHECK(unfold_route_ms(route) > 0 && unfold_route_question_truncated(route) == 0);
  CHECK(unfold_route_document(route, 2) == NULL && unfold_route_placed(route, 2) == NULL);
  unfold_route_free(route);
}

static int StopAtOnce(void* context, uint64_t num_records) {
  ++*(int*)context;
  (void)num_records;
  return 0;
}

static void TestVerifyAndRemove(unfold_engine* engine) {
  char* message = NULL;
  unfold_verification* verification = NULL;
  CHECK_OK(unfold_verify(engine, NULL, NULL, &verification, &message));
  const unfold_verify_counts* counts = unfold_verification_counts(verification);
  CHECK(counts->num_documents == 2 && counts->num_records > 4 && counts->num_bytes > 1000 && counts->num_orphans == 0);
  CHECK(unfold_verification_num_findings(verification) == 0 && unfold_verification_finding(verification, 0) == NULL);
  unfold_verification_free(verification);
  int num_calls = 0;
  CHECK_CODE(unfold_verify(engine, StopAtOnce, &num_calls, &verification, &message), UNFOLD_CANCELLED, "");
  CHECK(num_calls == 1 && verification == NULL);

  const char* names[] = {"lamp.txt", "nothing.txt"};
  CHECK_CODE(unfold_remove(engine, "notes", names, 2, &message), UNFOLD_NOT_FOUND, "nothing.txt");
  CHECK_OK(unfold_remove(engine, "notes", names, 1, &message));
  unfold_document_list* list = NULL;
  CHECK_OK(unfold_list(engine, "notes", &list, &message));
  CHECK(unfold_document_list_size(list) == 1);
  unfold_document_list_free(list);
}

static void TestNulls(unfold_engine* engine) {
  char* message = NULL;
  unfold_answer* answer = NULL;
  unfold_route* route = NULL;
  unfold_document_list* list = NULL;
  const unfold_document document = Document("a.txt", "text");
  const unfold_code bad = UNFOLD_INVALID_ARGUMENT;
  CHECK_CODE(unfold_ask(NULL, "c", "q", NULL, NULL, NULL, &answer, &message), bad, "engine is NULL");
  CHECK_CODE(unfold_ask(engine, NULL, "q", NULL, NULL, NULL, &answer, &message), bad, "collection is NULL");
  CHECK_CODE(unfold_ask(engine, "notes", NULL, NULL, NULL, NULL, &answer, &message), bad, "question is NULL");
  CHECK_CODE(unfold_ask(engine, "notes", "q", NULL, NULL, NULL, NULL, &message), bad, "answer is NULL");
  CHECK_CODE(unfold_route_question(engine, "notes", NULL, NULL, &route, &message), bad, "question is NULL");
  CHECK_CODE(unfold_list(NULL, "notes", &list, &message), bad, "engine is NULL");
  CHECK_CODE(unfold_collections(engine, NULL, &message), bad, "list is NULL");
  CHECK_CODE(unfold_verify(engine, NULL, NULL, NULL, &message), bad, "verification is NULL");
  CHECK_CODE(unfold_remove(engine, "notes", NULL, 1, &message), bad, "names is NULL");
  CHECK_CODE(unfold_ingest(engine, "notes", NULL, NULL, NULL, NULL, &message), bad, "source is NULL");
  CHECK_CODE(unfold_add_document(engine, "notes", NULL, NULL, NULL, &message), bad, "document is NULL");
  CHECK_CODE(unfold_add_document(engine, NULL, &document, NULL, NULL, &message), bad, "collection is NULL");
  CHECK(unfold_answer_text(NULL) == NULL && unfold_answer_usage(NULL) == NULL && unfold_backend_name(NULL) == NULL);
  CHECK(unfold_answer_num_sources(NULL) == 0 && unfold_document_list_at(NULL, 0) == NULL);
  CHECK(unfold_route_document(NULL, 0) == NULL && unfold_verification_counts(NULL) == NULL);
  unfold_ask_options_init(NULL, 8);
  unfold_answer_free(NULL);
  unfold_cancel_request(NULL);
  unfold_free(NULL);
  unfold_close(NULL);
}

int main(void) {
  TestVersionsAndNames();
  TestOptionsThatAreNotSound();
  unfold_engine* engine = OpenInMemory();
  CHECK(strcmp(unfold_backend_name(engine), "cpu") == 0 || strcmp(unfold_backend_name(engine), "ref") == 0);
  TestIngest(engine);
  TestLists(engine);
  TestAsk(engine);
  TestWaysToEndAnAnswer(engine);
  TestDocumentsGivenWithTheQuestion(engine);
  TestThreads(engine);
  TestRoute(engine);
  TestALaterHeader(engine);
  TestNulls(engine);
  TestVerifyAndRemove(engine);
  unfold_close(engine);
  printf("%d failures\n", num_failures);
  return num_failures == 0 ? 0 : 1;
}
