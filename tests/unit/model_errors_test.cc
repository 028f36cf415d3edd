// SPDX-License-Identifier: Apache-2.0
// Bad config.json, generation_config.json and gist_config.json: each is refused with a message that names the thing.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/gist_config.h"
#include "tiny_model.h"

namespace unfold {
namespace {

// One change to a sound file, the code it must give, and what the message must hold.
struct Case {
  const char* name;
  const char* patch;
  StatusCode code;
  std::vector<const char*> says;
};
std::string CaseName(const testing::TestParamInfo<Case>& info) { return info.param.name; }
constexpr auto kInvalid = StatusCode::kInvalidArgument;

void ExpectRefused(const Status& status, StatusCode code, const std::vector<const char*>& says) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  for (const char* text : says) {
    EXPECT_NE(status.message().find(text), std::string::npos) << "'" << text << "' is not in: " << status.message();
  }
}

TEST(ModelConfig, ReadsTheTinyModel) {
  const TinyModel model;
  const ModelConfig config = Must(LoadModelConfig(model.dir()));
  EXPECT_EQ(config.num_layers, kTinyLayers);
  EXPECT_EQ(config.model_dim, kTinyHidden);
  EXPECT_EQ(config.ffn_dim, kTinyFfn);
  EXPECT_EQ(config.heads, kTinyHeads);
  EXPECT_EQ(config.kv_heads, kTinyKvHeads);
  EXPECT_EQ(config.head_dim, kTinyHeadDim);
  EXPECT_EQ(config.vocab_size, TinyVocabSize());
  EXPECT_EQ(config.max_positions, kTinyPositions);
  EXPECT_EQ(config.norm_epsilon, 1e-5F);
  EXPECT_EQ(config.family, ModelFamily::kLlama);
  EXPECT_EQ(config.rope, RopeConfig());
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.end_tokens, std::vector<TokenId>{kTinyEnd});
}

TEST(ModelConfig, DefaultsAndOtherForms) {
  const TinyModel model;
  model.Patch("config.json", R"({"head_dim": null, "num_key_value_heads": null, "tie_word_embeddings": null,
                                 "rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
                                 "rope_scaling": {"rope_type": "default"}, "sliding_window": null})");
  model.Write("generation_config.json", R"({"eos_token_id": [7, 9]})");
  const ModelConfig config = Must(LoadModelConfig(model.dir()));
  EXPECT_EQ(config.head_dim, kTinyHidden / kTinyHeads);
  EXPECT_EQ(config.kv_heads, kTinyHeads);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.end_tokens, (std::vector<TokenId>{7, 9})) << "generation_config.json wins";
  model.Remove("generation_config.json");
  EXPECT_EQ(Must(LoadModelConfig(model.dir())).end_tokens, std::vector<TokenId>{kTinyEnd}) << "it may be missing";
}

TEST(ModelConfig, MissingOrBroken) {
  const TinyModel model;
  ExpectRefused(LoadModelConfig(model.dir() + "/nowhere").status(), StatusCode::kNotFound, {"nowhere/config.json"});
  const std::string whole = model.Read("config.json");
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, whole.size() / 2, whole.size() - 2}) {
    model.Write("config.json", whole.substr(0, bytes));
    ExpectRefused(LoadModelConfig(model.dir()).status(), StatusCode::kCorruption, {"config.json", "not valid JSON"});
  }
  model.Write("config.json", "[1]");
  ExpectRefused(LoadModelConfig(model.dir()).status(), kInvalid, {"config.json", "expected an object"});
  model.Write("config.json", std::string(100000, '['));
  ExpectRefused(LoadModelConfig(model.dir()).status(), StatusCode::kCorruption, {"config.json", "nested deeper"});
  model.Remove("config.json");
  ExpectRefused(LoadModelConfig(model.dir()).status(), StatusCode::kNotFound, {"config.json", "No such file"});
  std::filesystem::create_directory(model.Path("config.json"));
  ExpectRefused(LoadModelConfig(model.dir()).status(), kInvalid, {"config.json", "not a regular file"});
}

