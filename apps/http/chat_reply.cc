// SPDX-License-Identifier: Apache-2.0
#include "apps/http/chat_reply.h"

#include <utility>

#include "apps/answer_json.h"

namespace unfold::http {
namespace {

std::string Event(const Json& json) { return "data: " + cli::DumpJson(json) + "\n\n"; }

const char* FinishReasonOf(const Answer& answer) { return answer.finish == FinishReason::kLength ? "length" : "stop"; }

Json ChatUsage(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}, {"audio_tokens", 0}}},
          {"completion_tokens_details",
           {{"reasoning_tokens", 0},
            {"audio_tokens", 0},
            {"accepted_prediction_tokens", 0},
            {"rejected_prediction_tokens", 0}}}};
}

Json Extras(const Answer& answer, bool explain) {
  Json json = {{"sources", cli::SourcesJson(answer.sources)},
               {"routed", cli::RoutedJson(answer.routed)},
               {"placed", answer.placed},
               {"unfolded_share", answer.unfolded_share},
               {"question_truncated", answer.question_truncated},
               {"turns_dropped", answer.num_turns_dropped},
               {"usage", cli::UsageJson(answer.usage)},
               {"timings", cli::TimingsJson(answer.timings)}};
  if (explain) json["unfolded"] = cli::UnfoldedJson(answer.unfolded);
  return json;
}

Json Chunk(const ChatHead& head, Json choices) {
  Json json = {{"id", head.id},       {"object", "chat.completion.chunk"}, {"created", head.created},
               {"model", head.model}, {"system_fingerprint", nullptr},     {"choices", std::move(choices)}};
  if (head.stream_usage) json["usage"] = nullptr;
  return json;
}

Json Choice(Json delta, Json finish_reason) {
  return Json::array({{{"index", 0},
                       {"delta", std::move(delta)},
                       {"logprobs", nullptr},
                       {"finish_reason", std::move(finish_reason)}}});
}

}  // namespace

Json ChatCompletion(const ChatHead& head, const Answer& answer, bool explain) {
  return {
      {"id", head.id},
      {"object", "chat.completion"},
      {"created", head.created},
      {"model", head.model},
      {"choices", Json::array({{{"index", 0},
                                {"message", {{"role", "assistant"}, {"content", answer.text}, {"refusal", nullptr}}},
                                {"logprobs", nullptr},
                                {"finish_reason", FinishReasonOf(answer)}}})},
      {"usage", ChatUsage(answer.usage)},
      {"system_fingerprint", nullptr},
      {"unfold", Extras(answer, explain)}};
}

std::string FirstChunk(const ChatHead& head) {
  return Event(Chunk(head, Choice({{"role", "assistant"}, {"content", ""}, {"refusal", nullptr}}, nullptr)));
}

std::string TextChunk(const ChatHead& head, std::string_view text) {
  return Event(Chunk(head, Choice({{"content", text}}, nullptr)));
}

std::string LastChunks(const ChatHead& head, const Answer& answer, bool explain) {
  Json last = Chunk(head, Choice(Json::object(), FinishReasonOf(answer)));
  last["unfold"] = Extras(answer, explain);
  std::string events = Event(last);
  if (head.stream_usage) {
    Json usage = Chunk(head, Json::array());
    usage["usage"] = ChatUsage(answer.usage);
    events += Event(usage);
  }
  return events + "data: [DONE]\n\n";
}

std::string ErrorChunk(const ApiError& error) { return Event(ErrorJson(error)); }

Json QueryReply(const Answer& answer, bool explain, bool answers) {
  Json json;
  if (answers) json = {{"answer", answer.text}, {"finish_reason", FinishReasonOf(answer)}};
  json.update(Extras(answer, explain));
  return json;
}

}  // namespace unfold::http
