// SPDX-License-Identifier: Apache-2.0
// Sampler: the next token from logits, as Hugging Face's generate does it: repetition penalty, then temperature, top_k,
// top_p, min_p. Greedy when the temperature is 0. The same seed gives the same tokens on every platform.
#ifndef UNFOLD_RAG_SAMPLER_H_
#define UNFOLD_RAG_SAMPLER_H_

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

// Thread-compatible; one per answer.
class Sampler {
 public:
  // InvalidArgument naming the option that is out of range.
  static Status Check(const SamplingOptions& options);

  // `banned` ids are never returned.
  Sampler(const SamplingOptions& options, std::vector<TokenId> banned)
      : options_(options), banned_(std::move(banned)), random_(options.seed) {}

  // `logits` is changed. `history` is what the repetition penalty covers: question and answer so far.
  TokenId Next(std::vector<float>& logits, std::span<const TokenId> history);

 private:
  TokenId Draw(const std::vector<float>& logits);

  SamplingOptions options_;
  std::vector<TokenId> banned_;
  std::mt19937_64 random_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_SAMPLER_H_
