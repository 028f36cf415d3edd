// SPDX-License-Identifier: Apache-2.0
// ArgCheck: gathers the first fault of an op's arguments, in a message that names op and field. Nothing is allocated
// while all is well.
//
// Thread-compatible: a local of one call.
#ifndef UNFOLD_KERNELS_ARG_CHECK_H_
#define UNFOLD_KERNELS_ARG_CHECK_H_

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "kernels/tensor.h"
#include "unfold/base.h"

namespace unfold {

constexpr unsigned TypeBit(DType type) { return 1U << static_cast<unsigned>(type); }

class ArgCheck {
 public:
  static constexpr std::int64_t kAny = -1;  // an extent that is free

  // Sets of element types.
  static constexpr unsigned kF32 = TypeBit(DType::kF32);
  static constexpr unsigned kInt32 = TypeBit(DType::kInt32);
  static constexpr unsigned kWeight = kF32 | TypeBit(DType::kF16) | TypeBit(DType::kBF16);
  static constexpr unsigned kStoredKv = kF32 | TypeBit(DType::kBF16);
  static constexpr unsigned kActivation = kF32 | TypeBit(DType::kBF16);
  static constexpr unsigned ActivationFor(DType compute) { return compute == DType::kBF16 ? kActivation : kF32; }

  explicit ArgCheck(std::string_view op) : op_(op) {}

  // The tensor has one of `types`, the given extents and, when not empty, memory.
  ArgCheck& Shape(std::string_view field, const Tensor& tensor, unsigned types,
                  std::initializer_list<std::int64_t> extents);
  ArgCheck& That(bool holds, std::string_view field, std::string_view what);
  // low <= value <= high.
  ArgCheck& Range(std::string_view field, std::int64_t value, std::int64_t low, std::int64_t high);
  // `bounds` has `count` + 1 entries, does not descend, begins at 0 and ends at `total`.
  template <typename Int>
  ArgCheck& Bounds(std::string_view field, std::span<const Int> bounds, std::int64_t count, std::int64_t total) {
    Range(field, static_cast<std::int64_t>(bounds.size()), count + 1, count + 1);
    if (!ok()) return *this;
    That(bounds.front() == 0, field, "must begin at 0");
    Range(field, bounds.back(), total, total);
    for (std::size_t i = 1; i < bounds.size() && ok(); ++i) That(bounds[i - 1] <= bounds[i], field, "must not descend");
    return *this;
  }

  bool ok() const { return status_.ok(); }
  Status status() const { return status_; }

 private:
  void Fail(std::string_view field, const std::string& what);

  std::string_view op_;
  Status status_;
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_ARG_CHECK_H_