TEST(ModelConfig, BrokenGenerationConfig) {
  const TinyModel model;
  model.Write("generation_config.json", R"({"eos_token_id": )");
  ExpectRefused(LoadModelConfig(model.dir()).status(), StatusCode::kCorruption, {"generation_config.json"});
  model.Write("generation_config.json", R"({"eos_token_id": 100000})");
  ExpectRefused(LoadModelConfig(model.dir()).status(), kInvalid, {"generation_config.json", "eos_token_id", "100000"});
}

// The tiny model's config with a change.
ModelConfig ConfigWith(const char* patch) {
  const TinyModel model;
  model.Patch("config.json", patch);
  return Must(LoadModelConfig(model.dir()));
}

TEST(ModelConfig, RopeThetaStandsInEitherPlace) {
  const auto theta = [](const char* patch) { return ConfigWith(patch).rope.theta; };
  EXPECT_EQ(theta(R"({"rope_theta": null})"), 10000.0);
  EXPECT_EQ(theta(R"({"rope_theta": 250000.0})"), 250000.0);
  EXPECT_EQ(theta(R"({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 250000.0}})"), 250000.0);
  EXPECT_EQ(theta(R"({"rope_theta": 250000.0, "rope_parameters": {"rope_type": "default"}})"), 250000.0);
}

TEST(ModelConfig, RopeScalingByOldAndNewNames) {
  const RopeConfig linear = ConfigWith(R"({"rope_scaling": {"type": "linear", "factor": 2.5}})").rope;
  EXPECT_EQ(linear.type, RopeType::kLinear);
  EXPECT_EQ(linear.factor, 2.5);
  EXPECT_EQ(ConfigWith(R"({"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000}})").rope,
            linear);

  const RopeConfig llama3 = ConfigWith(R"({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8,
      "low_freq_factor": 1.5, "high_freq_factor": 4, "original_max_position_embeddings": 64}})")
                                .rope;
  EXPECT_EQ(llama3.type, RopeType::kLlama3);
  EXPECT_EQ(llama3.theta, 500000.0);
  EXPECT_EQ(llama3.low_freq_factor, 1.5);
  EXPECT_EQ(llama3.original_positions, 64);
  EXPECT_EQ(llama3.attention_factor, 1);
}

TEST(ModelConfig, YarnStretchesTheWindow) {
  // Qwen's way: the file keeps the old window. Others state the new one.
  const ModelConfig old = ConfigWith(R"({"rope_scaling": {"type": "yarn", "factor": 4.0}})");
  EXPECT_EQ(old.max_positions, 4 * kTinyPositions);
  EXPECT_EQ(old.rope.original_positions, kTinyPositions);
  EXPECT_DOUBLE_EQ(old.rope.attention_factor, 0.1 * std::log(4) + 1);
  const ModelConfig stated = ConfigWith(
      R"({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64, "attention_factor": 0.75}})");
  EXPECT_EQ(stated.max_positions, kTinyPositions);
  EXPECT_EQ(stated.rope.factor, 4) << "the new window over the old";
  EXPECT_EQ(stated.rope.attention_factor, 0.75);
  const RopeConfig scaled =
      ConfigWith(R"({"rope_scaling": {"type": "yarn", "factor": 4, "mscale": 2, "mscale_all_dim": 0.5}})").rope;
  EXPECT_DOUBLE_EQ(scaled.attention_factor, (0.2 * std::log(4) + 1) / (0.05 * std::log(4) + 1));
}

TEST(ModelConfig, QwenWritesASlidingWindowThatItDoesNotUse) {
  const ModelConfig qwen2 =
      ConfigWith(R"({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "head_dim": null,
      "use_sliding_window": false, "sliding_window": 131072, "max_window_layers": 28, "torch_dtype": "bfloat16"})");
  EXPECT_EQ(qwen2.family, ModelFamily::kQwen2);
  EXPECT_EQ(qwen2.head_dim, kTinyHidden / kTinyHeads);
  EXPECT_TRUE(qwen2.has_qkv_bias());
  EXPECT_FALSE(qwen2.has_qk_norm());
  const ModelConfig qwen3 = ConfigWith(R"({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"],
      "head_dim": null, "layer_types": ["full_attention", "full_attention"], "dtype": "float32"})");
  EXPECT_EQ(qwen3.family, ModelFamily::kQwen3);
  EXPECT_EQ(qwen3.head_dim, 128) << "what Qwen3 means by silence";
  EXPECT_FALSE(qwen3.has_qkv_bias());
  EXPECT_TRUE(qwen3.has_qk_norm());
}

