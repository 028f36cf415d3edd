// SPDX-License-Identifier: Apache-2.0
// Loaded in front of the C library (LD_PRELOAD): below UNFOLD_FULL_DISK_PATH only UNFOLD_FULL_DISK_BYTES more can be
// written, then the disk is full as the kernel says it: a short write, then ENOSPC. Needs no root and no small disk.
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<long long>& BytesLeft() {
  static std::atomic<long long> left{std::atoll(std::getenv("UNFOLD_FULL_DISK_BYTES"))};
  return left;
}

bool IsOnDisk(int fd) {
  static const char* const prefix = std::getenv("UNFOLD_FULL_DISK_PATH");
  char link[64] = "/proc/self/fd/", path[4096];
  std::size_t at = std::strlen(link), digits = 1;
  for (int rest = fd; rest >= 10; rest /= 10) ++digits;
  for (std::size_t i = digits; i-- > 0; fd /= 10) link[at + i] = static_cast<char>('0' + fd % 10);
  const ssize_t size = readlink(link, path, sizeof(path));
  const std::size_t wanted = std::strlen(prefix);
  return size >= static_cast<ssize_t>(wanted) && std::memcmp(path, prefix, wanted) == 0;
}

// How many of `size` bytes still fit; they are taken.
std::size_t Take(int fd, std::size_t size) {
  if (fd < 0 || !IsOnDisk(fd)) return size;
  long long left = BytesLeft().load();
  long long taken;
  do {
    taken = left < static_cast<long long>(size) ? left : static_cast<long long>(size);
  } while (!BytesLeft().compare_exchange_weak(left, left - taken));
  return static_cast<std::size_t>(taken);
}

ssize_t Full() {
  errno = ENOSPC;
  return -1;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

ssize_t write(int fd, const void* data, std::size_t size) {
  const std::size_t fits = Take(fd, size);
  return fits == 0 && size > 0 ? Full() : syscall(SYS_write, fd, data, fits);
}

ssize_t pwrite(int fd, const void* data, std::size_t size, off_t offset) {
  const std::size_t fits = Take(fd, size);
  return fits == 0 && size > 0 ? Full() : syscall(SYS_pwrite64, fd, data, fits, offset);
}

ssize_t pwrite64(int fd, const void* data, std::size_t size, off_t offset) { return pwrite(fd, data, size, offset); }

// A short write of the first part that holds anything is allowed.
ssize_t writev(int fd, const iovec* parts, int count) {
  for (int i = 0; i < count; ++i) {
    if (parts[i].iov_len > 0) return write(fd, parts[i].iov_base, parts[i].iov_len);
  }
  return 0;
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  if (IsOnDisk(fd) && BytesLeft().load() <= 0) return static_cast<int>(Full());
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, length));
}

}  // extern "C"
#pragma GCC visibility pop
