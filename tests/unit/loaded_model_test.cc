// SPDX-License-Identifier: Apache-2.0
// A model directory as a whole: what does not belong together is refused when it is opened.
#include "engine/loaded_model.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/fingerprint.h"
#include "tiny_model.h"
#include "unfold/engine.h"

namespace unfold {
namespace {

class LoadedModelTest : public testing::Test {
 protected:
  // Through the library's front door: without a store path there is a store in memory.
  Status Open(const std::string& overrides = "") const {
    EngineOptions options;
    options.model_path = files_.dir();
    options.gist_overrides = overrides;
    options.num_threads = 1;
    return Engine::Open(options).status();
  }
  void ExpectRefused(StatusCode code, const std::vector<std::string>& says) const {
    const Status status = Open();
    EXPECT_EQ(status.code(), code) << status.ToString();
    for (const std::string& text : says) {
      EXPECT_NE(status.message().find(text), std::string::npos) << "'" << text << "' is not in: " << status.message();
    }
  }
  TinyModel files_;
};

TEST_F(LoadedModelTest, TheTinyModelLoads) {
  Must(Open());
  EngineOptions options;
  options.model_path = files_.dir();
  options.num_threads = 1;
  const auto loaded = Must(LoadModel(options));
  EXPECT_EQ(loaded->prefix->num_tokens, 1);
  EXPECT_EQ(loaded->text.word_starts.size(), static_cast<std::size_t>(TinyVocabSize()));
  EXPECT_TRUE(loaded->text.word_starts[kTinyFirstByte + ' ']);
  EXPECT_FALSE(loaded->text.word_starts[kTinyFirstByte + 'a']);
  EXPECT_FALSE(loaded->text.word_starts[kTinyFirstByte + 0xE2]) << "the first byte of a dash is part of a character";
}

TEST_F(LoadedModelTest, NoSuchDirectory) {
  EngineOptions options;
  options.model_path = files_.Path("none");
  const Status status = Engine::Open(options).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find("/none: no such model directory"), std::string::npos) << status.message();
}

TEST_F(LoadedModelTest, TokenizerOfAnotherModel) {
  Json tokenizer = TinyTokenizerJson();
  tokenizer["model"]["vocab"]["zz"] = TinyVocabSize();
  files_.Write("tokenizer.json", tokenizer.dump());
  ExpectRefused(StatusCode::kInvalidArgument,
                {"tokenizer.json: has " + std::to_string(TinyVocabSize() + 1) + " tokens",
                 "vocab_size " + std::to_string(TinyVocabSize()), "do not belong together"});
}

TEST_F(LoadedModelTest, HalfATokenizer) {
  const std::string whole = files_.Read("tokenizer.json");
  for (const std::size_t bytes : {std::size_t{0}, whole.size() / 4, whole.size() / 2, whole.size() - 1}) {
    files_.Write("tokenizer.json", whole.substr(0, bytes));
    ExpectRefused(StatusCode::kCorruption, {"tokenizer.json", "not valid JSON"});
  }
  files_.Remove("tokenizer.json");
  ExpectRefused(StatusCode::kNotFound, {"tokenizer.json", "No such file"});
}

// tokenizer.json ends before the gist token, which only tokenizer_config.json knows.
TEST_F(LoadedModelTest, GistTokenOfTheTokenizerConfig) {
  TinyWeights weights = MakeTinyWeights({});
  TinyTensor& table = weights["model.embed_tokens.weight"];
  ++table.shape[0];
  table.values.resize(table.values.size() + kTinyHidden, 0.5F);
  files_.Write("model.safetensors", SafeTensorsFile(weights, DType::kF32));
  files_.Patch("config.json", Json{{"vocab_size", TinyVocabSize() + 1}}.dump());
  files_.Patch("gist_config.json", R"({"gist_tokens": ["<gist9>"]})");
  const auto name = [&](int id, bool special) {
    Json tokens;
    tokens[std::to_string(kTinyBos)] = {{"content", "<|bos|>"}, {"special", true}};
    tokens[std::to_string(id)] = {{"content", "<gist9>"}, {"special", special}, {"normalized", false}};
    files_.Write("tokenizer_config.json", Json{{"added_tokens_decoder", tokens}}.dump());
  };
  name(TinyVocabSize(), true);
  EngineOptions options;
  options.model_path = files_.dir();
  options.num_threads = 1;
  const auto loaded = Must(LoadModel(options));
  EXPECT_EQ(loaded->gist.rules.gist_ids, std::vector<TokenId>{TinyVocabSize()});
  EXPECT_TRUE(loaded->tokenizer->IsSpecial(TinyVocabSize()));
  for (const TokenSpan& token : loaded->tokenizer->Encode("a <gist9> b")) EXPECT_LT(token.id, TinyVocabSize());

  name(TinyVocabSize() + 7, true);
  ExpectRefused(StatusCode::kInvalidArgument, {"added_tokens_decoder", "'<gist9>' has id", "gives it"});
  name(TinyVocabSize(), false);
  ExpectRefused(StatusCode::kInvalidArgument, {"'gist_tokens'", "'<gist9>'", "no special token"});
  files_.Write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<gist9>"}}})");
  ExpectRefused(StatusCode::kInvalidArgument, {"tokenizer_config.json", "'added_tokens_decoder'", "'x'"});
  files_.Write("tokenizer_config.json", R"({"added_tokens_decoder")");
  ExpectRefused(StatusCode::kCorruption, {"tokenizer_config.json"});
}