// Flips bits of a sound file at random: `load` must give a Status or a value, never crash.
template <typename Load>
void MutateFile(const TinyModel& model, const char* file, const Load& load) {
  const std::string sound = model.Read(file);
  std::mt19937 random(23);
  int refused = 0, accepted = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = sound;
    for (int flips = 1 + static_cast<int>(random() % 2); flips > 0; --flips) {
      bytes[random() % bytes.size()] ^= static_cast<char>(1U << random() % 8);
    }
    model.Write(file, bytes);
    const Status status = load();
    EXPECT_EQ(status.ok(), status.message().empty());
    ++(status.ok() ? accepted : refused);
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(accepted, 10) << "a changed digit, or a white space";
}

TEST(ModelConfig, AThousandMutations) {
  const TinyModel model;
  MutateFile(model, "config.json", [&] { return LoadModelConfig(model.dir()).status(); });
}

class BadModelConfig : public testing::TestWithParam<Case> {};

TEST_P(BadModelConfig, IsRefusedByName) {
  const TinyModel model;
  model.Remove("generation_config.json");
  model.Patch("config.json", GetParam().patch);
  const Status status = LoadModelConfig(model.dir()).status();
  ExpectRefused(status, GetParam().code, GetParam().says);
  ExpectRefused(status, GetParam().code, {"config.json"});
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadModelConfig,
    testing::Values(
        Case{"UnknownModelType", R"({"model_type": "mamba"})", kInvalid, {"'model_type'", "'mamba'", "llama"}},
        Case{"NoModelType", R"({"model_type": null})", kInvalid, {"'model_type'", "missing"}},
        Case{"ModelTypeNumber", R"({"model_type": 3})", kInvalid, {"'model_type'", "string", "number"}},
        Case{"UnknownArchitecture",
             R"({"architectures": ["LlamaForSequenceClassification"]})",
             kInvalid,
             {"'architectures'", "'LlamaForSequenceClassification'"}},
        Case{"Dynamic",
             R"({"rope_scaling": {"rope_type": "dynamic", "factor": 4}})",
             kInvalid,
             {"rope_scaling", "'rope_type'", "'dynamic'", "default, linear, llama3 and yarn"}},
        Case{"LongRope",
             R"({"rope_parameters": {"type": "longrope", "factor": 2}})",
             kInvalid,
             {"rope_parameters", "'longrope'"}},
        Case{"LinearNoFactor", R"({"rope_scaling": {"type": "linear"}})", kInvalid, {"rope_scaling", "'factor'"}},
        Case{"YarnShrinks",
             R"({"rope_scaling": {"rope_type": "yarn", "factor": 0.5}})",
             kInvalid,
             {"'factor'", "at least 1"}},
        Case{"YarnBetaZero",
             R"({"rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_slow": 0}})",
             kInvalid,
             {"'beta_slow'", "larger than 0"}},
        Case{"YarnBeyond",
             R"({"rope_scaling": {"rope_type": "yarn", "factor": 999999}})",
             kInvalid,
             {"rope_scaling", "window"}},
        Case{"Llama3NoBand",
             R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}})",
             kInvalid,
             {"rope_scaling", "'high_freq_factor'", "missing"}},
        Case{"Llama3BandReversed",
             R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}})",
             kInvalid,
             {"'high_freq_factor'", "larger than low_freq_factor"}},
        Case{"RopeTypesDiffer",
             R"({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2}})",
             kInvalid,
             {"'linear'", "'yarn'"}},
        Case{"RopeSaidTwice",
             R"({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2}})",
             kInvalid,
             {"'rope_scaling'", "contradicts rope_parameters"}},
        Case{"RopeScalingNoType", R"({"rope_scaling": {"factor": 8}})", kInvalid, {"rope_scaling", "'rope_type'"}},
        Case{"RopeScalingText", R"({"rope_scaling": "yarn"})", kInvalid, {"rope_scaling", "object"}},
        Case{"RopeScalingUnknown",
             R"({"rope_scaling": {"type": "yarn", "factor": 2, "mrope_section": [1]}})",
             kInvalid,
             {"rope_scaling", "'mrope_section'"}},
        Case{"RopeParametersPartial",
             R"({"rope_parameters": {"partial_rotary_factor": 0.5}})",
             kInvalid,
             {"rope_parameters", "'partial_rotary_factor'"}},
        Case{"Gelu", R"({"hidden_act": "gelu"})", kInvalid, {"'hidden_act'", "'gelu'", "silu"}},
        Case{"AttentionBias", R"({"attention_bias": true})", kInvalid, {"'attention_bias'"}},
        Case{"MlpBias", R"({"mlp_bias": true})", kInvalid, {"'mlp_bias'"}},
        Case{"BiasOfWrongType", R"({"attention_bias": "no"})", kInvalid, {"'attention_bias'", "true or false"}},
        Case{"SlidingWindow", R"({"sliding_window": 4096})", kInvalid, {"'sliding_window'", "4096"}},
        Case{"SlidingQwen2",
             R"({"model_type": "qwen2", "architectures": null, "use_sliding_window": true, "sliding_window": 4096})",
             kInvalid,
             {"'use_sliding_window'", "not supported"}},
        Case{
            "SlidingLayer",
            R"({"model_type": "qwen3", "architectures": null, "layer_types": ["full_attention", "sliding_attention"]})",
            kInvalid,
            {"'layer_types'", "'sliding_attention'"}},
        Case{"OtherArchitecture",
             R"({"model_type": "qwen2"})",
             kInvalid,
             {"'architectures'", "'LlamaForCausalLM'", "only 'Qwen2ForCausalLM'"}},
        Case{"Qwen3Bias",
             R"({"model_type": "qwen3", "architectures": null, "attention_bias": true})",
             kInvalid,
             {"'attention_bias'"}},
        Case{"Quantised", R"({"quantization_config": {"bits": 4}})", kInvalid, {"'quantization_config'"}},
        Case{"PartialRotary", R"({"partial_rotary_factor": 0.5})", kInvalid, {"'partial_rotary_factor'"}},
        Case{"HeadsNotMultiple",
             R"({"num_attention_heads": 4, "num_key_value_heads": 3})",
             kInvalid,
             {"'num_attention_heads'", "multiple of num_key_value_heads"}},
        Case{"MoreKvHeadsThanHeads", R"({"num_key_value_heads": 8})", kInvalid, {"'num_key_value_heads'", "8"}},
        Case{"OddHeadDim", R"({"head_dim": 15})", kInvalid, {"'head_dim'", "even"}},
        Case{"HiddenNotMultiple", R"({"head_dim": null, "hidden_size": 33})", kInvalid, {"'hidden_size'", "multiple"}},
        Case{"NoHiddenSize", R"({"hidden_size": null})", kInvalid, {"'hidden_size'", "missing"}},
        Case{"ZeroLayers", R"({"num_hidden_layers": 0})", kInvalid, {"'num_hidden_layers'", "found 0"}},
        Case{"NegativeVocab", R"({"vocab_size": -5})", kInvalid, {"'vocab_size'", "found -5"}},
        Case{"HugeHidden", R"({"hidden_size": 9223372036854775807})", kInvalid, {"'hidden_size'"}},
        Case{"BeyondInt64", R"({"hidden_size": 18446744073709551615})", kInvalid, {"'hidden_size'"}},
        Case{"TextHidden", R"({"hidden_size": "32"})", kInvalid, {"'hidden_size'", "string"}},
        Case{"FractionHidden", R"({"hidden_size": 32.5})", kInvalid, {"'hidden_size'", "integer"}},
        Case{"TooManyLayers", R"({"num_hidden_layers": 5000})", kInvalid, {"'num_hidden_layers'", "1024"}},
        Case{"ZeroEpsilon", R"({"rms_norm_eps": 0})", kInvalid, {"'rms_norm_eps'"}},
        Case{"RopeThetaOne", R"({"rope_theta": 1})", kInvalid, {"'rope_theta'"}},
        Case{"TiedNumber", R"({"tie_word_embeddings": 1})", kInvalid, {"'tie_word_embeddings'", "number"}},
        Case{"NoEnd", R"({"eos_token_id": null})", kInvalid, {"'eos_token_id'", "missing", "never end"}},
        Case{"EndOutside", R"({"eos_token_id": 99999})", kInvalid, {"'eos_token_id'", "99999"}},
        Case{"EndInList", R"({"eos_token_id": [0, -1]})", kInvalid, {"'eos_token_id'", "-1"}},
        Case{"EndText", R"({"eos_token_id": "<|end|>"})", kInvalid, {"'eos_token_id'", "<|end|>"}}),
    CaseName);

