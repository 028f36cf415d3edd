// SPDX-License-Identifier: Apache-2.0
// Tensor: a view of contiguous device memory, and Buffer: its owner.
//
// Dimension letters used in every shape comment of kernels/ and src/model:
//   T tokens (rows)   C chunks of the working set   L raw tokens per chunk   H query heads   Hk key/value heads
//   G = H/Hk          D head dim                    M model dim              F ffn dim       V vocabulary
//   K chosen chunks per key/value head              P pages                  B batch         N layers
#ifndef UNFOLD_KERNELS_TENSOR_H_
#define UNFOLD_KERNELS_TENSOR_H_

#include <array>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>

#include "unfold/base.h"

namespace unfold {

// A row-major view. Does not own; `data` is host memory for the ref and cpu backends, device memory for cuda.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<std::int64_t, 4> dims{};

  Tensor() = default;
  Tensor(void* memory, DType type, std::initializer_list<std::int64_t> shape)
      : data(memory), dtype(type), rank(static_cast<int>(shape.size())) {
    int axis = 0;
    for (std::int64_t extent : shape) dims[axis++] = extent;
  }

  std::int64_t size() const {
    std::int64_t count = 1;
    for (int axis = 0; axis < rank; ++axis) count *= dims[axis];
    return count;
  }
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * DTypeBytes(dtype); }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }

  // Rows [begin, end) of the first dimension.
  Tensor Rows(std::int64_t begin, std::int64_t end) const {
    Tensor view = *this;
    const std::int64_t row = dims[0] == 0 ? 0 : size() / dims[0];
    view.data = static_cast<std::byte*>(data) + static_cast<std::size_t>(begin * row) * DTypeBytes(dtype);
    view.dims[0] = end - begin;
    return view;
  }
  // The same memory under another shape of equal size.
  Tensor Reshape(std::initializer_list<std::int64_t> shape) const { return Tensor(data, dtype, shape); }

  std::string ShapeString() const;  // "bf16[512, 1408]"
};

// Owner of device memory, made by Backend::Allocate. Movable; frees on destruction; must not outlive its Backend.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, std::size_t bytes, std::function<void(void*)> release)
      : data_(data), bytes_(bytes), release_(std::move(release)) {}
  Buffer(Buffer&& other) noexcept { Swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer taken(std::move(other));
    Swap(taken);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_ != nullptr) release_(data_);
  }

  std::size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  // A view of the first elements; the caller keeps the shape within bytes().
  Tensor View(DType type, std::initializer_list<std::int64_t> shape) const { return Tensor(data_, type, shape); }

 private:
  void Swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
  }
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::function<void(void*)> release_;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_TENSOR_H_
