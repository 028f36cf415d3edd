// SPDX-License-Identifier: Apache-2.0
#include "kernels/tensor.h"

namespace unfold {

std::string Tensor::ShapeString() const {
  std::string text(DTypeName(dtype));
  text += '[';
  for (int axis = 0; axis < rank; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(dims[axis]);
  }
  return text + ']';
}

}  // namespace unfold