class GistConfigTest : public testing::Test {
 protected:
  Result<GistConfig> Load(std::string_view overrides = "") const {
    return LoadGistConfig(model_.dir(), overrides, config_, *tokenizer_);
  }
  TinyModel model_;
  ModelConfig config_ = Must(LoadModelConfig(model_.dir()));
  std::unique_ptr<Tokenizer> tokenizer_ = Must(Tokenizer::Load(model_.Path("tokenizer.json")));
};

TEST_F(GistConfigTest, EveryFieldIsRead) {
  const GistConfig gist = Must(Load());
  EXPECT_EQ(gist.rules.chunk_size, 4);
  EXPECT_EQ(gist.rules.sink_size, 2);
  EXPECT_EQ(gist.rules.previous_chunks, 1);
  EXPECT_TRUE(gist.rules.word_aware);
  EXPECT_EQ(gist.rules.gist_ids, std::vector<TokenId>{kTinyGist});
  EXPECT_EQ(gist.compression, 4);
  EXPECT_EQ(gist.part_tokens, 64);
  EXPECT_EQ(gist.max_question_tokens, 32);
  EXPECT_EQ(gist.max_answer_tokens, 16);
  EXPECT_EQ(gist.max_documents, 3);
  EXPECT_EQ(gist.suppressed_tokens, (std::vector<TokenId>{kTinyBos, kTinyGist, kTinyMetaGist}));
  EXPECT_EQ(gist.document_template, "{title}\n{text}");
  EXPECT_EQ(gist.scoring, RouteScoring::kMaxSim);
  ASSERT_EQ(gist.routing_heads.size(), 2U);
  EXPECT_EQ(gist.routing_heads[1].layer, 1);
  EXPECT_EQ(gist.routing_heads[1].head, 3);
  EXPECT_EQ(gist.routing_heads[1].weight, 0.5F);
  EXPECT_EQ(gist.prefix.Fill("", 0, *tokenizer_).ids, std::vector<TokenId>{kTinyBos});
}

