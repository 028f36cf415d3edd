// SPDX-License-Identifier: Apache-2.0
// What `unfold eval` says of one mode over all questions.
#ifndef UNFOLD_APPS_EVAL_SUMMARY_H_
#define UNFOLD_APPS_EVAL_SUMMARY_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/json_output.h"

namespace unfold::cli {

struct EvalResult {
  std::optional<double> em;  // none without gold answers
  std::optional<double> f1;
  std::string gold_document;  // empty: none
  std::vector<std::string> routed;
  double unfolded_share = 0;
  double ttft_ms = 0;
  double decode_ms = 0;
  double tokens_per_second = 0;
};

// Thread-compatible.
class ModeSummary {
 public:
  void Add(const EvalResult& result);
  void AddFailure() { ++num_failed_; }
  // Whether an answer equals that of mode fresh, token for token.
  void CompareWithFresh(bool same);

  std::uint64_t num_failed() const { return num_failed_; }
  // {questions, em, f1, recall_at_1, recall_at_5, recall_at_10, unfolded_share, ttft_ms_p50, tokens_per_s}; null where
  // no question had what it takes. Also `failed` when a question could not be answered, and `same_as_fresh` when
  // answers were compared with that mode's.
  Json ToJson() const;

 private:
  // The place of a gold document counts when it is below these.
  static constexpr std::array<std::size_t, 3> kRecallPlaces = {1, 5, 10};

  std::uint64_t num_questions_ = 0, num_failed_ = 0, num_scored_ = 0, num_gold_ = 0;
  std::uint64_t num_compared_ = 0, num_same_ = 0;
  double em_sum_ = 0, f1_sum_ = 0, unfolded_share_sum_ = 0;
  std::array<std::uint64_t, kRecallPlaces.size()> num_found_ = {};
  std::vector<double> ttft_ms_;
  double decode_steps_ = 0, decode_ms_ = 0;
};

// The middle value, or the mean of the two in the middle; nothing when there is none.
std::optional<double> Median(std::vector<double> values);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_EVAL_SUMMARY_H_
