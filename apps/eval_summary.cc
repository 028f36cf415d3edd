// SPDX-License-Identifier: Apache-2.0
#include "apps/eval_summary.h"

#include <algorithm>

namespace unfold::cli {
namespace {

std::optional<double> Mean(double sum, std::uint64_t count) {
  return count == 0 ? std::nullopt : std::optional(sum / static_cast<double>(count));
}

}  // namespace

std::optional<double> Median(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void ModeSummary::Add(const EvalResult& result) {
  ++num_questions_;
  if (result.em && result.f1) {
    ++num_scored_;
    em_sum_ += *result.em;
    f1_sum_ += *result.f1;
  }
  if (!result.gold_document.empty()) {
    ++num_gold_;
    const auto it = std::find(result.routed.begin(), result.routed.end(), result.gold_document);
    const auto place = static_cast<std::size_t>(it - result.routed.begin());
    for (std::size_t i = 0; i < kRecallPlaces.size(); ++i) {
      if (it != result.routed.end() && place < kRecallPlaces[i]) ++num_found_[i];
    }
  }
  unfolded_share_sum_ += result.unfolded_share;
  ttft_ms_.push_back(result.ttft_ms);
  // All steps over all time: a one-token answer, which has no decode step, weighs nothing.
  decode_steps_ += result.tokens_per_second * result.decode_ms / 1000;
  decode_ms_ += result.decode_ms;
}

void ModeSummary::CompareWithFresh(bool same) {
  ++num_compared_;
  if (same) ++num_same_;
}

Json ModeSummary::ToJson() const {
  Json json;
  json["questions"] = num_questions_;
  if (num_failed_ > 0) json["failed"] = num_failed_;
  json["em"] = NumberOrNull(Mean(em_sum_, num_scored_));
  json["f1"] = NumberOrNull(Mean(f1_sum_, num_scored_));
  for (std::size_t i = 0; i < kRecallPlaces.size(); ++i) {
    json["recall_at_" + std::to_string(kRecallPlaces[i])] =
        NumberOrNull(Mean(static_cast<double>(num_found_[i]), num_gold_));
  }
  json["unfolded_share"] = NumberOrNull(Mean(unfolded_share_sum_, num_questions_));
  json["ttft_ms_p50"] = NumberOrNull(Median(ttft_ms_));
  json["tokens_per_s"] = decode_ms_ > 0 ? Json(decode_steps_ / decode_ms_ * 1000) : Json(nullptr);
  if (num_compared_ > 0) json["same_as_fresh"] = *Mean(static_cast<double>(num_same_), num_compared_);
  return json;
}

}  // namespace unfold::cli
