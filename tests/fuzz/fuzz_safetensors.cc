// SPDX-License-Identifier: Apache-2.0
// safetensors: any bytes are refused, or give tensors that lie in the file, one behind the other.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "model/safetensors.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Where a file is mapped: at the begin of a page, with nothing readable of ours behind it.
  const std::vector<char> file(data, data + size);
  const std::string_view bytes(file.data(), file.size());
  const auto tensors = unfold::ParseSafeTensors(bytes, "file");
  if (!tensors.ok()) {
    Require(!tensors.status().message().empty());
    return 0;
  }
  std::map<const char*, std::size_t> extents;
  std::size_t num_bytes = 0;
  for (const auto& [name, tensor] : *tensors) {
    std::size_t tensor_bytes = unfold::DTypeBytes(tensor.dtype);
    for (int axis = 0; axis < tensor.rank; ++axis) tensor_bytes *= static_cast<std::size_t>(tensor.dims[axis]);
    const char* begin = static_cast<const char*>(tensor.data);
    Require(begin >= file.data() && begin + tensor_bytes <= file.data() + file.size());
    num_bytes += tensor_bytes;
    if (tensor_bytes > 0) Require(extents.emplace(begin, tensor_bytes).second);
    volatile char touched = 0;
    for (std::size_t i = 0; i < tensor_bytes; ++i) touched = begin[i];
    (void)touched;
  }
  const char* next = nullptr;
  for (const auto& [begin, tensor_bytes] : extents) {
    Require(next == nullptr || begin == next);
    next = begin + tensor_bytes;
  }
  Require(num_bytes < file.size());
  return 0;
}
