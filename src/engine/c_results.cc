// SPDX-License-Identifier: Apache-2.0
#include "engine/c_results.h"

#include <utility>

namespace unfold {
namespace {

unfold_usage UsageView(const Usage& usage) {
  return {.prompt_tokens = usage.prompt_tokens,
          .cached_tokens = usage.cached_tokens,
          .completion_tokens = usage.completion_tokens,
          .context_chunks = usage.context_chunks,
          .kv_bytes_read = usage.kv_bytes_read,
          .pages_hit = usage.pages_hit,
          .pages_missed = usage.pages_missed};
}

unfold_timings TimingsView(const Timings& timings) {
  return {.queue_ms = timings.queue_ms,
          .route_ms = timings.route_ms,
          .place_ms = timings.place_ms,
          .prefill_ms = timings.prefill_ms,
          .unfold_ms = timings.unfold_ms,
          .ttft_ms = timings.ttft_ms,
          .decode_ms = timings.decode_ms,
          .total_ms = timings.total_ms,
          .tokens_per_second = timings.tokens_per_second};
}

unfold_finish ToFinish(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEnd: return UNFOLD_FINISH_END;
    case FinishReason::kStop: return UNFOLD_FINISH_STOP;
    case FinishReason::kLength: return UNFOLD_FINISH_LENGTH;
    case FinishReason::kSink: return UNFOLD_FINISH_SINK;
  }
  return UNFOLD_FINISH_END;
}

// An element of a vector, or NULL.
template <typename T>
const T* At(const std::vector<T>& values, std::size_t index) {
  return index < values.size() ? &values[index] : nullptr;
}
const char* TextAt(const std::vector<std::string>& texts, std::size_t index) {
  return index < texts.size() ? texts[index].c_str() : nullptr;
}

}  // namespace

unfold_document_info ViewOf(const DocumentInfo& info) {
  return {.name = info.name.c_str(),
          .title = info.title.c_str(),
          .num_parts = info.num_parts,
          .num_tokens = info.num_tokens,
          .num_chunks = info.num_chunks,
          .text_bytes = info.text_bytes,
          .stored_bytes = info.stored_bytes};
}

unfold_source ViewOf(const Source& source) {
  return {.document = source.document.c_str(),
          .snippet = source.snippet.c_str(),
          .snippet_bytes = source.snippet.size(),
          .share = source.share,
          .part = source.part,
          .byte_begin = source.byte_begin,
          .byte_end = source.byte_end};
}

unfold_routed ViewOf(const RoutedDocument& routed) {
  return {.document = routed.document.c_str(), .score = routed.score, .part = routed.part};
}

}  // namespace unfold

unfold_document_list::unfold_document_list(std::vector<unfold::DocumentInfo> given)
    : infos(std::move(given)), views(unfold::ViewsOf<unfold_document_info>(infos)) {}

size_t unfold_document_list_size(const unfold_document_list* list) { return list == nullptr ? 0 : list->views.size(); }
const unfold_document_info* unfold_document_list_at(const unfold_document_list* list, size_t index) {
  return list == nullptr ? nullptr : unfold::At(list->views, index);
}
void unfold_document_list_free(unfold_document_list* list) { delete list; }

size_t unfold_name_list_size(const unfold_name_list* list) { return list == nullptr ? 0 : list->names.size(); }
const char* unfold_name_list_at(const unfold_name_list* list, size_t index) {
  return list == nullptr ? nullptr : unfold::TextAt(list->names, index);
}
void unfold_name_list_free(unfold_name_list* list) { delete list; }

unfold_answer::unfold_answer(unfold::Answer given)
    : answer(std::move(given)),
      sources(unfold::ViewsOf<unfold_source>(answer.sources)),
      routed(unfold::ViewsOf<unfold_routed>(answer.routed)),
      usage(unfold::UsageView(answer.usage)),
      timings(unfold::TimingsView(answer.timings)) {}

