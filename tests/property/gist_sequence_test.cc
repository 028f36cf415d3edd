// SPDX-License-Identifier: Apache-2.0
// The gist sequence and its mask against a naive statement of method.md sections 1 to 3, and against golden sequences.
#include "text/gist_sequence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <string>

#include "base/json.h"
#include "model/config.h"
#include "model/gist_config.h"

namespace unfold {
namespace {

// One index of a sequence as the method tells it, with nothing derived stored.
struct Entry {
  TokenId id = 0;
  std::optional<int> gist_level;  // none: raw
  bool sink = false;
  int chunk = 0;  // of raw tokens and of the level-0 gist that closes it
};

// Section 1: where each chunk ends, from the list of all word boundaries of the document.
std::vector<std::size_t> ChunkEnds(const std::vector<TokenId>& raw, const GistRules& rules,
                                   const std::vector<bool>& starts_word) {
  std::vector<std::size_t> boundaries;
  for (std::size_t at = 0; at < raw.size(); ++at) {
    if (starts_word[raw[at]]) boundaries.push_back(at);
  }
  std::vector<std::size_t> ends;
  std::size_t last = std::min<std::size_t>(rules.sink_size, raw.size());
  while (last < raw.size()) {
    std::size_t end = std::min(last + rules.chunk_size, raw.size());
    const auto next = std::lower_bound(boundaries.begin(), boundaries.end(), end);
    if (rules.word_aware && next != boundaries.end() &&
        2 * (*next - end) <= static_cast<std::size_t>(rules.chunk_size)) {
      end = *next;
    }
    ends.push_back(end);
    last = end;
  }
  if (ends.empty()) ends.push_back(raw.size());  // a document of at most S tokens gets one gist too
  return ends;
}

// Inserts a gist of `level` after every `every` gists of the level below, and at the end if some are left over.
std::vector<Entry> InsertLevel(const std::vector<Entry>& below, int level, int every, TokenId id) {
  std::vector<Entry> result;
  int open = 0;
  for (const Entry& entry : below) {
    result.push_back(entry);
    if (entry.gist_level != level - 1) continue;
    if (++open == every) {
      result.push_back({id, level, false, 0});
      open = 0;
    }
  }
  if (open > 0) result.push_back({id, level, false, 0});
  return result;
}

std::vector<Entry> NaiveSequence(const std::vector<TokenId>& raw, const GistRules& rules,
                                 const std::vector<bool>& starts_word) {
  std::vector<Entry> sequence;
  std::size_t at = 0;
  int chunk = 0;
  for (const std::size_t end : ChunkEnds(raw, rules, starts_word)) {
    for (; at < end; ++at)
      sequence.push_back({raw[at], std::nullopt, at < static_cast<std::size_t>(rules.sink_size), chunk});
    sequence.push_back({rules.gist_ids[0], 0, false, chunk++});
  }
  for (int level = 1; level < rules.num_levels(); ++level) {
    sequence = InsertLevel(sequence, level, rules.section_size, rules.gist_ids[level]);
  }
  return sequence;
}

// Section 3. `between[n]` is how many gists of level n lie strictly between j and i.
bool NaiveMaySee(const std::vector<Entry>& sequence, std::size_t i, std::size_t j, int previous,
                 const std::array<int, kMaxGistLevels>& between, int top_level) {
  const Entry& a = sequence[i];
  const Entry& b = sequence[j];
  if (b.sink || i == j) return true;  // 1; every index sees itself
  const bool meta = a.gist_level.value_or(0) > 0;
  if (!b.gist_level) return !meta && a.chunk - b.chunk <= previous;  // 2 and 5: a meta-gist sees no raw tokens
  if (*b.gist_level == top_level) return true;                       // 3
  return between[*b.gist_level + 1] <= previous;                     // 4 and 5: a section ends at each gist above
}

void ExpectSameMask(const GistSequence& built, const std::vector<Entry>& naive, const GistRules& rules) {
  for (std::size_t i = 0; i < naive.size(); ++i) {
    std::array<int, kMaxGistLevels> between{};
    for (std::size_t j = i + 1; j-- > 0;) {
      const bool sees = MaySee(built.mask, i, j, built.tokens[i], built.tokens[j]);
      ASSERT_EQ(sees, NaiveMaySee(naive, i, j, rules.previous_chunks, between, rules.num_levels() - 1))
          << "i " << i << " j " << j << " of " << naive.size();
      if (j < i && naive[j].gist_level) ++between[*naive[j].gist_level];
    }
    for (std::size_t j = i + 1; j < naive.size(); ++j) {
      ASSERT_FALSE(MaySee(built.mask, i, j, built.tokens[i], built.tokens[j])) << "the future is visible";
    }
  }
}

void ExpectSame(const GistSequence& built, const std::vector<Entry>& naive, std::size_t num_raw,
                const GistRules& rules) {
  ASSERT_EQ(built.ids.size(), naive.size());
  ASSERT_EQ(built.tokens.size(), naive.size());
  std::int32_t gists = 0;
  std::vector<int> chunk_tokens;
  for (std::size_t i = 0; i < naive.size(); ++i) {
    const Entry& entry = naive[i];
    ASSERT_EQ(built.ids[i], entry.id) << i;
    ASSERT_EQ(built.tokens[i].level, entry.gist_level.value_or(kRawLevel)) << i;
    ASSERT_EQ(built.tokens[i].sink != 0, entry.sink) << i;
    if (entry.gist_level) ++gists;
    ASSERT_EQ(built.tokens[i].position, static_cast<std::int32_t>(i) - gists) << i;  // section 2
    if (entry.gist_level.value_or(0) > 0) continue;
    ASSERT_EQ(built.tokens[i].chunk, entry.chunk) << i;
    chunk_tokens.resize(entry.chunk + 1);
    if (!entry.gist_level && !entry.sink) ++chunk_tokens[entry.chunk];
  }
  ASSERT_EQ(built.num_gists, gists);
  ASSERT_EQ(built.num_sinks, static_cast<std::int32_t>(std::min<std::size_t>(rules.sink_size, num_raw)));
  ASSERT_EQ(std::vector<int>(built.chunk_tokens.begin(), built.chunk_tokens.end()), chunk_tokens);
  for (const int tokens : chunk_tokens) ASSERT_LE(tokens, rules.max_chunk_tokens());
  ASSERT_EQ(built.mask.top_level, rules.num_levels() - 1);
  ASSERT_EQ(built.mask.previous_chunks, rules.previous_chunks);
}

class RandomSequences : public testing::TestWithParam<int> {  // gist levels
 protected:
  static constexpr TokenId kVocab = 40;
  std::mt19937 random_{20260420U + static_cast<unsigned>(GetParam())};

