// SPDX-License-Identifier: Apache-2.0
#include "kernels/arg_check.h"

namespace unfold {
namespace {

bool SameShape(const Tensor& tensor, unsigned types, std::initializer_list<std::int64_t> extents) {
  if ((types & TypeBit(tensor.dtype)) == 0 || tensor.rank != static_cast<int>(extents.size())) return false;
  int axis = 0;
  for (std::int64_t extent : extents) {
    const std::int64_t found = tensor.dims[axis++];
    if (found < 0 || (extent != ArgCheck::kAny && found != extent)) return false;
  }
  return true;
}

std::string Expected(unsigned types, std::initializer_list<std::int64_t> extents) {
  std::string text;
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kInt8, DType::kInt32}) {
    if ((types & TypeBit(type)) == 0) continue;
    if (!text.empty()) text += '|';
    text += DTypeName(type);
  }
  text += '[';
  const std::size_t first = text.size();
  for (std::int64_t extent : extents) {
    if (text.size() != first) text += ", ";
    text += extent == ArgCheck::kAny ? "any" : std::to_string(extent);
  }
  return text + ']';
}

}  // namespace

void ArgCheck::Fail(std::string_view field, const std::string& what) {
  status_ = Status::InvalidArgument(std::string(op_) + ": " + std::string(field) + ' ' + what);
}

ArgCheck& ArgCheck::Shape(std::string_view field, const Tensor& tensor, unsigned types,
                          std::initializer_list<std::int64_t> extents) {
  if (!ok()) return *this;
  if (!SameShape(tensor, types, extents)) {
    Fail(field, "is " + tensor.ShapeString() + ", expected " + Expected(types, extents));
  } else if (tensor.data == nullptr && tensor.size() > 0) {
    Fail(field, "has no memory");
  }
  return *this;
}

ArgCheck& ArgCheck::That(bool holds, std::string_view field, std::string_view what) {
  if (ok() && !holds) Fail(field, std::string(what));
  return *this;
}

ArgCheck& ArgCheck::Range(std::string_view field, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (ok() && (value < low || value > high)) {
    Fail(field, "is " + std::to_string(value) + ", expected " +
                    (low == high ? std::to_string(low) : std::to_string(low) + " to " + std::to_string(high)));
  }
  return *this;
}

}  // namespace unfold
