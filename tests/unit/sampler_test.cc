// SPDX-License-Identifier: Apache-2.0
// The sampler by hand-computed examples, and by counting draws.
#include "rag/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace unfold {
namespace {

constexpr int kDraws = 20000;

// Logits of probabilities 1/2, 1/4, 1/8, 1/8 for tokens 2, 0, 1, 3.
std::vector<float> Halves() { return {std::log(0.25F), std::log(0.125F), std::log(0.5F), std::log(0.125F)}; }

// How often each token was drawn.
std::vector<double> Frequencies(const SamplingOptions& options, const std::vector<float>& logits) {
  EXPECT_TRUE(Sampler::Check(options).ok());
  Sampler sampler(options, {});
  std::vector<double> count(logits.size());
  for (int draw = 0; draw < kDraws; ++draw) {
    std::vector<float> copy = logits;
    ++count[sampler.Next(copy, {})];
  }
  for (double& value : count) value /= kDraws;
  return count;
}

// Hoeffding: a frequency of n draws lies further than sqrt(ln(2 / delta) / 2n) from its probability with a chance below
// delta. A token of probability 0 is never drawn.
void ExpectFrequencies(const SamplingOptions& options, const std::vector<float>& logits,
                       const std::vector<double>& want) {
  const double bound = std::sqrt(std::log(2 / 1e-9) / (2.0 * kDraws));
  const std::vector<double> got = Frequencies(options, logits);
  for (std::size_t id = 0; id < want.size(); ++id) {
    if (want[id] == 0) {
      EXPECT_EQ(got[id], 0) << "token " << id;
    } else {
      EXPECT_NEAR(got[id], want[id], bound) << "token " << id;
    }
  }
}

SamplingOptions Hot(float temperature = 1) {
  SamplingOptions options;
  options.temperature = temperature;
  options.seed = 17;
  return options;
}

TEST(Sampler, GreedyTakesTheBestAndTiesGoToTheLowerId) {
  Sampler sampler({}, {});
  std::vector<float> logits = {1, 3, 2, 3, -1};
  EXPECT_EQ(sampler.Next(logits, {}), 1);
  logits = {-5, -5, -5};
  EXPECT_EQ(sampler.Next(logits, {}), 0);
}

TEST(Sampler, RepetitionPenaltyGoesByTheSign) {
  SamplingOptions options;
  options.repetition_penalty = 2;
  Sampler sampler(options, {});
  std::vector<float> logits = {4, -2, 3, 0, -1};
  const std::vector<TokenId> history = {0, 0, 1, 3};  // twice in the history is penalised once
  EXPECT_EQ(sampler.Next(logits, history), 2);
  EXPECT_EQ(logits, (std::vector<float>{2, -4, 3, 0, -1}));
  options.repetition_penalty = 0.5;  // below 1 it rewards
  logits = {4, -2, 3, 0, -1};
  EXPECT_EQ(Sampler(options, {}).Next(logits, history), 0);
  EXPECT_EQ(logits, (std::vector<float>{8, -1, 3, 0, -1}));
}

TEST(Sampler, PenaltyComesBeforeTheTemperature) {
  SamplingOptions options = Hot(0.5);
  options.repetition_penalty = 2;
  Sampler sampler(options, {});
  std::vector<float> logits = {2, 1};  // after the penalty both are 1: an even draw at any temperature
  int zeros = 0;
  for (int draw = 0; draw < kDraws; ++draw) {
    logits = {2, 1};
    const std::vector<TokenId> history = {0};
    zeros += sampler.Next(logits, history) == 0 ? 1 : 0;
  }
  EXPECT_NEAR(zeros / double{kDraws}, 0.5, std::sqrt(std::log(2 / 1e-9) / (2.0 * kDraws)));
}

TEST(Sampler, Temperature) {
  ExpectFrequencies(Hot(), Halves(), {0.25, 0.125, 0.5, 0.125});
  // Squared: 16 : 4 : 1 : 1 of 22.
  ExpectFrequencies(Hot(0.5), Halves(), {4 / 22.0, 1 / 22.0, 16 / 22.0, 1 / 22.0});
  // Square roots.
  const double total = std::sqrt(0.5) + 0.5 + 2 * std::sqrt(0.125);
  ExpectFrequencies(Hot(2), Halves(),
                    {0.5 / total, std::sqrt(0.125) / total, std::sqrt(0.5) / total, std::sqrt(0.125) / total});
}

TEST(Sampler, TopK) {
  SamplingOptions options = Hot();
  options.top_k = 1;
  ExpectFrequencies(options, Halves(), {0, 0, 1, 0});
  options.top_k = 2;
  ExpectFrequencies(options, Halves(), {1 / 3.0, 0, 2 / 3.0, 0});
  options.top_k = 3;  // tokens 1 and 3 tie at the edge: both stay
  ExpectFrequencies(options, Halves(), {0.25, 0.125, 0.5, 0.125});
  options.top_k = 100;
  ExpectFrequencies(options, Halves(), {0.25, 0.125, 0.5, 0.125});
}

TEST(Sampler, TopP) {
  SamplingOptions options = Hot();
  options.top_p = 0.49F;  // the best alone reaches it
  ExpectFrequencies(options, Halves(), {0, 0, 1, 0});
  options.top_p = 0.51F;  // the token that crosses it is kept
  ExpectFrequencies(options, Halves(), {1 / 3.0, 0, 2 / 3.0, 0});
  options.top_p = 0.74F;
  ExpectFrequencies(options, Halves(), {1 / 3.0, 0, 2 / 3.0, 0});
  options.top_p = 0.76F;
  ExpectFrequencies(options, Halves(), {2 / 7.0, 1 / 7.0, 4 / 7.0, 0});
  options.top_p = 1;
  ExpectFrequencies(options, Halves(), {0.25, 0.125, 0.5, 0.125});
  options.top_p = 1e-6F;
  ExpectFrequencies(options, Halves(), {0, 0, 1, 0});
}

TEST(Sampler, MinP) {
  SamplingOptions options = Hot();
  options.min_p = 0.2F;  // of the best: 0.1
  ExpectFrequencies(options, Halves(), {0.25, 0.125, 0.5, 0.125});
  options.min_p = 0.3F;  // 0.15
  ExpectFrequencies(options, Halves(), {1 / 3.0, 0, 2 / 3.0, 0});
  options.min_p = 1;
  ExpectFrequencies(options, Halves(), {0, 0, 1, 0});
}

TEST(Sampler, TheFiltersFollowEachOther) {
  SamplingOptions options = Hot();
  options.top_k = 2;  // 2/3 and 1/3 of what is left
  options.top_p = 0.6F;
  ExpectFrequencies(options, Halves(), {0, 0, 1, 0});
  options = Hot(0.5);  // 0.73, 0.18, 0.045, 0.045: the temperature comes before top_p and min_p
  options.top_p = 0.7F;
  ExpectFrequencies(options, Halves(), {0, 0, 1, 0});
  options.top_p = 1;
  options.min_p = 0.3F;
  ExpectFrequencies(options, Halves(), {0, 0, 1, 0});
}

TEST(Sampler, BannedTokensAreNeverDrawn) {
  constexpr int kVocab = 50;
  const std::vector<TokenId> banned = {0, 7, 13, 49};
  Sampler hot(Hot(100), banned), greedy({}, banned);
  std::mt19937 random(3);
  std::set<TokenId> drawn;
  for (int draw = 0; draw < 10000; ++draw) {
    std::vector<float> logits(kVocab);
    for (float& logit : logits) logit = static_cast<float>(random() % 1000) / 100;
    for (const TokenId id : banned) logits[id] = 1000;  // the best by far
    std::vector<float> copy = logits;
    const TokenId token = hot.Next(copy, banned);
    drawn.insert(token);
    drawn.insert(greedy.Next(logits, banned));
  }
  for (const TokenId id : banned) EXPECT_EQ(drawn.count(id), 0U) << id;
  EXPECT_EQ(drawn.size(), kVocab - banned.size()) << "every other one is";
}

TEST(Sampler, TheSeedDecides) {
  const auto run = [](std::uint64_t seed) {
    SamplingOptions options = Hot();
    options.seed = seed;
    Sampler sampler(options, {});
    std::vector<TokenId> tokens;
    for (int draw = 0; draw < 64; ++draw) {
      std::vector<float> logits(256, 0.0F);
      tokens.push_back(sampler.Next(logits, {}));
    }
    return tokens;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
  // A uniform draw over 256 tokens is the generator's highest byte, on every platform.
  std::mt19937_64 generator(1);
  for (const TokenId token : run(1)) EXPECT_EQ(token, static_cast<TokenId>(generator() >> 56));
}

TEST(SamplerCheck, NamesTheOption) {
  EXPECT_TRUE(Sampler::Check({}).ok());
  const auto says = [](const SamplingOptions& options, const std::string& name) {
    const Status status = Sampler::Check(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_TRUE(status.message().starts_with(name + " must")) << status.message();
  };
  for (const float bad : {-0.1F, 101.0F, NAN, INFINITY}) {
    SamplingOptions options;
    options.temperature = bad;
    says(options, "temperature");
    options = {};
    options.repetition_penalty = bad;
    says(options, "repetition_penalty");
    options = {};
    options.top_p = bad;
    says(options, "top_p");
    options = {};
    options.min_p = bad;
    says(options, "min_p");
  }
  SamplingOptions options;
  options.top_p = 0;
  says(options, "top_p");
  options = {};
  options.repetition_penalty = 0;
  says(options, "repetition_penalty");
  options = {};
  options.top_k = -1;
  says(options, "top_k");
}

}  // namespace
}  // namespace unfold
