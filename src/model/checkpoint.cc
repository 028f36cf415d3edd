// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/json.h"

namespace unfold {
namespace {

std::string Hex(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::string hex;
  char digits[3];
  for (const unsigned char byte : canonical.digest) {
    std::snprintf(digits, sizeof digits, "%02x", byte);
    hex += digits;
  }
  return hex;
}

// Path, size and modification time of every weight file: what makes a remembered hash valid.
Result<Json> DescribeFiles(const SafeTensors& checkpoint) {
  Json files = Json::array();
  for (const MappedFile& file : checkpoint.files()) {
    struct stat info {};
    if (stat(file.path().c_str(), &info) != 0) return Status::Io(file.path() + ": " + std::strerror(errno));
    std::error_code error;
    const auto absolute = std::filesystem::canonical(file.path(), error);
    files.push_back({{"path", error ? file.path() : absolute.string()},
                     {"size", static_cast<std::int64_t>(info.st_size)},
                     {"modified_s", static_cast<std::int64_t>(info.st_mtim.tv_sec)},
                     {"modified_ns", static_cast<std::int64_t>(info.st_mtim.tv_nsec)}});
  }
  return files;
}

// An exponent of all ones is a NaN or an infinity, in each of the three types.
template <typename Bits>
bool AllFinite(const Tensor& tensor, Bits exponent_mask) {
  const Bits* values = tensor.as<const Bits>();
  Bits any = 0;
  for (std::int64_t i = 0; i < tensor.size(); ++i)
    any |= static_cast<Bits>((values[i] & exponent_mask) == exponent_mask);
  return any == 0;
}

bool AllFinite(const Tensor& tensor) {
  switch (tensor.dtype) {
    case DType::kF32: return AllFinite<std::uint32_t>(tensor, 0x7f800000U);
    case DType::kF16: return AllFinite<std::uint16_t>(tensor, 0x7c00U);
    case DType::kBF16: return AllFinite<std::uint16_t>(tensor, 0x7f80U);
    default: return true;
  }
}

// Hash as remembered for these files, or empty.
std::string ReadCached(const std::string& cache_path, const Json& files) {
  if (cache_path.empty()) return {};
  const Result<Json> cache = ReadJsonFile(cache_path);
  if (!cache.ok() || !cache->is_array()) return {};
  for (const Json& entry : *cache) {
    if (entry.is_object() && entry.contains("files") && entry["files"] == files && entry.contains("hash") &&
        entry["hash"].is_string()) {
      return entry["hash"].get<std::string>();
    }
  }
  return {};
}

void WriteCached(const std::string& cache_path, const Json& files, const std::string& hash) {
  if (cache_path.empty()) return;
  constexpr std::size_t kMaxEntries = 16;
  Json cache = Json::array({{{"files", files}, {"hash", hash}}});
  if (const Result<Json> old = ReadJsonFile(cache_path); old.ok() && old->is_array()) {
    for (const Json& entry : *old) {
      if (cache.size() < kMaxEntries) cache.push_back(entry);
    }
  }
  const std::string fresh = cache_path + "." + std::to_string(getpid());
  std::ofstream(fresh) << cache.dump(1) << '\n';
  std::error_code ignored;
  std::filesystem::rename(fresh, cache_path, ignored);
  if (ignored) std::filesystem::remove(fresh, ignored);
}

}  // namespace

std::string HashHex(std::string_view bytes) { return Hex(XXH3_128bits(bytes.data(), bytes.size())); }

Result<std::string> WeightsIdentity(const SafeTensors& checkpoint, const std::string& cache_path) {
  UNFOLD_TRY_ASSIGN(const Json files, DescribeFiles(checkpoint));
  if (std::string cached = ReadCached(cache_path, files); !cached.empty()) return cached;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!AllFinite(tensor)) {
      return Status::InvalidArgument("tensor '" + name + "' holds NaN or infinite weights: the checkpoint is damaged");
    }
  }
  std::string hashes;
  for (const MappedFile& file : checkpoint.files()) hashes += HashHex(file.bytes());
  const std::string hash = checkpoint.files().size() == 1 ? hashes : HashHex(hashes);
  WriteCached(cache_path, files, hash);
  return hash;
}

}  // namespace unfold
