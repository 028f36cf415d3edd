// SPDX-License-Identifier: Apache-2.0
// Runs a program and collects what it says.
#ifndef UNFOLD_TESTS_UNIT_PROCESS_H_
#define UNFOLD_TESTS_UNIT_PROCESS_H_

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace unfold {

struct ProcessResult {
  int exit_code = -1;  // minus the signal's number when a signal ended it
  std::string out;
  std::string err;
};

// A running program, its output going to files in `folder`. Thread-compatible.
class Process {
 public:
  // `args[0]` is the program.
  Process(const std::vector<std::string>& args, const std::filesystem::path& folder, const std::string& input = "");
  ~Process();  // kills it when it still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Waits until stdout holds `text`; false when the program ends before.
  bool WaitForOutput(const std::string& text);
  // What stdout holds so far.
  std::string Output() const;
  bool HasEnded();
  void Signal(int signal_number) const;
  ProcessResult Finish();

 private:
  std::filesystem::path in_, out_, err_;
  pid_t pid_ = -1;
  int wait_status_ = 0;
};

}  // namespace unfold

#endif  // UNFOLD_TESTS_UNIT_PROCESS_H_
