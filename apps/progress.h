// SPDX-License-Identifier: Apache-2.0
// One line on stderr that says how far a long command is.
#ifndef UNFOLD_APPS_PROGRESS_H_
#define UNFOLD_APPS_PROGRESS_H_

#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

namespace unfold::cli {

using Clock = std::function<std::chrono::steady_clock::time_point()>;

// Thread-compatible. On a terminal the line is rewritten in place, elsewhere a line is written every five seconds.
class ProgressLine {
 public:
  // stderr as it is.
  ProgressLine();
  ProgressLine(std::FILE* out, bool is_terminal, Clock clock);
  ~ProgressLine() { Clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // Shows `text` when it is time to; `make_text` is called only then.
  void Update(const std::function<std::string()>& make_text);
  // A lasting line, above the progress line.
  void Print(std::string_view line);
  // Takes the progress line off the terminal.
  void Clear();

 private:
  std::FILE* out_;
  bool is_terminal_;
  Clock clock_;
  std::chrono::steady_clock::time_point last_;
  bool shown_ = false;
};

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_PROGRESS_H_
