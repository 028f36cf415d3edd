// SPDX-License-Identifier: Apache-2.0
// What the server counts, for Prometheus.
#ifndef UNFOLD_APPS_HTTP_COUNTERS_H_
#define UNFOLD_APPS_HTTP_COUNTERS_H_

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "unfold/answer.h"
#include "unfold/engine.h"

namespace unfold::http {

// Times in seconds: how many were at most each bound.
class Histogram {
 public:
  void Add(double seconds);
  // Exposition of it under `name`.
  void Write(const std::string& name, const char* help, std::string& text) const;

 private:
  static constexpr std::array kBounds = {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1., 2.5, 5., 10., 30., 60.};
  std::array<std::uint64_t, kBounds.size() + 1> counts_{};
  double sum_ = 0;
};

// Thread-safe.
class Counters {
 public:
  // A reply to `route`, a pattern of few values such as "POST /v1/query".
  void CountReply(const std::string& route, int status);
  void CountAnswer(const Answer& answer);
  void CountCancelled();
  // A document that an ingest is through with, and its tokens.
  void CountDocument(const DocumentVerdict& verdict);
  void CountIngest(const IngestProgress& done);
  // Text of the exposition format, version 0.0.4.
  std::string Write(std::uint64_t running, std::uint64_t connections) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::uint64_t> replies_;
  Histogram first_token_, per_token_, queue_, routing_, placing_, unfolding_, whole_, ingest_;
  Usage usage_;
  std::uint64_t answers_ = 0, cancelled_ = 0;
  std::map<std::string, std::uint64_t> documents_;  // by outcome
  std::uint64_t ingested_tokens_ = 0;
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_COUNTERS_H_
