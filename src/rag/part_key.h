// SPDX-License-Identifier: Apache-2.0
// PartKey: which part something that stays in memory between questions belongs to.
#ifndef UNFOLD_RAG_PART_KEY_H_
#define UNFOLD_RAG_PART_KEY_H_

#include <cstddef>
#include <cstdint>

namespace unfold {

// `source` tells stores apart: documents given with a query live in a store of their own.
struct PartKey {
  std::uint64_t source = 0;
  std::uint64_t document = 0;
  std::uint32_t part = 0;
  friend bool operator==(const PartKey&, const PartKey&) = default;
};

struct PartKeyHash {
  std::size_t operator()(const PartKey& key) const noexcept {
    std::uint64_t hash = key.source * 0x9E3779B97F4A7C15U;
    for (const std::uint64_t word : {key.document, std::uint64_t{key.part}}) {
      hash = (hash ^ word) * 0xBF58476D1CE4E5B9U;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

}  // namespace unfold

#endif  // UNFOLD_RAG_PART_KEY_H_
