// SPDX-License-Identifier: Apache-2.0
// What a checkpoint does under plain causal attention, for scripts that compare it with others: JSON lines in, JSON
// lines out.
//
//   model_probe DIRECTORY [THREADS]      threads: 0 is one per core; UNFOLD_BACKEND chooses the backend
//
//   {"op": "tokenize", "text": T}                       -> {"ids": [...]}
//   {"op": "logits", "ids": [...]}                      -> {"logits": [V numbers]} of the last token
//   {"op": "greedy", "ids": [...], "tokens": N}         -> {"tokens": [N ids], "logits": [...]} after the last of them
//   {"op": "speed", "ids": [...], "tokens": N, "repeat": R}
//        -> {"prefill_ms": [R times], "decode_ms": [R times]}: all ids in one pass, then N tokens one by one
// What goes wrong is {"error": text}.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/transformer.h"
#include "rag/causal_kv.h"
#include "text/tokenizer.h"

namespace unfold {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// One sequence that grows. Not thread-safe.
class Sequence {
 public:
  static Result<std::unique_ptr<Sequence>> Make(Transformer& model, std::int64_t capacity) {
    UNFOLD_TRY_ASSIGN(CausalKv kv, CausalKv::Make(model, model.config().num_layers, capacity));
    return std::unique_ptr<Sequence>(new Sequence(model, std::move(kv)));
  }
  // The token that the greedy reader takes next; its logits stay in logits().
  Result<TokenId> Extend(std::span<const TokenId> ids) {
    const auto count = static_cast<std::int64_t>(ids.size());
    UNFOLD_TRY(attention_.Prepare(count, size_));
    UNFOLD_TRY(model_.Run(ids, attention_));
    UNFOLD_TRY(model_.Logits(count - 1, logits_));
    size_ += count;
    return static_cast<TokenId>(std::max_element(logits_.begin(), logits_.end()) - logits_.begin());
  }
  const std::vector<float>& logits() const { return logits_; }

 private:
  Sequence(Transformer& model, CausalKv kv) : model_(model), kv_(std::move(kv)), attention_(model, kv_) {}
  Transformer& model_;
  CausalKv kv_;
  CausalAttention attention_;
  std::int64_t size_ = 0;
  std::vector<float> logits_;
};

struct Probe {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Transformer> model;
  std::unique_ptr<Tokenizer> tokenizer;
};

Result<Probe> Open(const std::string& dir, int threads) {
  Probe probe;
  UNFOLD_TRY_ASSIGN(probe.backend, MakeBackend("cpu", threads));
  UNFOLD_TRY_ASSIGN(probe.model, Transformer::Load(dir, *probe.backend));
  UNFOLD_TRY_ASSIGN(probe.tokenizer, Tokenizer::Load(dir + "/tokenizer.json"));
  return probe;
}

Result<std::vector<TokenId>> Ids(const JsonFields& request) {
  UNFOLD_TRY_ASSIGN(const std::vector<std::int64_t> wide, request.IntsOr("ids", {}));
  return std::vector<TokenId>(wide.begin(), wide.end());
}

Result<Json> Tokenize(const Probe& probe, const JsonFields& request) {
  UNFOLD_TRY_ASSIGN(const std::string text, request.String("text"));
  Json ids = Json::array();
  for (const TokenSpan& token : probe.tokenizer->Encode(text)) ids.push_back(token.id);
  return Json{{"ids", std::move(ids)}};
}

Result<Json> Greedy(const Probe& probe, const JsonFields& request, std::int64_t num_tokens) {
  UNFOLD_TRY_ASSIGN(const std::vector<TokenId> ids, Ids(request));
  UNFOLD_TRY_ASSIGN(const auto sequence,
                    Sequence::Make(*probe.model, static_cast<std::int64_t>(ids.size()) + num_tokens));
  UNFOLD_TRY_ASSIGN(TokenId next, sequence->Extend(ids));
  std::vector<TokenId> tokens;
  while (static_cast<std::int64_t>(tokens.size()) < num_tokens) {
    tokens.push_back(next);
    UNFOLD_TRY_ASSIGN(next, sequence->Extend(std::span(&tokens.back(), 1)));
  }
  return Json{{"tokens", tokens}, {"logits", sequence->logits()}};
}

Result<Json> Speed(const Probe& probe, const JsonFields& request) {
  UNFOLD_TRY_ASSIGN(const std::vector<TokenId> ids, Ids(request));
  UNFOLD_TRY_ASSIGN(const std::int64_t num_tokens, request.IntOr("tokens", 64, 1, 1 << 16));
  UNFOLD_TRY_ASSIGN(const std::int64_t repeat, request.IntOr("repeat", 5, 1, 1000));
  std::vector<double> prefill_ms, decode_ms;
  for (std::int64_t round = 0; round < repeat; ++round) {
    UNFOLD_TRY_ASSIGN(const auto sequence,
                      Sequence::Make(*probe.model, static_cast<std::int64_t>(ids.size()) + num_tokens));
    Clock::time_point begin = Clock::now();
    UNFOLD_TRY_ASSIGN(TokenId next, sequence->Extend(ids));
    prefill_ms.push_back(MillisecondsSince(begin));
    begin = Clock::now();
    for (std::int64_t i = 0; i < num_tokens; ++i) {
      UNFOLD_TRY_ASSIGN(next, sequence->Extend(std::span(&next, 1)));
    }
    decode_ms.push_back(MillisecondsSince(begin));
  }
  return Json{{"prefill_ms", prefill_ms}, {"decode_ms", decode_ms}};
}

Result<Json> Answer(const Probe& probe, const std::string& line) {
  UNFOLD_TRY_ASSIGN(const Json json, ParseJson(line, "request"));
  UNFOLD_TRY_ASSIGN(const JsonFields request, JsonFields::Of(json, "request"));
  UNFOLD_TRY_ASSIGN(const std::string op, request.String("op"));
  if (op == "tokenize") return Tokenize(probe, request);
  if (op == "speed") return Speed(probe, request);
  UNFOLD_TRY_ASSIGN(const std::int64_t num_tokens, request.IntOr("tokens", 0, 0, 1 << 16));
  if (op == "logits" || op == "greedy") return Greedy(probe, request, num_tokens);
  return request.Error("op", "'" + op + "' is unknown");
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: model_probe DIRECTORY [THREADS]\n");
    return 2;
  }
  const Result<Probe> probe = Open(argv[1], argc > 2 ? std::atoi(argv[2]) : 0);
  if (!probe.ok()) {
    std::fprintf(stderr, "model_probe: %s\n", probe.status().ToString().c_str());
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    const Result<Json> answer = Answer(*probe, line);
    std::cout << (answer.ok() ? *answer : Json{{"error", answer.status().ToString()}}).dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace unfold

int main(int argc, char** argv) { return unfold::Main(argc, argv); }
