// SPDX-License-Identifier: Apache-2.0
// Models without a checkpoint: shapes by name and by file, and seeded weights that keep activations finite.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "model/shapes.h"
#include "model/transformer.h"
#include "rag/causal_kv.h"
#include "tiny_model.h"

namespace unfold {
namespace {

Status Go() { return Status::Ok(); }

ModelConfig Small(ModelFamily family) {
  ModelConfig config = *FindShape("gist-mini");
  config.family = family;
  config.num_layers = 3;
  config.vocab_size = 512;
  config.tied_embeddings = false;
  return config;
}

// Logits of the last of 40 tokens.
std::vector<float> LastLogits(const ModelConfig& config, std::uint64_t seed) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend(2);
  auto model = Transformer::Random(config, *backend, DType::kF32, seed, Go);
  EXPECT_TRUE(model.ok()) << model.status().ToString();
  std::vector<TokenId> ids;
  for (int i = 0; i < 40; ++i) ids.push_back(i * 31 % config.vocab_size);
  Result<CausalKv> kv = CausalKv::Make(**model, config.num_layers, 40);
  EXPECT_TRUE(kv.ok());
  CausalAttention attention(**model, *kv);
  EXPECT_TRUE(attention.Prepare(40).ok());
  const Status status = (*model)->Run(ids, attention);
  EXPECT_TRUE(status.ok()) << status.ToString();
  std::vector<float> logits;
  EXPECT_TRUE((*model)->Logits(39, logits).ok());
  return logits;
}

TEST(RandomModel, LogitsAreOfModelSizeInEveryFamily) {
  for (const ModelFamily family : {ModelFamily::kLlama, ModelFamily::kQwen2, ModelFamily::kQwen3}) {
    double sum_squares = 0;
    const std::vector<float> logits = LastLogits(Small(family), 1);
    for (const float logit : logits) {
      ASSERT_TRUE(std::isfinite(logit));
      sum_squares += static_cast<double>(logit) * logit;
    }
    // The last norm has mean square 1, and so have its products with rows of norm 1.
    EXPECT_NEAR(sum_squares / static_cast<double>(logits.size()), 1, 0.3);
  }
}

TEST(RandomModel, TheSeedDecides) {
  const ModelConfig config = Small(ModelFamily::kQwen2);
  const std::vector<float> first = LastLogits(config, 7);
  EXPECT_EQ(first, LastLogits(config, 7));
  EXPECT_NE(first, LastLogits(config, 8));
}

TEST(RandomModel, ACheckEndsTheWork) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend(1);
  int left = 5;
  const auto model = Transformer::Random(Small(ModelFamily::kLlama), *backend, DType::kF32, 1,
                                         [&] { return --left > 0 ? Status::Ok() : Status::Cancelled("enough"); });
  EXPECT_EQ(model.status().code(), StatusCode::kCancelled);
  EXPECT_EQ(left, 0);
}

TEST(RandomTensors, RowsAndTensorsDiffer) {
  const std::unique_ptr<Backend> backend = MakeRefBackend();
  RandomTensors memory(*backend, 3);
  constexpr std::int64_t kRows = 5000, kColumns = 1024;  // more than the pattern holds
  const Tensor a = *memory.Normal(DType::kF32, {kRows, kColumns}, 0.5F);
  const Tensor b = *memory.Normal(DType::kF32, {kRows, kColumns}, 0.5F);
  EXPECT_EQ(memory.num_bytes(), 2 * a.bytes());
  double sum = 0, sum_squares = 0;
  for (std::int64_t i = 0; i < a.size(); ++i) {
    sum += a.as<float>()[i];
    sum_squares += static_cast<double>(a.as<float>()[i]) * a.as<float>()[i];
  }
  EXPECT_NEAR(sum / static_cast<double>(a.size()), 0, 0.002);
  EXPECT_NEAR(sum_squares / static_cast<double>(a.size()), 0.25, 0.002);
  EXPECT_NE(a.as<float>()[0], b.as<float>()[0]);
  for (std::int64_t row = 1; row < kRows; ++row) ASSERT_NE(a.as<float>()[0], a.as<float>()[row * kColumns]) << row;
}

// The named shape is the shipped model's.
TEST(Shapes, ByNameAndByFile) {
  const std::string dir = UNFOLD_SOURCE_DIR "/datasets/gist-mini";
  for (const std::string& path : {dir, dir + "/config.json"}) {
    Result<ModelConfig> file = FindShape(path);
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    file->end_tokens.clear();
    EXPECT_EQ(*FindShape("gist-mini"), *file);
  }
  for (const char* name : {"llama-3.2-1b", "qwen2-7b", "llama-3.1-8b", "gist-mini"}) {
    EXPECT_TRUE(FindShape(name).ok()) << name;
    EXPECT_NE(ShapeNames().find(name), std::string_view::npos);
  }
  const Status unknown = FindShape("gpt-9").status();
  EXPECT_EQ(unknown.code(), StatusCode::kNotFound);
  EXPECT_NE(unknown.message().find("'gpt-9'"), std::string::npos) << unknown.message();
  EXPECT_NE(unknown.message().find("qwen2-7b"), std::string::npos) << unknown.message();
  EXPECT_EQ(FindShape("/nonexistent/config.json").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace unfold