TEST_F(GistConfigTest, EveryFieldCanBeOverridden) {
  const GistConfig gist =
      Must(Load(R"({"gist_tokens": ["<Gist>"], "chunk_size": 8, "sink_size": 0, "previous_chunks": 2,
      "word_aware": false, "compression": 2.5, "part_tokens": 32, "max_question_tokens": 5, "max_answer_tokens": 6,
      "suppressed_tokens": [5], "working_set": {"max_documents": 9}, "prompt": {"prefix": "", "document": "{title}: {text}",
      "question": "{question}?"}, "routing": {"score": "standardised", "heads": [[0, 2, 2]]}})"));
  EXPECT_EQ(gist.rules.gist_ids, std::vector<TokenId>{kTinyMetaGist});
  EXPECT_EQ(gist.rules.chunk_size, 8);
  EXPECT_EQ(gist.rules.sink_size, 0);
  EXPECT_EQ(gist.rules.previous_chunks, 2);
  EXPECT_FALSE(gist.rules.word_aware);
  EXPECT_EQ(gist.compression, 2.5);
  EXPECT_EQ(gist.part_tokens, 32);
  EXPECT_EQ(gist.max_question_tokens, 5);
  EXPECT_EQ(gist.max_answer_tokens, 6);
  EXPECT_EQ(gist.max_documents, 9);
  EXPECT_EQ(gist.suppressed_tokens, std::vector<TokenId>{5});
  EXPECT_EQ(gist.document_template, "{title}: {text}");
  EXPECT_EQ(gist.scoring, RouteScoring::kStandardised);
  ASSERT_EQ(gist.routing_heads.size(), 1U);
  EXPECT_EQ(gist.routing_heads[0].head, 2);
  EXPECT_TRUE(gist.prefix.Fill("", 0, *tokenizer_).ids.empty());
}

