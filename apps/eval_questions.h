// SPDX-License-Identifier: Apache-2.0
// The questions of `unfold eval`: one JSON object a line.
#ifndef UNFOLD_APPS_EVAL_QUESTIONS_H_
#define UNFOLD_APPS_EVAL_QUESTIONS_H_

#include <string>
#include <string_view>
#include <vector>

#include "unfold/base.h"

namespace unfold::cli {

struct EvalQuestion {
  std::string question;
  std::vector<std::string> answers;    // empty: not scored
  std::string document;                // gold, for recall; empty: none
  std::vector<std::string> documents;  // the fixed working set in this order; empty: routed
};

// Other fields and empty lines are ignored. InvalidArgument names `file_name` and the line.
Result<std::vector<EvalQuestion>> ParseQuestions(std::string_view text, const std::string& file_name);
Result<std::vector<EvalQuestion>> ReadQuestions(const std::string& path);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_EVAL_QUESTIONS_H_
