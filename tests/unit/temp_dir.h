// SPDX-License-Identifier: Apache-2.0
// A directory that goes away with its object.
#ifndef UNFOLD_TESTS_UNIT_TEMP_DIR_H_
#define UNFOLD_TESTS_UNIT_TEMP_DIR_H_

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace unfold {

class TempDir {
 public:
  TempDir() {
    std::string pattern = (Parent() / "unfold-store-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string Path(const std::string& name = "store") const { return path_ + "/" + name; }

 private:
  // Memory where there is enough of it: these tests sync thousands of times, and what a disk loses is played by
  // CrashFileSystem.
  static std::filesystem::path Parent() {
    std::error_code error;
    const std::filesystem::space_info memory = std::filesystem::space("/dev/shm", error);
    const bool enough = !error && memory.available > (std::uintmax_t{256} << 20) && access("/dev/shm", W_OK) == 0;
    return enough ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path();
  }

  std::string path_;
};

}  // namespace unfold

#endif  // UNFOLD_TESTS_UNIT_TEMP_DIR_H_
