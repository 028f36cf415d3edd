// SPDX-License-Identifier: Apache-2.0
// The gist mask: the one predicate that says which index of a gist sequence may see which (method.md section 3).
// Every backend, CPU or GPU, and every test calls MaySee; nothing else decides visibility while a document is encoded.
#ifndef UNFOLD_BASE_GIST_MASK_H_
#define UNFOLD_BASE_GIST_MASK_H_

#include <cstdint>

#if defined(__CUDACC__)
#define UNFOLD_HOST_DEVICE __host__ __device__
#else
#define UNFOLD_HOST_DEVICE
#endif

namespace unfold {

inline constexpr int kMaxGistLevels = 3;  // <gist>, <Gist>, <MGist>
inline constexpr std::int8_t kRawLevel = -1;

// One index of a gist sequence: where it stands in chunks and sections. Plain data, copied to devices as it is.
struct GistToken {
  std::int32_t position = 0;  // RoPE position inside its document: index minus gists at or before it (section 2)
  std::int32_t chunk = 0;     // ordinal of the chunk it lies in; a level-0 gist belongs to the chunk it closes
  // section[n]: number of level-(n+1) gists before this index, so the ordinal of the section of level-n gists it lies
  // in.
  std::int32_t section[kMaxGistLevels - 1] = {};
  std::int8_t level = kRawLevel;  // kRawLevel for raw tokens, else the gist's level
  std::uint8_t sink = 0;          // 1 for the first S raw tokens of the document
};

// What the mask needs to know beside the tokens themselves.
struct MaskRules {
  std::int32_t previous_chunks = 1;    // P
  std::int32_t top_level = kRawLevel;  // highest gist level in the sequence; kRawLevel: no gists, plain causal
};

// Whether index `i` may see index `j` of the same document. `a` and `b` are the tokens at i and j.
UNFOLD_HOST_DEVICE constexpr bool MaySee(const MaskRules& rules, std::int64_t i, std::int64_t j, const GistToken& a,
                                         const GistToken& b) {
  if (j > i) return false;
  if (j == i || rules.top_level == kRawLevel || b.sink != 0) return true;  // rule 1, and plain causal
  if (b.level == kRawLevel) {                                              // rules 2 and 5
    return a.level <= 0 && a.chunk - b.chunk <= rules.previous_chunks;
  }
  if (b.level == rules.top_level) return true;                              // rule 3
  return a.section[b.level] - b.section[b.level] <= rules.previous_chunks;  // rules 4 and 5
}

}  // namespace unfold

#endif  // UNFOLD_BASE_GIST_MASK_H_
