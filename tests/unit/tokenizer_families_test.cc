// SPDX-License-Identifier: Apache-2.0
// One tokenizer of each family against Hugging Face `tokenizers` (tests/golden/export_families.py), and against what
// citations and answers need of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <random>

#include "base/json.h"
#include "text/aligned_text.h"
#include "text/gist_sequence.h"
#include "text/nfc.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace unfold {
namespace {

const std::string kGolden = UNFOLD_SOURCE_DIR "/tests/golden/";
const std::vector<std::string> kKinds = {"llama2", "llama3", "qwen2", "digits"};

Json ReadGolden(const std::string& name) {
  const auto json = ReadJsonFile(kGolden + name);
  if (!json.ok()) ADD_FAILURE() << json.status().ToString();
  return json.ok() ? *json : Json();
}

std::unique_ptr<Tokenizer> Parsed(const Json& json) {
  auto tokenizer = Tokenizer::Parse(json.dump(), "tokenizer.json");
  if (!tokenizer.ok()) ADD_FAILURE() << tokenizer.status().ToString();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

const Tokenizer& Family(const std::string& kind) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> loaded;
  auto& tokenizer = loaded[kind];
  if (tokenizer == nullptr) tokenizer = Parsed(ReadGolden("family_" + kind + ".json"));
  return *tokenizer;
}

std::vector<TokenId> Ids(const std::vector<TokenSpan>& spans) {
  std::vector<TokenId> ids;
  for (const TokenSpan& span : spans) ids.push_back(span.id);
  return ids;
}

// The strings of families_strings.json, then those of tokenizer_gist_mini.jsonl.
const std::vector<std::string>& NewStrings() {
  static const auto strings = ReadGolden("families_strings.json").get<std::vector<std::string>>();
  return strings;
}

const std::vector<std::string>& AllStrings() {
  static const auto strings = [] {
    std::vector<std::string> all = NewStrings();
    const auto file = ReadFile(kGolden + "tokenizer_gist_mini.jsonl");
    if (!file.ok()) ADD_FAILURE() << file.status().ToString();
    for (std::size_t begin = 0, end = 0; file.ok() && (end = file->find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      all.push_back(Json::parse(file->substr(begin, end - begin))[0].get<std::string>());
    }
    return all;
  }();
  return strings;
}

// Not thread-safe.
class Crc32 {
 public:
  void Add(std::string_view bytes) {
    for (const char c : bytes) {
      state_ ^= static_cast<std::uint8_t>(c);
      for (int bit = 0; bit < 8; ++bit) state_ = (state_ >> 1) ^ ((state_ & 1U) != 0 ? 0xedb88320U : 0U);
    }
  }
  void Add(std::int32_t value) {
    for (int shift = 0; shift < 32; shift += 8) Add(std::string(1, static_cast<char>(value >> shift)));
  }
  void AddIds(const std::vector<TokenSpan>& spans) {
    for (const TokenSpan& span : spans) Add(span.id);
  }
  std::string Hex() const {
    std::array<char, 9> text{};
    std::snprintf(text.data(), text.size(), "%08x", ~state_);
    return text.data();
  }

 private:
  std::uint32_t state_ = ~0U;
};

// `tokenizers` counts offsets in characters, takes parts of one for all of it, and lets an added space stand for the
// first character.
void AddOffsets(std::string_view text, const std::vector<TokenSpan>& spans, Crc32* crc) {
  std::vector<std::int32_t> character_of(text.size() + 1);
  std::int32_t character = -1;
  for (std::size_t at = 0; at <= text.size(); ++at) {
    if (IsUtf8Boundary(text, at)) ++character;
    character_of[at] = character;
  }
  for (const TokenSpan& span : spans) {
    crc->Add(character_of[span.begin]);
    crc->Add(character_of[std::max(span.end, span.begin + 1) - 1] + 1);
  }
}

std::string ToNfcString(std::string_view text) { return std::string(ToNfc(AlignedText(text, 0)).text()); }

void ExpectChecks(const Tokenizer& tokenizer, bool composes, const std::vector<std::string>& strings,
                  const std::string& checks) {
  constexpr std::size_t kGroup = 4;
  ASSERT_EQ(checks.size(), 8 * ((strings.size() + kGroup - 1) / kGroup));
  for (std::size_t begin = 0; begin < strings.size(); begin += kGroup) {
    Crc32 crc;
    std::string group;
    for (std::size_t i = begin; i < std::min(begin + kGroup, strings.size()); ++i) {
      const std::string& text = strings[i];
      const std::vector<TokenSpan> plain = tokenizer.Encode(text);
      crc.Add(-1);
      crc.AddIds(plain);
      crc.Add(-2);
      crc.AddIds(tokenizer.EncodeWithSpecials(text));
      crc.Add(-3);
      if (!composes || ToNfcString(text) == text) AddOffsets(text, plain, &crc);
      crc.Add(tokenizer.Decode(Ids(plain)));
      group += testing::PrintToString(text) + " " + testing::PrintToString(Ids(plain)) + "\n";
    }
    ASSERT_EQ(crc.Hex(), checks.substr(2 * begin, 8)) << "one of strings " << begin << " on:\n" << group;
  }
}

TEST(TokenizerFamilies, EqualHuggingFace) {
  const Json checks = ReadGolden("families_checks.json");
  EXPECT_GE(AllStrings().size(), 5000u);
  for (const std::string& kind : kKinds) {
    SCOPED_TRACE(kind);
    ASSERT_NO_FATAL_FAILURE(ExpectChecks(Family(kind), kind == "qwen2", AllStrings(), checks["kinds"][kind]));
  }
}

TEST(TokenizerFamilies, VariantsEqualHuggingFace) {
  const Json checks = ReadGolden("families_checks.json");
  EXPECT_GE(checks["variants"].size(), 20u);
  for (const auto& [name, variant] : checks["variants"].items()) {
    SCOPED_TRACE(name);
    Json json = ReadGolden("family_" + variant["kind"].get<std::string>() + ".json");
    json.merge_patch(variant["patch"]);
    for (const Json& merge : variant["merges"]) json["model"]["merges"].push_back(merge);
    const auto tokenizer = Parsed(json);
    ASSERT_NE(tokenizer, nullptr);
    const bool composes = json.contains("normalizer") && json["normalizer"].dump().find("NFC") != std::string::npos;
    EXPECT_NO_FATAL_FAILURE(ExpectChecks(*tokenizer, composes, NewStrings(), variant["checks"]));
  }
}

}  // namespace
}  // namespace unfold