  GistRules Rules(int chunk_size, int sink_size, bool word_aware) {
    GistRules rules;
    rules.chunk_size = chunk_size;
    rules.sink_size = sink_size;
    rules.word_aware = word_aware;
    rules.previous_chunks = static_cast<int>(random_() % 3);
    rules.section_size = GetParam() > 1 ? 1 + static_cast<int>(random_() % 4) : 0;
    for (int level = 0; level < GetParam(); ++level) rules.gist_ids.push_back(kVocab + level);
    return rules;
  }

  // From tables without any boundary to tables of boundaries alone.
  std::vector<bool> WordTable() {
    std::vector<bool> starts(kVocab + GetParam());
    const unsigned per_five = random_() % 6;
    for (std::size_t id = 0; id < starts.size(); ++id) starts[id] = random_() % 5 < per_five;
    return starts;
  }
};

TEST_P(RandomSequences, EqualTheNaiveStatement) {
  std::int64_t moved_cuts = 0, unmoved_cuts = 0;
  for (const int chunk_size : {1, 4, 8}) {
    for (const int sink_size : {0, 1, 3}) {
      for (const bool word_aware : {false, true}) {
        for (std::size_t length = 0; length <= 80; ++length) {
          const GistRules rules = Rules(chunk_size, sink_size, word_aware);
          const std::vector<bool> starts = WordTable();
          std::vector<TokenId> raw(length);
          for (TokenId& id : raw) id = static_cast<TokenId>(random_() % kVocab);
          SCOPED_TRACE("L " + std::to_string(chunk_size) + " M " + std::to_string(rules.section_size) + " S " +
                       std::to_string(sink_size) + " P " + std::to_string(rules.previous_chunks) + " word aware " +
                       std::to_string(word_aware) + " length " + std::to_string(length));
          const GistSequence built = BuildGistSequence(raw, rules, starts);
          const std::vector<Entry> naive = NaiveSequence(raw, rules, starts);
          ASSERT_NO_FATAL_FAILURE(ExpectSame(built, naive, length, rules));
          ASSERT_NO_FATAL_FAILURE(ExpectSameMask(built, naive, rules));
          for (const auto tokens : built.chunk_tokens) ++(tokens > chunk_size ? moved_cuts : unmoved_cuts);
        }
      }
    }
  }
  // The draw must reach both kinds of cut, else it shows nothing.
  EXPECT_GT(moved_cuts, 500);
  EXPECT_GT(unmoved_cuts, 5000);
}

INSTANTIATE_TEST_SUITE_P(Levels, RandomSequences, testing::Values(1, 2, 3));

TEST(PlainSequence, IsCausal) {
  for (const std::size_t length : {0, 1, 7, 60}) {
    std::vector<TokenId> raw;
    for (std::size_t i = 0; i < length; ++i) raw.push_back(static_cast<TokenId>(i * 7 % 11));
    const GistSequence sequence = BuildPlainSequence(raw);
    ASSERT_EQ(sequence.ids, raw);
    EXPECT_EQ(sequence.num_gists, 0);
    EXPECT_EQ(sequence.num_sinks, 0);
    EXPECT_TRUE(sequence.chunk_tokens.empty());
    for (std::size_t i = 0; i < length; ++i) {
      EXPECT_EQ(sequence.tokens[i].position, static_cast<std::int32_t>(i));
      for (std::size_t j = 0; j < length; ++j) {
        EXPECT_EQ(MaySee(sequence.mask, i, j, sequence.tokens[i], sequence.tokens[j]), j <= i);
      }
    }
  }
}

// The examples of method.md 1, in words.
TEST(GistCuts, MoveForwardByAtMostHalfAChunk) {
  GistRules rules;
  rules.chunk_size = 4;
  rules.sink_size = 1;
  rules.gist_ids = {9};
  std::vector<bool> starts(10);
  starts[1] = true;
  const auto chunks = [&](const std::vector<TokenId>& raw) {
    return BuildGistSequence(raw, rules, starts).chunk_tokens;
  };
  using Chunks = std::vector<std::uint16_t>;
  EXPECT_EQ(chunks({0, 0, 0, 0, 0, 1, 0, 0, 0}), (Chunks{4, 4}));  // a boundary at the cut
  EXPECT_EQ(chunks({0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}),
            (Chunks{6, 4, 1}));  // moved by L/2, the next counts from there
  EXPECT_EQ(chunks({0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}), (Chunks{4, 4, 3}));  // one too far: stays; then at the cut
  EXPECT_EQ(chunks({0, 0, 0, 0, 0, 0, 0}), (Chunks{4, 2}));                    // the end is no boundary
  EXPECT_EQ(chunks({0, 0, 0, 0, 0}), (Chunks{4}));                             // an end at a cut adds no gist
  EXPECT_EQ(chunks({0}), (Chunks{0}));                                         // sinks alone get one gist
}

std::vector<Json> ReadLines(const std::string& path) {
  std::ifstream in(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

TEST(GoldenSequences, EqualTheReference) {
  const std::string root = UNFOLD_SOURCE_DIR, model = root + "/datasets/gist-mini";
  auto tokenizer = Tokenizer::Load(model + "/tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const auto config = LoadModelConfig(model);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  const auto gist = LoadGistConfig(model, "", *config, **tokenizer);
  ASSERT_TRUE(gist.ok()) << gist.status().ToString();
  const std::vector<bool> starts = WordStarts(**tokenizer, config->vocab_size);
  std::map<std::string, std::string> texts;
  for (const Json& line : ReadLines(model + "/docs.jsonl")) texts[line["name"]] = line["text"];

  const std::vector<Json> golden = ReadLines(root + "/tests/golden/gist_sequences.jsonl");
  ASSERT_EQ(golden.size(), 20U);
  for (const Json& line : golden) {
    SCOPED_TRACE(line["name"].get<std::string>());
    std::vector<TokenId> raw;
    for (const TokenSpan& token : (*tokenizer)->Encode(texts.at(line["name"]))) raw.push_back(token.id);
    const GistSequence built = BuildGistSequence(raw, gist->rules, starts);
    EXPECT_EQ(built.ids, line["ids"].get<std::vector<TokenId>>());
    std::vector<int> chunks;
    for (const GistToken& token : built.tokens) chunks.push_back(token.chunk);
    EXPECT_EQ(chunks, line["chunks"].get<std::vector<int>>());
  }
}

}  // namespace
}  // namespace unfold
