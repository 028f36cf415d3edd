// SPDX-License-Identifier: Apache-2.0
// Any bytes as gist_config.json, alone and with flags merged over it: refused with a message, or rules and prompts that
// can be used.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "model/gist_config.h"
#include "unfold/options.h"

namespace {

using unfold::Json;

void Require(bool holds) {
  if (!holds) std::abort();
}

// A byte-level tokenizer of nothing but bytes and the special tokens of gists and chat templates.
std::unique_ptr<unfold::Tokenizer> MakeTokenizer() {
  Json vocab, added = Json::array();
  for (const char* token : {"<gist>", "<Gist>", "<link0>", "<|bos|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>",
                            "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}) {
    added.push_back({{"id", vocab.size()}, {"content", token}, {"special", true}, {"normalized", false}});
    vocab[token] = vocab.size();
  }
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const int code = prints ? byte : next++;
    std::string spelled(1, static_cast<char>(code));
    if (code >= 0x80) spelled = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    vocab[spelled] = vocab.size();
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const Json model = {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}};
  const Json file = {{"added_tokens", added}, {"pre_tokenizer", byte_level}, {"decoder", byte_level}, {"model", model}};
  auto tokenizer = unfold::Tokenizer::Parse(file.dump(), "tokenizer.json");
  Require(tokenizer.ok());
  return *std::move(tokenizer);
}

void CheckPrompt(const unfold::FilledPrompt& filled, std::int32_t vocab_size, int limit) {
  const auto size = static_cast<std::int32_t>(filled.ids.size());
  Require(0 <= filled.question_begin && filled.question_begin <= filled.question_end && filled.question_end <= size);
  Require(filled.question_end - filled.question_begin <= limit);
  for (const unfold::TokenId id : filled.ids) Require(id >= 0 && id < vocab_size);
}

void CheckConfig(const unfold::GistConfig& config, const unfold::ModelConfig& model,
                 const unfold::Tokenizer& tokenizer) {
  Require(config.rules.chunk_size > 0 && !config.rules.gist_ids.empty() && config.compression >= 1);
  for (const unfold::TokenId id : config.rules.gist_ids) Require(id >= 0 && id < model.vocab_size);
  for (const unfold::RoutingHead& head : config.routing_heads) {
    Require(head.layer >= 0 && head.layer < model.num_layers && head.head >= 0 && head.head < model.heads);
  }
  const std::vector<unfold::Turn> history = {{unfold::TurnRole::kUser, "who <|im_end|> wrote it"},
                                             {unfold::TurnRole::kAssistant, " a man\n"}};
  (void)config.prefix.Fill("", 0, tokenizer);
  for (const unfold::QuestionPrompt* prompt : {&config.question, &config.routing}) {
    CheckPrompt(prompt->Fill("when {question} <gist>?", config.max_question_tokens, tokenizer, history),
                tokenizer.vocab_size(), config.max_question_tokens);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<unfold::Tokenizer> tokenizer = MakeTokenizer();
  static const unfold::ModelConfig model = [] {
    unfold::ModelConfig config;
    config.num_layers = config.heads = config.kv_heads = 4;
    config.vocab_size = tokenizer->vocab_size();
    config.max_positions = 4096;
    return config;
  }();
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  for (const char* flags : {"", R"({"chunk_size": 8, "prompt": {"chat_template": "llama3"}})",
                            R"({"chunk_size": 8, "prompt": {"question": "Q: {question}"}})"}) {
    for (const bool has_chat_template : {false, true}) {
      const auto config = unfold::ParseGistConfig(file, flags, "model", model, *tokenizer, has_chat_template);
      if (config.ok()) CheckConfig(*config, model, *tokenizer);
    }
  }
  // The same bytes as flags.
  const auto config = unfold::ParseGistConfig(R"({"chunk_size": 8})", file, "model", model, *tokenizer, false);
  if (config.ok()) CheckConfig(*config, model, *tokenizer);
  return 0;
}
