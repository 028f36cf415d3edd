// SPDX-License-Identifier: Apache-2.0
#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace unfold {

Result<RopeMemory> RopeMemory::Make(const ModelConfig& config, Backend& backend) {
  const std::vector<float> inverse = InverseFrequencies(config.rope, config.head_dim);
  const auto half = static_cast<std::int64_t>(inverse.size());
  const std::int64_t positions = config.max_positions;
  const auto scale = static_cast<float>(config.rope.attention_factor);
  const std::size_t bytes = static_cast<std::size_t>(positions * half) * sizeof(float);
  RopeMemory memory;
  UNFOLD_TRY_ASSIGN(memory.cos_, backend.Allocate(bytes));
  UNFOLD_TRY_ASSIGN(memory.sin_, backend.Allocate(bytes));
  RopeTable& rope = memory.table_;
  rope.cos = memory.cos_.View(DType::kF32, {positions, half});
  rope.sin = memory.sin_.View(DType::kF32, {positions, half});
  constexpr std::int64_t kBlock = 1024;  // positions at a time: a long window needs no second table on the host
  std::vector<float> cosines(kBlock * half), sines(kBlock * half);
  for (std::int64_t begin = 0; begin < positions; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, positions);
    for (std::int64_t at = 0; at < (end - begin) * half; ++at) {
      const float angle = static_cast<float>(begin + at / half) * inverse[at % half];
      cosines[at] = std::cos(angle) * scale;
      sines[at] = std::sin(angle) * scale;
    }
    UNFOLD_TRY(backend.Upload(rope.cos.Rows(begin, end), cosines.data()));
    UNFOLD_TRY(backend.Upload(rope.sin.Rows(begin, end), sines.data()));
  }
  return memory;
}

}  // namespace unfold
