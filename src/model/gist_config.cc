// SPDX-License-Identifier: Apache-2.0
#include "model/gist_config.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "text/chat_template.h"
#include "text/tokenizer_config.h"
#include "text/utf8.h"

namespace unfold {
namespace {

constexpr int kFormatVersion = 1;

Status RefuseUnknown(const Json& object, const std::string& name, std::initializer_list<std::string_view> known) {
  for (const auto& [field, value] : object.items()) {
    if (std::find(known.begin(), known.end(), field) != known.end()) continue;
    std::string message = name + ": unknown field '" + field + "'; known fields are";
    for (std::string_view one : known) message += " " + std::string(one);
    return Status::InvalidArgument(message);
  }
  return Status::Ok();
}

Status NoGistTokens(const std::string& model_dir) {
  return Status::NotFound(
      model_dir +
      ": this checkpoint has no gist tokens, so its documents cannot be stored. Use a checkpoint trained with gist "
      "tokens "
      "and its gist_config.json (datasets/gist-mini is one), or name the tokens of a trained one by gist_tokens and "
      "chunk_size");
}

// How a gist was trained stands in no other file, and a directory's name is no promise.
Status NoChunkSize(const std::string& model_dir) {
  return Status::NotFound(
      model_dir +
      "/gist_config.json: no such file. The tokenizer has gist tokens, so these fields, or flags of their names, are "
      "enough: chunk_size (--chunk-size), section_size if the model was trained with sections (--section-size), and "
      "prompt.chat_template (--chat-template " +
      ChatTemplateNames() + ") or prompt.question (--prompt-question); they must be those of the training");
}

// The tokens of the method's authors, by level, as far as the tokenizer has them.
std::vector<std::string> UsualGistTokens(const Tokenizer& tokenizer) {
  std::vector<std::string> tokens;
  for (const char* token : {"<gist>", "<Gist>", "<MGist>"}) {
    if (tokenizer.IdOf(token) < 0) break;
    tokens.emplace_back(token);
  }
  return tokens;
}

Result<std::vector<TokenId>> TokenIds(const JsonFields& fields, std::string_view field,
                                      std::vector<std::string> fallback, const ModelConfig& model,
                                      const Tokenizer& tokenizer) {
  UNFOLD_TRY_ASSIGN(const std::vector<std::string> names, fields.StringsOr(field, std::move(fallback)));
  std::vector<TokenId> ids;
  for (const std::string& token : names) {
    const TokenId id = tokenizer.IdOf(token);
    if (id < 0 || id >= model.vocab_size) {
      return fields.Error(field, "names '" + token + "', which the tokenizer does not have");
    }
    if (std::find(ids.begin(), ids.end(), id) != ids.end()) return fields.Error(field, "names '" + token + "' twice");
    ids.push_back(id);
  }
  return ids;
}

Result<int> IntField(const JsonFields& fields, std::string_view field, int fallback, int low, int high) {
  UNFOLD_TRY_ASSIGN(const std::int64_t value, fields.IntOr(field, fallback, low, high));
  return static_cast<int>(value);
}

Result<GistRules> ReadRules(const JsonFields& fields, const std::string& model_dir, bool has_file,
                            const ModelConfig& model, const Tokenizer& tokenizer) {
  GistRules rules;
  UNFOLD_TRY_ASSIGN(const std::vector<TokenId> gists,
                    TokenIds(fields, "gist_tokens", UsualGistTokens(tokenizer), model, tokenizer));
  if (gists.empty()) return NoGistTokens(model_dir);
  if (!fields.Has("chunk_size")) {
    if (!has_file) return NoChunkSize(model_dir);
    return fields.Error("chunk_size", "is missing: it must be the one the model was trained with");
  }
  UNFOLD_TRY_ASSIGN(rules.chunk_size, IntField(fields, "chunk_size", 0, 1, 1024));
  UNFOLD_TRY_ASSIGN(rules.section_size, IntField(fields, "section_size", 0, 0, 1024));
  UNFOLD_TRY_ASSIGN(rules.sink_size, IntField(fields, "sink_size", 3, 0, 1024));
  UNFOLD_TRY_ASSIGN(rules.previous_chunks, IntField(fields, "previous_chunks", 1, 0, 1024));
  UNFOLD_TRY_ASSIGN(rules.word_aware, fields.BoolOr("word_aware", true));
  if (rules.section_size == 1) return fields.Error("section_size", "must be 0 (one level of gists) or at least 2");
  // Without sections the lowest level alone is used, with them two levels, whatever the vocabulary holds beside: a
  // third must be named.
  const std::size_t most_levels = rules.section_size == 0 ? 1 : fields.Has("gist_tokens") ? gists.size() : 2;
  const std::size_t num_levels = std::min(most_levels, gists.size());
  if (num_levels > kMaxGistLevels || (rules.section_size > 0 && num_levels < 2)) {
    return fields.Error("gist_tokens",
                        "must name 2 or 3 tokens with a section_size, lowest level first (<gist>, <Gist>)");
  }
  for (const TokenId id : gists) {
    if (tokenizer.IsSpecial(id)) continue;
    return fields.Error("gist_tokens", "names '" + std::string(tokenizer.TokenBytes(id)) +
                                           "', which is no special token: its text in a document would be a gist");
  }
  rules.gist_ids.assign(gists.begin(), gists.begin() + static_cast<std::ptrdiff_t>(num_levels));
  return rules;
}

Status ReadLimits(const JsonFields& fields, const ModelConfig& model, GistConfig& config) {
  const int section_size = std::max(1, config.rules.section_size);
  UNFOLD_TRY_ASSIGN(config.compression, fields.NumberOr("compression", config.rules.chunk_size * section_size));
  if (!(config.compression >= 1 && config.compression <= 1e6)) return fields.Error("compression", "must be at least 1");
  const int window = model.max_positions;
  UNFOLD_TRY_ASSIGN(config.part_tokens, IntField(fields, "part_tokens", std::min(1024, window), 16, window));
  UNFOLD_TRY_ASSIGN(config.max_question_tokens, IntField(fields, "max_question_tokens", window / 4, 1, window));
  UNFOLD_TRY_ASSIGN(config.max_answer_tokens, IntField(fields, "max_answer_tokens", 256, 1, window));
  UNFOLD_TRY_ASSIGN(const std::vector<std::int64_t> suppressed, fields.IntsOr("suppressed_tokens", {}));
  for (const std::int64_t id : suppressed) {
    if (id < 0 || id >= model.vocab_size) {
      return fields.Error("suppressed_tokens", "holds " + std::to_string(id) + ", which is no token of the model");
    }
    config.suppressed_tokens.push_back(static_cast<TokenId>(id));
  }
  if (const Json* set = fields.Find("working_set"); set != nullptr) {
    const std::string name = fields.name() + ": working_set";
    UNFOLD_TRY_ASSIGN(const JsonFields set_fields, JsonFields::Of(*set, name));
    UNFOLD_TRY(RefuseUnknown(*set, name, {"max_documents"}));
    UNFOLD_TRY_ASSIGN(config.max_documents, IntField(set_fields, "max_documents", 0, 1, 1 << 20));
  }
  return Status::Ok();
}

Status CheckDocumentTemplate(const std::string& text, const std::string& name, const Tokenizer& tokenizer) {
  for (std::string_view placeholder : {"{title}", "{text}"}) {
    const std::size_t first = text.find(placeholder);
    if (first == std::string::npos || text.find(placeholder, first + 1) != std::string::npos) {
      return Status::InvalidArgument(name + ": must hold " + std::string(placeholder) + " exactly once");
    }
  }
  if (text.find("{title}") > text.find("{text}"))
    return Status::InvalidArgument(name + ": {title} must come before {text}");
  for (const std::string& special : tokenizer.special_tokens()) {
    if (text.find(special) != std::string::npos) {
      return Status::InvalidArgument(name + ": special token '" + special + "' is not supported in a document");
    }
  }
  return Status::Ok();
}

Status ReadChatPrompts(const JsonFields& prompts, const Tokenizer& tokenizer, GistConfig& config) {
  for (std::string_view field : {"prefix", "question"}) {
    if (prompts.Has(field)) return prompts.Error(field, "and 'chat_template' exclude each other");
  }
  UNFOLD_TRY_ASSIGN(const std::string name, prompts.String("chat_template"));
  const ChatTemplate* chat = FindChatTemplate(name);
  if (chat == nullptr) {
    return prompts.Error("chat_template", "'" + name + "' is not built in (" + ChatTemplateNames() + " is)");
  }
  for (std::string_view token : chat->tokens) {
    const TokenId id = tokenizer.IdOf(token);
    if (id < 0 || !tokenizer.IsSpecial(id)) {
      return prompts.Error("chat_template", "'" + name + "' needs the special token '" + std::string(token) +
                                                "', which the tokenizer does not have");
    }
  }
  UNFOLD_TRY_ASSIGN(std::string system, prompts.StringOr("system", ""));
  if (chat->trims) system = std::string(TrimWhiteSpace(system));
  std::string prefix(chat->begin);
  if (!system.empty()) prefix += chat->system;
  UNFOLD_TRY_ASSIGN(const PromptTemplate shape,
                    PromptTemplate::Parse(prefix, name, system.empty() ? "" : "{text}", tokenizer));
  config.prefix = shape.Bind(system);
  UNFOLD_TRY_ASSIGN(config.question, QuestionPrompt::Chat(*chat, PromptTemplate(), tokenizer));
  UNFOLD_TRY_ASSIGN(config.routing, QuestionPrompt::Chat(*chat, config.prefix, tokenizer));
  config.turn_end_tokens = {tokenizer.IdOf(chat->turn_end)};
  return Status::Ok();
}

Status ReadPlainPrompts(const JsonFields& prompts, const Tokenizer& tokenizer, GistConfig& config) {
  if (prompts.Has("system")) return prompts.Error("system", "needs a 'chat_template'; a plain prompt has its prefix");
  const std::string& name = prompts.name();
  UNFOLD_TRY_ASSIGN(const std::string prefix, prompts.StringOr("prefix", ""));
  UNFOLD_TRY_ASSIGN(config.prefix, PromptTemplate::Parse(prefix, name + ".prefix", "", tokenizer));
  UNFOLD_TRY_ASSIGN(const std::string question, prompts.String("question"));
  UNFOLD_TRY_ASSIGN(PromptTemplate shape, PromptTemplate::Parse(question, name + ".question", "{question}", tokenizer));
  config.question = QuestionPrompt(std::move(shape));
  // Without a routing prompt of its own the question is routed as it is asked.
  UNFOLD_TRY_ASSIGN(shape, PromptTemplate::Parse(prefix + question, name, "{question}", tokenizer));
  config.routing = QuestionPrompt(std::move(shape));
  return Status::Ok();
}

// A checkpoint's own chat template is a program in Jinja: it is not run, and not guessed at.
Status NoPrompt(const JsonFields& fields, bool has_chat_template) {
  std::string what = "is missing: give prompt.question (--prompt-question) as the model was trained with";
  what +=
      has_chat_template
          ? ". The checkpoint has a chat template of its own, but as a Jinja program, which this build does not run; "
            "if it is one of the built-ins, name it by prompt.chat_template (--chat-template "
          : ", or a built-in chat template by prompt.chat_template (--chat-template ";
  return fields.Error("prompt", what + ChatTemplateNames() + ")");
}

Status ReadPrompts(const JsonFields& fields, bool has_chat_template, const Tokenizer& tokenizer, GistConfig& config) {
  const std::string name = fields.name() + ": prompt";
  const Json* prompt = fields.Find("prompt");
  if (prompt == nullptr) return NoPrompt(fields, has_chat_template);
  UNFOLD_TRY_ASSIGN(const JsonFields prompts, JsonFields::Of(*prompt, name));
  UNFOLD_TRY(RefuseUnknown(*prompt, name, {"prefix", "document", "question", "chat_template", "system"}));
  UNFOLD_TRY_ASSIGN(config.document_template, prompts.StringOr("document", "{title}\n{text}"));
  UNFOLD_TRY(CheckDocumentTemplate(config.document_template, name + ".document", tokenizer));
  if (prompts.Has("chat_template")) return ReadChatPrompts(prompts, tokenizer, config);
  if (!prompts.Has("question") && has_chat_template) return NoPrompt(fields, has_chat_template);
  return ReadPlainPrompts(prompts, tokenizer, config);
}

Status ReadRoutingHeads(const JsonFields& routing, const ModelConfig& model, GistConfig& config) {
  const Json* heads = routing.Find("heads");
  if (heads == nullptr) return Status::Ok();
  if (!heads->is_array() || heads->empty()) return routing.Error("heads", "must be a list of [layer, head, weight]");
  config.routing_heads.clear();
  for (const Json& entry : *heads) {
    const bool shaped = entry.is_array() && entry.size() == 3 && entry[0].is_number_integer() &&
                        entry[1].is_number_integer() && entry[2].is_number();
    if (!shaped)
      return routing.Error("heads", "must be a list of [layer, head, weight], found " + entry.dump().substr(0, 60));
    const auto layer = entry[0].get<std::int64_t>();
    const auto head = entry[1].get<std::int64_t>();
    if (layer < 0 || layer >= model.num_layers || head < 0 || head >= model.heads) {
      return routing.Error("heads", "names " + entry.dump() + ", outside the model's layers and heads");
    }
    config.routing_heads.push_back({static_cast<int>(layer), static_cast<int>(head), entry[2].get<float>()});
  }
  float total = 0;
  for (const RoutingHead& head : config.routing_heads) total += head.weight;
  if (!(total > 0)) return routing.Error("heads", "have weights that do not sum to more than 0");
  return Status::Ok();
}

Status ReadRouting(const JsonFields& fields, const ModelConfig& model, const Tokenizer& tokenizer, GistConfig& config) {
  for (int layer = 1; layer < model.num_layers; ++layer) {
    for (int head = 0; head < model.heads; ++head) config.routing_heads.push_back({layer, head, 1.0F});
  }
  const Json* routing_json = fields.Find("routing");
  if (routing_json == nullptr) return Status::Ok();
  const std::string name = fields.name() + ": routing";
  UNFOLD_TRY_ASSIGN(const JsonFields routing, JsonFields::Of(*routing_json, name));
  UNFOLD_TRY(RefuseUnknown(*routing_json, name, {"score", "prompt", "query_tokens", "heads"}));
  UNFOLD_TRY_ASSIGN(const std::string score, routing.StringOr("score", "maxsim"));
  if (score != "maxsim" && score != "standardised") {
    return routing.Error("score", "must be 'maxsim' or 'standardised', found '" + score + "'");
  }
  config.scoring = score == "maxsim" ? RouteScoring::kMaxSim : RouteScoring::kStandardised;
  UNFOLD_TRY_ASSIGN(const std::string tokens, routing.StringOr("query_tokens", "question"));
  if (tokens != "question") return routing.Error("query_tokens", "'" + tokens + "' is not supported (only 'question')");
  if (routing.Has("prompt")) {
    UNFOLD_TRY_ASSIGN(const std::string prompt, routing.String("prompt"));
    UNFOLD_TRY_ASSIGN(PromptTemplate shape, PromptTemplate::Parse(prompt, name + ".prompt", "{question}", tokenizer));
    config.routing = QuestionPrompt(std::move(shape));
  }
  return ReadRoutingHeads(routing, model, config);
}

// A prompt is one or the other: what a flag says takes away the file's other form.
void LetPatchChoosePrompt(const Json& patch, Json& file) {
  const auto has = [](const Json& object, const char* field) {
    return object.is_object() && object.contains(field) && !object.at(field).is_null();
  };
  if (!has(patch, "prompt") || !has(file, "prompt") || !file["prompt"].is_object()) return;
  const Json& chosen = patch.at("prompt");
  const bool plain = has(chosen, "prefix") || has(chosen, "question");
  const bool chat = has(chosen, "chat_template");
  for (const char* field : {"prefix", "question"}) {
    if (chat && !plain) file["prompt"].erase(field);
  }
  for (const char* field : {"chat_template", "system"}) {
    if (plain && !chat) file["prompt"].erase(field);
  }
}

// The file with the overrides merged in.
Result<Json> Merge(std::string_view file, std::string_view overrides, const std::string& path) {
  Json json = Json::object();
  if (!file.empty()) {
    UNFOLD_TRY_ASSIGN(json, ParseJson(file, path));
  }
  if (!json.is_object()) return Status::InvalidArgument(path + ": expected an object");
  if (!overrides.empty()) {
    UNFOLD_TRY_ASSIGN(const Json patch, ParseJson(overrides, "gist config override"));
    if (!patch.is_object()) return Status::InvalidArgument("gist config override: expected a JSON object");
    LetPatchChoosePrompt(patch, json);
    json.merge_patch(patch);
  }
  return json;
}

}  // namespace

Result<GistConfig> ParseGistConfig(std::string_view file, std::string_view overrides, const std::string& model_dir,
                                   const ModelConfig& model, const Tokenizer& tokenizer, bool has_chat_template) {
  const std::string name = model_dir + "/gist_config.json";
  UNFOLD_TRY_ASSIGN(const Json json, Merge(file, overrides, name));
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(json, name));
  UNFOLD_TRY(RefuseUnknown(json, name,
                           {"format_version", "gist_tokens", "link_tokens", "chunk_size", "section_size", "sink_size",
                            "previous_chunks", "word_aware", "compression", "part_tokens", "max_question_tokens",
                            "max_answer_tokens", "suppressed_tokens", "working_set", "prompt", "routing"}));
  UNFOLD_TRY_ASSIGN(const std::int64_t version, fields.IntOr("format_version", kFormatVersion, 0, INT32_MAX));
  if (version != kFormatVersion) {
    return Status::Incompatible(name + ": format_version " + std::to_string(version) +
                                " is not known (this build reads " + std::to_string(kFormatVersion) + ")");
  }
  GistConfig config;
  UNFOLD_TRY_ASSIGN(config.rules, ReadRules(fields, model_dir, !file.empty(), model, tokenizer));
  UNFOLD_TRY_ASSIGN(config.link_ids, TokenIds(fields, "link_tokens", {}, model, tokenizer));
  UNFOLD_TRY(ReadLimits(fields, model, config));
  UNFOLD_TRY(ReadPrompts(fields, has_chat_template, tokenizer, config));
  UNFOLD_TRY(ReadRouting(fields, model, tokenizer, config));
  return config;
}

Result<GistConfig> LoadGistConfig(const std::string& model_dir, std::string_view overrides, const ModelConfig& model,
                                  const Tokenizer& tokenizer) {
  UNFOLD_TRY_ASSIGN(const TokenizerConfig beside, ReadTokenizerConfig(model_dir));
  Result<std::string> file = ReadFile(model_dir + "/gist_config.json");
  if (!file.ok()) {
    if (file.status().code() != StatusCode::kNotFound) return file.status();
    return ParseGistConfig("", overrides, model_dir, model, tokenizer, beside.has_chat_template);
  }
  // An empty file is half a file.
  return ParseGistConfig(file->empty() ? " " : *file, overrides, model_dir, model, tokenizer, beside.has_chat_template);
}

}  // namespace unfold
