// SPDX-License-Identifier: Apache-2.0
// TextStream against a model that looks at the whole text each time.
#include "rag/text_stream.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace unfold {
namespace {

std::string Trim(std::string_view text) {
  constexpr std::string_view kWhite = " \t\n\r\f\v";
  const std::size_t begin = text.find_first_not_of(kWhite);
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(kWhite) + 1 - begin));
}

// Where the first stop text begins, or npos.
std::size_t FirstStop(std::string_view text, const std::vector<std::string>& stops) {
  std::size_t first = std::string_view::npos;
  for (const std::string& stop : stops) first = std::min(first, text.find(stop));
  return first;
}

// Where the longest end of `text` begins that could still grow into a stop text; its size if none.
std::size_t FirstOpenStop(std::string_view text, const std::vector<std::string>& stops) {
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (const std::string& stop : stops) {
      if (std::string_view(stop).starts_with(text.substr(at))) return at;
    }
  }
  return text.size();
}

// The longest beginning that ends with a whole character. `text` is valid UTF-8 cut anywhere.
std::string_view WholeCharacters(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(4, text.size()); ++back) {
    const auto lead = static_cast<unsigned char>(text[text.size() - back]);
    if ((lead & 0xC0) == 0x80) continue;
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    return length > back ? text.substr(0, text.size() - back) : text;
  }
  return text;
}

// Pushes `pieces`, checking the state after each; returns the final text.
std::string RunAgainstModel(const std::vector<std::string>& pieces, const std::vector<std::string>& stops) {
  TextStream stream(stops);
  std::string bytes, emitted;
  bool stopped = false;
  for (const std::string& piece : pieces) {
    if (!stopped) bytes += piece;
    emitted += stream.Push(piece);
    const std::string_view whole = WholeCharacters(bytes);
    const std::size_t stop = FirstStop(whole, stops);
    stopped = stop != std::string_view::npos;
    EXPECT_EQ(stream.stopped(), stopped);
    EXPECT_EQ(stream.text(), Trim(whole.substr(0, stopped ? stop : FirstOpenStop(whole, stops))));
    EXPECT_EQ(emitted, stream.text());
    EXPECT_EQ(FindInvalidUtf8(emitted), std::string::npos);
    if (testing::Test::HasFailure()) return emitted;
  }
  emitted += stream.Finish();
  EXPECT_EQ(emitted, stream.text());
  EXPECT_EQ(emitted, Trim(bytes.substr(0, FirstStop(WholeCharacters(bytes), stops))));
  return emitted;
}

TEST(TextStream, WhiteSpaceAtBothEndsIsDropped) {
  EXPECT_EQ(RunAgainstModel({" ", "\n", " a", " ", " b", "\n", "\t"}, {}), "a  b");
  EXPECT_EQ(RunAgainstModel({" ", "\n"}, {}), "");
  EXPECT_EQ(RunAgainstModel({}, {}), "");
}

TEST(TextStream, StopsAcrossTokens) {
  EXPECT_EQ(RunAgainstModel({"one E", "N", "D two"}, {"END"}), "one");
  EXPECT_EQ(RunAgainstModel({"one E", "N", "TER"}, {"END"}), "one ENTER");
  EXPECT_EQ(RunAgainstModel({"EE", "E", "END", "x"}, {"END"}), "EEE");
  EXPECT_EQ(RunAgainstModel({"aab", "aab", "aac"}, {"aabaac"}), "aab");
  EXPECT_EQ(RunAgainstModel({"abc", "def"}, {"cd", "bcx"}), "ab");
  EXPECT_EQ(RunAgainstModel({"abcd"}, {"c", "bcd"}), "a") << "the one that begins first";
  EXPECT_EQ(RunAgainstModel({"END"}, {"END"}), "");
  EXPECT_EQ(RunAgainstModel({"a E", "N"}, {"END"}), "a EN") << "half a stop text at the end is text";
}

// White space at the front is dropped, but it still counts for a stop text that begins with it.
TEST(TextStream, StopsOfWhiteSpaceInFront) {
  EXPECT_EQ(RunAgainstModel({"\n\n", "x"}, {"\n\n"}), "");
  EXPECT_EQ(RunAgainstModel({"\n", "\n", "x"}, {"\n\n"}), "");
  EXPECT_EQ(RunAgainstModel({" ", "Q", ":"}, {" Q:"}), "");
  EXPECT_EQ(RunAgainstModel({"\n", "a", "\n", "\n"}, {"\n\n"}), "a");
}

TEST(TextStream, StopsInsideOfCharacters) {
  EXPECT_EQ(RunAgainstModel({"caf\xC3", "\xA9 \xE2\x80", "\x94 x"}, {"\xE2\x80\x94"}), "caf\xC3\xA9");
  EXPECT_EQ(RunAgainstModel({"\xF0\x9F", "\x98", "\x80"}, {}), "\xF0\x9F\x98\x80");
}

TEST(TextStream, HalfACharacterAtTheEnd) {
  TextStream stream({});
  EXPECT_EQ(stream.Push("a \xE2\x80"), "a");
  EXPECT_EQ(stream.Finish(), " \xEF\xBF\xBD");
  EXPECT_EQ(stream.text(), "a \xEF\xBF\xBD");
}

TEST(TextStream, NothingComesAfterAStop) {
  TextStream stream({"."});
  EXPECT_EQ(stream.Push("a. b"), "a");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.Push("c"), "");
  EXPECT_EQ(stream.Finish(), "");
  EXPECT_EQ(stream.text(), "a");
}

TEST(TextStream, AnEmptyStopTextIsNone) {
  TextStream stream({""});
  EXPECT_EQ(stream.Push("ab"), "ab");
  EXPECT_FALSE(stream.stopped());
}

// Few letters, so that stop texts and their beginnings are frequent.
TEST(TextStreamProperty, RandomTextsAndSplits) {
  const std::vector<std::string> alphabet = {"a", "b", " ", "\n", "\xC3\xA9", "\xE2\x80\x94", "\xF0\x9F\x98\x80"};
  std::mt19937 random(99);
  const auto draw = [&](int most) {
    std::string text;
    for (int left = static_cast<int>(random() % (most + 1)); left > 0; --left)
      text += alphabet[random() % alphabet.size()];
    return text;
  };
  int stopped = 0, ran_out = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops;
    for (int left = static_cast<int>(random() % 3); left > 0; --left) {
      if (const std::string stop = draw(4); !stop.empty()) stops.push_back(stop);
    }
    const std::string text = draw(14);
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = 1 + random() % 5;
      pieces.push_back(text.substr(at, length));
      at += length;
    }
    RunAgainstModel(pieces, stops);
    ASSERT_FALSE(HasFailure()) << "round " << round << ", " << testing::PrintToString(pieces) << " stops "
                               << testing::PrintToString(stops);
    ++(FirstStop(text, stops) == std::string::npos ? ran_out : stopped);
  }
  EXPECT_GT(stopped, 2000);
  EXPECT_GT(ran_out, 2000);
}

}  // namespace
}  // namespace unfold