TEST_F(GistConfigTest, WithoutRoutingAllHeadsFromLayerOneOn) {
  const GistConfig gist = Must(Load(R"({"routing": null})"));
  ASSERT_EQ(gist.routing_heads.size(), static_cast<std::size_t>((kTinyLayers - 1) * kTinyHeads));
  for (const RoutingHead& head : gist.routing_heads) {
    EXPECT_GE(head.layer, 1);
    EXPECT_EQ(head.weight, 1);
  }
}

// A checkpoint named like the authors' holds the gist tokens and nothing that says how they were trained.
TEST_F(GistConfigTest, MissingFileIsMadeUpForByFlags) {
  model_.Remove("gist_config.json");
  ExpectRefused(Load().status(), StatusCode::kNotFound,
                {"gist_config.json: no such file", "has gist tokens", "--chunk-size", "--section-size",
                 "--chat-template chatml or llama3", "--prompt-question"});
  ExpectRefused(Load(R"({"chunk_size": 16})").status(), kInvalid,
                {"'prompt'", "missing", "--prompt-question", "--chat-template chatml or llama3"});
  const GistConfig gist = Must(Load(R"({"chunk_size": 16, "prompt": {"question": "{question}"}})"));
  EXPECT_EQ(gist.rules.gist_ids.front(), kTinyGist) << "by its usual name";
  EXPECT_EQ(gist.rules.chunk_size, 16);
  EXPECT_EQ(gist.compression, 16) << "r defaults to L";
  EXPECT_EQ(gist.max_answer_tokens, 256);
  ExpectRefused(Load(R"({"gist_tokens": ["<Gist>"]})").status(), StatusCode::kNotFound, {"--chunk-size"});
}

TEST_F(GistConfigTest, WithoutGistTokensNothingCanBeStored) {
  model_.Remove("gist_config.json");
  Json json = TinyTokenizerJson();
  for (Json& token : json["added_tokens"]) {
    if (token["content"] == "<gist>") token["content"] = "<other>";
  }
  json["model"]["vocab"].erase("<gist>");
  json["model"]["vocab"]["<other>"] = kTinyGist;
  tokenizer_ = Must(Tokenizer::Parse(json.dump(), "tiny"));
  for (const char* flags : {"", R"({"chunk_size": 8})"}) {
    ExpectRefused(Load(flags).status(), StatusCode::kNotFound,
                  {"no gist tokens", "trained with gist tokens", "gist_config.json", "gist_tokens and chunk_size"});
  }
  EXPECT_EQ(Must(Load(R"({"gist_tokens": ["<other>"], "chunk_size": 8, "prompt": {"question": "{question}"}})"))
                .rules.gist_ids.front(),
            kTinyGist);
}

TEST_F(GistConfigTest, AChatTemplateOfTheCheckpointIsNotRun) {
  model_.Write("tokenizer_config.json", R"({"chat_template": "{{ messages }}"})");
  Must(Load());  // the prompt of gist_config.json wins
  for (const char* flags : {R"({"prompt": null})", R"({"prompt": {"question": null, "prefix": null}})"}) {
    ExpectRefused(Load(flags).status(), kInvalid,
                  {"'prompt'", "Jinja", "does not run", "--chat-template chatml or llama3", "--prompt-question"});
  }
  model_.Remove("tokenizer_config.json");
  model_.Write("chat_template.jinja", "{{ messages }}");
  ExpectRefused(Load(R"({"prompt": null})").status(), kInvalid, {"Jinja"});
  model_.Write("tokenizer_config.json", R"({"additional_special_tokens": 3})");
  ExpectRefused(Load().status(), kInvalid, {"tokenizer_config.json", "'additional_special_tokens'"});
}

