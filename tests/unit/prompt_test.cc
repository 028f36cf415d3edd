// SPDX-License-Identifier: Apache-2.0
#include "text/prompt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/gist_config.h"
#include "tiny_model.h"

namespace unfold {
namespace {

const std::string kRoot = UNFOLD_SOURCE_DIR;

std::vector<Json> ReadLines(const std::string& path) {
  std::ifstream in(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

class PromptTest : public testing::Test {
 protected:
  std::vector<TokenId> Plain(std::string_view text) const {
    std::vector<TokenId> ids;
    for (const TokenSpan& token : tokenizer_->Encode(text)) ids.push_back(token.id);
    return ids;
  }
  PromptTemplate Parse(std::string_view text, std::string_view placeholder = "{question}") const {
    return Must(PromptTemplate::Parse(text, "prompt.question", placeholder, *tokenizer_));
  }
  std::unique_ptr<Tokenizer> tokenizer_ = Must(Tokenizer::Parse(TinyTokenizerJson().dump(), "tiny"));
};

std::vector<TokenId> Joined(std::vector<std::vector<TokenId>> pieces) {
  std::vector<TokenId> all;
  for (const auto& piece : pieces) all.insert(all.end(), piece.begin(), piece.end());
  return all;
}

TEST_F(PromptTest, SpecialsOfTheTemplateAreIdsThoseOfTheQuestionAreText) {
  const std::string question = "is <gist> the <|bos|> {question}?";
  const FilledPrompt filled = Parse("<|bos|>{question}<Gist>").Fill(question, 0, *tokenizer_);
  EXPECT_EQ(filled.ids, Joined({{kTinyBos}, Plain(question), {kTinyMetaGist}}));
  EXPECT_EQ(std::count_if(filled.ids.begin(), filled.ids.end(), [&](TokenId id) { return tokenizer_->IsSpecial(id); }),
            2);
  EXPECT_EQ(tokenizer_->Decode(filled.ids, false), "<|bos|>" + question + "<Gist>");
  EXPECT_EQ(filled.question_begin, 1);
  EXPECT_EQ(filled.question_end, static_cast<std::int32_t>(filled.ids.size()) - 1);
  EXPECT_FALSE(filled.truncated);
}

// A file that puts a space in front of a whole text only: behind a special token no text begins.
TEST_F(PromptTest, WhatStandsBehindASpecialTokenIsNoTextOfItsOwn) {
  Json json = *ReadJsonFile(kRoot + "/tests/golden/family_llama2.json");
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\xE2\x96\x81"}, {"prepend_scheme", "first"}};
  tokenizer_ = Must(Tokenizer::Parse(json.dump(), "llama"));
  const TokenId word = tokenizer_->IdOf("\xE2\x96\x81the");
  const TokenId inside = tokenizer_->IdOf("the");
  EXPECT_EQ(Parse("{question}").Fill("the", 0, *tokenizer_).ids, std::vector<TokenId>{word});
  EXPECT_EQ(Parse("<s>{question}").Fill("the", 0, *tokenizer_).ids, (std::vector<TokenId>{1, inside}));
  std::vector<TokenId> whole;
  for (const TokenSpan& token : tokenizer_->EncodeWithSpecials("<s>the")) whole.push_back(token.id);
  EXPECT_EQ(whole, (std::vector<TokenId>{1, inside})) << "as Hugging Face has it";
}

TEST_F(PromptTest, TextBetweenTwoSpecialsIsOneText) {
  // "the" is one token only when template and question are tokenized together; it belongs to the question it touches.
  const FilledPrompt filled = Parse("<|bos|>Q: t{question} A<|end|>").Fill("he in", 0, *tokenizer_);
  EXPECT_EQ(filled.ids, Joined({{kTinyBos}, Plain("Q: the in A"), {kTinyEnd}}));
  const std::vector<TokenId> question(filled.ids.begin() + filled.question_begin,
                                      filled.ids.begin() + filled.question_end);
  EXPECT_EQ(tokenizer_->Decode(question), " the in");
}

TEST_F(PromptTest, TheQuestionIsCutAtItsLimit) {
  const PromptTemplate prompt = Parse("<|bos|>Q {question}: A<|end|>");
  const std::string question = "zxyw";  // a token each
  for (int limit = 1; limit <= 6; ++limit) {
    const FilledPrompt filled = prompt.Fill(question, limit, *tokenizer_);
    const std::string kept = question.substr(0, std::min<std::size_t>(limit, question.size()));
    EXPECT_EQ(tokenizer_->Decode(filled.ids, false), "<|bos|>Q " + kept + ": A<|end|>");
    EXPECT_EQ(filled.truncated, limit < 4);
    EXPECT_EQ(filled.question_begin, 3);  // bos, Q, space
    EXPECT_EQ(filled.question_end - filled.question_begin, static_cast<std::int32_t>(kept.size()));
  }
}

TEST_F(PromptTest, AnEmptyQuestionHasNoTokens) {
  const FilledPrompt filled = Parse("<|bos|>{question}<|end|>").Fill("", 4, *tokenizer_);
  EXPECT_EQ(filled.ids, (std::vector<TokenId>{kTinyBos, kTinyEnd}));
  EXPECT_EQ(filled.question_begin, 1);
  EXPECT_EQ(filled.question_end, 1);
}

TEST_F(PromptTest, WithoutAPlaceholder) {
  EXPECT_TRUE(Parse("", "").Fill("x", 0, *tokenizer_).ids.empty());
  EXPECT_EQ(Parse("<|bos|>You answer {question}.", "").Fill("x", 0, *tokenizer_).ids,
            Joined({{kTinyBos}, Plain("You answer {question}.")}));
}

TEST_F(PromptTest, ThePlaceholderMustBeThereOnce) {
  const auto refused = [&](std::string_view text, const std::string& says) {
    const Status status = PromptTemplate::Parse(text, "prompt.question", "{question}", *tokenizer_).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("prompt.question: must hold {question} exactly once, found " + says),
              std::string::npos)
        << status.message();
  };
  refused("", "0");
  refused("Q: {Question}", "0");
  refused("<|bos|>", "0");
  refused("{question}{question}", "2");
  refused("{question}<|bos|>{question}<|end|>{question}", "3");
}

// The 200 prompts of the model's reference, tokenized by Hugging Face.
TEST(GoldenPrompts, EqualTheReference) {
  const std::string model = kRoot + "/datasets/gist-mini";
  const auto tokenizer = Must(Tokenizer::Load(model + "/tokenizer.json"));
  const GistConfig config = Must(LoadGistConfig(model, "", Must(LoadModelConfig(model)), *tokenizer));
  const std::vector<Json> questions = ReadLines(UNFOLD_BINARY_DIR "/golden/reference.jsonl");
  const std::vector<Json> golden = ReadLines(kRoot + "/tests/golden/prompt_ids.jsonl");
  ASSERT_EQ(questions.size(), 200U);
  ASSERT_EQ(golden.size(), 200U);
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const std::string text = questions[i]["question"];
    const FilledPrompt filled = config.question.Fill(text, config.max_question_tokens, *tokenizer);
    EXPECT_EQ(filled.ids, golden[i].get<std::vector<TokenId>>()) << text;
    EXPECT_EQ(filled.question_begin, 1);
    EXPECT_EQ(filled.question_end, static_cast<std::int32_t>(filled.ids.size()) - 1);
    // Routing reads the same question behind the beginning-of-text token.
    const FilledPrompt routing = config.routing.Fill(text, config.max_question_tokens, *tokenizer);
    EXPECT_EQ(routing.question_begin, 2);
    EXPECT_TRUE(std::equal(routing.ids.begin() + 1, routing.ids.end(), filled.ids.begin(), filled.ids.end() - 1));
  }
}

}  // namespace
}  // namespace unfold
