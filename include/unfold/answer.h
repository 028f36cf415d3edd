// SPDX-License-Identifier: Apache-2.0
// What an answer holds: text, sources, routing, counts and times. Plain values.
#ifndef UNFOLD_ANSWER_H_
#define UNFOLD_ANSWER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "unfold/base.h"

namespace unfold {

// Where an answer comes from: one part of a document, and in it the run of at most eight consecutive chunks that drew
// the most attention.
struct Source {
  std::string document;
  std::uint32_t part = 0;
  std::uint32_t byte_begin = 0;  // of the document's source text, half-open
  std::uint32_t byte_end = 0;
  std::string snippet;  // those bytes; of HTML the text in them
  double share = 0;     // of the attention mass on chosen chunks; the shares of an answer sum to 1
};

// One document of a collection as routing ranks it.
struct RoutedDocument {
  std::string document;
  std::uint32_t part = 0;  // its best part
  double score = 0;
};

// Chunks that one layer and key/value head unfolded for the answer's first token.
struct UnfoldedChunk {
  std::string document;
  std::uint32_t part = 0;
  std::uint32_t chunk = 0;
  std::uint32_t byte_begin = 0;
  std::uint32_t byte_end = 0;
};
struct UnfoldedHead {
  int layer = 0;
  int kv_head = 0;
  std::vector<UnfoldedChunk> chunks;
};

enum class FinishReason : std::uint8_t { kEnd, kStop, kLength, kSink };  // end token, stop text, limit, sink said no

struct Usage {
  std::uint64_t prompt_tokens = 0;      // prefix, documents (raw) and question
  std::uint64_t cached_tokens = 0;      // of those, served from the store or the prefix cache
  std::uint64_t completion_tokens = 0;  // generated, the end token not counted
  std::uint64_t context_chunks = 0;     // chunks of the working set
  std::uint64_t kv_bytes_read = 0;      // read from the store
  std::uint64_t pages_hit = 0;          // chunk pages found unfolded
  std::uint64_t pages_missed = 0;       // chunk pages unfolded for this answer
};

struct Timings {  // milliseconds
  double queue_ms = 0;
  double route_ms = 0;
  double place_ms = 0;  // loading gist KV of the working set (dense: encoding its texts)
  double prefill_ms = 0;
  // Of prefill and decoding: bringing raw KV and unfolding chunks, except what a GPU does within its steps.
  double unfold_ms = 0;
  double ttft_ms = 0;    // request received to first token
  double decode_ms = 0;  // first token to last
  double total_ms = 0;
  double tokens_per_second = 0;  // decode steps after the first token
};

struct Answer {
  std::string text;             // white space at both ends dropped
  std::vector<TokenId> tokens;  // generated ids without the end token
  FinishReason finish = FinishReason::kEnd;
  std::vector<Source> sources;         // by share, largest first; empty for dense and closed
  std::vector<RoutedDocument> routed;  // the ten best documents, best first; empty when nothing was routed
  std::vector<std::string> placed;     // documents of the working set, in placement order, each once
  double unfolded_share = 0;           // chunks unfolded / chunks of the working set; mean over selective layers,
                                       // key/value heads and the queries that produced the answer
  bool question_truncated = false;     // cut at max_question_tokens
  int num_turns_dropped = 0;           // earliest turns of AskOptions::history that did not fit
  std::vector<UnfoldedHead> unfolded;  // with AskOptions::explain
  Usage usage;
  Timings timings;
};

struct RouteResult {
  std::vector<RoutedDocument> documents;  // best first
  std::vector<Source> placed;  // parts that would be placed, in placement order; their whole range, share 0, no snippet
  bool question_truncated = false;
  int num_turns_dropped = 0;
  double route_ms = 0;
};

// Gets text as it is generated: whole UTF-8 characters. Returning false ends the answer early, which is no error.
using TextSink = std::function<bool(std::string_view text)>;
}  // namespace unfold

#endif  // UNFOLD_ANSWER_H_
