// SPDX-License-Identifier: Apache-2.0
#include "apps/http/ask_request.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "apps/http/field_reader.h"

namespace unfold::http {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 30;
constexpr std::size_t kMostStops = 4, kMostDocuments = 10000;
constexpr double kLongestTimeout = 86400;

bool IsBlank(const std::string& text) { return text.find_first_not_of(" \t\r\n") == std::string::npos; }

void ReadSampling(FieldReader& fields, AskOptions& options) {
  SamplingOptions& sampling = options.sampling;
  if (const auto value = fields.Number("temperature", 0, 2)) sampling.temperature = static_cast<float>(*value);
  if (const auto value = fields.Number("top_p", 0, 1)) sampling.top_p = static_cast<float>(*value);
  if (const auto value = fields.Int("seed", INT64_MIN, INT64_MAX)) sampling.seed = static_cast<std::uint64_t>(*value);
  options.stop = fields.Strings("stop", kMostStops);
  for (const std::string& stop : options.stop) {
    if (stop.empty()) fields.Refuse("stop", "must not be empty");
  }
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {
    if (const auto value = fields.Int(name, 1, kMostTokens)) options.max_answer_tokens = static_cast<int>(*value);
  }
}

void ReadSelection(FieldReader& fields, AskRequest& request) {
  AskOptions& options = request.options;
  WorkingSetOptions& set = options.working_set;
  set.documents = fields.Strings("documents", kMostDocuments);
  if (const auto value = fields.Int("max_documents", 1, kMostTokens)) set.max_documents = static_cast<int>(*value);
  if (const auto value = fields.Int("max_context_tokens", 1, kMostTokens)) {
    set.max_context_tokens = static_cast<int>(*value);
  }
  if (const auto value = fields.Number("compression", 1, 1e6)) options.compression = *value;
  if (const auto value = fields.Int("unfold_top_k", 1, kMostTokens)) options.unfold_top_k = static_cast<int>(*value);
  if (const auto value = fields.Number("unfold_top_p", 0, 1)) options.unfold_top_p = static_cast<float>(*value);
  if (const auto value = fields.Bool("explain")) options.explain = *value;
  request.timeout_seconds = fields.Number("timeout_seconds", 0, kLongestTimeout);
}

// A message's text: a string, or parts of type text one after another.
std::optional<std::string> ReadContent(const Json& message, FieldReader& fields) {
  const Json* content = fields.Find("content");
  if (content == nullptr) return std::string();
  if (content->is_string()) return content->get<std::string>();
  std::string text;
  if (!content->is_array()) {
    fields.Refuse("content", "must be a string or an array of parts");
    return {};
  }
  for (const Json& part : message["content"]) {
    const bool is_text = part.is_object() && part.contains("type") && part["type"] == "text" && part.contains("text") &&
                         part["text"].is_string();
    if (!is_text) {
      fields.Refuse("content", "must have parts of type text only");
      return {};
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

// Turns of a conversation, what system and developer messages say first.
std::vector<Turn> ReadTurns(const Json& messages, const std::string& name, std::optional<ApiError>& error) {
  std::string instructions;
  std::vector<Turn> turns;
  for (std::size_t i = 0; i < messages.size() && !error; ++i) {
    const std::string path = name + "[" + std::to_string(i) + "]";
    if (!messages[i].is_object()) {
      error = InvalidRequest(path, path + " must be an object");
      break;
    }
    FieldReader fields(messages[i], path + ".", error);
    const std::string role = fields.String("role").value_or("");
    const std::string text = ReadContent(messages[i], fields).value_or("");
    if (role == "system" || role == "developer") {
      instructions += (instructions.empty() ? "" : "\n") + text;
    } else if (role == "user" || role == "assistant") {
      turns.push_back({role == "user" ? TurnRole::kUser : TurnRole::kAssistant, text});
    } else {
      fields.Refuse("role", "must be system, developer, user or assistant");
    }
  }
  if (!IsBlank(instructions)) turns.insert(turns.begin(), {TurnRole::kUser, std::move(instructions)});
  return turns;
}

// What would change the answer and is not to be had here.
void RefuseUnsupported(FieldReader& fields) {
  for (const char* name : {"tools", "functions", "tool_choice", "function_call", "logit_bias", "audio", "prediction"}) {
    const Json* value = fields.Find(name);
    const bool off = value == nullptr || value->empty() || *value == "none" || *value == "auto";
    if (!off) fields.Refuse(name, "is not supported");
  }
  for (const char* name : {"presence_penalty", "frequency_penalty"}) {
    if (fields.Number(name, -2, 2).value_or(0) != 0) fields.Refuse(name, "is not supported: leave it out, or 0");
  }
  if (fields.Int("n", 1, 128).value_or(1) != 1) fields.Refuse("n", "must be 1");
  if (fields.Bool("logprobs").value_or(false)) fields.Refuse("logprobs", "is not supported");
  if (const Json* format = fields.Object("response_format")) {
    if (!format->contains("type") || (*format)["type"] != "text") fields.Refuse("response_format", "must be text");
  }
}

}  // namespace

std::optional<ApiError> ParseChat(std::string_view body, AskRequest& request) {
  std::optional<ApiError> error;
  const Json json = ParseBody(body, error);
  FieldReader fields(json, "", error);
  const std::string model = fields.String("model").value_or("");
  if (!model.starts_with(kModelPrefix) || model.size() == kModelPrefix.size()) {
    fields.Refuse("model", "must be 'unfold:COLLECTION'; GET /v1/models lists them");
  }
  request.collection = model.substr(std::min(model.size(), kModelPrefix.size()));
  const Json* messages = fields.Array("messages");
  if (messages == nullptr) fields.Refuse("messages", "is missing");
  if (fields.ok()) {
    std::vector<Turn>& turns = request.options.history = ReadTurns(*messages, "messages", error);
    const bool asks = messages->size() > 0 && !turns.empty() && messages->back().value("role", Json()) == "user" &&
                      !IsBlank(turns.back().text);
    if (asks) {
      request.question = std::move(turns.back().text);
      turns.pop_back();
    } else if (fields.ok()) {
      error = InvalidRequest("messages", "the last of messages must be a user's, with text: it is the question");
    }
  }
  RefuseUnsupported(fields);
  ReadSampling(fields, request.options);
  request.streams = fields.Bool("stream").value_or(false);
  if (const Json* options = fields.Object("stream_options")) {
    FieldReader stream(*options, "stream_options.", error);
    request.stream_usage = stream.Bool("include_usage").value_or(false);
    if (!request.streams) fields.Refuse("stream_options", "is for streams: set stream to true, or leave it out");
  }
  if (const Json* own = fields.Object("unfold")) {
    FieldReader options(*own, "unfold.", error);
    ReadSelection(options, request);
  }
  return error;
}

std::optional<ApiError> ParseQuery(std::string_view body, AskRequest& request) {
  std::optional<ApiError> error;
  const Json json = ParseBody(body, error);
  FieldReader fields(json, "", error);
  constexpr std::array kKnown = {
      "question",    "collection", "documents",      "max_documents",         "max_context_tokens",
      "compression", "explain",    "answer",         "unfold_top_k",          "unfold_top_p",
      "history",     "max_tokens", "stop",           "max_completion_tokens", "seed",
      "temperature", "top_p",      "timeout_seconds"};
  for (const auto& [field, value] : json.items()) {
    if (std::find(kKnown.begin(), kKnown.end(), field) == kKnown.end()) fields.Refuse(field, "is not a known field");
  }
  request.collection = fields.String("collection").value_or("");
  if (request.collection.empty()) fields.Refuse("collection", "is missing");
  if (const Json* history = fields.Array("history")) request.options.history = ReadTurns(*history, "history", error);
  request.question = fields.String("question").value_or("");
  if (IsBlank(request.question)) fields.Refuse("question", "is missing");
  ReadSampling(fields, request.options);
  ReadSelection(fields, request);
  request.answers = fields.Bool("answer").value_or(true);
  return error;
}

}  // namespace unfold::http
