// SPDX-License-Identifier: Apache-2.0
// The regex engine as patterns of tokenizer.json need it.
#include "text/regex.h"

#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "text/utf8.h"

namespace unfold {
namespace {

using Ranges = std::vector<std::pair<std::size_t, std::size_t>>;

Ranges AllMatches(const std::string& pattern, std::string_view text) {
  const auto regex = Regex::Compile(pattern);
  if (!regex.ok()) ADD_FAILURE() << regex.status().ToString();
  RegexMatcher matcher(*regex);
  matcher.Reset(text);
  Ranges ranges;
  for (std::size_t begin = 0, end = 0; matcher.Next(&begin, &end);) ranges.emplace_back(begin, end);
  return ranges;
}

// Golden files cannot show this alone: few merges cross from white space to what is only nearly white space.
TEST(Regex, SpaceIsExactlyWhiteSpaceInsideAndOutsideOfClasses) {
  std::string all;
  Ranges white;
  Ranges other;
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xd800 && code <= 0xdfff) continue;
    const std::size_t begin = all.size();
    AppendUtf8(code, &all);
    (IsWhiteSpace(code) ? white : other).emplace_back(begin, all.size());
  }
  for (const char* pattern : {"\\s", "[\\s]", "[^\\S]"}) EXPECT_EQ(AllMatches(pattern, all), white) << pattern;
  for (const char* pattern : {"\\S", "[\\S]", "[^\\s]"}) EXPECT_EQ(AllMatches(pattern, all), other) << pattern;
}

TEST(Regex, EmptyMatchesAreTakenOnceAndNotBehindAMatch) {
  EXPECT_EQ(AllMatches("a*", "baac"), (Ranges{{0, 0}, {1, 3}, {4, 4}}));
  EXPECT_EQ(AllMatches("x*", "\xe6\x97\xa5"), (Ranges{{0, 0}, {3, 3}}));
  EXPECT_EQ(AllMatches("a*", ""), (Ranges{{0, 0}}));
}

TEST(Regex, LiteralsMatchThemselvesOnly) {
  const std::string text = "a.b*(c)\\[d]^$|?+{2}-#\\E";
  const auto regex = Regex::Literal(text);
  ASSERT_TRUE(regex.ok()) << regex.status().ToString();
  EXPECT_TRUE(regex->Matches("xx" + text + "yy"));
  EXPECT_FALSE(regex->Matches("aXb*(c)\\[d]^$|?+{2}-#\\E"));
}

// Backtracking over ten megabytes needs more than the JIT's first stack, and must not end in "no match".
TEST(Regex, LongRunsMatchWhole) {
  const std::string spaces(10'000'000, ' ');
  EXPECT_EQ(AllMatches("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", spaces), (Ranges{{0, spaces.size()}}));
  EXPECT_EQ(AllMatches("(?:a|b)+c|\\s+(?!\\S)", spaces + "x"), (Ranges{{0, spaces.size() - 1}}));
  const std::string letters(1'000'000, 'a');
  EXPECT_EQ(AllMatches("(?:a|b)+", letters), (Ranges{{0, letters.size()}}));
}

// Exponential backtracking ends at the limit: the text then has no match, the same way each time.
TEST(Regex, PatternsThatExplodeGiveUp) {
  const std::string letters = std::string(100'000, 'a') + "cb";  // a 'b', or there is nothing to try
  const std::clock_t start = std::clock();
  for (const char* pattern : {"(?:a+)+b", "(?:a|a)*b", "(?:(?:a*)*)*b"}) {
    EXPECT_EQ(AllMatches(pattern, letters), Ranges()) << pattern;
  }
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 60.0);
}

}  // namespace
}  // namespace unfold
