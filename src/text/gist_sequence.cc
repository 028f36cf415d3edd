// SPDX-License-Identifier: Apache-2.0
#include "text/gist_sequence.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace unfold {
namespace {

// Appends raw tokens and gists, keeping the running position and section numbers.
class SequenceBuilder {
 public:
  explicit SequenceBuilder(const GistRules& rules) : rules_(rules) {
    sequence_.mask.previous_chunks = rules.previous_chunks;
    sequence_.mask.top_level = rules.num_levels() - 1;
  }

  void AppendRaw(TokenId id, bool sink) {
    Append(id, kRawLevel, sink);
    if (sink) {
      ++sequence_.num_sinks;
    } else {
      ++chunk_tokens_;
    }
  }

  void CloseChunk() {
    sequence_.chunk_tokens.push_back(static_cast<std::uint16_t>(chunk_tokens_));
    chunk_tokens_ = 0;
    AppendGist(0);
    for (int level = 0; level + 1 < rules_.num_levels() && open_[level] == rules_.section_size; ++level) {
      AppendGist(level + 1);
    }
  }

  // At the document's end each higher level closes what is still open below it.
  GistSequence Finish() {
    for (int level = 0; level + 1 < rules_.num_levels(); ++level) {
      if (open_[level] > 0) AppendGist(level + 1);
    }
    return std::move(sequence_);
  }

 private:
  void AppendGist(int level) {
    Append(rules_.gist_ids[level], static_cast<std::int8_t>(level), false);
    ++sequence_.num_gists;
    ++open_[level];
    if (level == 0) {
      ++chunk_;
    } else {
      open_[level - 1] = 0;
      ++section_[level - 1];
    }
  }

  void Append(TokenId id, std::int8_t level, bool sink) {
    GistToken token;
    if (level == kRawLevel) ++position_;
    token.position = position_;
    // A meta-gist follows the gist that closed the chunk; it belongs to that chunk too.
    token.chunk = level > 0 ? chunk_ - 1 : chunk_;
    for (int n = 0; n + 1 < kMaxGistLevels; ++n) token.section[n] = section_[n];
    token.level = level;
    token.sink = sink ? 1 : 0;
    sequence_.ids.push_back(id);
    sequence_.tokens.push_back(token);
  }

  const GistRules& rules_;
  GistSequence sequence_;
  std::int32_t position_ = -1;
  std::int32_t chunk_ = 0;
  int chunk_tokens_ = 0;
  std::array<int, kMaxGistLevels> open_{};                  // gists of each level not yet closed by the level above
  std::array<std::int32_t, kMaxGistLevels - 1> section_{};  // as GistToken::section
};

// Where the chunk that begins at `begin` ends.
std::size_t ChunkEnd(std::span<const TokenId> raw, std::size_t begin, const GistRules& rules,
                     const std::vector<bool>& word_starts) {
  const std::size_t cut = std::min(begin + static_cast<std::size_t>(rules.chunk_size), raw.size());
  if (!rules.word_aware || cut == raw.size() || word_starts[raw[cut]]) return cut;
  for (std::size_t step = 1; step <= static_cast<std::size_t>(rules.chunk_size) / 2; ++step) {
    if (cut + step < raw.size() && word_starts[raw[cut + step]]) return cut + step;
  }
  return cut;
}

bool StartsWord(std::string_view text) {
  constexpr std::string_view kMarks = " \t\n\r.,;:!?-()[]{}\"'";
  constexpr std::string_view kEmDash = "\xE2\x80\x94";
  return text.empty() || kMarks.find(text.front()) != std::string_view::npos || text.starts_with(kEmDash);
}

}  // namespace

std::vector<bool> WordStarts(const Tokenizer& tokenizer, std::int32_t size) {
  std::vector<bool> starts(static_cast<std::size_t>(size));
  for (TokenId id = 0; id < size; ++id) starts[id] = StartsWord(tokenizer.TokenBytes(id));
  return starts;
}

GistSequence BuildGistSequence(std::span<const TokenId> raw, const GistRules& rules,
                               const std::vector<bool>& word_starts) {
  SequenceBuilder builder(rules);
  const std::size_t num_sinks = std::min(raw.size(), static_cast<std::size_t>(rules.sink_size));
  for (std::size_t i = 0; i < num_sinks; ++i) builder.AppendRaw(raw[i], true);
  std::size_t begin = num_sinks;
  do {
    const std::size_t end = ChunkEnd(raw, begin, rules, word_starts);
    for (; begin < end; ++begin) builder.AppendRaw(raw[begin], false);
    builder.CloseChunk();
  } while (begin < raw.size());
  return builder.Finish();
}

std::vector<std::int32_t> GistCounts(std::int32_t num_chunks, const GistRules& rules) {
  std::vector<std::int32_t> counts = {num_chunks};
  while (static_cast<int>(counts.size()) < rules.num_levels()) {
    counts.push_back((counts.back() + rules.section_size - 1) / rules.section_size);
  }
  return counts;
}

GistSequence BuildPlainSequence(std::span<const TokenId> raw) {
  GistSequence sequence;
  sequence.ids.assign(raw.begin(), raw.end());
  sequence.tokens.resize(raw.size());
  for (std::size_t i = 0; i < raw.size(); ++i) sequence.tokens[i].position = static_cast<std::int32_t>(i);
  return sequence;
}

}  // namespace unfold
