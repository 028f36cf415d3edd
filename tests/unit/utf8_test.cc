// SPDX-License-Identifier: Apache-2.0
// UTF-8: streams that never emit half a character, and the replacement of what is not valid.
#include "text/utf8.h"

#include <gtest/gtest.h>

#include <random>

#include "text/tokenizer.h"

namespace unfold {
namespace {

const std::string kFffd = "\xef\xbf\xbd";

TEST(Utf8, EveryCodePointIsDecodedAndNothingElse) {
  std::size_t num_valid = 0;
  for (char32_t code = 0; code < 0x120000; ++code) {
    std::string bytes;
    if (code < 0x110000) AppendUtf8(code, &bytes);
    if (bytes.empty()) continue;
    const Utf8Step step = DecodeUtf8(bytes);
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    ASSERT_EQ(step.kind == Utf8Kind::kValid, !surrogate) << static_cast<std::uint32_t>(code);
    if (surrogate) continue;
    ASSERT_EQ(step.code, code);
    ASSERT_EQ(step.size, bytes.size());
    ++num_valid;
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
      const Utf8Step part = DecodeUtf8(std::string_view(bytes).substr(0, cut));
      ASSERT_EQ(part.kind, Utf8Kind::kUnfinished);
      ASSERT_EQ(part.size, cut);
    }
  }
  EXPECT_EQ(num_valid, 0x110000u - 0x800u);
}

// The examples of Unicode 3.9, tables 3-8 to 3-11.
TEST(Utf8, MaximalSubpartsAreReplacedOneByOne) {
  const auto marks = [](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += kFffd;
    return text;
  };
  EXPECT_EQ(SanitizeUtf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), marks(8) + "A");
  EXPECT_EQ(SanitizeUtf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), marks(8) + "A");
  EXPECT_EQ(SanitizeUtf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), marks(5) + "A" + marks(2) + "B");
  EXPECT_EQ(SanitizeUtf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), marks(4) + "A");
  EXPECT_EQ(SanitizeUtf8("ab\xf0\x9f\x98"), "ab" + kFffd);
  EXPECT_EQ(SanitizeUtf8(""), "");
}

TEST(Utf8, InvalidBytesAreFoundWhereTheyStand) {
  EXPECT_EQ(FindInvalidUtf8(""), std::string::npos);
  EXPECT_EQ(FindInvalidUtf8("plain and caf\xc3\xa9 \xf0\x9f\x98\x80"), std::string::npos);
  for (std::size_t before = 0; before < 20; ++before) {
    const std::string text(before, 'x');
    EXPECT_EQ(FindInvalidUtf8(text + "\x80"), before);
    EXPECT_EQ(FindInvalidUtf8(text + "\xc3\xa9\xc3"), before + 2);
    EXPECT_EQ(FindInvalidUtf8(text + "\xed\xa0\x80yyyyyyyyyyy"), before);
  }
}

TEST(Utf8, WhiteSpaceIsUnicodeWhiteSpace) {
  std::size_t count = 0;
  for (char32_t code = 0; code < 0x110000; ++code) count += IsWhiteSpace(code) ? 1 : 0;
  EXPECT_EQ(count, 25u);
  for (const char32_t code : {0x180e, 0x200b, 0x2060, 0xfeff, 0x1c, 0x1f}) EXPECT_FALSE(IsWhiteSpace(code));
  EXPECT_EQ(LeadingWhiteSpace("\xc2\xa0 \xe3\x80\x80x "), 6u);
  EXPECT_EQ(TrailingWhiteSpace(" x\xe2\x80\xa8\t\n"), 5u);
  EXPECT_EQ(TrailingWhiteSpace("x\x80 "), 1u);
  EXPECT_EQ(TrailingWhiteSpace(" \n "), 3u);
}

TEST(Utf8Stream, RandomSplitsGiveWholeCharacters) {
  const std::vector<std::string> parts = {"a",
                                          "caf\xc3\xa9",
                                          "\xe6\x97\xa5\xe6\x9c\xac",
                                          "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80",
                                          "\xff",
                                          "\xe1\x80",
                                          "\xc0\xaf",
                                          "\xf0\x9f",
                                          "\x80",
                                          "\xed\xa0\x80",
                                          " "};
  std::mt19937 random(3);
  for (int round = 0; round < 5000; ++round) {
    std::string bytes;
    const std::size_t count = random() % 12;
    for (std::size_t i = 0; i < count; ++i) bytes += parts[random() % parts.size()];
    Utf8Stream stream;
    std::string joined;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t size = std::min<std::size_t>(random() % 4, bytes.size() - at);
      const std::string out = stream.Push(std::string_view(bytes).substr(at, size));
      ASSERT_EQ(FindInvalidUtf8(out), std::string::npos);
      joined += out;
      at += size;
    }
    joined += stream.Finish();
    ASSERT_EQ(joined, SanitizeUtf8(bytes));
    ASSERT_EQ(stream.Finish(), "");
  }
}

// A character that is complete is not held back.
TEST(Utf8Stream, EmitsAtOnce) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xf0\x9f"), "a");
  EXPECT_EQ(stream.Push("\x98"), "");
  EXPECT_EQ(stream.Push("\x80"), "\xf0\x9f\x98\x80");
  EXPECT_EQ(stream.Push("\xf0\x9f"), "");
  EXPECT_EQ(stream.Push("b"), kFffd + "b");
  EXPECT_EQ(stream.Push("\xc3"), "");
  EXPECT_EQ(stream.Finish(), kFffd);
}

}  // namespace
}  // namespace unfold
