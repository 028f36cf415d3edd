// SPDX-License-Identifier: Apache-2.0
// From raw tokens to a gist sequence: chunks, gists of every level, positions (method.md sections 1 and 2). Who may see
// whom in it is base/gist_mask.h.
#ifndef UNFOLD_TEXT_GIST_SEQUENCE_H_
#define UNFOLD_TEXT_GIST_SEQUENCE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/gist_mask.h"
#include "text/tokenizer.h"
#include "unfold/base.h"

namespace unfold {

// How a document is cut. Part of what stored KV depends on.
struct GistRules {
  int chunk_size = 0;       // L
  int section_size = 0;     // M; 0: one level of gists
  int sink_size = 0;        // S
  int previous_chunks = 1;  // P
  bool word_aware = true;
  std::vector<TokenId> gist_ids;  // by level: <gist>, then <Gist> and <MGist> when section_size > 0

  int num_levels() const { return static_cast<int>(gist_ids.size()); }
  // The longest chunk: a word-aware cut moves forward by at most L/2 tokens.
  int max_chunk_tokens() const { return word_aware ? chunk_size + chunk_size / 2 : chunk_size; }
};

struct GistSequence {
  std::vector<TokenId> ids;       // raw tokens and gists
  std::vector<GistToken> tokens;  // one for each id
  MaskRules mask;
  std::int32_t num_sinks = 0;
  std::vector<std::uint16_t> chunk_tokens;  // raw tokens of each chunk, sinks not counted
  std::int32_t num_gists = 0;               // all levels
};

// For each id of the vocabulary, whether a chunk may begin with it: its decoded text is empty or begins with white
// space or punctuation (method.md section 1). Ids from `size` on do not exist.
std::vector<bool> WordStarts(const Tokenizer& tokenizer, std::int32_t size);

// `word_starts` is indexed by token id; every id of `raw` lies in it.
GistSequence BuildGistSequence(std::span<const TokenId> raw, const GistRules& rules,
                               const std::vector<bool>& word_starts);

// How many gists of each level a document of `num_chunks` chunks has, lowest level first.
std::vector<std::int32_t> GistCounts(std::int32_t num_chunks, const GistRules& rules);

// Raw tokens alone: plain causal, no gists, no chunks.
GistSequence BuildPlainSequence(std::span<const TokenId> raw);

}  // namespace unfold

#endif  // UNFOLD_TEXT_GIST_SEQUENCE_H_
