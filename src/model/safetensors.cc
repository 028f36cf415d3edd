// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "base/json.h"

namespace unfold {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

std::optional<DType> ParseDType(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  return std::nullopt;
}

struct Extent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// Reads one entry of the header. `data` is the bytes after the header.
Result<std::pair<Tensor, Extent>> ParseEntry(const Json& json, const std::string& name, std::string_view data) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(json, name));
  UNFOLD_TRY_ASSIGN(const std::string type_name, fields.String("dtype"));
  const std::optional<DType> type = ParseDType(type_name);
  if (!type) return fields.Error("dtype", "'" + type_name + "' is not supported (F32, F16, BF16)");
  if (fields.Find("shape") == nullptr || fields.Find("data_offsets") == nullptr) {
    return Status::Corruption(name + ": shape or data_offsets is missing");
  }
  UNFOLD_TRY_ASSIGN(const auto shape, fields.IntsOr("shape", {}));
  UNFOLD_TRY_ASSIGN(const auto offsets, fields.IntsOr("data_offsets", {}));
  if (shape.size() > 4) return fields.Error("shape", "has more than four dimensions");
  Tensor tensor;
  tensor.dtype = *type;
  tensor.rank = static_cast<int>(shape.size());
  std::uint64_t count = 1;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] < 0 || shape[axis] > (std::int64_t{1} << 40)) return fields.Error("shape", "is out of range");
    if (count != 0 && static_cast<std::uint64_t>(shape[axis]) > (std::uint64_t{1} << 46) / count) {
      return fields.Error("shape", "is larger than any file");
    }
    count *= static_cast<std::uint64_t>(shape[axis]);
    tensor.dims[axis] = shape[axis];
  }
  if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] < offsets[0] ||
      static_cast<std::uint64_t>(offsets[1]) > data.size()) {
    return Status::Corruption(name + ": data_offsets lie outside the file (" + std::to_string(data.size()) +
                              " bytes of data): the file is truncated or damaged");
  }
  const Extent extent{static_cast<std::uint64_t>(offsets[0]), static_cast<std::uint64_t>(offsets[1])};
  if (extent.end - extent.begin != count * DTypeBytes(*type)) {
    return Status::Corruption(name + ": data_offsets span " + std::to_string(extent.end - extent.begin) +
                              " bytes, the shape needs " + std::to_string(count * DTypeBytes(*type)));
  }
  // Weights are only read; the mapping is read-only and the kernels take const views.
  tensor.data = const_cast<char*>(data.data() + extent.begin);
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % DTypeBytes(*type) != 0) {
    return Status::Corruption(name + ": data is not aligned to its element type");
  }
  return std::pair{tensor, extent};
}

Status CheckNoHoles(std::vector<Extent> extents, std::uint64_t data_bytes, std::string_view name) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t at = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != at) {
      return Status::Corruption(std::string(name) + ": tensors overlap or leave a hole at byte " + std::to_string(at));
    }
    at = extent.end;
  }
  if (at != data_bytes) {
    return Status::Corruption(std::string(name) + ": " + std::to_string(data_bytes) +
                              " bytes of data, the header names " + std::to_string(at));
  }
  return Status::Ok();
}

}  // namespace

Result<std::map<std::string, Tensor>> ParseSafeTensors(std::string_view file, std::string_view name) {
  const std::string label(name);
  if (file.size() < 8) return Status::Corruption(label + ": truncated, shorter than its header length");
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<unsigned char>(file[i]);
  if (header_bytes > kMaxHeaderBytes) {
    return Status::Corruption(label + ": header claims " + std::to_string(header_bytes) +
                              " bytes, more than the limit of " + std::to_string(kMaxHeaderBytes));
  }
  if (header_bytes > file.size() - 8) {
    return Status::Corruption(label + ": truncated, the header needs " + std::to_string(header_bytes) + " bytes");
  }
  const std::string_view header = file.substr(8, header_bytes);
  if (!header.starts_with('{')) return Status::Corruption(label + ": header does not begin with '{'");
  UNFOLD_TRY_ASSIGN(const Json json, ParseJson(header, label + " header"));
  const std::string_view data = file.substr(8 + header_bytes);
  std::map<std::string, Tensor> tensors;
  std::vector<Extent> extents;
  for (const auto& [key, entry] : json.items()) {
    if (key == "__metadata__") continue;
    UNFOLD_TRY_ASSIGN(const auto parsed, ParseEntry(entry, label + ": tensor '" + key + "'", data));
    if (!tensors.emplace(key, parsed.first).second) {
      return Status::Corruption(label + ": tensor '" + key + "' is there twice");
    }
    extents.push_back(parsed.second);
  }
  UNFOLD_TRY(CheckNoHoles(std::move(extents), data.size(), label));
  return tensors;
}

