// SPDX-License-Identifier: Apache-2.0
// Document parts: the rules on small documents, and what must hold for any document on random ones.
#include "text/document_parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <optional>
#include <random>

#include "text/utf8.h"

namespace unfold {
namespace {

constexpr std::string_view kTemplate = "{title}\n{text}";

const Tokenizer& GistMini() {
  static const auto loaded = Tokenizer::Load(UNFOLD_SOURCE_DIR "/datasets/gist-mini/tokenizer.json");
  if (!loaded.ok()) ADD_FAILURE() << loaded.status().ToString();
  return **loaded;
}

std::size_t CountTokens(std::string_view text) { return GistMini().Encode(text).size(); }

DocumentParts Split(std::string_view source, int part_tokens, TextFormat format = TextFormat::kPlain,
                    std::string_view document_template = kTemplate) {
  auto parts = SplitDocument(source, FindTitle(source, format), GistMini(), part_tokens, document_template);
  if (!parts.ok()) ADD_FAILURE() << parts.status().ToString();
  return parts.ok() ? *std::move(parts) : DocumentParts{};
}

void ExpectRefused(std::string_view source, int part_tokens, std::string_view document_template,
                   std::string_view words) {
  const auto parts =
      SplitDocument(source, FindTitle(source, TextFormat::kPlain), GistMini(), part_tokens, document_template);
  ASSERT_FALSE(parts.ok()) << words;
  EXPECT_EQ(parts.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(parts.status().message().find(words), std::string::npos) << parts.status().ToString();
}

std::string_view Body(std::string_view source, const PartText& part) {
  return source.substr(part.body.begin, part.body.end - part.body.begin);
}

std::vector<std::string> Bodies(std::string_view source, const DocumentParts& parts) {
  std::vector<std::string> bodies;
  for (const PartText& part : parts.parts) bodies.emplace_back(Body(source, part));
  return bodies;
}

std::string Repeat(std::string_view text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

TEST(DocumentParts, WhatFitsStandsAsItIs) {
  const std::string source = " \r\n\xe3\x80\x80The title\n\nA body,  with two spaces.\n \t";
  const DocumentParts parts = Split(source, 176);
  ASSERT_EQ(parts.parts.size(), 1u);
  EXPECT_EQ(parts.title, "The title");
  EXPECT_EQ(parts.parts[0].text, "The title\n\nA body,  with two spaces.");
  EXPECT_FALSE(parts.parts[0].has_title);
  EXPECT_EQ(parts.parts[0].title_bytes_in_text, 0u);
  EXPECT_EQ(parts.parts[0].body, (ByteRange{6, 6 + 36}));
  const std::size_t exact = CountTokens(parts.parts[0].text);
  EXPECT_EQ(Split(source, static_cast<int>(exact)).parts.size(), 1u);
  EXPECT_TRUE(Split(source, static_cast<int>(exact) - 1).parts[0].has_title);  // no longer as it stands
}

TEST(DocumentParts, Refusals) {
  for (const std::string_view empty : {"", " ", "\n\r\n\t", "\xc2\xa0\xe2\x80\xa8"}) {
    ExpectRefused(empty, 176, kTemplate, "document is empty");
  }
  ExpectRefused("x", 7, kTemplate, "part_tokens must be at least 8, found 7");
  ExpectRefused("x", -1, kTemplate, "part_tokens must be at least 8");
  ExpectRefused("x", 176, "{title}", "must hold {text} exactly once");
  ExpectRefused("x", 176, "{text}{text}", "must hold {text} exactly once");
  ExpectRefused("x", 176, "{text}{title}", "may hold {title} once, before {text}");
  ExpectRefused("x", 176, "{title}{title}{text}", "may hold {title} once");
  ExpectRefused("x", 176, "<gist>{text}", "special token '<gist>' is not supported");
}

TEST(DocumentParts, TitleOfPlainText) {
  const std::string body = Repeat("Some words in a sentence. ", 30);
  const auto title = [&](const std::string& source) { return Split(source, 60).title; };
  EXPECT_EQ(title("\n\n  A title \n" + body), "A title");
  EXPECT_EQ(title(std::string(160, 'x') + "\n" + body), "");  // leaves less than half of 60 tokens
  EXPECT_EQ(Split(std::string(160, ' ') + Repeat("word ", 32) + "\n" + body, 176).title.size(), 159u);
  EXPECT_EQ(Split(Repeat("word ", 33) + "\n" + body, 176).title, "");
  EXPECT_EQ(title("# A title\n" + body), "# A title");
  EXPECT_EQ(title(Repeat("abc ", 39)), "");  // nothing would stand under it
}

TEST(DocumentParts, TitleOfMarkdown) {
  const std::string body = std::string("\n").append(Repeat("Some words in a sentence. ", 30));
  const auto title = [&](const std::string& source) { return Split(source + body, 60, TextFormat::kMarkdown).title; };
  EXPECT_EQ(title("# A title"), "A title");
  EXPECT_EQ(title("   ###   A `title` ##  \r"), "A `title`");
  EXPECT_EQ(title("###### C#"), "C#");
  EXPECT_EQ(title("#\n####### no\n#no\n    # no\n## Yes"), "Yes");
  EXPECT_EQ(title("No heading"), "");
  EXPECT_EQ(title("```sh\n# a comment\n~~~\n```\n# Title\n# Second"), "Title");
  EXPECT_EQ(title("intro\n\n# Title\n\nmore"), "Title");
  EXPECT_EQ(title(std::string("# ").append(Repeat("long ", 40)) + "\n# Second"), "");
  EXPECT_EQ(Split("# One\n\ntext", 176, TextFormat::kMarkdown).title, "One");
}

TEST(DocumentParts, EveryPartCarriesTheTitleAndNoBodyDoes) {
  const std::string paragraph = "This paragraph has a few words that stand on one line.";
  const std::string source = "My title\r\n\r\n" + Repeat(paragraph + "\r\n\r\n", 12);
  const DocumentParts parts = Split(source, 50);
  ASSERT_GT(parts.parts.size(), 2u);
  std::size_t num_paragraphs = 0;
  for (const PartText& part : parts.parts) {
    EXPECT_TRUE(part.has_title);
    EXPECT_EQ(part.title_bytes_in_text, 8u);
    EXPECT_EQ(part.text, std::string("My title\n").append(Body(source, part)));
    EXPECT_EQ(Body(source, part).substr(0, paragraph.size()), paragraph);
    EXPECT_TRUE(Body(source, part).ends_with(paragraph));
    num_paragraphs += (part.body.end - part.body.begin + 4) / (paragraph.size() + 4);
    ASSERT_EQ(part.pieces.size(), 3u);
    EXPECT_EQ(part.pieces[0].source_begin, 0u);  // the title cites the title
    EXPECT_EQ(part.pieces[0].source_end, 8u);
    EXPECT_EQ(part.pieces[1].source_begin, part.body.begin);  // the template's line end cites nothing
    EXPECT_EQ(part.pieces[1].source_end, part.body.begin);
  }
  EXPECT_EQ(num_paragraphs, 12u);
}

TEST(DocumentParts, ATitleThatTakesMoreThanHalfIsNone) {
  const std::string title = "One two three four five six seven eight nine ten";
  const std::string source = title + "\n" + Repeat("Words follow here. ", 30);
  const int header = static_cast<int>(CountTokens(title + "\n"));
  EXPECT_EQ(Split(source, 2 * header).title, title);
  const DocumentParts without = Split(source, 2 * header - 1);
  EXPECT_EQ(without.title, "");
  EXPECT_FALSE(without.parts[0].has_title);
  EXPECT_EQ(without.parts[0].text.substr(0, title.size()), title);
}

TEST(DocumentParts, HeadingInsideABodyIsTakenOut) {
  const std::string after = Repeat("Words follow here, many of them. ", 20);
  const std::string source = "An intro line.\n\n# Heading #\n\n" + after;
  const DocumentParts parts = Split(source, 60, TextFormat::kMarkdown);
  EXPECT_EQ(parts.title, "Heading");
  const PartText& first = parts.parts[0];
  EXPECT_EQ(first.text.substr(0, 38), "Heading\nAn intro line.\n\nWords follow h");
  EXPECT_EQ(first.pieces.size(), 4u);
  for (const PartText& part : parts.parts) EXPECT_EQ(part.text.find('#'), std::string::npos);
}

TEST(DocumentParts, SentencesAreKeptWhole) {
  const std::vector<std::string> sentences = {"The first one ends here.",
                                              "\"Does the second one?\"",
                                              "It (the third one does!)",
                                              "Version 3.14 is no end...",
                                              "What?!",
                                              "See e.g.the fifth one.)\xe2\x80\x9d"};
  std::string paragraph;
  std::vector<std::string> expected;
  for (int round = 0; round < 5; ++round) {
    for (const std::string& sentence : sentences) {
      paragraph += sentence + (round % 2 == 0 ? " " : "\n");
      expected.push_back(sentence);
    }
  }
  const ByteRange all = TrimWhiteSpace(paragraph, {0, static_cast<std::uint32_t>(paragraph.size())});
  std::vector<std::string> found;
  for (const ByteRange unit : CutUnits(paragraph, all, UnitLevel::kSentence, {})) {
    found.push_back(paragraph.substr(unit.begin, unit.end - unit.begin));
  }
  EXPECT_EQ(found, expected);
  const std::string source = Repeat("no title, since this line is long ", 5) + "\n\n" + paragraph;
  for (const std::string& body : Bodies(source, Split(source, 40))) {
    const bool ends =
        std::any_of(sentences.begin(), sentences.end(), [&](const std::string& s) { return body.ends_with(s); });
    EXPECT_TRUE(ends || body.ends_with("long")) << body;
  }
}

TEST(DocumentParts, ChineseSentencesNeedNoSpace) {
  const std::string text = "你好。他说：“很好！”真的？！是的。3.5";
  std::vector<std::string> found;
  for (const ByteRange unit : CutUnits(text, {0, static_cast<std::uint32_t>(text.size())}, UnitLevel::kSentence, {})) {
    found.push_back(text.substr(unit.begin, unit.end - unit.begin));
  }
  EXPECT_EQ(found, (std::vector<std::string>{"你好。", "他说：“很好！”", "真的？！", "是的。", "3.5"}));
  const std::string source = Repeat("今天天气很好我们去公园。", 40);
  for (const std::string& body : Bodies(source, Split(source, 100))) EXPECT_TRUE(body.ends_with("。"));
}

TEST(DocumentParts, WordsAndCharactersAreKeptWhole) {
  const std::string words = Repeat("word another ", 100);
  for (const std::string& body : Bodies(words, Split(words, 30))) {
    EXPECT_TRUE(body.ends_with("word") || body.ends_with("another")) << body;
    EXPECT_TRUE(body.starts_with("word") || body.starts_with("another")) << body;
  }
  for (const std::string& source : {Repeat("漢", 300), Repeat("👩\u200d🚀", 60), Repeat("nospace", 100)}) {
    std::string joined;
    for (const std::string& body : Bodies(source, Split(source, 11))) {
      EXPECT_EQ(FindInvalidUtf8(body), std::string::npos);
      joined += body;
    }
    EXPECT_EQ(joined, source);
  }
}

// --- What holds for any document ---

std::string RandomDocument(std::mt19937* random) {
  static const std::vector<std::string> words = {"the",
                                                 "a",
                                                 "river,",
                                                 "runs.",
                                                 "Why?",
                                                 "end!\"",
                                                 "日本語。",
                                                 "漢字かな",
                                                 "é",
                                                 "(so",
                                                 "it)",
                                                 "ends.)",
                                                 "12.5",
                                                 "x",
                                                 "👩\u200d🚀",
                                                 "\xff",
                                                 "<gist>",
                                                 "# no",
                                                 "averyverylongwordwithoutanyspaceinitatall",
                                                 "\u00a0",
                                                 "—"};
  const auto pick = [&](int low, int high) {
    return low + static_cast<int>((*random)() % static_cast<unsigned>(high - low + 1));
  };
  const std::string line_end = pick(0, 2) == 0 ? "\r\n" : "\n";
  std::string text = Repeat(line_end, pick(0, 2));
  if (pick(0, 2) == 0) text += "intro text" + line_end;
  if (pick(0, 3) != 0) text += "# Heading of it" + line_end;
  const int num_paragraphs = pick(1, 12);
  for (int p = 0; p < num_paragraphs; ++p) {
    const int num_words = pick(0, 3) == 0 ? pick(60, 200) : pick(1, 30);
    for (int w = 0; w < num_words; ++w) {
      if (pick(0, 40) == 0) text += Repeat("漢字", pick(1, 60));
      if (pick(0, 60) == 0) text += Repeat("ab", pick(1, 200));
      text += words[(*random)() % words.size()];
      text += pick(0, 9) == 0 ? line_end : Repeat(" ", pick(0, 7) == 0 ? 3 : 1);
    }
    text += line_end + (pick(0, 3) == 0 ? " \t" : "") + line_end;
  }
  return text;
}

// A part's text and where its pieces come from.
void CheckPieces(std::string_view source, const PartText& part) {
  std::uint32_t at = 0;
  for (const PieceSpan& piece : part.pieces) {
    ASSERT_EQ(piece.begin, at);
    ASSERT_LT(piece.begin, piece.end);
    at = piece.end;
    if (piece.source_begin == piece.source_end) {
      ASSERT_EQ(piece.source_begin, part.body.begin);
      continue;
    }
    ASSERT_EQ(source.substr(piece.source_begin, piece.source_end - piece.source_begin),
              std::string_view(part.text).substr(piece.begin, piece.end - piece.begin));
  }
  ASSERT_EQ(at, part.text.size());
}

// Every byte that is not white space lies in exactly one body, but for the title's line (empty: no title).
void CheckCover(std::string_view source, const DocumentParts& parts, ByteRange title) {
  std::vector<int> cover(source.size(), 0);
  std::uint32_t last = 0;
  for (const PartText& part : parts.parts) {
    ASSERT_LE(last, part.body.begin);
    ASSERT_LT(part.body.begin, part.body.end);
    last = part.body.end;
    for (const PieceSpan& piece : part.pieces) {
      if (piece.end <= part.title_bytes_in_text) continue;
      for (std::uint32_t i = piece.source_begin; i < piece.source_end; ++i) ++cover[i];
    }
  }
  for (std::uint32_t at = 0; at < source.size();) {
    const Utf8Step step = DecodeUtf8(source.substr(at));
    const bool white = step.kind == Utf8Kind::kValid && IsWhiteSpace(step.code);
    const bool in_title = at >= title.begin && at < title.end;
    for (std::uint32_t i = at; i < at + step.size; ++i) {
      ASSERT_LE(cover[i], in_title ? 0 : 1) << "byte " << i;
      ASSERT_TRUE(white || in_title || cover[i] == 1) << "byte " << i;
    }
    at += step.size;
  }
}

// The text of a part with this body, where no heading lies inside.
std::string TextOf(std::string_view source, const DocumentParts& parts, ByteRange body) {
  std::string text = parts.title.empty() ? std::string() : parts.title + "\n";
  return text.append(source.substr(body.begin, body.end - body.begin));
}

// The unit of `range` that byte `at` lies in.
ByteRange UnitAt(std::string_view source, ByteRange range, UnitLevel level, std::uint32_t at) {
  for (const ByteRange unit : CutUnits(source, range, level, {})) {
    if (unit.begin <= at && at < unit.end) return unit;
  }
  ADD_FAILURE() << "no unit at " << at;
  return {};
}

// Where a part begins, the coarsest unit that fits a part begins too (so it is whole), and the part before had no room
// for it.
void CheckGreedy(std::string_view source, const DocumentParts& parts, ByteRange title, std::size_t limit) {
  const auto fits = [&](ByteRange body) { return CountTokens(TextOf(source, parts, body)) <= limit; };
  for (std::size_t i = 1; i < parts.parts.size(); ++i) {
    const std::uint32_t at = parts.parts[i].body.begin;
    const std::uint32_t before = parts.parts[i - 1].body.begin;
    ByteRange range{0, static_cast<std::uint32_t>(source.size())};
    if (!title.empty()) (at < title.end ? range.end : range.begin) = at < title.end ? title.begin : title.end;
    for (const UnitLevel level : {UnitLevel::kParagraph, UnitLevel::kSentence, UnitLevel::kWord}) {
      range = UnitAt(source, range, level, at);
      if (!fits(range)) continue;
      ASSERT_EQ(range.begin, at) << source.substr(range.begin, range.end - range.begin);
      const bool heading_inside = !title.empty() && before < title.begin && title.end < range.end;
      ASSERT_TRUE(heading_inside || !fits({before, range.end})) << "part " << i;
      break;
    }
  }
}

TEST(DocumentPartsProperty, RandomDocuments) {
  std::mt19937 random(5);
  std::size_t num_parts = 0;
  std::size_t num_titled = 0;
  for (int round = 0; round < 250; ++round) {
    const std::string source = RandomDocument(&random);
    const auto format = round % 2 == 0 ? TextFormat::kPlain : TextFormat::kMarkdown;
    const int limit = std::vector<int>{8, 13, 24, 60, 176}[random() % 5];
    const DocumentParts parts = Split(source, limit, format);
    const bool titled = parts.parts.front().has_title;
    const ByteRange title = titled ? FindTitle(source, format)->line : ByteRange{};
    for (const PartText& part : parts.parts) {
      ASSERT_LE(CountTokens(part.text), static_cast<std::size_t>(limit)) << part.text;
      ASSERT_EQ(part.has_title, titled);
      ASSERT_EQ(part.title_bytes_in_text, titled ? parts.title.size() : 0);
      ASSERT_NO_FATAL_FAILURE(CheckPieces(source, part));
    }
    ASSERT_NO_FATAL_FAILURE(CheckCover(source, parts, title)) << source;
    if (parts.parts.size() > 1) {
      ASSERT_NO_FATAL_FAILURE(CheckGreedy(source, parts, title, static_cast<std::size_t>(limit))) << source;
    }
    const DocumentParts again = Split(source, limit, format);
    ASSERT_EQ(Bodies(source, again), Bodies(source, parts));
    num_parts += parts.parts.size();
    num_titled += titled ? 1 : 0;
  }
  EXPECT_GT(num_parts, 3000u);
  EXPECT_GT(num_titled, 60u);
}

// The bounds only have to tell linear from quadratic, on slow machines with sanitizers too.
TEST(DocumentParts, TenMegabytesInOneLine) {
  const std::vector<std::string> sources = {
      Repeat("The quick brown fox jumps over the lazy dog, and then it sleeps. ", 160'000),
      Repeat("no sentence ends here ", 450'000), Repeat("漢字", 1'700'000), Repeat("oneword", 1'430'000),
      Repeat("\n\nab", 2'500'000)};
  for (const std::string& source : sources) {
    const std::clock_t start = std::clock();
    const DocumentParts parts = Split(source, 176);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    std::uint64_t num_bytes = 0;
    for (const PartText& part : parts.parts) num_bytes += part.body.end - part.body.begin;
    EXPECT_LE(num_bytes, source.size());
    EXPECT_GE(num_bytes * 10, source.size() * 4);
    EXPECT_LT(seconds, 100.0);
    std::printf("%zu bytes of '%s...': %.2f s, %zu parts\n", source.size(), source.substr(2, 6).c_str(), seconds,
                parts.parts.size());
  }
}

}  // namespace
}  // namespace unfold
