// SPDX-License-Identifier: Apache-2.0
// The tokenizer against Hugging Face `tokenizers` (tests/golden/export_tokenizer.py), and against its own promises.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <ctime>
#include <random>
#include <sstream>
#include <thread>

#include "base/json.h"
#include "text/utf8.h"
#include "token_crc.h"

namespace unfold {
namespace {

const std::string kRoot = UNFOLD_SOURCE_DIR;
const std::string kGistMini = kRoot + "/datasets/gist-mini/tokenizer.json";
const std::string kLlama3 = kRoot + "/tests/golden/family_llama3.json";

const Tokenizer& GistMini() {
  static const auto loaded = Tokenizer::Load(kGistMini);
  if (!loaded.ok()) ADD_FAILURE() << loaded.status().ToString();
  return **loaded;
}

struct GoldenLine {
  std::string text;
  std::uint32_t ids = 0;  // TokenCrc
  std::uint32_t with_specials = 0;
};

std::vector<GoldenLine> ReadGolden(const std::string& name) {
  std::vector<GoldenLine> lines;
  const auto bytes = ReadFile(kRoot + "/tests/golden/" + name);
  if (!bytes.ok()) ADD_FAILURE() << bytes.status().ToString();
  std::istringstream stream(bytes.ok() ? *bytes : std::string());
  for (std::string line; std::getline(stream, line);) {
    const auto json = ParseJson(line, name);
    if (!json.ok()) ADD_FAILURE() << json.status().ToString();
    GoldenLine golden{(*json)[0].get<std::string>(), (*json)[1].get<std::uint32_t>()};
    golden.with_specials = json->size() > 2 ? (*json)[2].get<std::uint32_t>() : golden.ids;
    lines.push_back(std::move(golden));
  }
  return lines;
}

std::vector<TokenId> Ids(const std::vector<TokenSpan>& spans) {
  std::vector<TokenId> ids;
  for (const TokenSpan& span : spans) ids.push_back(span.id);
  return ids;
}

// Every token's bytes are exactly the bytes of its span, and the spans tile the text.
void ExpectTiles(const Tokenizer& tokenizer, std::string_view text, const std::vector<TokenSpan>& spans) {
  std::uint32_t at = 0;
  for (const TokenSpan& span : spans) {
    ASSERT_EQ(span.begin, at);
    ASSERT_LT(span.begin, span.end);
    ASSERT_LE(span.end, text.size());
    ASSERT_EQ(tokenizer.TokenBytes(span.id), text.substr(span.begin, span.end - span.begin));
    at = span.end;
  }
  ASSERT_EQ(at, text.size());
}

void ExpectGolden(const Tokenizer& tokenizer, const std::string& name, std::size_t min_lines, std::size_t min_special) {
  const std::vector<GoldenLine> lines = ReadGolden(name);
  EXPECT_GE(lines.size(), min_lines);
  std::size_t num_special = 0;
  for (const GoldenLine& golden : lines) {
    const std::vector<TokenSpan> spans = tokenizer.Encode(golden.text);
    ASSERT_EQ(CrcOfIds(spans), golden.ids) << golden.text;
    ASSERT_NO_FATAL_FAILURE(ExpectTiles(tokenizer, golden.text, spans)) << golden.text;
    EXPECT_EQ(tokenizer.Decode(Ids(spans), false), golden.text);
    ASSERT_EQ(CrcOfIds(tokenizer.EncodeWithSpecials(golden.text)), golden.with_specials) << golden.text;
    num_special += golden.ids != golden.with_specials ? 1 : 0;
  }
  EXPECT_GE(num_special, min_special);
}

TEST(TokenizerGolden, GistMiniEqualsHuggingFace) { ExpectGolden(GistMini(), "tokenizer_gist_mini.jsonl", 5000, 500); }

TEST(Tokenizer, TextOfSpecialTokensStaysText) {
  const Tokenizer& tokenizer = GistMini();
  EXPECT_EQ(tokenizer.special_tokens().size(), 11u);
  std::string all;
  for (const std::string& text : tokenizer.special_tokens()) {
    const TokenId id = tokenizer.IdOf(text);
    ASSERT_TRUE(tokenizer.IsSpecial(id)) << text;
    EXPECT_EQ(tokenizer.TokenBytes(id), text);
    const auto recognised = tokenizer.EncodeWithSpecials(text);
    ASSERT_EQ(recognised.size(), 1u);
    EXPECT_EQ(recognised[0], (TokenSpan{id, 0, static_cast<std::uint32_t>(text.size())}));
    all += text + " x" + text + text;
  }
  const std::vector<TokenSpan> plain = tokenizer.Encode(all);
  for (const TokenSpan& span : plain) EXPECT_FALSE(tokenizer.IsSpecial(span.id));
  EXPECT_EQ(tokenizer.Decode(Ids(plain)), all);
  for (std::size_t i = 1; i < tokenizer.special_tokens().size(); ++i) {
    EXPECT_GE(tokenizer.special_tokens()[i - 1].size(), tokenizer.special_tokens()[i].size());
  }
}

// In this file both lookups of the whole word and the merges lead to the special token's id.
TEST(Tokenizer, MergesAndWholeWordsNeverMakeASpecialToken) {
  const auto file = ReadJsonFile(kLlama3);
  ASSERT_TRUE(file.ok());
  Json json = *file;
  const TokenId the = json["model"]["vocab"]["the"].get<TokenId>();
  for (const bool ignore_merges : {false, true}) {
    json["model"]["ignore_merges"] = ignore_merges;
    for (const bool special : {false, true}) {
      json["added_tokens"] = Json::parse(R"([{"content": "the", "normalized": false}])");
      json["added_tokens"][0]["id"] = the;
      json["added_tokens"][0]["special"] = special;
      const auto tokenizer = Tokenizer::Parse(json.dump(), "t");
      ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
      const auto ids = Ids((*tokenizer)->Encode("the"));
      EXPECT_EQ(ids == std::vector<TokenId>{the}, !special);
      EXPECT_EQ((*tokenizer)->Decode(ids), "the");
      EXPECT_EQ(Ids((*tokenizer)->EncodeWithSpecials("the")), std::vector<TokenId>{the});
    }
  }
}

TEST(Tokenizer, PrefixSpaceBelongsToNoByteOfTheText) {
  Json json = *ReadJsonFile(kGistMini);
  json["pre_tokenizer"]["add_prefix_space"] = true;
  const auto tokenizer = Tokenizer::Parse(json.dump(), "t");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const auto spans = (*tokenizer)->Encode("the end");
  EXPECT_EQ(Ids(spans), Ids(GistMini().Encode(" the end")));
  EXPECT_EQ(spans.front().begin, 0u);
  EXPECT_EQ(spans.front().end, 3u);
  EXPECT_EQ(spans.back().end, 7u);
  EXPECT_TRUE((*tokenizer)->Encode("").empty());
  EXPECT_EQ((*tokenizer)->Encode(" the"), GistMini().Encode(" the"));
}

TEST(Tokenizer, RemovedPiecesLeaveGaps) {
  Json json = *ReadJsonFile(kGistMini);
  json["pre_tokenizer"] = Json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"String": "."}, "behavior": "Removed", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})");
  const auto tokenizer = Tokenizer::Parse(json.dump(), "t");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const auto spans = (*tokenizer)->Encode("a.b");
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0].end, 1u);
  EXPECT_EQ(spans[1].begin, 2u);
}