Result<MappedFile> MappedFile::Open(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    const int error = errno;
    const std::string message = path + ": " + std::strerror(error);
    return error == ENOENT || error == ENOTDIR ? Status::NotFound(message) : Status::Io(message);
  }
  struct stat info {};
  const bool regular = fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode);
  void* data = MAP_FAILED;
  if (regular && info.st_size > 0) {
    data = mmap(nullptr, static_cast<std::size_t>(info.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0);
  }
  const int error = errno;
  close(descriptor);
  if (!regular) return Status::InvalidArgument(path + ": not a regular file");
  if (info.st_size == 0) return Status::Corruption(path + ": empty file");
  if (data == MAP_FAILED) return Status::Io(path + ": cannot be mapped: " + std::strerror(error));
  MappedFile file;
  file.path_ = path;
  file.data_ = static_cast<const char*>(data);
  file.size_ = static_cast<std::size_t>(info.st_size);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<char*>(data_), size_);
}

Status SafeTensors::AddFile(const std::string& path) {
  UNFOLD_TRY_ASSIGN(MappedFile file, MappedFile::Open(path));
  UNFOLD_TRY_ASSIGN(const auto tensors, ParseSafeTensors(file.bytes(), path));
  for (const auto& [name, tensor] : tensors) {
    if (!tensors_.emplace(name, tensor).second)
      return Status::Corruption(path + ": tensor '" + name + "' is in two shards");
  }
  files_.push_back(std::move(file));
  return Status::Ok();
}

Result<SafeTensors> SafeTensors::Open(const std::string& model_dir) {
  SafeTensors result;
  const std::string single = model_dir + "/model.safetensors";
  const std::string index_path = model_dir + "/model.safetensors.index.json";
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored) || !std::filesystem::exists(index_path, ignored)) {
    UNFOLD_TRY(result.AddFile(single));
    return result;
  }
  UNFOLD_TRY_ASSIGN(const Json index, ReadJsonFile(index_path));
  const Json* map = index.is_object() && index.contains("weight_map") ? &index.at("weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) return Status::Corruption(index_path + ": 'weight_map' is missing");
  std::set<std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string() || shard.get<std::string>().find('/') != std::string::npos) {
      return Status::Corruption(index_path + ": shard of '" + name + "' is not a file name");
    }
    shards.insert(shard.get<std::string>());
  }
  for (const std::string& shard : shards) UNFOLD_TRY(result.AddFile(model_dir + "/" + shard));
  for (const auto& [name, shard] : map->items()) {
    if (!result.Has(name)) return Status::Corruption(index_path + ": tensor '" + name + "' is in no shard");
  }
  return result;
}

Result<Tensor> SafeTensors::Get(const std::string& name, std::initializer_list<std::int64_t> shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return Status::NotFound("checkpoint has no tensor '" + name + "'");
  const Tensor& tensor = it->second;
  if (!std::equal(shape.begin(), shape.end(), tensor.dims.begin(), tensor.dims.begin() + tensor.rank)) {
    const Tensor wanted(nullptr, tensor.dtype, shape);
    return Status::InvalidArgument("tensor '" + name + "' is " + tensor.ShapeString() + ", config.json needs " +
                                   wanted.ShapeString());
  }
  return tensor;
}

}  // namespace unfold
