// SPDX-License-Identifier: Apache-2.0
// One tokenizer of each family against Hugging Face `tokenizers` (tests/golden/export_families.py), and against what
// citations and answers need of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <random>

#include "base/json.h"
#include "text/aligned_text.h"
#include "text/gist_sequence.h"
#include "text/nfc.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include "token_crc.h"

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

// `tokenizers` counts offsets in characters, takes parts of one for all of it, and lets an added space stand for the
// first character.
void AddOffsets(std::string_view text, const std::vector<TokenSpan>& spans, TokenCrc* crc) {
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

enum class Offsets { kCompared, kComparedInNfc, kLeftOut };
Offsets OffsetsOf(bool composes) { return composes ? Offsets::kComparedInNfc : Offsets::kCompared; }

// A CRC as export_families.py writes it.
constexpr std::size_t kDigits = 6;
std::uint32_t FromDigits(std::string_view digits) {
  constexpr std::string_view kAll = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
  std::uint64_t value = 0;
  for (const char digit : digits) value = value << 6 | kAll.find(digit);
  return static_cast<std::uint32_t>(value);
}

void ExpectChecks(const Tokenizer& tokenizer, Offsets offsets, const std::vector<std::string>& strings,
                  const std::string& checks) {
  constexpr std::size_t kGroup = 4;
  ASSERT_EQ(checks.size(), kDigits * ((strings.size() + kGroup - 1) / kGroup));
  for (std::size_t begin = 0; begin < strings.size(); begin += kGroup) {
    TokenCrc crc;
    std::string group;
    for (std::size_t i = begin; i < std::min(begin + kGroup, strings.size()); ++i) {
      const std::string& text = strings[i];
      const std::vector<TokenSpan> plain = tokenizer.Encode(text);
      crc.Add(-1);
      crc.AddIds(plain);
      crc.Add(-2);
      crc.AddIds(tokenizer.EncodeWithSpecials(text));
      crc.Add(-3);
      const bool compared =
          offsets == Offsets::kCompared || (offsets == Offsets::kComparedInNfc && ToNfcString(text) == text);
      if (compared) AddOffsets(text, plain, &crc);
      crc.Add(SanitizeUtf8(tokenizer.Decode(Ids(plain))));
      group += testing::PrintToString(text) + " " + testing::PrintToString(Ids(plain)) + "\n";
    }
    ASSERT_EQ(crc.value(), FromDigits(checks.substr(begin / kGroup * kDigits, kDigits)))
        << "one of strings " << begin << " on:\n"
        << group;
  }
}

TEST(TokenizerFamilies, EqualHuggingFace) {
  const Json checks = ReadGolden("families_checks.json");
  EXPECT_GE(AllStrings().size(), 5000u);
  for (const std::string& kind : kKinds) {
    SCOPED_TRACE(kind);
    ASSERT_NO_FATAL_FAILURE(
        ExpectChecks(Family(kind), OffsetsOf(kind == "qwen2"), AllStrings(), checks["kinds"][kind]));
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
    const Offsets offsets = name == "bytes lost" ? Offsets::kLeftOut : OffsetsOf(composes);
    EXPECT_NO_FATAL_FAILURE(ExpectChecks(*tokenizer, offsets, NewStrings(), variant["checks"]));
  }
}

// Spans cover the text without gaps, and their tokens are the text as it was normalised.
TEST(TokenizerFamilies, OffsetsLeadBackToTheOriginalBytes) {
  for (const std::string& kind : kKinds) {
    const Tokenizer& tokenizer = Family(kind);
    std::size_t num_composed = 0;
    for (const std::string& text : NewStrings()) {
      std::uint32_t end = 0;
      std::string decoded;
      for (const TokenSpan& span : tokenizer.Encode(text)) {
        ASSERT_LE(span.begin, end) << text << ": nothing is left out";
        ASSERT_GE(span.end, end) << text << ": and nothing goes back";
        ASSERT_LE(span.end, text.size());
        decoded += tokenizer.TokenBytes(span.id);
        end = span.end;
      }
      ASSERT_EQ(end, text.size()) << text;
      // Added tokens that strip white space, and those of two texts, decode to another text.
      const bool same = text.find("left>") == text.npos && text.find("right>") == text.npos &&
                        text.find("both>") == text.npos && text.find("unit") == text.npos;
      if (!same || kind == "llama2") continue;
      ASSERT_EQ(decoded, kind == "qwen2" ? ToNfcString(text) : text);
      num_composed += decoded != text ? 1 : 0;
    }
    EXPECT_EQ(num_composed > 200, kind == "qwen2") << kind << " " << num_composed;
  }
}

// A cut between two tokens of the changed text is a cut of the text itself: what stands before it in the text becomes
// what stands before it in the tokens.
TEST(TokenizerFamilies, EachOffsetCutsTextAndTokensAlike) {
  const Tokenizer& qwen = Family("qwen2");
  std::size_t num_cuts = 0;
  for (const std::string& text : AllStrings()) {
    std::string decoded;
    const std::vector<TokenSpan> spans = qwen.Encode(text);
    for (std::size_t i = 0; i + 1 < spans.size(); ++i) {
      decoded += qwen.TokenBytes(spans[i].id);
      const std::uint32_t cut = spans[i].end;
      if (cut != spans[i + 1].begin || !IsUtf8Boundary(text, cut)) continue;
      if (ToNfcString(text) == text || text.find('>') != text.npos || text.find("unit") != text.npos) continue;
      ASSERT_EQ(decoded, ToNfcString(text.substr(0, cut))) << text;
      ++num_cuts;
    }
  }
  EXPECT_GT(num_cuts, 5000u);
}

TEST(TokenizerFamilies, OffsetsOfWhatNormalizersPutInAndJoin) {
  const Tokenizer& llama = Family("llama2");
  EXPECT_EQ(llama.Encode("  the"), (std::vector<TokenSpan>{{llama.IdOf("▁▁"), 0, 1}, {llama.IdOf("▁the"), 1, 5}}));
  const std::vector<TokenSpan> spans = llama.Encode("\xe6\x97\xa5");  // "日" has no token
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_EQ(spans[0], (TokenSpan{llama.IdOf("▁"), 0, 0})) << "the space that was put in stands for nothing";
  EXPECT_EQ(spans[1], (TokenSpan{llama.IdOf("<0xE6>"), 0, 1}));
  EXPECT_EQ(spans[3], (TokenSpan{llama.IdOf("<0xA5>"), 2, 3}));

  // "s" + dot above + dot below becomes one character of three bytes, which is three tokens here: each stands for all.
  const std::vector<TokenSpan> composed = Family("qwen2").Encode("xs\xcc\x87\xcc\xa3y");
  ASSERT_EQ(composed.size(), 5u);
  for (std::size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(composed[i].begin, 1u);
    EXPECT_EQ(composed[i].end, 6u);
  }
  EXPECT_EQ(composed[4].begin, 6u);
  EXPECT_EQ(composed[4].end, 7u);
}

TEST(TokenizerFamilies, AnyBytesKeepTheirPlaces) {
  std::mt19937 random(3);
  const std::vector<std::string> parts = {"the ", "e\xcc\x81", "\xe6\x97\xa5", "\xf0\x9f\x98\x80",
                                          "  ",   "12",        "\xcc\xa3",     "<right> "};
  for (const std::string& kind : kKinds) {
    const Tokenizer& tokenizer = Family(kind);
    for (int i = 0; i < 3000; ++i) {
      std::string bytes;
      for (std::size_t n = 1 + random() % 8; n > 0; --n) {
        const std::string& part = parts[random() % parts.size()];
        bytes += random() % 2 == 0 ? part.substr(0, 1 + random() % part.size())
                                   : std::string(1, static_cast<char>(random() % 256));
      }
      std::uint32_t end = 0;
      for (const TokenSpan& span : tokenizer.Encode(bytes)) {
        ASSERT_LE(span.begin, end);
        ASSERT_GE(span.end, end);
        end = span.end;
      }
      ASSERT_EQ(end, bytes.size());
      const std::string decoded = tokenizer.Decode(Ids(tokenizer.Encode(bytes)));
      const bool same = bytes.find('>') == bytes.npos;  // no token that strips
      ASSERT_TRUE(!same || decoded == (kind == "qwen2" ? ToNfcString(bytes) : bytes)) << kind << " " << bytes;
    }
  }
}

// An answer token by token: each piece is whole characters, and all of them are the text.
TEST(TokenizerFamilies, StreamsHoldNoHalfCharacters) {
  const Tokenizer& llama = Family("llama2");
  std::size_t num_held = 0;
  for (const std::string& text : NewStrings()) {
    const std::vector<TokenId> ids = Ids(llama.Encode(text));
    Utf8Stream stream;
    std::string all;
    for (const TokenId id : ids) {
      const std::string piece = stream.Push(llama.TokenBytes(id));
      ASSERT_EQ(FindInvalidUtf8(piece), std::string::npos);
      num_held += piece.empty() ? 1 : 0;
      all += piece;
    }
    all += stream.Finish();
    ASSERT_EQ(llama.Decode(ids), all.substr(all.starts_with(' ') ? 1 : 0)) << text;
  }
  EXPECT_GT(num_held, 5000u) << "tokens of bytes inside a character";
}

TEST(TokenizerFamilies, WordsStartWithTheirSpaces) {
  const Tokenizer& llama = Family("llama2");
  const std::vector<bool> starts = WordStarts(llama, llama.vocab_size());
  EXPECT_EQ(llama.TokenBytes(llama.IdOf("▁the")), " the");
  EXPECT_TRUE(starts[llama.IdOf("▁the")]);
  EXPECT_TRUE(starts[llama.IdOf("▁▁▁")]);
  EXPECT_TRUE(starts[llama.IdOf("<0x0A>")]) << "a token of a byte is judged by the byte";
  EXPECT_TRUE(starts[llama.IdOf("unit")]) << "normalised it begins with a space";
  EXPECT_FALSE(starts[llama.IdOf("the")]);
  EXPECT_FALSE(starts[llama.IdOf("<0xE2>")]) << "the first byte of a dash is part of a character";
  EXPECT_FALSE(starts[llama.IdOf("<left>")]);
}

TEST(TokenizerFamilies, OnlyAWholeTextGetsTheFirstSpace) {
  Json json = ReadGolden("family_llama2.json");
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", false}};
  const auto tokenizer = Parsed(json);
  EXPECT_EQ(Ids(tokenizer->Encode("the")), std::vector<TokenId>{tokenizer->IdOf("▁the")});
  EXPECT_EQ(Ids(tokenizer->Encode("the", true)), std::vector<TokenId>{tokenizer->IdOf("the")});
  json["pre_tokenizer"]["prepend_scheme"] = "always";
  EXPECT_EQ(Ids(Parsed(json)->Encode("the", true)), std::vector<TokenId>{tokenizer->IdOf("▁the")});
}

TEST(TokenizerFamilies, TextOfSpecialTokensStaysText) {
  for (const std::string& kind : kKinds) {
    const Tokenizer& tokenizer = Family(kind);
    ASSERT_GE(tokenizer.special_tokens().size(), 5u);
    for (const std::string& text : tokenizer.special_tokens()) {
      for (const TokenSpan& span : tokenizer.Encode("a " + text + text + " b")) {
        EXPECT_FALSE(tokenizer.IsSpecial(span.id)) << kind << " " << text;
      }
      EXPECT_EQ(Ids(tokenizer.EncodeWithSpecials(text)), std::vector<TokenId>{tokenizer.IdOf(text)});
    }
  }
}

// Files that only their order of marks makes expensive: sorting them one by one would take hours.
TEST(TokenizerFamilies, MarksWithoutEndTakeSecondsNotHours) {
  std::string marks = "e";
  for (int i = 0; i < 1'000'000; ++i) marks += i % 2 == 0 ? "\xcc\x81" : "\xcc\xa3";
  const std::clock_t start = std::clock();
  const std::vector<TokenSpan> spans = Family("qwen2").Encode(marks);
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 60.0);
  EXPECT_EQ(spans.back().end, marks.size());
}

