// SPDX-License-Identifier: Apache-2.0
// The public library over the shipped model: asking, cancelling, queueing, threads, fingerprints.
#include "unfold/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <numeric>
#include <thread>

#include "golden/reference_questions.h"

namespace unfold {
namespace {

using std::chrono::steady_clock;
constexpr std::string_view kQuestion = "who played daisy duke in the new dukes of hazzard";
const std::vector<std::string> kDocuments = {"d0001.txt", "d0002.txt", "d0003.txt"};

std::vector<DocumentInput> SomeDocuments(std::size_t count) {
  std::vector<DocumentInput> documents = golden::ReferenceDocuments();
  documents.resize(count);
  return documents;
}

EngineOptions Options() {
  EngineOptions options;
  options.model_path = golden::kModelDir;
  return options;
}

class EngineTest : public testing::Test {
 protected:
  void Start(EngineOptions options = Options(), std::size_t count = 12) {
    auto opened = Engine::Open(options);
    ASSERT_TRUE(opened.ok()) << opened.status().ToString();
    engine_ = *std::move(opened);
    golden::IngestAll(*engine_, "c", SomeDocuments(count));
  }
  AskOptions Long(int tokens = 200) {
    AskOptions options;
    options.ignore_end_token = true;
    options.max_answer_tokens = tokens;
    options.working_set.documents = kDocuments;
    return options;
  }
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, StreamsWhatItAnswers) {
  Start();
  std::string streamed;
  const std::thread::id caller = std::this_thread::get_id();
  const auto answer = engine_->Ask("c", kQuestion, Long(20), [&](std::string_view text) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    streamed += text;
    return true;
  });
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  EXPECT_EQ(streamed, answer->text);
  EXPECT_EQ(answer->tokens.size(), 20U);
  EXPECT_EQ(answer->finish, FinishReason::kLength);
  EXPECT_EQ(answer->placed, kDocuments);
}

// Without a place for turns they are a part of the question; what does not fit is said.
TEST_F(EngineTest, EarlierTurnsAreJoinedAndTheEarliestDropped) {
  Start();
  AskOptions options = Long(8);
  options.history = {{TurnRole::kUser, "who is daisy duke"}, {TurnRole::kAssistant, "a cousin"}};
  const auto joined = engine_->Ask("c", "who is daisy duke\na cousin\n" + std::string(kQuestion), Long(8));
  const auto answer = engine_->Ask("c", kQuestion, options);
  ASSERT_TRUE(answer.ok() && joined.ok()) << answer.status().ToString();
  EXPECT_EQ(answer->tokens, joined->tokens);
  EXPECT_EQ(answer->usage.prompt_tokens, joined->usage.prompt_tokens);
  EXPECT_EQ(answer->num_turns_dropped, 0);

  std::string longest = "x";
  while (longest.size() < 4000) longest += " y" + longest;
  options.history[0].text = longest;
  const auto shorter = engine_->Ask("c", kQuestion, options);
  ASSERT_TRUE(shorter.ok()) << shorter.status().ToString();
  EXPECT_EQ(shorter->num_turns_dropped, 1);
  EXPECT_FALSE(shorter->question_truncated);
  const auto cut = engine_->Ask("c", longest, options);
  ASSERT_TRUE(cut.ok()) << cut.status().ToString();
  EXPECT_EQ(cut->num_turns_dropped, 2) << "a question that is longer by itself stands alone";
  EXPECT_TRUE(cut->question_truncated);

  // Routing is read in the light of the history, and says the same about it.
  options.history[0].text = "who is daisy duke";
  const auto with = engine_->Route("c", kQuestion, options);
  const auto without = engine_->Route("c", kQuestion, Long(8));
  ASSERT_TRUE(with.ok() && without.ok());
  EXPECT_EQ(with->num_turns_dropped, 0);
  ASSERT_FALSE(with->documents.empty());
  EXPECT_NE(with->documents[0].score, without->documents[0].score);
}

TEST_F(EngineTest, SourcesCiteTheDocumentsAndSumToOne) {
  Start();
  const auto answer = engine_->Ask("c", kQuestion);
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  ASSERT_FALSE(answer->sources.empty());
  double total = 0;
  for (const Source& source : answer->sources) {
    total += source.share;
    for (const DocumentInput& document : SomeDocuments(12)) {
      if (document.name != source.document) continue;
      ASSERT_LE(source.byte_end, document.text.size());
      EXPECT_EQ(source.snippet, document.text.substr(source.byte_begin, source.byte_end - source.byte_begin));
    }
  }
  EXPECT_NEAR(total, 1.0, 1e-12);
  EXPECT_TRUE(std::is_sorted(answer->sources.begin(), answer->sources.end(),
                             [](const Source& a, const Source& b) { return a.share > b.share; }));
  EXPECT_EQ(answer->routed.size(), 10U);
  EXPECT_GT(answer->unfolded_share, 0);
  EXPECT_LT(answer->unfolded_share, 1);
  EXPECT_GT(answer->usage.prompt_tokens, answer->usage.cached_tokens) << "the question is not cached";
  EXPECT_GT(answer->usage.cached_tokens, 100U) << "the documents are";
}

TEST_F(EngineTest, SinkThatSaysNoEndsTheAnswer) {
  Start();
  int calls = 0;
  const auto answer = engine_->Ask("c", kQuestion, Long(3000), [&](std::string_view) { return ++calls < 2; });
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(answer->finish, FinishReason::kSink);
  EXPECT_LT(answer->tokens.size(), 3000U);
}

TEST_F(EngineTest, StopTokenEndsItInDecode) {
  Start();
  std::stop_source stop;
  AskOptions options = Long(3000);
  options.stop_token = stop.get_token();
  const auto answer = engine_->Ask("c", kQuestion, options, [&](std::string_view) {
    stop.request_stop();
    return true;
  });
  EXPECT_EQ(answer.status().code(), StatusCode::kCancelled);
}

TEST_F(EngineTest, DeadlineEndsItBeforeAndDuringWork) {
  Start();
  AskOptions options = Long(3000);
  options.deadline = steady_clock::now() - std::chrono::milliseconds(1);
  EXPECT_EQ(engine_->Ask("c", kQuestion, options).status().code(), StatusCode::kCancelled);
  const auto begin = steady_clock::now();
  options.deadline = begin + std::chrono::milliseconds(300);
  EXPECT_EQ(engine_->Ask("c", kQuestion, options).status().code(), StatusCode::kCancelled);
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(20));
}

