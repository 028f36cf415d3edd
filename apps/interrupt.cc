// SPDX-License-Identifier: Apache-2.0
#include "apps/interrupt.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace unfold::cli {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<int> g_wake_fd{-1};
std::atomic<int> g_num_signals{0};
static_assert(std::atomic<int>::is_always_lock_free);

void HandleSignal(int signal_number) {
  const int saved_errno = errno;
  if (g_num_signals.fetch_add(1) > 0) {
    std::signal(signal_number, SIG_DFL);
    std::raise(signal_number);
  }
  const char byte = 1;
  [[maybe_unused]] const auto written = write(g_wake_fd.load(), &byte, 1);
  errno = saved_errno;
}

// One byte for each signal; the end of the pipe when the owner goes.
bool WaitForSignal(int fd) {
  char byte;
  ssize_t size;
  do {
    size = read(fd, &byte, 1);
  } while (size < 0 && errno == EINTR);
  return size == 1;
}

}  // namespace

Interrupt::Interrupt() {
  if (pipe2(pipe_.data(), O_CLOEXEC) != 0) return;  // no descriptor left: signals keep their default
  g_num_signals.store(0);
  g_wake_fd.store(pipe_[1]);
  // Stopping runs callbacks that take locks, which a handler must not: a thread does it.
  watcher_ = std::thread([this] {
    if (WaitForSignal(pipe_[0])) source_.request_stop();
  });
  struct sigaction action = {};
  action.sa_handler = HandleSignal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &old_int_);
  sigaction(SIGTERM, &action, &old_term_);
}

Interrupt::~Interrupt() {
  if (pipe_[0] < 0) return;
  sigaction(SIGINT, &old_int_, nullptr);
  sigaction(SIGTERM, &old_term_, nullptr);
  close(g_wake_fd.exchange(-1));
  watcher_.join();
  close(pipe_[0]);
}

}  // namespace unfold::cli
