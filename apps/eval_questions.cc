// SPDX-License-Identifier: Apache-2.0
#include "apps/eval_questions.h"

#include <algorithm>

#include "apps/json_output.h"
#include "apps/text_file.h"

namespace unfold::cli {
namespace {

// A field that is a string; absent and null leave `value` as it is. The Status says what is wrong.
Status ReadString(const Json& line, const char* field, std::string& value) {
  const auto it = line.find(field);
  if (it == line.end() || it->is_null()) return Status::Ok();
  if (!it->is_string()) return Status::InvalidArgument(std::string(field) + " is not a string");
  value = it->get<std::string>();
  return Status::Ok();
}

Status ReadStrings(const Json& line, const char* field, std::vector<std::string>& values) {
  const auto it = line.find(field);
  if (it == line.end() || it->is_null()) return Status::Ok();
  const bool fits = it->is_array() && std::all_of(it->begin(), it->end(), [](const Json& v) { return v.is_string(); });
  if (!fits) return Status::InvalidArgument(std::string(field) + " is not an array of strings");
  values = it->get<std::vector<std::string>>();
  return Status::Ok();
}

Result<EvalQuestion> ParseQuestion(std::string_view text) {
  const Json line = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (line.is_discarded()) return Status::InvalidArgument("not valid JSON");
  if (!line.is_object()) return Status::InvalidArgument("not a JSON object");
  EvalQuestion question;
  UNFOLD_TRY(ReadString(line, "question", question.question));
  UNFOLD_TRY(ReadString(line, "document", question.document));
  UNFOLD_TRY(ReadStrings(line, "answers", question.answers));
  UNFOLD_TRY(ReadStrings(line, "documents", question.documents));
  if (question.question.empty()) return Status::InvalidArgument("no \"question\"");
  return question;
}

}  // namespace

Result<std::vector<EvalQuestion>> ParseQuestions(std::string_view text, const std::string& file_name) {
  std::vector<EvalQuestion> questions;
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    auto question = ParseQuestion(line);
    if (!question.ok()) {
      return Status::InvalidArgument(file_name + " line " + std::to_string(line_number) + ": " +
                                     question.status().message());
    }
    questions.push_back(*std::move(question));
  }
  if (questions.empty()) return Status::InvalidArgument(file_name + ": holds no question");
  return questions;
}

Result<std::vector<EvalQuestion>> ReadQuestions(const std::string& path) {
  UNFOLD_TRY_ASSIGN(const std::string text, ReadTextFile(path));
  return ParseQuestions(text, path);
}

}  // namespace unfold::cli
