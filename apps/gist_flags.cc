// SPDX-License-Identifier: Apache-2.0
#include "apps/gist_flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>

namespace unfold::cli {
namespace {

using Kind = GistFlagKind;

constexpr GistFlag kFlags[] = {
    {"--gist-tokens", "/gist_tokens", Kind::kStrings, "TOKENS", "gist tokens of each level, comma-separated"},
    {"--link-tokens", "/link_tokens", Kind::kStrings, "TOKENS", "link tokens, comma-separated; '' for none"},
    {"--chunk-size", "/chunk_size", Kind::kInt, "N", "raw tokens that one gist stands for"},
    {"--section-size", "/section_size", Kind::kInt, "N", "gists that one meta-gist stands for; 0: one level"},
    {"--sink-size", "/sink_size", Kind::kInt, "N", "first raw tokens of a document that stay visible"},
    {"--previous-chunks", "/previous_chunks", Kind::kInt, "N", "raw chunks before its own that a token sees"},
    {"--word-aware", "/word_aware", Kind::kBool, "BOOL", "move chunk ends to word boundaries"},
    {"--compression", "/compression", Kind::kNumber, "R", "context tokens for each token attended"},
    {"--part-tokens", "/part_tokens", Kind::kInt, "N", "most raw tokens of one part of a document"},
    {"--max-question-tokens", "/max_question_tokens", Kind::kInt, "N", "a longer question is cut"},
    {"--max-answer-tokens,--max-tokens", "/max_answer_tokens", Kind::kInt, "N", "most tokens of an answer"},
    {"--suppressed-tokens", "/suppressed_tokens", Kind::kInts, "IDS", "ids never generated, comma-separated"},
    {"--max-documents", "/working_set/max_documents", Kind::kInt, "N", "most parts placed when routing"},
    {"--prompt-document", "/prompt/document", Kind::kString, "TEXT", "a part, from {title} and {text}"},
    {"--prompt-prefix", "/prompt/prefix", Kind::kString, "TEXT", "before the documents"},
    {"--prompt-question", "/prompt/question", Kind::kString, "TEXT", "after the documents, from {question}"},
    {"--chat-template", "/prompt/chat_template", Kind::kString, "NAME", "chatml or llama3, instead of the two above"},
    {"--system-prompt", "/prompt/system", Kind::kString, "TEXT", "system turn of the chat template"},
    {"--routing-score", "/routing/score", Kind::kString, "NAME", "maxsim or standardised"},
    {"--routing-prompt", "/routing/prompt", Kind::kString, "TEXT", "what is run to route, from {question}"},
    {"--routing-query-tokens", "/routing/query_tokens", Kind::kString, "NAME", "which of its tokens are scored"},
    {"--routing-heads", "/routing/heads", Kind::kJson, "JSON", "[[layer, head, weight], ...]"},
};

template <typename T>
std::optional<T> ParseNumber(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Json> ParseInt(std::string_view text) {
  const auto value = ParseNumber<std::int64_t>(text);
  return value ? std::optional<Json>(*value) : std::nullopt;
}

std::optional<Json> ParseReal(std::string_view text) {
  if (auto integer = ParseInt(text)) return integer;  // 8 stays 8, as gist_config.json writes it
  const auto value = ParseNumber<double>(text);
  return value && std::isfinite(*value) ? std::optional<Json>(*value) : std::nullopt;
}

std::optional<Json> ParseBool(std::string_view text) {
  if (text == "true" || text == "1" || text == "on" || text == "yes") return Json(true);
  if (text == "false" || text == "0" || text == "off" || text == "no") return Json(false);
  return std::nullopt;
}

std::optional<Json> ParseArray(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_array() ? std::optional<Json>(std::move(json)) : std::nullopt;
}

std::optional<Json> ParseList(const std::string& text, bool ints) {
  if (!text.empty() && text[0] == '[') {
    const auto fits = [&](const Json& value) { return ints ? value.is_number_integer() : value.is_string(); };
    auto array = ParseArray(text);
    return array && std::all_of(array->begin(), array->end(), fits) ? array : std::nullopt;
  }
  Json list = Json::array();
  for (std::size_t begin = 0; begin <= text.size() && !text.empty();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    const auto value = ints ? ParseInt(item) : item.empty() ? std::nullopt : std::optional<Json>(item);
    if (!value) return std::nullopt;
    list.push_back(*value);
    begin = end + 1;
  }
  return list;
}

std::optional<Json> Parse(Kind kind, const std::string& text) {
  switch (kind) {
    case Kind::kInt: return ParseInt(text);
    case Kind::kNumber: return ParseReal(text);
    case Kind::kBool: return ParseBool(text);
    case Kind::kString: return Json(text);
    case Kind::kStrings: return ParseList(text, /*ints=*/false);
    case Kind::kInts: return ParseList(text, /*ints=*/true);
    case Kind::kJson: return ParseArray(text);
  }
  return std::nullopt;
}

const char* Expected(Kind kind) {
  switch (kind) {
    case Kind::kInt: return "a whole number";
    case Kind::kNumber: return "a number";
    case Kind::kBool: return "true or false";
    case Kind::kString: return "a text";
    case Kind::kStrings: return "texts separated by commas, or a JSON array of strings";
    case Kind::kInts: return "whole numbers separated by commas";
    case Kind::kJson: return "a JSON array";
  }
  return "";
}

}  // namespace

std::span<const GistFlag> GistFlags() { return kFlags; }

Result<Json> ParseGistFlag(const GistFlag& flag, const std::string& text) {
  if (auto value = Parse(flag.kind, text)) return *std::move(value);
  return Status::InvalidArgument("expected " + std::string(Expected(flag.kind)) + ", got '" + text + "'");
}

Result<std::string> MakeGistOverrides(const std::vector<std::pair<const GistFlag*, std::string>>& values) {
  if (values.empty()) return std::string();
  Json patch = Json::object();
  for (const auto& [flag, text] : values) {
    UNFOLD_TRY_ASSIGN(Json value, ParseGistFlag(*flag, text));
    patch[Json::json_pointer(flag->path)] = std::move(value);
  }
  return DumpJson(patch);
}

}  // namespace unfold::cli