std::string RandomBytes(std::mt19937* random) {
  static const std::vector<std::string> parts = {
      "the ", "caf\xc3\xa9", "\xe6\x97\xa5", "\xf0\x9f\x98\x80", " ", "\n", "\xc2\x85", "12", "<gist>"};
  std::string bytes;
  const std::size_t count = 1 + (*random)() % 12;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t kind = (*random)() % 3;
    if (kind == 0) {
      bytes.push_back(static_cast<char>((*random)() % 256));
    } else {
      const std::string& part = parts[(*random)() % parts.size()];
      bytes += kind == 1 ? part : part.substr(0, 1 + (*random)() % part.size());
    }
  }
  return bytes;
}

TEST(Tokenizer, AnyBytesRoundTrip) {
  std::mt19937 random(1);
  std::size_t num_invalid = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string bytes = RandomBytes(&random);
    num_invalid += FindInvalidUtf8(bytes) != std::string::npos ? 1 : 0;
    ASSERT_NO_FATAL_FAILURE(ExpectTiles(GistMini(), bytes, GistMini().Encode(bytes)));
  }
  EXPECT_GT(num_invalid, 5000u);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    EXPECT_EQ(GistMini().Decode(Ids(GistMini().Encode(one))), one);
  }
}

// Each invalid byte is a character that is neither letter, number nor space: it cuts a text where U+FFFD does.
TEST(Tokenizer, InvalidBytesCutAsTheReplacementCharacterDoes) {
  const auto lengths = [](std::string_view text, std::string_view mark) {
    std::vector<std::size_t> lengths;  // of the runs of tokens without a byte of `mark`
    std::size_t run = 0;
    for (const TokenSpan& span : GistMini().Encode(text)) {
      const bool has_mark =
          text.substr(span.begin, span.end - span.begin).find_first_of(mark) != std::string_view::npos;
      if (has_mark && run != 0) lengths.push_back(run);
      run = has_mark ? 0 : run + span.end - span.begin;
    }
    lengths.push_back(run);
    return lengths;
  };
  for (const std::string around : {"the|the", "the |the", " the| the", "12|34", "a\n\n|b", "it|'s", "||it 's||"}) {
    std::string invalid;
    std::string replaced;
    for (const char c : around) {
      invalid += c == '|' ? std::string("\xff") : std::string(1, c);
      replaced += c == '|' ? std::string("\xef\xbf\xbd") : std::string(1, c);
    }
    EXPECT_EQ(lengths(invalid, "\xff"), lengths(replaced, "\xef\xbf\xbd")) << around;
  }
}

