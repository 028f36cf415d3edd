// SPDX-License-Identifier: Apache-2.0
// What `unfold ingest` says: a verdict per file, progress, and the sum at the end.
#ifndef UNFOLD_APPS_INGEST_REPORT_H_
#define UNFOLD_APPS_INGEST_REPORT_H_

#include <cstdint>
#include <string>
#include <unordered_map>

#include "apps/json_output.h"
#include "apps/progress.h"
#include "unfold/engine.h"

namespace unfold::cli {

// Thread-compatible. With `json` a line per verdict and the summary go to stdout; without it verdicts go to stderr.
class IngestReport {
 public:
  IngestReport(bool json, bool quiet) : json_(json), quiet_(quiet) {}

  // Before the run: a document and its bytes, for the time left.
  void Expect(const std::string& name, std::uint64_t num_bytes);

  void Verdict(const DocumentVerdict& verdict);
  void Failed(const std::string& name, const Status& status);  // without the engine
  void Skipped(const std::string& name, const std::string& why);
  void Removed(const std::string& name);
  void Progress(const IngestProgress& progress);
  void Note(const std::string& text);
  // `complete`: every file has had its verdict, and pruning was done if it was asked for.
  void Summary(bool complete);

  std::uint64_t num_failed() const { return progress_.num_failed + num_failed_here_; }
  std::uint64_t num_stored() const { return progress_.num_added + progress_.num_replaced + progress_.num_unchanged; }
  std::uint64_t num_abandoned() const { return progress_.num_abandoned; }
  // The engine's own counts at the end of the run.
  void Finish(const IngestProgress& progress) { progress_ = progress; }

 private:
  void Line(const char* outcome, const std::string& name, const std::string& detail, bool is_failure);
  void JsonLine(const char* outcome, const std::string& name, const Status& status, const DocumentInfo* info);
  std::string ProgressText() const;
  Json SummaryJson(bool complete) const;
  std::string SummaryText() const;

  bool json_, quiet_;
  ProgressLine line_;
  IngestProgress progress_;
  std::unordered_map<std::string, std::uint64_t> expected_bytes_;
  std::uint64_t num_bytes_ = 0, num_files_ = 0, bytes_done_ = 0;
  std::uint64_t num_failed_here_ = 0, num_skipped_ = 0, num_removed_ = 0;
};

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_INGEST_REPORT_H_
