// SPDX-License-Identifier: Apache-2.0
// RopeMemory: a model's rotary tables in a backend's memory.
#ifndef UNFOLD_MODEL_ROPE_TABLE_H_
#define UNFOLD_MODEL_ROPE_TABLE_H_

#include "kernels/backend.h"
#include "model/config.h"
#include "unfold/base.h"

namespace unfold {

// Movable; must not outlive the backend.
class RopeMemory {
 public:
  RopeMemory() = default;
  // A row for each of config.max_positions positions.
  static Result<RopeMemory> Make(const ModelConfig& config, Backend& backend);
  const RopeTable& table() const { return table_; }

 private:
  Buffer cos_, sin_;
  RopeTable table_;
};

}  // namespace unfold

#endif  // UNFOLD_MODEL_ROPE_TABLE_H_
