// SPDX-License-Identifier: Apache-2.0
#include "apps/answer_json.h"

#include <utility>

namespace unfold::cli {

Json SourcesJson(const std::vector<Source>& sources) {
  Json json = Json::array();
  for (const Source& source : sources) {
    json.push_back({{"document", source.document},
                    {"part", source.part},
                    {"byte_begin", source.byte_begin},
                    {"byte_end", source.byte_end},
                    {"snippet", source.snippet},
                    {"share", source.share}});
  }
  return json;
}

Json RoutedJson(const std::vector<RoutedDocument>& routed) {
  Json json = Json::array();
  for (const RoutedDocument& document : routed) {
    json.push_back({{"document", document.document}, {"part", document.part}, {"score", document.score}});
  }
  return json;
}

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"cached_tokens", usage.cached_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"context_chunks", usage.context_chunks},
          {"kv_bytes_read", usage.kv_bytes_read},
          {"pages_hit", usage.pages_hit},
          {"pages_missed", usage.pages_missed}};
}

Json TimingsJson(const Timings& timings) {
  return {{"queue_ms", timings.queue_ms},
          {"route_ms", timings.route_ms},
          {"place_ms", timings.place_ms},
          {"prefill_ms", timings.prefill_ms},
          {"unfold_ms", timings.unfold_ms},
          {"ttft_ms", timings.ttft_ms},
          {"decode_ms", timings.decode_ms},
          {"total_ms", timings.total_ms},
          {"tokens_per_second", timings.tokens_per_second}};
}

Json UnfoldedJson(const std::vector<UnfoldedHead>& heads) {
  Json json = Json::array();
  for (const UnfoldedHead& head : heads) {
    Json chunks = Json::array();
    for (const UnfoldedChunk& chunk : head.chunks) {
      chunks.push_back({{"document", chunk.document},
                        {"part", chunk.part},
                        {"chunk", chunk.chunk},
                        {"byte_begin", chunk.byte_begin},
                        {"byte_end", chunk.byte_end}});
    }
    json.push_back({{"layer", head.layer}, {"kv_head", head.kv_head}, {"chunks", std::move(chunks)}});
  }
  return json;
}

}  // namespace unfold::cli
