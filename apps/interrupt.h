// SPDX-License-Identifier: Apache-2.0
// Ctrl-C as a stop request.
#ifndef UNFOLD_APPS_INTERRUPT_H_
#define UNFOLD_APPS_INTERRUPT_H_

#include <array>
#include <csignal>
#include <stop_token>
#include <thread>

namespace unfold::cli {

// While it lives, the first SIGINT or SIGTERM requests a stop and the second ends the process at once. One at a time
// in a process; made and destroyed on one thread, its token may be used on any.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  std::stop_token token() const { return source_.get_token(); }
  bool requested() const { return source_.stop_requested(); }

 private:
  std::stop_source source_;
  std::array<int, 2> pipe_ = {-1, -1};
  struct sigaction old_int_ = {};
  struct sigaction old_term_ = {};
  std::thread watcher_;
};

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_INTERRUPT_H_