TEST_F(GistConfigTest, BrokenFileAndOverrides) {
  const std::string whole = model_.Read("gist_config.json");
  model_.Write("gist_config.json", whole.substr(0, whole.size() / 2));
  ExpectRefused(Load().status(), StatusCode::kCorruption, {"gist_config.json", "not valid JSON"});
  model_.Write("gist_config.json", "3");
  ExpectRefused(Load().status(), kInvalid, {"gist_config.json", "expected an object"});
  model_.Write("gist_config.json", whole);
  ExpectRefused(Load("{\"chunk_size\": ").status(), StatusCode::kCorruption, {"gist config override"});
  ExpectRefused(Load("[8]").status(), kInvalid, {"gist config override", "object"});
}

TEST_F(GistConfigTest, AThousandMutations) {
  MutateFile(model_, "gist_config.json", [&] { return Load().status(); });
}

class BadGistConfig : public GistConfigTest, public testing::WithParamInterface<Case> {};

TEST_P(BadGistConfig, IsRefusedByName) {
  // The same by file and by flag.
  ExpectRefused(Load(GetParam().patch).status(), GetParam().code, GetParam().says);
  model_.Patch("gist_config.json", GetParam().patch);
  ExpectRefused(Load().status(), GetParam().code, GetParam().says);
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadGistConfig,
    testing::Values(
        Case{"UnknownField", R"({"chunk_sizes": 8})", kInvalid, {"unknown field 'chunk_sizes'", "chunk_size"}},
        Case{"UnknownPromptField", R"({"prompt": {"user": "x"}})", kInvalid, {"prompt", "unknown field 'user'"}},
        Case{"SystemWithoutChat", R"({"prompt": {"system": "x"}})", kInvalid, {"'system'", "chat_template"}},
        Case{"UnknownChat",
             R"({"prompt": {"chat_template": "alpaca", "question": null, "prefix": null}})",
             kInvalid,
             {"'chat_template'", "'alpaca'", "chatml or llama3"}},
        Case{"ChatBesideQuestion",
             R"({"prompt": {"chat_template": "chatml", "prefix": "", "question": "{question}"}})",
             kInvalid,
             {"'prefix'", "exclude each other"}},
        Case{"ChatTokensMissing",
             R"({"prompt": {"chat_template": "llama3", "question": null, "prefix": null}})",
             kInvalid,
             {"'llama3'", "'<|begin_of_text|>'", "does not have"}},
        Case{"UnknownRoutingField", R"({"routing": {"topk": 3}})", kInvalid, {"routing", "unknown field 'topk'"}},
        Case{"UnknownSetField", R"({"working_set": {"max": 3}})", kInvalid, {"working_set", "unknown field 'max'"}},
        Case{"FormatVersion2", R"({"format_version": 2})", StatusCode::kIncompatible, {"format_version 2", "reads 1"}},
        Case{"NoGistTokens", R"({"gist_tokens": []})", StatusCode::kNotFound, {"no gist tokens"}},
        Case{
            "GistNotInTokenizer", R"({"gist_tokens": ["<zip>"]})", kInvalid, {"'gist_tokens'", "'<zip>'", "tokenizer"}},
        Case{"GistIsPlainText", R"({"gist_tokens": ["a"]})", kInvalid, {"'gist_tokens'", "'a'", "no special token"}},
        Case{"GistTwice", R"({"gist_tokens": ["<gist>", "<gist>"]})", kInvalid, {"'gist_tokens'", "twice"}},
        Case{"GistText", R"({"gist_tokens": "<gist>"})", kInvalid, {"'gist_tokens'", "array of strings"}},
        Case{"SectionsOfOne",
             R"({"gist_tokens": ["<gist>", "<Gist>"], "section_size": 1})",
             kInvalid,
             {"'section_size'", "at least 2"}},
        Case{"SectionsWithoutTheirToken", R"({"section_size": 4})", kInvalid, {"'gist_tokens'", "<Gist>"}},
        Case{"LinkUnknown", R"({"link_tokens": ["<link0>"]})", kInvalid, {"'link_tokens'", "'<link0>'"}},
        Case{"NoChunkSize", R"({"chunk_size": null})", kInvalid, {"'chunk_size'", "missing"}},
        Case{"ZeroChunkSize", R"({"chunk_size": 0})", kInvalid, {"'chunk_size'", "found 0"}},
        Case{"TextChunkSize", R"({"chunk_size": "8"})", kInvalid, {"'chunk_size'", "string"}},
        Case{"NegativeSink", R"({"sink_size": -1})", kInvalid, {"'sink_size'", "-1"}},
        Case{"WordAwareNumber", R"({"word_aware": 1})", kInvalid, {"'word_aware'", "true or false"}},
        Case{"CompressionBelowOne", R"({"compression": 0.5})", kInvalid, {"'compression'", "at least 1"}},
        Case{"CompressionText", R"({"compression": "8x"})", kInvalid, {"'compression'", "number"}},
        Case{"PartBeyondWindow", R"({"part_tokens": 100000})", kInvalid, {"'part_tokens'", "100000"}},
        Case{"SuppressedOutside", R"({"suppressed_tokens": [5, 100000]})", kInvalid, {"'suppressed_tokens'", "100000"}},
        Case{"SuppressedText", R"({"suppressed_tokens": ["<gist>"]})", kInvalid, {"'suppressed_tokens'", "integers"}},
        Case{"SetNotObject", R"({"working_set": 3})", kInvalid, {"working_set", "object"}},
        Case{"NoPrompt", R"({"prompt": null})", kInvalid, {"'prompt'", "missing"}},
        Case{"NoQuestion", R"({"prompt": {"question": null}})", kInvalid, {"prompt", "'question'", "missing"}},
        Case{"QuestionWithoutPlace",
             R"({"prompt": {"question": "Q:"}})",
             kInvalid,
             {"prompt.question", "{question} exactly once", "found 0"}},
        Case{"QuestionTwice",
             R"({"prompt": {"question": "{question}{question}"}})",
             kInvalid,
             {"prompt.question", "exactly once", "found 2"}},
        Case{"DocumentWithoutText",
             R"({"prompt": {"document": "{title}"}})",
             kInvalid,
             {"prompt.document", "{text} exactly once"}},
        Case{"DocumentWithoutTitle",
             R"({"prompt": {"document": "{text}"}})",
             kInvalid,
             {"prompt.document", "{title} exactly once"}},
        Case{"DocumentTextTwice",
             R"({"prompt": {"document": "{title}{text}{text}"}})",
             kInvalid,
             {"prompt.document", "{text}"}},
        Case{"DocumentReversed",
             R"({"prompt": {"document": "{text}{title}"}})",
             kInvalid,
             {"prompt.document", "before"}},
        Case{"DocumentSpecial",
             R"({"prompt": {"document": "<|bos|>{title}{text}"}})",
             kInvalid,
             {"prompt.document", "'<|bos|>'"}},
        Case{"Score", R"({"routing": {"score": "cosine"}})", kInvalid, {"routing", "'score'", "'cosine'"}},
        Case{"QueryTokens", R"({"routing": {"query_tokens": "all"}})", kInvalid, {"'query_tokens'", "'all'"}},
        Case{"RoutingPrompt", R"({"routing": {"prompt": "q"}})", kInvalid, {"routing.prompt", "{question}"}},
        Case{"HeadLayer", R"({"routing": {"heads": [[2, 0, 1.0]]}})", kInvalid, {"'heads'", "[2,0,1.0]", "outside"}},
        Case{"HeadNumber", R"({"routing": {"heads": [[1, 4, 1.0]]}})", kInvalid, {"'heads'", "[1,4,1.0]", "outside"}},
        Case{"HeadNegative", R"({"routing": {"heads": [[-1, 0, 1.0]]}})", kInvalid, {"'heads'", "outside"}},
        Case{"HeadShape", R"({"routing": {"heads": [[1, 0]]}})", kInvalid, {"'heads'", "[layer, head, weight]"}},
        Case{"NoHeads", R"({"routing": {"heads": []}})", kInvalid, {"'heads'", "[layer, head, weight]"}},
        Case{"HeadWeights", R"({"routing": {"heads": [[1, 0, -1.0]]}})", kInvalid, {"'heads'", "more than 0"}}),
    CaseName);

}  // namespace
}  // namespace unfold
