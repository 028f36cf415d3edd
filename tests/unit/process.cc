// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iterator>
#include <thread>

namespace unfold {
namespace {

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

Process::Process(const std::vector<std::string>& args, const std::filesystem::path& folder, const std::string& input) {
  static std::atomic<int> next_number{0};
  const std::string number = std::to_string(next_number++);
  in_ = folder / ("in" + number);
  out_ = folder / ("out" + number);
  err_ = folder / ("err" + number);
  std::ofstream(in_, std::ios::binary) << input;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  constexpr int kWrite = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, in_.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out_.c_str(), kWrite, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err_.c_str(), kWrite, 0600);
  std::vector<char*> argv;
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  if (posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) != 0) pid_ = -1;
  posix_spawn_file_actions_destroy(&actions);
}

Process::~Process() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool Process::WaitForOutput(const std::string& text) {
  while (pid_ > 0) {
    HasEnded();
    if (Output().find(text) != std::string::npos) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

std::string Process::Output() const { return ReadText(out_); }

bool Process::HasEnded() {
  if (pid_ > 0 && waitpid(pid_, &wait_status_, WNOHANG) == pid_) pid_ = 0;
  return pid_ <= 0;
}

void Process::Signal(int signal_number) const {
  if (pid_ > 0) kill(pid_, signal_number);
}

ProcessResult Process::Finish() {
  if (pid_ > 0) waitpid(pid_, &wait_status_, 0);
  const bool was_started = pid_ >= 0;
  pid_ = 0;
  ProcessResult result{.exit_code = -1, .out = ReadText(out_), .err = ReadText(err_)};
  if (was_started) {
    result.exit_code = WIFEXITED(wait_status_) ? WEXITSTATUS(wait_status_) : -WTERMSIG(wait_status_);
  }
  return result;
}

}  // namespace unfold
