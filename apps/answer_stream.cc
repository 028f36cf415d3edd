// SPDX-License-Identifier: Apache-2.0
#include "apps/answer_stream.h"

namespace unfold::cli {

std::string AnswerStream::Push(std::string_view piece) {
  std::string text = held_ + std::string(piece);
  constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";
  const std::size_t last = text.find_last_not_of(kWhiteSpace);
  if (last == std::string::npos) {
    if (started_) held_ = text;
    return {};
  }
  const std::size_t first = started_ ? 0 : text.find_first_not_of(kWhiteSpace);
  started_ = true;
  held_ = text.substr(last + 1);
  return text.substr(first, last + 1 - first);
}

}  // namespace unfold::cli