// Long work: dense encoding of documents happens in prefill, layer by layer.
TEST_F(EngineTest, StopTokenEndsItInPrefill) {
  Start();
  std::stop_source stop;
  AskOptions options = Long(1);
  options.mode = AnswerMode::kDense;
  options.working_set.documents.clear();
  for (int i = 0; i < 12; ++i) options.working_set.documents.push_back(SomeDocuments(12)[i].name);
  options.stop_token = stop.get_token();
  std::promise<Status> done;
  ASSERT_TRUE(
      engine_->Submit("c", kQuestion, options, {}, [&](Result<Answer> answer) { done.set_value(answer.status()); })
          .ok());
  stop.request_stop();
  EXPECT_EQ(done.get_future().get().code(), StatusCode::kCancelled);
}

TEST_F(EngineTest, QueueIsBoundedAndWaitingRequestsCanBeCancelled) {
  EngineOptions options = Options();
  options.max_queued_requests = 3;
  Start(options);
  std::stop_source stop_running, stop_waiting;
  AskOptions running = Long(3000);
  running.stop_token = stop_running.get_token();
  AskOptions waiting = running;
  waiting.stop_token = stop_waiting.get_token();
  std::atomic<int> num_done{0};
  const AnswerCallback done = [&](Result<Answer> answer) {
    EXPECT_EQ(answer.status().code(), StatusCode::kCancelled);
    ++num_done;
  };
  // Sixteen run, three wait, the next is refused; submitting is far faster than 3,000 tokens.
  int accepted = 0;
  Status refused;
  for (int i = 0; i < 40 && refused.ok(); ++i) {
    refused = engine_->Submit("c", kQuestion, accepted < 16 ? running : waiting, {}, done);
    accepted += refused.ok() ? 1 : 0;
  }
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(accepted, 19);
  stop_waiting.request_stop();
  for (int i = 0; i < 1000 && num_done < accepted - 16; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(num_done, accepted - 16) << "cancelled while waiting, beside running ones";
  stop_running.request_stop();
  for (int i = 0; i < 1000 && num_done < accepted; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(num_done, accepted);
}

TEST_F(EngineTest, ClosingAnswersEveryRequest) {
  Start();
  std::atomic<int> num_done{0};
  for (int i = 0; i < 12; ++i) {
    ASSERT_TRUE(engine_
                    ->Submit("c", kQuestion, Long(3000), {},
                             [&](Result<Answer> answer) {
                               EXPECT_EQ(answer.status().code(), StatusCode::kUnavailable);
                               ++num_done;
                             })
                    .ok());
  }
  engine_.reset();
  EXPECT_EQ(num_done, 12);
}

TEST_F(EngineTest, ManyThreadsGetTheAnswersOfOne) {
  Start();
  AskOptions options = Long(8);
  const auto alone = engine_->Ask("c", kQuestion, options);
  ASSERT_TRUE(alone.ok());
  std::vector<std::thread> threads;
  std::atomic<int> num_equal{0};
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      const auto answer = engine_->Ask("c", kQuestion, options);
      num_equal += answer.ok() && answer->tokens == alone->tokens ? 1 : 0;
    });
  }
  // Beside them, the same documents are replaced by others: answers come from what was published when they began.
  std::vector<DocumentInput> more = golden::ReferenceDocuments();
  more.erase(more.begin(), more.begin() + 20);
  more.resize(10);
  ASSERT_NO_FATAL_FAILURE(golden::IngestAll(*engine_, "c", more));
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_equal, 6);
}

