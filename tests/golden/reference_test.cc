// SPDX-License-Identifier: Apache-2.0
// The same answers as the model's own float32 reference: 200 questions over 1,000 documents on the cpu backend and, on
// a GPU machine, on cuda, ingested into a store on disk, closed and reopened; two questions on the scalar ref backend.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <iostream>
#include <set>

#include "apps/metrics.h"
#include "golden/reference_questions.h"

namespace unfold::golden {
namespace {

constexpr std::size_t kAllowedDifferences = 2;  // of 200, each a near-tie

struct Tally {
  std::size_t num_different = 0;
  void Add(const Comparison& comparison) {
    num_different += comparison.different ? 1 : 0;
    for (const std::string& note : comparison.notes) std::cout << "near-tie: " << note << "\n";
    for (const std::string& failure : comparison.failures) ADD_FAILURE() << failure;
  }
};

std::unique_ptr<Engine> Open(const EngineOptions& options) {
  auto engine = Engine::Open(options);
  EXPECT_TRUE(engine.ok()) << engine.status().ToString();
  return engine.ok() ? *std::move(engine) : nullptr;
}

AskOptions Named(const Json& question, AnswerMode mode) {
  AskOptions options;
  options.mode = mode;
  options.working_set.documents = question.at("documents").get<std::vector<std::string>>();
  options.explain = mode == AnswerMode::kSsa;
  return options;
}

// Answers to questions that are all asked at once: as many as run together take their steps together.
std::vector<Answer> AskAtOnce(Engine& engine, const std::vector<Json>& questions) {
  std::vector<std::promise<Result<Answer>>> promises(questions.size());
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const Status status = engine.Submit(
        "reference", questions[i].at("question").get<std::string>(), Named(questions[i], AnswerMode::kSsa), {},
        [&promises, i](Result<Answer> answer) { promises[i].set_value(std::move(answer)); });
    EXPECT_TRUE(status.ok()) << status.ToString();
    if (!status.ok()) promises[i].set_value(status);
  }
  std::vector<Answer> answers;
  for (auto& promise : promises) {
    Result<Answer> answer = promise.get_future().get();
    EXPECT_TRUE(answer.ok()) << answer.status().ToString();
    answers.push_back(answer.ok() ? *std::move(answer) : Answer());
  }
  return answers;
}

void AskTwoHundredQuestions(const std::string& backend) {
  const std::string store =
      (std::filesystem::temp_directory_path() / ("unfold_reference_" + backend + "_" + std::to_string(getpid())))
          .string();
  std::filesystem::remove_all(store);
  EngineOptions options;
  options.backend = backend;
  options.store_path = store;
  options.model_path = kModelDir;
  options.kv_type = DType::kF32;
  {
    const auto engine = Open(options);
    ASSERT_NE(engine, nullptr);
    ASSERT_NO_FATAL_FAILURE(IngestAll(*engine, "reference", ReferenceDocuments()));
  }
  options.access = StoreAccessMode::kReadOnly;
  options.max_queued_requests = 200;
  const auto engine = Open(options);
  ASSERT_NE(engine, nullptr);
  ASSERT_EQ(engine->backend_name(), backend);
  Tally ssa, dense, chosen, routed, at_once;
  const std::vector<Json> questions = ReferenceQuestions();
  ASSERT_EQ(questions.size(), 200U);
  for (const Json& question : questions) {
    const auto text = question.at("question").get<std::string>();
    AskOptions ask = Named(question, AnswerMode::kSsa);
    ask.always_route = true;
    const auto answer = engine->Ask("reference", text, ask);
    ASSERT_TRUE(answer.ok()) << answer.status().ToString();
    ssa.Add(CompareTokens(question, *answer, ""));
    chosen.Add(CompareChosen(question, *answer));
    routed.Add(CompareRouted(question, *answer));
    const auto plain = engine->Ask("reference", text, Named(question, AnswerMode::kDense));
    ASSERT_TRUE(plain.ok()) << plain.status().ToString();
    EXPECT_EQ(plain->usage.kv_bytes_read, 0U);
    dense.Add(CompareTokens(question, *plain, "dense_"));
  }
  const std::vector<Answer> answers = AskAtOnce(*engine, questions);
  for (std::size_t i = 0; i < questions.size(); ++i) at_once.Add(CompareTokens(questions[i], answers[i], ""));
  std::cout << "of 200 differ: ssa tokens " << ssa.num_different << ", dense tokens " << dense.num_different
            << ", chosen chunks " << chosen.num_different << ", routed order " << routed.num_different
            << ", ssa tokens of all asked at once " << at_once.num_different << "\n";
  EXPECT_LE(ssa.num_different, kAllowedDifferences);
  EXPECT_LE(dense.num_different, kAllowedDifferences);
  EXPECT_LE(at_once.num_different, kAllowedDifferences);
  std::filesystem::remove_all(store);
}

TEST(Reference, TwoHundredQuestionsOnTheCpu) { AskTwoHundredQuestions("cpu"); }

#if defined(UNFOLD_WITH_CUDA)
TEST(ReferenceCuda, TwoHundredQuestions) { AskTwoHundredQuestions("cuda"); }

// KV and products in bf16 round where the reference does not: nine in ten answers are the same to the token, and as
// many are right to within one in a hundred.
TEST(ReferenceCuda, TwoHundredQuestionsInBf16) {
  EngineOptions options;
  options.backend = "cuda";
  options.compute = DType::kBF16;
  options.kv_type = DType::kBF16;
  options.model_path = kModelDir;
  options.max_queued_requests = 200;
  const auto engine = Open(options);
  ASSERT_NE(engine, nullptr);
  ASSERT_NO_FATAL_FAILURE(IngestAll(*engine, "reference", ReferenceDocuments()));
  std::size_t num_same = 0, num_same_at_once = 0;
  double matches = 0, reference_matches = 0;
  const std::vector<Json> questions = ReferenceQuestions();
  ASSERT_EQ(questions.size(), 200U);
  for (const Json& question : questions) {
    const auto answer =
        engine->Ask("reference", question.at("question").get<std::string>(), Named(question, AnswerMode::kSsa));
    ASSERT_TRUE(answer.ok()) << answer.status().ToString();
    num_same += CompareTokens(question, *answer, "").different ? 0 : 1;
    const auto gold = question.at("answers").get<std::vector<std::string>>();
    matches += cli::SubspanMatch(answer->text, gold);
    reference_matches += cli::SubspanMatch(question.at("answer").get<std::string>(), gold);
  }
  const std::vector<Answer> answers = AskAtOnce(*engine, questions);
  for (std::size_t i = 0; i < questions.size(); ++i) {
    num_same_at_once += CompareTokens(questions[i], answers[i], "").different ? 0 : 1;
  }
  std::cout << "of 200 in bf16: " << num_same << " the same, " << num_same_at_once << " when all are asked at once"
            << ", exact match " << matches << ", the reference's " << reference_matches << "\n";
  EXPECT_GE(num_same, 180U);
  EXPECT_GE(num_same_at_once, 180U);
  EXPECT_LE(std::abs(matches - reference_matches), 2.0);
}
#endif

// Scalar code is slow: the two questions with the shortest documents.
TEST(Reference, TwoQuestionsOnTheScalarBackend) {
  const std::vector<DocumentInput> documents = ReferenceDocuments();
  const auto total_bytes = [&](const Json& question) {
    std::size_t bytes = 0;
    for (const Json& name : question.at("documents")) {
      for (const DocumentInput& document : documents) bytes += document.name == name ? document.text.size() : 0;
    }
    return bytes;
  };
  std::vector<Json> questions = ReferenceQuestions();
  std::stable_sort(questions.begin(), questions.end(),
                   [&](const Json& a, const Json& b) { return total_bytes(a) < total_bytes(b); });
  questions.resize(2);

  EngineOptions options;
  options.model_path = kModelDir;
  options.backend = "ref";
  options.kv_type = DType::kF32;
  const auto engine = Open(options);
  ASSERT_NE(engine, nullptr);
  ASSERT_EQ(engine->backend_name(), "ref");
  std::set<std::string> names;
  for (const Json& question : questions) {
    for (const Json& name : question.at("documents")) names.insert(name.get<std::string>());
  }
  std::vector<DocumentInput> needed;
  for (const DocumentInput& document : documents) {
    if (names.contains(document.name)) needed.push_back(document);
  }
  ASSERT_NO_FATAL_FAILURE(IngestAll(*engine, "reference", needed));
  for (const Json& question : questions) {
    const auto answer =
        engine->Ask("reference", question.at("question").get<std::string>(), Named(question, AnswerMode::kSsa));
    ASSERT_TRUE(answer.ok()) << answer.status().ToString();
    Tally tally;
    tally.Add(CompareTokens(question, *answer, ""));
    tally.Add(CompareChosen(question, *answer));
    EXPECT_EQ(tally.num_different, 0U);
  }
}

}  // namespace
}  // namespace unfold::golden
