// SPDX-License-Identifier: Apache-2.0
#include "apps/http/counters.h"

#include <cstdio>

#include "apps/format.h"

namespace unfold::http {
namespace {

std::string NumberText(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

void WriteHead(const std::string& name, const char* type, const char* help, std::string& text) {
  text += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

void WriteOne(const std::string& name, const char* type, const char* help, std::uint64_t value, std::string& text) {
  WriteHead(name, type, help, text);
  text += name + " " + std::to_string(value) + "\n";
}

}  // namespace

void Histogram::Add(double seconds) {
  std::size_t at = 0;
  while (at < kBounds.size() && seconds > kBounds[at]) ++at;
  ++counts_[at];
  sum_ += seconds;
}

void Histogram::Write(const std::string& name, const char* help, std::string& text) const {
  WriteHead(name, "histogram", help, text);
  std::uint64_t count = 0;
  for (std::size_t at = 0; at < counts_.size(); ++at) {
    count += counts_[at];
    const std::string bound = at < kBounds.size() ? NumberText(kBounds[at]) : "+Inf";
    text += name + "_bucket{le=\"" + bound + "\"} " + std::to_string(count) + "\n";
  }
  text += name + "_sum " + NumberText(sum_) + "\n" + name + "_count " + std::to_string(count) + "\n";
}

void Counters::CountReply(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++replies_[{route, status}];
}

void Counters::CountAnswer(const Answer& answer) {
  constexpr double kSecond = 1000;  // ms
  const std::lock_guard lock(mutex_);
  const Timings& times = answer.timings;
  first_token_.Add(times.ttft_ms / kSecond);
  queue_.Add(times.queue_ms / kSecond);
  routing_.Add(times.route_ms / kSecond);
  unfolding_.Add(times.unfold_ms / kSecond);
  placing_.Add((times.place_ms + times.prefill_ms) / kSecond);
  whole_.Add(times.total_ms / kSecond);
  if (answer.tokens.size() > 1) {
    per_token_.Add(times.decode_ms / kSecond / static_cast<double>(answer.tokens.size() - 1));
  }
  ++answers_;
  usage_.prompt_tokens += answer.usage.prompt_tokens;
  usage_.cached_tokens += answer.usage.cached_tokens;
  usage_.completion_tokens += answer.usage.completion_tokens;
  usage_.kv_bytes_read += answer.usage.kv_bytes_read;
  usage_.pages_hit += answer.usage.pages_hit;
  usage_.pages_missed += answer.usage.pages_missed;
}

void Counters::CountCancelled() {
  const std::lock_guard lock(mutex_);
  ++cancelled_;
}

void Counters::CountDocument(const DocumentVerdict& verdict) {
  const std::lock_guard lock(mutex_);
  ++documents_[cli::OutcomeName(verdict.outcome)];
}

void Counters::CountIngest(const IngestProgress& done) {
  const std::lock_guard lock(mutex_);
  ingested_tokens_ += done.num_tokens;
  ingest_.Add(done.wall_seconds);
}

std::string Counters::Write(std::uint64_t running, std::uint64_t connections) const {
  const std::lock_guard lock(mutex_);
  std::string text;
  WriteHead("unfold_http_replies_total", "counter", "Replies by route and status.", text);
  for (const auto& [key, count] : replies_) {
    text += "unfold_http_replies_total{route=\"" + key.first + "\",status=\"" + std::to_string(key.second) + "\"} " +
            std::to_string(count) + "\n";
  }
  WriteOne("unfold_requests_running", "gauge", "Questions that wait or are being answered.", running, text);
  WriteOne("unfold_http_connections", "gauge", "Open connections.", connections, text);
  WriteOne("unfold_answers_total", "counter", "Complete answers.", answers_, text);
  WriteOne("unfold_answers_cancelled_total", "counter", "Questions given up: client gone, or deadline.", cancelled_,
           text);
  first_token_.Write("unfold_time_to_first_token_seconds", "From a question's arrival to its answer's first token.",
                     text);
  per_token_.Write("unfold_time_per_output_token_seconds", "Of an answer's tokens after the first, their mean.", text);
  queue_.Write("unfold_queue_time_seconds", "That a question waited for its turn.", text);
  routing_.Write("unfold_routing_seconds", "Routing a question.", text);
  placing_.Write("unfold_prefill_seconds", "Placing documents, reading the question, unfolding its chunks.", text);
  unfolding_.Write("unfold_unfolding_seconds", "Of an answer: bringing raw KV and unfolding chunks.", text);
  whole_.Write("unfold_request_seconds", "From a question's arrival to its answer's end.", text);
  ingest_.Write("unfold_ingest_seconds", "An ingest job, from its begin to its end.", text);
  WriteOne("unfold_prompt_tokens_total", "counter", "Tokens of prompts.", usage_.prompt_tokens, text);
  WriteOne("unfold_cached_tokens_total", "counter", "Of those, served from the store.", usage_.cached_tokens, text);
  WriteOne("unfold_completion_tokens_total", "counter", "Tokens of answers.", usage_.completion_tokens, text);
  WriteOne("unfold_kv_read_bytes_total", "counter", "KV read from the store.", usage_.kv_bytes_read, text);
  WriteOne("unfold_pages_hit_total", "counter", "Chosen chunks found unfolded.", usage_.pages_hit, text);
  WriteOne("unfold_pages_missed_total", "counter", "Chosen chunks that were unfolded.", usage_.pages_missed, text);
  WriteHead("unfold_documents_total", "counter", "Documents of ingest jobs by outcome.", text);
  for (const auto& [outcome, count] : documents_) {
    text += "unfold_documents_total{outcome=\"" + outcome + "\"} " + std::to_string(count) + "\n";
  }
  WriteOne("unfold_ingested_tokens_total", "counter", "Tokens encoded and published.", ingested_tokens_, text);
  return text;
}

}  // namespace unfold::http
