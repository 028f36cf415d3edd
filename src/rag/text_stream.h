// SPDX-License-Identifier: Apache-2.0
// TextStream: from generated token bytes to the text a reader sees: whole UTF-8 characters, cut at the first stop text,
// no white space at either end. What it emitted, joined, is the answer's text.
#ifndef UNFOLD_RAG_TEXT_STREAM_H_
#define UNFOLD_RAG_TEXT_STREAM_H_

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace unfold {

// Thread-compatible; one per answer.
class TextStream {
 public:
  explicit TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) {}

  // Text that is certain now; may be empty.
  std::string Push(std::string_view token_bytes);
  // What is left at the end.
  std::string Finish();

  bool stopped() const { return stopped_; }  // a stop text appeared; nothing after it is emitted
  const std::string& text() const { return text_; }

 private:
  std::string Release(bool at_end);

  std::vector<std::string> stop_;
  Utf8Stream utf8_;
  std::string pending_;  // whole characters not yet emitted
  std::string text_;     // emitted
  bool stopped_ = false;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_TEXT_STREAM_H_