TEST_F(EngineTest, RoutesWithoutAnswering) {
  Start();
  const auto route = engine_->Route("c", kQuestion);
  ASSERT_TRUE(route.ok()) << route.status().ToString();
  EXPECT_EQ(route->documents.size(), 10U);
  EXPECT_EQ(route->placed.size(), 3U);  // working_set.max_documents
  EXPECT_EQ(route->placed.back().document, route->documents.front().document) << "best last";
  const auto answer = engine_->Ask("c", kQuestion);
  ASSERT_TRUE(answer.ok());
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(answer->routed[i].document, route->documents[i].document);
}

TEST_F(EngineTest, WorkingSetIsBounded) {
  Start();
  AskOptions options;
  options.working_set.max_documents = 5;
  options.working_set.max_context_tokens = 350;
  const auto route = engine_->Route("c", kQuestion, options);
  ASSERT_TRUE(route.ok());
  EXPECT_LE(route->placed.size(), 3U);
  EXPECT_GE(route->placed.size(), 2U);
  options.working_set.documents = kDocuments;
  options.working_set.max_context_tokens = 100;
  const auto answer = engine_->Ask("c", kQuestion, options);
  ASSERT_EQ(answer.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(answer.status().message().find("more than the 100"), std::string::npos) << answer.status().message();
}

TEST_F(EngineTest, NamesWhatDoesNotExist) {
  Start();
  AskOptions options;
  options.working_set.documents = {"nowhere.txt"};
  auto answer = engine_->Ask("c", kQuestion, options);
  EXPECT_EQ(answer.status().code(), StatusCode::kNotFound);
  EXPECT_NE(answer.status().message().find("nowhere.txt"), std::string::npos);
  answer = engine_->Ask("other", kQuestion);
  EXPECT_EQ(answer.status().code(), StatusCode::kNotFound);
  EXPECT_NE(answer.status().message().find("other"), std::string::npos);
  EXPECT_EQ(engine_->Ask("c", "").status().code(), StatusCode::kInvalidArgument);
  options = {};
  options.sampling.top_p = 2;
  EXPECT_EQ(engine_->Ask("c", kQuestion, options).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, ModesReadWhatTheySay) {
  Start();
  AskOptions options;
  options.mode = AnswerMode::kClosed;
  const auto closed = engine_->Ask("c", kQuestion, options);
  ASSERT_TRUE(closed.ok()) << closed.status().ToString();
  EXPECT_EQ(closed->usage.context_chunks, 0U);
  EXPECT_TRUE(closed->sources.empty());
  options.mode = AnswerMode::kDense;
  const auto dense = engine_->Ask("c", kQuestion, options);
  ASSERT_TRUE(dense.ok());
  EXPECT_EQ(dense->usage.kv_bytes_read, 0U);
  EXPECT_EQ(dense->placed.size(), 3U);
}

TEST_F(EngineTest, SelectionOptionsChangeHowMuchIsUnfolded) {
  Start();
  AskOptions options;
  options.working_set.documents = kDocuments;
  const auto share = [&] {
    const auto answer = engine_->Ask("c", kQuestion, options);
    EXPECT_TRUE(answer.ok()) << answer.status().ToString();
    return answer.ok() ? answer->unfolded_share : -1;
  };
  const double base = share();
  options.compression = 32;
  EXPECT_LT(share(), base);
  options.compression = 0;
  options.unfold_top_k = 1000;
  EXPECT_EQ(share(), 1.0);
  options.unfold_top_k = 0;
  options.unfold_top_p = 1;
  EXPECT_EQ(share(), 1.0);
  options.unfold_top_p = 0.05F;
  EXPECT_LT(share(), base);
}

TEST_F(EngineTest, StopTextCutsTheAnswer) {
  Start();
  const auto whole = engine_->Ask("c", kQuestion, Long(12));
  ASSERT_TRUE(whole.ok());
  ASSERT_GT(whole->text.size(), 8U);
  AskOptions options = Long(12);
  options.stop = {whole->text.substr(4, 3)};
  std::string streamed;
  const auto cut = engine_->Ask("c", kQuestion, options, [&](std::string_view text) {
    streamed += text;
    return true;
  });
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ(cut->finish, FinishReason::kStop);
  EXPECT_EQ(cut->text.find(options.stop[0]), std::string::npos);
  EXPECT_EQ(streamed, cut->text);
}

TEST_F(EngineTest, SameSeedSameSample) {
  Start();
  AskOptions options = Long(16);
  options.sampling.temperature = 1.5F;
  options.sampling.seed = 7;
  const auto first = engine_->Ask("c", kQuestion, options);
  const auto second = engine_->Ask("c", kQuestion, options);
  options.sampling.seed = 8;
  const auto third = engine_->Ask("c", kQuestion, options);
  ASSERT_TRUE(first.ok() && second.ok() && third.ok());
  EXPECT_EQ(first->tokens, second->tokens);
  EXPECT_NE(first->tokens, third->tokens);
}

// A step that needs more pages than the cache holds says so; the next question works.
TEST_F(EngineTest, UnfoldCacheTooSmallIsAnError) {
  EngineOptions options = Options();
  options.unfold_cache_bytes = 1;
  options.block_cache_bytes = 1;
  Start(options);
  AskOptions ask = Long(2);
  const auto answer = engine_->Ask("c", kQuestion, ask);
  ASSERT_EQ(answer.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(answer.status().message().find("unfold_cache_bytes"), std::string::npos);
  ask.mode = AnswerMode::kDense;
  EXPECT_TRUE(engine_->Ask("c", kQuestion, ask).ok());
}

// Tiny caches evict all the time, and change nothing.
TEST_F(EngineTest, EvictionDoesNotChangeAnswers) {
  Start();
  const auto roomy = engine_->Ask("c", kQuestion, Long(8));
  ASSERT_TRUE(roomy.ok());
  EngineOptions options = Options();
  options.unfold_cache_bytes = std::uint64_t{60} * 2 * 4 * 4 * 12 * 64;  // 60 pages: one layer's choice and little more
  options.block_cache_bytes = 1;
  Start(options);
  const auto tight = engine_->Ask("c", kQuestion, Long(8));
  ASSERT_TRUE(tight.ok()) << tight.status().ToString();
  EXPECT_EQ(tight->tokens, roomy->tokens);
  EXPECT_GT(tight->usage.pages_missed, roomy->usage.pages_missed);
}

class EngineStoreTest : public EngineTest {
 protected:
  void SetUp() override { std::filesystem::remove_all(path_); }
  void TearDown() override {
    engine_.reset();
    std::filesystem::remove_all(path_);
  }
  EngineOptions OnDisk() {
    EngineOptions options = Options();
    options.store_path = path_;
    return options;
  }
  const std::string path_ = UNFOLD_BINARY_DIR "/engine_test_store";
};

TEST_F(EngineStoreTest, FingerprintCoversWhatKvDependsOn) {
  Start(OnDisk());
  engine_.reset();
  const auto open = [&](const std::string& overrides) {
    EngineOptions options = OnDisk();
    options.gist_overrides = overrides;
    return Engine::Open(options).status();
  };
  for (const char* changed : {"{\"chunk_size\": 16}", "{\"sink_size\": 2}", "{\"previous_chunks\": 2}",
                              "{\"word_aware\": false}", "{\"part_tokens\": 100}",
                              "{\"prompt\": {\"document\": \"{title}: {text}\"}}", "{\"gist_tokens\": [\"<Gist>\"]}"}) {
    const Status status = open(changed);
    EXPECT_EQ(status.code(), StatusCode::kIncompatible) << changed << " " << status.ToString();
  }
  EXPECT_NE(open("{\"chunk_size\": 16}").message().find("chunk_size (stored 8, now 16)"), std::string::npos);
  for (const char* free : {"{\"compression\": 4}", "{\"max_question_tokens\": 30}", "{\"max_answer_tokens\": 3}",
                           "{\"working_set\": {\"max_documents\": 7}}", "{\"suppressed_tokens\": []}",
                           "{\"routing\": {\"score\": \"standardised\"}}", "{\"routing\": {\"heads\": [[1, 1, 1.0]]}}",
                           "{\"prompt\": {\"question\": \"<|question|>Q: {question}<|answer|>\"}}"}) {
    EXPECT_TRUE(open(free).ok()) << free << " " << open(free).ToString();
  }
  EngineOptions other = OnDisk();
  other.kv_type = DType::kF32;
  EXPECT_EQ(Engine::Open(other).status().code(), StatusCode::kIncompatible);
  other = OnDisk();
  other.compute = DType::kBF16;
  EXPECT_EQ(Engine::Open(other).status().code(), StatusCode::kIncompatible);
  other.compute = DType::kF16;
  EXPECT_EQ(Engine::Open(other).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(EngineStoreTest, ReadersWorkBesideTheWriterAndCannotWrite) {
  Start(OnDisk());
  EngineOptions options = OnDisk();
  EXPECT_EQ(Engine::Open(options).status().code(), StatusCode::kUnavailable) << "a second writer";
  options.access = StoreAccessMode::kReadOnly;
  auto reader = Engine::Open(options);
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  const auto before = (*reader)->Ask("c", kQuestion);
  ASSERT_TRUE(before.ok()) << before.status().ToString();
  EXPECT_EQ((*reader)->AddDocument("c", {"x.txt", "text", TextFormat::kPlain, Status::Ok()}).status().code(),
            StatusCode::kInvalidArgument);
  ASSERT_TRUE(engine_->Remove("c", {before->placed.back()}).ok());
  const auto after = (*reader)->Ask("c", kQuestion);
  ASSERT_TRUE(after.ok()) << after.status().ToString();
  EXPECT_EQ(after->tokens, before->tokens) << "sees what was published when it opened";
  EXPECT_EQ((*engine_->List("c")).size(), 11U);
}

TEST_F(EngineStoreTest, ReplacesSkipsAndRemoves) {
  Start(OnDisk());
  DocumentInput document = SomeDocuments(1)[0];
  auto verdict = engine_->AddDocument("c", document);
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->outcome, IngestOutcome::kUnchanged);
  document.text += " More.";
  verdict = engine_->AddDocument("c", document);
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->outcome, IngestOutcome::kReplaced);
  EXPECT_EQ(verdict->info.text_bytes, document.text.size());
  EXPECT_EQ((*engine_->List("c")).size(), 12U);
  ASSERT_TRUE(engine_->Remove("c", {document.name}).ok());
  EXPECT_EQ(engine_->Remove("c", {document.name}).code(), StatusCode::kNotFound);
  const auto summary = engine_->Verify();
  ASSERT_TRUE(summary.ok());
  EXPECT_TRUE(summary->findings.empty());
  EXPECT_EQ(summary->num_documents, 11U);
  EXPECT_EQ(summary->num_orphans, 0U);
}

TEST_F(EngineStoreTest, CollectionsComeAndGoAlsoDuringAnIngest) {
  Start(OnDisk(), 2);
  const DocumentInput first = SomeDocuments(1)[0];
  EXPECT_TRUE(*engine_->CreateCollection("empty"));
  EXPECT_FALSE(*engine_->CreateCollection("empty"));
  EXPECT_EQ(engine_->CreateCollection("").status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(*engine_->HasCollection("empty"));
  EXPECT_TRUE(engine_->List("empty")->empty());
  EXPECT_EQ(*engine_->ReadText("c", first.name), first.text);
  EXPECT_EQ(engine_->Find("c", first.name)->text_bytes, first.text.size());
  EXPECT_EQ(engine_->ReadText("c", "none").status().code(), StatusCode::kNotFound);

  // A document that goes while an ingest runs is not "unchanged" to it.
  int given = 0;
  std::vector<IngestOutcome> outcomes;
  const auto heard = [&](const DocumentVerdict& verdict) { outcomes.push_back(verdict.outcome); };
  const auto again = [&]() -> std::optional<DocumentInput> {
    if (given++ > 0) return {};
    EXPECT_TRUE(engine_->Remove("c", {first.name}).ok());
    return first;
  };
  ASSERT_TRUE(engine_->Ingest("c", again, {}, {heard, {}}).ok());
  EXPECT_EQ(outcomes, std::vector{IngestOutcome::kAdded});

  // A collection that goes ends its ingest, with nothing left of it.
  const auto remove = [&]() -> std::optional<DocumentInput> {
    if (given++ > 2) return {};
    EXPECT_TRUE(engine_->RemoveCollection("c").ok());
    EXPECT_TRUE(*engine_->CreateCollection("c"));
    return DocumentInput{.name = "late", .text = "Too late."};
  };
  EXPECT_EQ(engine_->Ingest("c", remove).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(engine_->List("c")->empty());
  EXPECT_EQ(engine_->RemoveCollection("none").code(), StatusCode::kNotFound);
  const auto summary = engine_->Verify();
  EXPECT_TRUE(summary->findings.empty());
  EXPECT_EQ(summary->num_documents + summary->num_orphans, 0U);
}

TEST_F(EngineStoreTest, BadDocumentsGetTheirVerdict) {
  Start(OnDisk(), 1);
  const auto add = [&](DocumentInput input, IngestOptions options = {}) {
    return engine_->AddDocument("c", input, options).status();
  };
  EXPECT_NE(add({"e.txt", " \n ", TextFormat::kPlain, Status::Ok()}).message().find("empty"), std::string::npos);
  EXPECT_NE(add({"u.txt", "ab\xff", TextFormat::kPlain, Status::Ok()}).message().find("byte 2"), std::string::npos);
  EXPECT_NE(add({"", "text", TextFormat::kPlain, Status::Ok()}).message().find("name"), std::string::npos);
  EXPECT_EQ(add({"big.txt", std::string(200, 'a'), TextFormat::kPlain, Status::Ok()},
                {.max_document_bytes = 100, .stop_token = {}})
                .code(),
            StatusCode::kResourceExhausted);
  EXPECT_EQ((*engine_->List("c")).size(), 1U);
}

TEST(EngineOpen, NeedsWhatItIsAskedFor) {
  EngineOptions options;
  options.model_path = "/nonexistent/model";
  EXPECT_EQ(Engine::Open(options).status().code(), StatusCode::kNotFound);
  options = Options();
  options.backend = "tpu";
  EXPECT_EQ(Engine::Open(options).status().code(), StatusCode::kInvalidArgument);
  options = {};
  options.store_path = "/nonexistent/store";
  options.access = StoreAccessMode::kReadOnly;
  EXPECT_EQ(Engine::Open(options).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace unfold
