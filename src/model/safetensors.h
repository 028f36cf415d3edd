// SPDX-License-Identifier: Apache-2.0
// Memory-mapped safetensors: one file, or shards with an index. Nothing is copied; views point into the mapping.
#ifndef UNFOLD_MODEL_SAFETENSORS_H_
#define UNFOLD_MODEL_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"
#include "unfold/base.h"

namespace unfold {

// A read-only mapping of a whole file. Movable.
class MappedFile {
 public:
  // NotFound, Io, or Corruption for an empty file.
  static Result<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::string_view bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  std::string path_;
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

// Tensors of a checkpoint by name. Views stay valid as long as this object. Immutable; thread-safe.
class SafeTensors {
 public:
  // `model_dir`/model.safetensors, or the shards that model.safetensors.index.json names. NotFound, Corruption (header
  // or offsets that contradict the file: named), InvalidArgument (element type not supported).
  static Result<SafeTensors> Open(const std::string& model_dir);

  // NotFound by name; InvalidArgument when the shape differs from `shape`.
  Result<Tensor> Get(const std::string& name, std::initializer_list<std::int64_t> shape) const;
  bool Has(const std::string& name) const { return tensors_.contains(name); }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  const std::vector<MappedFile>& files() const { return files_; }

 private:
  Status AddFile(const std::string& path);
  std::vector<MappedFile> files_;
  std::map<std::string, Tensor> tensors_;
};

// Parses a header (without mapping anything): for SafeTensors and for fuzzing. `file` is the whole file's bytes.
Result<std::map<std::string, Tensor>> ParseSafeTensors(std::string_view file, std::string_view name);

}  // namespace unfold

#endif  // UNFOLD_MODEL_SAFETENSORS_H_