TEST(Tokenizer, UnknownIdsAndEmptyTexts) {
  const Tokenizer& tokenizer = GistMini();
  EXPECT_EQ(tokenizer.vocab_size(), 8192);
  for (const TokenId id : {-1, 8192, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer.TokenBytes(id), "");
    EXPECT_FALSE(tokenizer.IsSpecial(id));
  }
  EXPECT_TRUE(tokenizer.Encode("").empty());
  EXPECT_TRUE(tokenizer.EncodeWithSpecials("").empty());
  EXPECT_EQ(tokenizer.IdOf("no such token"), -1);
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.IdOf(" the")), " the");
  const std::vector<TokenId> ids = {2, tokenizer.IdOf(" the"), 5, 99999};
  EXPECT_EQ(tokenizer.Decode(ids), " the");
  EXPECT_EQ(tokenizer.Decode(ids, false), "<gist> the<|answer|>");
}

// Texts that are one pre-token. Quadratic merging would take hours; the bound only has to tell the two apart, on a
// slow machine with sanitizers too.
TEST(Tokenizer, LongPretokensTakeSecondsNotHours) {
  constexpr std::size_t kBytes = 10'000'000;
  std::mt19937 random(2);
  std::string letters(kBytes, ' ');
  for (char& c : letters) c = static_cast<char>('a' + random() % 26);
  for (const std::string& text :
       {std::string(kBytes, '-'), std::string(kBytes, ' '), std::string(kBytes, 'o'), letters}) {
    const std::clock_t start = std::clock();
    const std::vector<TokenSpan> spans = GistMini().Encode(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    ASSERT_EQ(spans.back().end, kBytes);
    EXPECT_LT(seconds, 60.0) << "'" << text[0] << "'";
    std::printf("10 MB of '%c': %.2f s, %zu tokens\n", text[0], seconds, spans.size());
  }
}

TEST(Tokenizer, ManyThreadsGiveTheSameIds) {
  const auto fresh = Tokenizer::Load(kGistMini);  // its table of seen pre-tokens is empty
  ASSERT_TRUE(fresh.ok());
  const std::vector<GoldenLine> lines = ReadGolden("tokenizer_gist_mini.jsonl");
  std::atomic<int> num_wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (const GoldenLine& golden : lines) num_wrong += CrcOfIds((*fresh)->Encode(golden.text)) != golden.ids ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
}

}  // namespace
}  // namespace unfold
