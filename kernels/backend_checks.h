// SPDX-License-Identifier: Apache-2.0
// Checks that the public halves of several operations share (backend.cc, backend_step.cc).
#ifndef UNFOLD_KERNELS_BACKEND_CHECKS_H_
#define UNFOLD_KERNELS_BACKEND_CHECKS_H_

#include "kernels/arg_check.h"
#include "kernels/backend.h"

namespace unfold {

inline void CheckRope(ArgCheck& check, const RopeTable& rope, std::int64_t head_dim) {
  check.That(head_dim > 0 && head_dim % 2 == 0, "D", "must be even and above 0");
  check.Shape("rope.cos", rope.cos, ArgCheck::kF32, {ArgCheck::kAny, head_dim / 2});
  check.Shape("rope.sin", rope.sin, ArgCheck::kF32, {rope.cos.dims[0], head_dim / 2});
}

inline void CheckGroups(ArgCheck& check, std::int64_t heads, std::int64_t kv_heads) {
  check.That(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "H", "must be a multiple of Hk, both above 0");
}

}  // namespace unfold

#endif  // UNFOLD_KERNELS_BACKEND_CHECKS_H_