double MegabytesPerSecond(const Tokenizer& tokenizer, const std::vector<std::string>& documents) {
  std::size_t num_bytes = 0;
  const std::clock_t start = std::clock();
  std::clock_t end = start;
  while (end - start < CLOCKS_PER_SEC / 2) {
    for (const std::string& document : documents) {
      EXPECT_FALSE(tokenizer.Encode(document).empty());
      num_bytes += document.size();
    }
    end = std::clock();
  }
  return static_cast<double>(num_bytes) / 1e6 / (static_cast<double>(end - start) / CLOCKS_PER_SEC);
}

// The bar is 10 MB/s. The floor here only tells a collapse from a slow or instrumented machine.
TEST(TokenizerFamilies, EnglishTextIsFast) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr double kFloor = 0.1;
#else
  constexpr double kFloor = 2;
#endif
  std::vector<std::string> documents;
  const auto file = ReadFile(UNFOLD_SOURCE_DIR "/datasets/gist-mini/docs.jsonl");
  ASSERT_TRUE(file.ok());
  for (std::size_t begin = 0, end = 0; (end = file->find('\n', begin)) != std::string::npos; begin = end + 1) {
    documents.push_back(Json::parse(file->substr(begin, end - begin))["text"].get<std::string>());
  }
  for (const std::string& kind : kKinds) {
    const double speed = MegabytesPerSecond(Family(kind), documents);
    std::printf("%s: %.1f MB/s\n", kind.c_str(), speed);
    EXPECT_GT(speed, kFloor) << kind;
  }
}

}  // namespace
}  // namespace unfold
