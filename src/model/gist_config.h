// SPDX-License-Identifier: Apache-2.0
// gist_config.json: what Unfold adds to a checkpoint. Gist rules, prompts, limits and routing.
#ifndef UNFOLD_MODEL_GIST_CONFIG_H_
#define UNFOLD_MODEL_GIST_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "model/config.h"
#include "text/gist_sequence.h"
#include "text/prompt.h"
#include "text/question_prompt.h"
#include "text/tokenizer.h"
#include "unfold/base.h"

namespace unfold {

enum class RouteScoring { kMaxSim, kStandardised };  // method.md section 7

struct RoutingHead {
  int layer = 0;
  int head = 0;
  float weight = 1;
};

struct GistConfig {
  GistRules rules;
  std::vector<TokenId> link_ids;  // placed after the documents, these for each (method.md section 6); may be empty
  double compression = 0;         // r
  int part_tokens = 0;            // raw tokens of the longest part
  int max_question_tokens = 0;
  int max_answer_tokens = 0;
  int max_documents = 0;                   // parts placed when routing; 0: no limit but the token budget
  std::vector<TokenId> suppressed_tokens;  // never generated; gists are not either, whether listed or not

  std::string document_template;  // with {title} and {text}
  PromptTemplate prefix;
  QuestionPrompt question;
  std::vector<TokenId> turn_end_tokens;  // end an answer beside the model's end tokens; with a chat template

  RouteScoring scoring = RouteScoring::kMaxSim;
  QuestionPrompt routing;
  std::vector<RoutingHead> routing_heads;
};

// Reads `model_dir`/gist_config.json and merges `overrides` (a JSON object, RFC 7396; may be empty) over it; one that
// chooses a chat template takes the file's templates away, and the other way round. Without gist_tokens, <gist>, <Gist>
// and <MGist> are taken as far as the tokenizer has them. NotFound with what to do when there are no gist tokens, or no
// file and no chunk size; InvalidArgument naming the field: unknown, of a wrong type, or asking for what this build
// does not do.
Result<GistConfig> LoadGistConfig(const std::string& model_dir, std::string_view overrides, const ModelConfig& model,
                                  const Tokenizer& tokenizer);

// The same from memory. `file` is empty when there is none; `model_dir` goes into messages.
Result<GistConfig> ParseGistConfig(std::string_view file, std::string_view overrides, const std::string& model_dir,
                                   const ModelConfig& model, const Tokenizer& tokenizer, bool has_chat_template);

}  // namespace unfold

#endif  // UNFOLD_MODEL_GIST_CONFIG_H_
