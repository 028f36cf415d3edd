// SPDX-License-Identifier: Apache-2.0
#include "apps/text_file.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <system_error>

namespace unfold::cli {

Result<std::string> ReadTextFile(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    const int error = errno;
    const std::string message = path + ": " + std::generic_category().message(error);
    return error == ENOENT ? Status::NotFound(message) : Status::Io(message);
  }
  std::string text;
  std::array<char, 65536> buffer;
  errno = 0;
  for (std::size_t size; (size = std::fread(buffer.data(), 1, buffer.size(), file)) > 0;) {
    text.append(buffer.data(), size);
  }
  const int error = std::ferror(file) != 0 ? errno : 0;
  std::fclose(file);
  if (error != 0) return Status::Io(path + ": " + std::generic_category().message(error));
  return text;
}

}  // namespace unfold::cli