const char* unfold_answer_text(const unfold_answer* answer) {
  return answer == nullptr ? nullptr : answer->answer.text.c_str();
}
size_t unfold_answer_text_bytes(const unfold_answer* answer) {
  return answer == nullptr ? 0 : answer->answer.text.size();
}
const int32_t* unfold_answer_tokens(const unfold_answer* answer) {
  return answer == nullptr ? nullptr : answer->answer.tokens.data();
}
size_t unfold_answer_num_tokens(const unfold_answer* answer) {
  return answer == nullptr ? 0 : answer->answer.tokens.size();
}
unfold_finish unfold_answer_finish(const unfold_answer* answer) {
  return answer == nullptr ? UNFOLD_FINISH_END : unfold::ToFinish(answer->answer.finish);
}
size_t unfold_answer_num_sources(const unfold_answer* answer) { return answer == nullptr ? 0 : answer->sources.size(); }
const unfold_source* unfold_answer_source(const unfold_answer* answer, size_t index) {
  return answer == nullptr ? nullptr : unfold::At(answer->sources, index);
}
size_t unfold_answer_num_routed(const unfold_answer* answer) { return answer == nullptr ? 0 : answer->routed.size(); }
const unfold_routed* unfold_answer_routed(const unfold_answer* answer, size_t index) {
  return answer == nullptr ? nullptr : unfold::At(answer->routed, index);
}
size_t unfold_answer_num_placed(const unfold_answer* answer) {
  return answer == nullptr ? 0 : answer->answer.placed.size();
}
const char* unfold_answer_placed(const unfold_answer* answer, size_t index) {
  return answer == nullptr ? nullptr : unfold::TextAt(answer->answer.placed, index);
}
double unfold_answer_unfolded_share(const unfold_answer* answer) {
  return answer == nullptr ? 0 : answer->answer.unfolded_share;
}
int unfold_answer_question_truncated(const unfold_answer* answer) {
  return answer != nullptr && answer->answer.question_truncated ? 1 : 0;
}
const unfold_usage* unfold_answer_usage(const unfold_answer* answer) {
  return answer == nullptr ? nullptr : &answer->usage;
}
const unfold_timings* unfold_answer_timings(const unfold_answer* answer) {
  return answer == nullptr ? nullptr : &answer->timings;
}
void unfold_answer_free(unfold_answer* answer) { delete answer; }

unfold_route::unfold_route(unfold::RouteResult given)
    : result(std::move(given)),
      documents(unfold::ViewsOf<unfold_routed>(result.documents)),
      placed(unfold::ViewsOf<unfold_source>(result.placed)) {}

size_t unfold_route_num_documents(const unfold_route* route) { return route == nullptr ? 0 : route->documents.size(); }
const unfold_routed* unfold_route_document(const unfold_route* route, size_t index) {
  return route == nullptr ? nullptr : unfold::At(route->documents, index);
}
size_t unfold_route_num_placed(const unfold_route* route) { return route == nullptr ? 0 : route->placed.size(); }
const unfold_source* unfold_route_placed(const unfold_route* route, size_t index) {
  return route == nullptr ? nullptr : unfold::At(route->placed, index);
}
double unfold_route_ms(const unfold_route* route) { return route == nullptr ? 0 : route->result.route_ms; }
int unfold_route_question_truncated(const unfold_route* route) {
  return route != nullptr && route->result.question_truncated ? 1 : 0;
}
void unfold_route_free(unfold_route* route) { delete route; }

const unfold_verify_counts* unfold_verification_counts(const unfold_verification* verification) {
  return verification == nullptr ? nullptr : &verification->counts;
}
size_t unfold_verification_num_findings(const unfold_verification* verification) {
  return verification == nullptr ? 0 : verification->findings.size();
}
const char* unfold_verification_finding(const unfold_verification* verification, size_t index) {
  return verification == nullptr ? nullptr : unfold::TextAt(verification->findings, index);
}
void unfold_verification_free(unfold_verification* verification) { delete verification; }
