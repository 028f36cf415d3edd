// SPDX-License-Identifier: Apache-2.0
#include "apps/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <utility>

#include "apps/format.h"

namespace unfold::cli {
namespace {

constexpr std::chrono::milliseconds kTerminalInterval{100};
constexpr std::chrono::milliseconds kLineInterval{5000};

// A line that wraps cannot be rewritten by a carriage return.
std::size_t TerminalColumns(std::FILE* out) {
  winsize size = {};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 1) return size.ws_col - 1U;
  return 79;
}

}  // namespace

ProgressLine::ProgressLine()
    : ProgressLine(stderr, isatty(STDERR_FILENO) == 1, [] { return std::chrono::steady_clock::now(); }) {}

ProgressLine::ProgressLine(std::FILE* out, bool is_terminal, Clock clock)
    : out_(out), is_terminal_(is_terminal), clock_(std::move(clock)), last_(clock_()) {}

void ProgressLine::Update(const std::function<std::string()>& make_text) {
  const auto now = clock_();
  if (now - last_ < (is_terminal_ ? kTerminalInterval : kLineInterval)) return;
  last_ = now;
  if (is_terminal_) {
    std::fprintf(out_, "\r\x1b[K%s", OneLine(make_text(), TerminalColumns(out_)).c_str());
    shown_ = true;
  } else {
    std::fprintf(out_, "%s\n", OneLine(make_text()).c_str());
  }
  std::fflush(out_);
}

void ProgressLine::Print(std::string_view line) {
  Clear();
  std::fprintf(out_, "%.*s\n", static_cast<int>(line.size()), line.data());
  std::fflush(out_);
}

void ProgressLine::Clear() {
  if (!shown_) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
  shown_ = false;
}

}  // namespace unfold::cli