TEST_F(LoadedModelTest, NoGistConfig) {
  files_.Remove("gist_config.json");
  ExpectRefused(StatusCode::kNotFound, {files_.dir(), "gist_config.json: no such file", "--chunk-size"});
  Must(Open(R"({"chunk_size": 4, "prompt": {"question": "{question}"}})"));
}

// Stored, routed, unfolded and answered with the biases of Qwen2 and the norms of Qwen3, alike on both backends.
class EveryFamily : public LoadedModelTest, public testing::WithParamInterface<const char*> {
 protected:
  EveryFamily() {
    const std::string family = GetParam();
    TinyWeights weights = MakeTinyWeights({});
    for (int layer = 0; layer < kTinyLayers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
      const auto add = [&](const std::string& name, int size) {
        TinyTensor& tensor = weights[prefix + name] = {{size}, {}};
        for (int i = 0; i < size; ++i) tensor.values.push_back(static_cast<float>(i * 37 % 29 - 10) / 16);
      };
      if (family == "qwen2") {
        add("q_proj.bias", kTinyHeads * kTinyHeadDim);
        add("k_proj.bias", kTinyKvHeads * kTinyHeadDim);
        add("v_proj.bias", kTinyKvHeads * kTinyHeadDim);
      } else if (family == "qwen3") {
        add("q_norm.weight", kTinyHeadDim);
        add("k_norm.weight", kTinyHeadDim);
      }
    }
    files_.Write("model.safetensors", SafeTensorsFile(weights, DType::kF32));
    files_.Patch("config.json", Json{{"model_type", family}, {"architectures", nullptr}}.dump());
  }
  Answer Ask(const std::string& backend) const {
    EngineOptions options;
    options.model_path = files_.dir();
    options.backend = backend;
    const auto engine = Must(Engine::Open(options));
    for (const char* name : {"a.txt", "b.txt"}) {
      DocumentInput document;
      document.name = name;
      document.text =
          "In the " + std::string(name) + " there was a thing that they were ringing, and the singer then went in.";
      Must(engine->AddDocument("c", document));
    }
    AskOptions ask;
    ask.ignore_end_token = true;
    ask.explain = true;
    return Must(engine->Ask("c", "what were they ringing", ask));
  }
};

TEST_P(EveryFamily, AnswersFromStoredDocuments) {
  const Answer answer = Ask("cpu"), reference = Ask("ref");
  EXPECT_EQ(answer.tokens.size(), 16U);
  EXPECT_EQ(answer.tokens, reference.tokens);
  EXPECT_EQ(answer.placed.size(), 2U);
  EXPECT_GT(answer.usage.context_chunks, 10U);
  EXPECT_GT(answer.unfolded_share, 0);
  EXPECT_LT(answer.unfolded_share, 1);
  ASSERT_EQ(answer.routed.size(), 2U);
  EXPECT_EQ(answer.routed[0].document, reference.routed[0].document);
}

