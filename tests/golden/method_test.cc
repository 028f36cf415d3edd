// SPDX-License-Identifier: Apache-2.0
// SSA, nucleus selection, H-SSA of two and three levels, and link tokens, prefill and 100 steps of decoding, against an
// independent PyTorch implementation of method.md in float64 (method_reference.py, method.jsonl).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/json.h"
#include "golden/encoded_documents.h"
#include "golden/reference_questions.h"
#include "rag/generator.h"

namespace unfold {
namespace {

// The reference in float32 strays from float64 by `deviation`; another order of the same sums strays alike, and eight
// times that is out of reach of rounding alone. `tie_effect` is what logits move by when every choice closer than
// rounding goes the other way; half of those choices going so may weigh as much. The file rounds to 1e-4.
double LogitBound(const Json& row) {
  return 8 * row.at("deviation").get<double>() + 2 * row.at("tie_effect").get<double>() + 0.5e-4;
}
constexpr std::int64_t kShownStride = 256;  // logits of every 256th token are in the file

constexpr char kOneLevel[] = R"({"part_tokens": 1024})";
constexpr char kTwoLevels[] =
    R"({"part_tokens": 1024, "chunk_size": 4, "section_size": 4, "gist_tokens": ["<gist>", "<Gist>"]})";
constexpr char kThreeLevelsAndLinks[] =
    R"({"part_tokens": 1024, "chunk_size": 4, "section_size": 4, "gist_tokens": ["<gist>", "<Gist>", "<link4>"],
        "link_tokens": ["<link0>", "<link1>"]})";

struct Variant {
  std::string_view name;
  std::string_view overrides;
  float top_p = 0;
};
constexpr Variant kVariants[] = {
    {"ssa", kOneLevel},
    {"ssa_top_p", kOneLevel, 0.6F},
    {"links", R"({"part_tokens": 1024, "link_tokens": ["<link0>", "<link1>", "<link2>"]})"},
    {"hssa2", kTwoLevels},
    {"hssa2_top_p", kTwoLevels, 0.6F},
    {"hssa3_links", kThreeLevelsAndLinks},
};

// Each inner list of names is one document: their texts, a blank line between.
std::vector<DocumentInput> DocumentsOf(const Json& row) {
  static const std::vector<DocumentInput> all = golden::ReferenceDocuments();
  std::vector<DocumentInput> documents;
  for (const Json& names : row.at("documents")) {
    DocumentInput document;
    document.name = std::to_string(documents.size());
    for (const auto& wanted : names.get<std::vector<std::string>>()) {
      const auto it =
          std::find_if(all.begin(), all.end(), [&](const DocumentInput& one) { return one.name == wanted; });
      EXPECT_NE(it, all.end()) << wanted;
      document.text += (document.text.empty() ? "" : "\n\n") + it->text;
    }
    documents.push_back(std::move(document));
  }
  return documents;
}

class Comparison {
 public:
  explicit Comparison(const Json& row) : row_(row), bound_(LogitBound(row)) {}

  // Logits before token `step` was taken.
  void Logits(std::size_t step, std::span<const float> logits) {
    const auto token = row_.at("tokens").at(step).get<std::size_t>();
    Near(logits[token], row_.at("own").at(step).get<double>(), step);
    const auto shown = row_.at("logits").find(std::to_string(step));
    if (shown == row_.at("logits").end()) return;
    ++num_shown_;
    for (std::size_t i = 0; i < shown->size(); ++i) {
      if (i == 0) continue;  // token 0 ends an answer and is not generated here
      Near(logits[i * kShownStride], shown->at(i).get<double>(), step);
    }
  }

  void Chosen(const AttentionReport& report) const {
    const Json& layers = row_.at("chosen");
    ASSERT_EQ(layers.size() + 1, report.first_chosen.size());
    int num_clear = 0;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      if (layers[layer].is_null()) continue;  // a choice that rounding may turn
      ++num_clear;
      EXPECT_EQ(layers[layer].get<std::vector<std::vector<std::int32_t>>>(), report.first_chosen[layer + 1])
          << "layer " << layer + 1;
    }
    EXPECT_GT(num_clear, 0);
  }

  double largest_error() const { return largest_error_; }
  double bound() const { return bound_; }
  int num_shown() const { return num_shown_; }

 private:
  void Near(double logit, double expected, std::size_t step) {
    largest_error_ = std::max(largest_error_, std::abs(logit - expected));
    EXPECT_NEAR(logit, expected, bound_) << "step " << step;
  }

  const Json& row_;
  double bound_;
  double largest_error_ = 0;
  int num_shown_ = 0;
};

void HoldToReference(const Json& row, const Variant& variant) {
  EngineOptions options;
  options.model_path = golden::kModelDir;
  options.gist_overrides = variant.overrides;
  auto model = LoadModel(options);
  ASSERT_TRUE(model.ok()) << model.status().ToString();
  const std::vector<DocumentInput> documents = DocumentsOf(row);
  const std::unique_ptr<Store> store = golden::EncodeAfresh(**model, DType::kF32, documents);

  AskOptions ask;
  ask.max_answer_tokens = static_cast<int>(row.at("tokens").size());
  ask.ignore_end_token = true;
  ask.unfold_top_p = variant.top_p;
  const GeneratorContext context = (*model)->Context(options);
  auto question = PrepareQuestion(context, row.at("question").get<std::string>(), ask);
  ASSERT_TRUE(question.ok()) << question.status().ToString();
  std::vector<PartRef> parts = golden::PartsOf(store->Snapshot(), 0, documents);
  ASSERT_EQ(parts.size(), documents.size()) << "each document is one part";
  auto generator = Generator::Start(context, *question, ask, std::move(parts), [] { return Status::Ok(); });
  ASSERT_TRUE(generator.ok()) << generator.status().ToString();

  Comparison comparison(row);
  std::size_t step = 0;
  for (bool goes_on = true; goes_on; ++step) {
    comparison.Logits(step, (*generator)->logits());
    const auto stepped = (*generator)->Step({});
    ASSERT_TRUE(stepped.ok()) << stepped.status().ToString();
    goes_on = *stepped;
  }
  const auto answer = (*generator)->TakeAnswer();
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->tokens, row.at("tokens").get<std::vector<TokenId>>())
      << "the least margin between the two best logits is " << row.at("least_margin").dump();
  comparison.Chosen((*generator)->report());
  EXPECT_EQ(step, 100U);
  EXPECT_EQ(comparison.num_shown(), 2) << "prefill and the last step";
  // All choices of all answer queries, decoding included.
  const double chosen = (*generator)->report().chosen_share_sum * static_cast<double>(answer->usage.context_chunks);
  EXPECT_NEAR(chosen, row.at("chosen_total").get<double>(), 0.5 + row.at("turned").get<double>());
  std::printf("%-12s largest logit error %.2g of %.2g allowed\n", std::string(variant.name).c_str(),
              comparison.largest_error(), comparison.bound());
}

TEST(Method, EqualsAnIndependentImplementation) {
  const std::vector<Json> rows = golden::ReadLines(UNFOLD_SOURCE_DIR "/tests/golden/method.jsonl");
  for (const Variant& variant : kVariants) {
    int num_sets = 0;
    for (const Json& row : rows) {
      if (row.at("variant").get<std::string>() != variant.name) continue;
      SCOPED_TRACE(std::string(variant.name) + ": " + row.at("question").get<std::string>());
      ++num_sets;
      HoldToReference(row, variant);
    }
    EXPECT_EQ(num_sets, 5) << variant.name;
  }
}

}  // namespace
}  // namespace unfold
