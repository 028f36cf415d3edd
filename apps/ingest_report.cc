// SPDX-License-Identifier: Apache-2.0
#include "apps/ingest_report.h"

#include <algorithm>
#include <array>
#include <utility>

#include "apps/format.h"

namespace unfold::cli {
namespace {

bool IsPublished(IngestOutcome outcome) {
  return outcome != IngestOutcome::kFailed && outcome != IngestOutcome::kAbandoned;
}

std::string Sizes(const DocumentInfo& info) {
  return Plural(info.num_parts, "part") + ", " + Plural(info.num_tokens, "token") + ", " +
         HumanBytes(static_cast<double>(info.stored_bytes));
}

double PerSecond(std::uint64_t count, double seconds) { return Ratio(static_cast<double>(count), seconds); }

double BytesPerToken(const IngestProgress& progress) {
  return Ratio(static_cast<double>(progress.stored_bytes), static_cast<double>(progress.num_tokens));
}

}  // namespace

void IngestReport::Expect(const std::string& name, std::uint64_t num_bytes) {
  expected_bytes_[name] = num_bytes;
  num_bytes_ += num_bytes;
  ++num_files_;
}

void IngestReport::JsonLine(const char* outcome, const std::string& name, const Status& status,
                            const DocumentInfo* info) {
  Json json = {{"document", name}, {"outcome", outcome}};
  if (info != nullptr) {
    json["parts"] = info->num_parts;
    json["tokens"] = info->num_tokens;
    json["bytes"] = info->stored_bytes;
  }
  if (!status.ok()) json["message"] = status.message();
  line_.Clear();
  PrintJsonLine(json);
}

void IngestReport::Line(const char* outcome, const std::string& name, const std::string& detail, bool is_failure) {
  if (quiet_ && !is_failure) return;
  std::string line = outcome;
  line.resize(11, ' ');
  line += OneLine(name);
  if (!detail.empty()) line += "  (" + OneLine(detail) + ")";
  line_.Print(line);
}

void IngestReport::Verdict(const DocumentVerdict& verdict) {
  if (const auto it = expected_bytes_.find(verdict.name); it != expected_bytes_.end()) bytes_done_ += it->second;
  const bool published = IsPublished(verdict.outcome);
  const char* outcome = OutcomeName(verdict.outcome);
  if (json_) return JsonLine(outcome, verdict.name, verdict.status, published ? &verdict.info : nullptr);
  Line(outcome, verdict.name, published ? Sizes(verdict.info) : verdict.status.message(), !published);
}

void IngestReport::Failed(const std::string& name, const Status& status) {
  ++num_failed_here_;
  if (json_) return JsonLine("failed", name, status, nullptr);
  Line("failed", name, status.message(), true);
}

void IngestReport::Skipped(const std::string& name, const std::string& why) {
  ++num_skipped_;
  if (const auto it = expected_bytes_.find(name); it != expected_bytes_.end()) bytes_done_ += it->second;
  if (json_) return JsonLine("skipped", name, Status::InvalidArgument(why), nullptr);
  Line("skipped", name, why, false);
}

void IngestReport::Removed(const std::string& name) {
  ++num_removed_;
  if (json_) return JsonLine("removed", name, Status::Ok(), nullptr);
  Line("removed", name, "its file is gone", false);
}

void IngestReport::Note(const std::string& text) { line_.Print(OneLine(text)); }

std::string IngestReport::ProgressText() const {
  const std::uint64_t tokens = progress_.num_tokens + progress_.tokens_in_flight;
  // What is encoded but not yet stored counts at the four bytes a token that text has about.
  const double bytes_done = static_cast<double>(bytes_done_) + 4.0 * static_cast<double>(progress_.tokens_in_flight);
  const double bytes_left = std::max(0.0, static_cast<double>(num_bytes_) - bytes_done);
  std::string text = std::to_string(progress_.num_documents) + "/" + Plural(num_files_, "document") + ", " +
                     Fixed(PerSecond(tokens, progress_.wall_seconds), 0) + " tokens/s, " +
                     Fixed(BytesPerToken(progress_), 0) + " bytes a token";
  if (bytes_done > 0) text += ", " + HumanDuration(progress_.wall_seconds * bytes_left / bytes_done) + " left";
  return text;
}

void IngestReport::Progress(const IngestProgress& progress) {
  progress_ = progress;
  line_.Update([&] { return ProgressText(); });
}

Json IngestReport::SummaryJson(bool complete) const {
  const IngestProgress& p = progress_;
  return {{"complete", complete},
          {"documents", p.num_documents + num_failed_here_},
          {"added", p.num_added},
          {"replaced", p.num_replaced},
          {"unchanged", p.num_unchanged},
          {"failed", num_failed()},
          {"abandoned", p.num_abandoned},
          {"skipped", num_skipped_},
          {"removed", num_removed_},
          {"tokens", p.num_tokens},
          {"tokens_per_s", PerSecond(p.num_tokens, p.wall_seconds)},
          {"stored_bytes", p.stored_bytes},
          {"bytes_per_token", BytesPerToken(p)},
          {"encode_s", p.encode_seconds},
          {"store_s", p.store_seconds},
          {"wall_s", p.wall_seconds}};
}

std::string IngestReport::SummaryText() const {
  const IngestProgress& p = progress_;
  std::string text = Plural(p.num_documents + num_failed_here_, "document") + ":";
  const std::array<std::pair<std::uint64_t, const char*>, 7> kCounts = {{{p.num_added, "added"},
                                                                         {p.num_replaced, "replaced"},
                                                                         {p.num_unchanged, "unchanged"},
                                                                         {num_failed(), "failed"},
                                                                         {p.num_abandoned, "abandoned"},
                                                                         {num_skipped_, "skipped"},
                                                                         {num_removed_, "removed"}}};
  for (std::size_t i = 0; i < kCounts.size(); ++i) {
    // The first four are always said; zeros of the rest would be noise.
    if (i >= 4 && kCounts[i].first == 0) continue;
    text.append(" ").append(std::to_string(kCounts[i].first)).append(" ").append(kCounts[i].second).append(",");
  }
  text.back() = ';';
  return text + " " + Plural(p.num_tokens, "token") + ", " + Fixed(PerSecond(p.num_tokens, p.wall_seconds), 1) +
         " tokens/s, " + Fixed(BytesPerToken(p), 1) + " bytes a token; encode " + Fixed(p.encode_seconds, 2) +
         " s, store " + Fixed(p.store_seconds, 2) + " s, in all " + Fixed(p.wall_seconds, 2) + " s";
}

void IngestReport::Summary(bool complete) {
  line_.Clear();
  if (json_) {
    PrintJsonLine({{"summary", SummaryJson(complete)}});
    Note(SummaryText());
  } else {
    std::printf("%s\n", SummaryText().c_str());
    std::fflush(stdout);
  }
}

}  // namespace unfold::cli
