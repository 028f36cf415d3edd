// SPDX-License-Identifier: Apache-2.0
#include "model/gist_config.h"

#include <algorithm>
#include <initializer_list>

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

Result<std::vector<TokenId>> TokenIds(const JsonFields& fields, std::string_view field, const ModelConfig& model,
                                      const Tokenizer& tokenizer) {
  UNFOLD_TRY_ASSIGN(const std::vector<std::string> names, fields.StringsOr(field, {}));
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

Result<GistRules> ReadRules(const JsonFields& fields, const std::string& model_dir, const ModelConfig& model,
                            const Tokenizer& tokenizer) {
  GistRules rules;
  UNFOLD_TRY_ASSIGN(const std::vector<TokenId> gists, TokenIds(fields, "gist_tokens", model, tokenizer));
  if (gists.empty()) return NoGistTokens(model_dir);
  if (!fields.Has("chunk_size"))
    return fields.Error("chunk_size", "is missing: it must be the one the model was trained with");
  UNFOLD_TRY_ASSIGN(rules.chunk_size, IntField(fields, "chunk_size", 0, 1, 1024));
  UNFOLD_TRY_ASSIGN(rules.section_size, IntField(fields, "section_size", 0, 0, 1024));
  UNFOLD_TRY_ASSIGN(rules.sink_size, IntField(fields, "sink_size", 3, 0, 1024));
  UNFOLD_TRY_ASSIGN(rules.previous_chunks, IntField(fields, "previous_chunks", 1, 0, 1024));
  UNFOLD_TRY_ASSIGN(rules.word_aware, fields.BoolOr("word_aware", true));
  if (rules.section_size == 1) return fields.Error("section_size", "must be 0 (one level of gists) or at least 2");
  // Without sections the lowest level alone is used, whatever the vocabulary holds.
  const std::size_t num_levels = rules.section_size == 0 ? 1 : gists.size();
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
  UNFOLD_TRY_ASSIGN(config.compression, fields.NumberOr("compression", config.rules.chunk_size));
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

Status ReadPrompts(const JsonFields& fields, const Tokenizer& tokenizer, GistConfig& config) {
  const std::string name = fields.name() + ": prompt";
  const Json* prompt = fields.Find("prompt");
  if (prompt == nullptr) return fields.Error("prompt", "is missing: prefix, document and question templates");
  UNFOLD_TRY_ASSIGN(const JsonFields prompts, JsonFields::Of(*prompt, name));
  UNFOLD_TRY(RefuseUnknown(*prompt, name, {"prefix", "document", "question"}));
  UNFOLD_TRY_ASSIGN(const std::string prefix, prompts.StringOr("prefix", ""));
  UNFOLD_TRY_ASSIGN(config.prefix, PromptTemplate::Parse(prefix, name + ".prefix", "", tokenizer));
  UNFOLD_TRY_ASSIGN(config.document_template, prompts.StringOr("document", "{title}\n{text}"));
  UNFOLD_TRY(CheckDocumentTemplate(config.document_template, name + ".document", tokenizer));
  UNFOLD_TRY_ASSIGN(const std::string question, prompts.String("question"));
  UNFOLD_TRY_ASSIGN(config.question, PromptTemplate::Parse(question, name + ".question", "{question}", tokenizer));
  // Without a routing prompt of its own the question is routed as it is asked.
  UNFOLD_TRY_ASSIGN(config.routing, PromptTemplate::Parse(prefix + question, name, "{question}", tokenizer));
  return Status::Ok();
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
    UNFOLD_TRY_ASSIGN(config.routing, PromptTemplate::Parse(prompt, name + ".prompt", "{question}", tokenizer));
  }
  return ReadRoutingHeads(routing, model, config);
}

// The file, or an empty object when there is none, with the overrides merged in.
Result<Json> ReadMerged(const std::string& model_dir, std::string_view overrides) {
  const std::string path = model_dir + "/gist_config.json";
  Json json = Json::object();
  Result<Json> file = ReadJsonFile(path);
  if (file.ok()) {
    json = *std::move(file);
  } else if (file.status().code() != StatusCode::kNotFound) {
    return file.status();
  }
  if (!json.is_object()) return Status::InvalidArgument(path + ": expected an object");
  if (!overrides.empty()) {
    UNFOLD_TRY_ASSIGN(const Json patch, ParseJson(overrides, "gist config override"));
    if (!patch.is_object()) return Status::InvalidArgument("gist config override: expected a JSON object");
    json.merge_patch(patch);
  }
  return json;
}

}  // namespace

Result<GistConfig> LoadGistConfig(const std::string& model_dir, std::string_view overrides, const ModelConfig& model,
                                  const Tokenizer& tokenizer) {
  UNFOLD_TRY_ASSIGN(const Json json, ReadMerged(model_dir, overrides));
  const std::string name = model_dir + "/gist_config.json";
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
  UNFOLD_TRY_ASSIGN(config.rules, ReadRules(fields, model_dir, model, tokenizer));
  UNFOLD_TRY_ASSIGN(config.link_ids, TokenIds(fields, "link_tokens", model, tokenizer));
  UNFOLD_TRY(ReadLimits(fields, model, config));
  UNFOLD_TRY(ReadPrompts(fields, tokenizer, config));
  UNFOLD_TRY(ReadRouting(fields, model, tokenizer, config));
  return config;
}

}  // namespace unfold