INSTANTIATE_TEST_SUITE_P(Families, EveryFamily, testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(LoadedModelTest, TheFingerprintHoldsTheRotation) {
  const auto fingerprint = [&](const char* patch) {
    files_.Patch("config.json", patch);
    EngineOptions options;
    options.model_path = files_.dir();
    options.num_threads = 1;
    const auto loaded = Must(LoadModel(options));
    return MakeFingerprint(loaded->transformer->config(), loaded->gist, "w", loaded->tokenizer_hash, DType::kBF16,
                           DType::kF32);
  };
  const std::string plain = fingerprint("{}");
  const std::string linear = fingerprint(R"({"rope_scaling": {"type": "linear", "factor": 2}})");
  const std::string yarn = fingerprint(R"({"rope_scaling": {"type": "yarn", "factor": 2}})");
  const std::string louder = fingerprint(R"({"rope_scaling": {"type": "yarn", "factor": 2, "attention_factor": 2}})");
  EXPECT_EQ(plain.find("\"rope\""), std::string::npos) << "as stores have it that were written before";
  for (const auto& [a, b] : {std::pair(plain, linear), {linear, yarn}, {yarn, louder}}) {
    const Status status = CompareFingerprints(a, b, "kb");
    EXPECT_EQ(status.code(), StatusCode::kIncompatible);
    EXPECT_NE(status.message().find("rope (stored"), std::string::npos) << status.message();
  }
}

// The model has rows that tokenizer.json does not know; tokenizer_config.json names some of them.
class PaddedVocabulary : public LoadedModelTest {
 protected:
  static constexpr int kMoreRows = 5;
  PaddedVocabulary() {
    TinyWeights weights = MakeTinyWeights({});
    TinyTensor& table = weights["model.embed_tokens.weight"];
    table.shape[0] += kMoreRows;
    // Their embeddings are the largest there are: unless they are banned they win.
    table.values.resize(table.values.size() + kMoreRows * kTinyHidden, 40.0F);
    files_.Write("model.safetensors", SafeTensorsFile(weights, DType::kF32));
    files_.Patch("config.json", Json{{"vocab_size", TinyVocabSize() + kMoreRows}}.dump());
  }
  std::unique_ptr<LoadedModel> Load(const std::string& overrides = "") const {
    EngineOptions options;
    options.model_path = files_.dir();
    options.gist_overrides = overrides;
    options.num_threads = 1;
    return Must(LoadModel(options));
  }
};

TEST_F(PaddedVocabulary, SpecialTokensBesideTheTokenizerGetTheNextIds) {
  const std::string hash = Load()->tokenizer_hash;
  files_.Write("tokenizer_config.json", R"({"bos_token": "<|bos|>", "pad_token": {"content": "<pad>"},
      "additional_special_tokens": ["<gist2>", {"content": "<Gist2>", "special": true}, "<Gist>"]})");
  const auto loaded = Load(R"({"gist_tokens": ["<gist2>"]})");
  EXPECT_EQ(loaded->tokenizer->IdOf("<pad>"), TinyVocabSize());
  EXPECT_EQ(loaded->tokenizer->IdOf("<gist2>"), TinyVocabSize() + 1);
  EXPECT_EQ(loaded->tokenizer->IdOf("<Gist2>"), TinyVocabSize() + 2);
  EXPECT_EQ(loaded->tokenizer->IdOf("<Gist>"), kTinyMetaGist) << "known already";
  EXPECT_TRUE(loaded->tokenizer->IsSpecial(TinyVocabSize() + 1));
  EXPECT_EQ(loaded->gist.rules.gist_ids.front(), TinyVocabSize() + 1);
  EXPECT_NE(loaded->tokenizer_hash, hash);
  for (const TokenSpan& token : loaded->tokenizer->Encode("a <gist2> b")) EXPECT_LT(token.id, TinyVocabSize());

  // The same from the other file and by the newer name.
  files_.Write("tokenizer_config.json", R"({"extra_special_tokens": {"image_token": "<i>"}})");
  files_.Write("special_tokens_map.json", R"({"additional_special_tokens": ["<gist2>"]})");
  EXPECT_EQ(Load()->tokenizer->IdOf("<gist2>"), TinyVocabSize());
  files_.Write("tokenizer_config.json", R"({"extra_special_tokens": ["<x>", "<gist2>"]})");
  EXPECT_EQ(Load()->tokenizer->IdOf("<gist2>"), TinyVocabSize() + 1);
}

TEST_F(PaddedVocabulary, TokensWithoutARowAreNotTaken) {
  Json tokens = Json::array();
  for (int i = 0; i < kMoreRows + 3; ++i) tokens.push_back("<more" + std::to_string(i) + ">");
  files_.Write("tokenizer_config.json", Json{{"additional_special_tokens", tokens}}.dump());
  const auto loaded = Load();
  EXPECT_EQ(loaded->tokenizer->vocab_size(), TinyVocabSize() + kMoreRows);
  EXPECT_EQ(loaded->tokenizer->IdOf("<more5>"), -1);
}

TEST_F(PaddedVocabulary, PaddingIsNeverGenerated) {
  EngineOptions options;
  options.model_path = files_.dir();
  const auto engine = Must(Engine::Open(options));
  AskOptions ask;
  ask.mode = AnswerMode::kClosed;
  ask.ignore_end_token = true;
  const Answer answer = Must(engine->Ask("c", "what is it", ask));
  ASSERT_EQ(answer.tokens.size(), 16U);
  for (const TokenId token : answer.tokens) EXPECT_LT(token, TinyVocabSize());
}

TEST_F(PaddedVocabulary, AsFarAsItIsPadding) {
  files_.Patch("config.json", Json{{"vocab_size", TinyVocabSize() + 1025}}.dump());
  ExpectRefused(StatusCode::kInvalidArgument, {"model.embed_tokens.weight"});
}

TEST_F(LoadedModelTest, NanWeights) {
  TinyWeights weights = MakeTinyWeights({});
  std::string bytes = SafeTensorsFile(weights, DType::kF32);
  bytes.replace(bytes.size() - 4, 4, std::string("\x00\x00\xC0\x7F", 4));  // the last value of the last tensor by name
  files_.Write("model.safetensors", bytes);
  ExpectRefused(StatusCode::kInvalidArgument, {"'model.norm.weight'", "NaN"});
}

TEST_F(LoadedModelTest, OverridesReachTheConfig) {
  EXPECT_EQ(Open(R"({"chunk_size": "x"})").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Open(R"({"section_size": 4})").code(), StatusCode::kInvalidArgument);
  Must(Open(R"({"chunk_size": 8})"));
}

TEST_F(LoadedModelTest, UnknownBackend) {
  EngineOptions options;
  options.model_path = files_.dir();
  options.backend = "tpu";
  const Status status = Engine::Open(options).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("tpu"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace unfold
