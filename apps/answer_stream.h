// SPDX-License-Identifier: Apache-2.0
// Drops white space at both ends of a text that arrives in pieces, so that what was streamed equals the answer.
#ifndef UNFOLD_APPS_ANSWER_STREAM_H_
#define UNFOLD_APPS_ANSWER_STREAM_H_

#include <string>
#include <string_view>

namespace unfold::cli {

// Thread-compatible.
class AnswerStream {
 public:
  // What may be shown once `piece` came: white space waits until a character follows it.
  std::string Push(std::string_view piece);

 private:
  std::string held_;  // white space that may be the end
  bool started_ = false;
};

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_ANSWER_STREAM_H_
