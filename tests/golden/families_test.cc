// SPDX-License-Identifier: Apache-2.0
// Small seeded models of each family against Hugging Face transformers: the logits after a prompt and up to 64 greedy
// tokens, token by token as an answer is decoded, on every backend. See export_families_models.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/transformer.h"
#include "rag/causal_kv.h"
#include "tiny_model.h"

namespace unfold {
namespace {

constexpr double kTolerance = 2e-4;  // what the project promises, in float32
constexpr std::size_t kSnapshotTokens = 16;

// Element i of the tensor `name`, as the exporter has it.
float Weight(const std::string& name, std::uint64_t i) {
  std::uint64_t x = 0xCBF29CE484222325U;
  for (const char byte : name) x = (x ^ static_cast<std::uint8_t>(byte)) * 0x100000001B3U;
  x += i + 0x9E3779B97F4A7C15U;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9U;
  x = (x ^ x >> 27) * 0x94D049BB133111EBU;
  x ^= x >> 31;
  const float u = static_cast<float>(x >> 40) * 0x1p-23F - 1;
  if (name.find("norm") != std::string::npos) return 1 + u * 0.5F;
  return name.ends_with(".bias") || name == "lm_head.weight" ? u * 0.5F : u * 0.25F;
}

TinyWeights MakeWeights(const Json& shapes) {
  TinyWeights weights;
  for (const auto& [name, shape] : shapes.items()) {
    TinyTensor& tensor = weights[name];
    tensor.shape = shape.get<std::vector<std::int64_t>>();
    std::uint64_t size = 1;
    for (const std::int64_t extent : tensor.shape) size *= static_cast<std::uint64_t>(extent);
    for (std::uint64_t i = 0; i < size; ++i) tensor.values.push_back(Weight(name, i));
  }
  return weights;
}

std::vector<Json> GoldenModels() {
  std::ifstream in(std::string(UNFOLD_SOURCE_DIR) + "/tests/golden/families_models.jsonl");
  std::vector<Json> models;
  for (std::string line; std::getline(in, line);) models.push_back(Json::parse(line));
  return models;
}

// A model and its cache, run a pass at a time.
class Decoder {
 public:
  Decoder(const TinyModel& files, Backend& backend)
      : model_(Must(Transformer::Load(files.dir(), backend))),
        kv_(Must(CausalKv::Make(*model_, model_->config().num_layers, model_->config().max_positions))),
        attention_(*model_, kv_) {}

  std::vector<float> Logits(std::span<const TokenId> ids) {
    const auto count = static_cast<std::int64_t>(ids.size());
    Must(attention_.Prepare(count, first_));
    Must(model_->Run(ids, attention_));
    first_ += count;
    std::vector<float> logits;
    Must(model_->Logits(count - 1, logits));
    return logits;
  }
  const ModelConfig& config() const { return model_->config(); }

 private:
  std::unique_ptr<Transformer> model_;
  CausalKv kv_;
  CausalAttention attention_;
  std::int64_t first_ = 0;
};

double Difference(const std::vector<float>& got, const Json& want) {
  EXPECT_EQ(got.size(), want.size());
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - want[i].get<double>()));
  return worst;
}

// The largest difference at any snapshot, decoding the golden tokens.
double LargestDifference(const TinyModel& files, Backend& backend, const Json& golden, bool check_tokens) {
  Decoder decoder(files, backend);
  const auto prompt = golden["prompt"].get<std::vector<TokenId>>();
  const auto tokens = golden["tokens"].get<std::vector<TokenId>>();
  std::vector<float> logits = decoder.Logits(prompt);
  double worst = Difference(logits, golden["logits"][0]);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    EXPECT_TRUE(!check_tokens || best == tokens[i]) << "greedy token " << i << " is " << best;
    logits = decoder.Logits(std::span(&tokens[i], 1));
    if ((i + 1) % kSnapshotTokens == 0) {
      worst = std::max(worst, Difference(logits, golden["logits"][(i + 1) / kSnapshotTokens]));
    }
  }
  return worst;
}

class FamiliesTest : public testing::TestWithParam<Json> {
 protected:
  FamiliesTest() {
    files_.Write("model.safetensors", SafeTensorsFile(MakeWeights(GetParam()["tensors"]), DType::kF32));
    files_.Remove("generation_config.json");
    files_.Write("config.json", GetParam()["config"].dump());
  }
  TinyModel files_;
};

TEST_P(FamiliesTest, EqualsTransformers) {
  ASSERT_EQ(GetParam()["tokens"].size(), 64U);
  ASSERT_EQ(GetParam()["logits"].size(), 5U);
  for (const bool cpu : {false, true}) {
    const auto backend = cpu ? MakeCpuBackend(2) : MakeRefBackend();
    const double difference = LargestDifference(files_, *backend, GetParam(), true);
    EXPECT_LE(difference, kTolerance) << backend->name();
    std::printf("%s on %s: %.1e\n", GetParam()["name"].get<std::string>().c_str(), std::string(backend->name()).c_str(),
                difference);
  }
}

TEST_P(FamiliesTest, OldNamesMeanTheSame) {
  const ModelConfig now = Must(LoadModelConfig(files_.dir()));
  EXPECT_EQ(now.end_tokens, (std::vector<TokenId>{2, 3}));
  files_.Write("config.json", GetParam()["old_config"].dump());
  EXPECT_TRUE(Must(LoadModelConfig(files_.dir())) == now);
}

// The tolerance tells a model from one that is rotated otherwise, normalised otherwise or has other biases.
TEST_P(FamiliesTest, AnotherModelLiesFarBeyondTheTolerance) {
  const auto backend = MakeCpuBackend(2);
  const auto difference = [&] { return LargestDifference(files_, *backend, GetParam(), false); };
  Json config = GetParam()["config"];
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 20000.0}};
  files_.Write("config.json", config.dump());
  EXPECT_GT(difference(), 100 * kTolerance) << "rotation";
  files_.Write("config.json", GetParam()["config"].dump());
  for (const std::string part : {"k_proj.bias", "q_proj.bias", "v_proj.bias", "q_norm.weight", "k_norm.weight"}) {
    TinyWeights weights = MakeWeights(GetParam()["tensors"]);
    const auto found = weights.find("model.layers.1.self_attn." + part);
    if (found == weights.end()) continue;
    std::reverse(found->second.values.begin(), found->second.values.end());
    files_.Write("model.safetensors", SafeTensorsFile(weights, DType::kF32));
    EXPECT_GT(difference(), 10 * kTolerance) << part;
  }
}

TEST_P(FamiliesTest, TensorsThatTheFamilyDoesNotHaveAreRefused) {
  TinyWeights weights = MakeWeights(GetParam()["tensors"]);
  weights["model.layers.0.self_attn.o_proj.bias"] = {{64}, std::vector<float>(64, 0.5F)};
  files_.Write("model.safetensors", SafeTensorsFile(weights, DType::kF32));
  const auto backend = MakeCpuBackend(1);
  const Status status = Transformer::Load(files_.dir(), *backend).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("'model.layers.0.self_attn.o_proj.bias' is no part of a"), std::string::npos)
      << status.message();
}

INSTANTIATE_TEST_SUITE_P(Models, FamiliesTest, testing::ValuesIn(GoldenModels()),
                         [](const auto& info) { return info.param["name"].template get<std::string>(); });

TEST(FamiliesModels, AllAreThere) { EXPECT_EQ(GoldenModels().size(), 9U); }

}  // namespace
}  // namespace unfold
