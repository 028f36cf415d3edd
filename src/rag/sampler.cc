// SPDX-License-Identifier: Apache-2.0
#include "rag/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_set>

namespace unfold {

Status Sampler::Check(const SamplingOptions& options) {
  const auto refuse = [](const char* what) { return Status::InvalidArgument(what); };
  if (!(options.temperature >= 0 && options.temperature <= 100))
    return refuse("temperature must lie between 0 and 100");
  if (options.top_k < 0) return refuse("top_k must not be negative");
  if (!(options.top_p > 0 && options.top_p <= 1)) return refuse("top_p must be above 0 and at most 1");
  if (!(options.min_p >= 0 && options.min_p <= 1)) return refuse("min_p must lie between 0 and 1");
  if (!(options.repetition_penalty > 0 && options.repetition_penalty <= 100)) {
    return refuse("repetition_penalty must be above 0 and at most 100");
  }
  return Status::Ok();
}

TokenId Sampler::Next(std::vector<float>& logits, std::span<const TokenId> history) {
  if (options_.repetition_penalty != 1) {
    const std::unordered_set<TokenId> seen(history.begin(), history.end());
    for (const TokenId id : seen) {
      logits[id] = logits[id] < 0 ? logits[id] * options_.repetition_penalty : logits[id] / options_.repetition_penalty;
    }
  }
  for (const TokenId id : banned_) logits[id] = -std::numeric_limits<float>::infinity();
  if (options_.temperature == 0) {
    return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  return Draw(logits);
}

TokenId Sampler::Draw(const std::vector<float>& logits) {
  std::vector<TokenId> order;  // candidates, best first
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if (std::isfinite(logits[id])) order.push_back(static_cast<TokenId>(id));
  }
  if (order.empty()) return 0;
  std::sort(order.begin(), order.end(),
            [&](TokenId a, TokenId b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  if (options_.top_k > 0 && order.size() > static_cast<std::size_t>(options_.top_k)) {
    // As Hugging Face does it: tokens that tie with the last one stay.
    auto kept = static_cast<std::size_t>(options_.top_k);
    while (kept < order.size() && logits[order[kept]] == logits[order[kept - 1]]) ++kept;
    order.resize(kept);
  }

  const double best = logits[order.front()];
  std::vector<double> weight(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    weight[i] = std::exp((static_cast<double>(logits[order[i]]) - best) / options_.temperature);
  }
  // The smallest set whose mass reaches top_p; the token that crosses it is kept.
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  double mass = 0;
  std::size_t kept = 0;
  while (kept < order.size() && (kept == 0 || mass < options_.top_p * total)) mass += weight[kept++];
  // Tokens below min_p of the best one's probability go; the best has weight 1.
  while (kept > 1 && weight[kept - 1] < options_.min_p) mass -= weight[--kept];

  const double draw = static_cast<double>(random_() >> 11) * 0x1p-53 * mass;
  double passed = 0;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    passed += weight[i];
    if (draw < passed) return order[i];
  }
  return order[kept - 1];
}

}  // namespace unfold
