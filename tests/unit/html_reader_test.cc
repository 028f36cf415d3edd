// SPDX-License-Identifier: Apache-2.0
// HTML as text: each rule, a whole page, where every byte comes from, and pages that nobody should write.
#include "text/html_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "text/readable_text.h"
#include "text/tokenizer.h"

namespace unfold {
namespace {

// Whether a byte of the text may come from one of the file: it is the same, but for white space and characters that
// count as it.
bool ComesFrom(char text, char file) {
  const auto byte = static_cast<unsigned char>(file);
  const bool is_of_no_character = byte == 0xef || byte == 0xbf || byte == 0xbe;  // U+FEFF, U+FFFE, U+FFFF
  return text == file || (text == ' ' && (byte <= ' ' || is_of_no_character)) || (text == '\n' && file == '\r');
}

// What must hold for any page: pieces tile the text, sources go forward, and a copy is the file's own bytes.
void CheckPieces(std::string_view source, const HtmlText& html) {
  std::uint32_t at = 0, source_at = 0;
  for (const PieceSpan& piece : html.pieces) {
    const std::string_view text = std::string_view(html.text).substr(piece.begin, piece.end - piece.begin);
    const std::string_view from = source.substr(piece.source_begin, piece.source_end - piece.source_begin);
    const bool tiles = piece.begin == at && piece.begin < piece.end;
    const bool goes_forward =
        source_at <= piece.source_begin && piece.source_begin <= piece.source_end && piece.source_end <= source.size();
    bool fits = false;
    if (from.empty()) {
      fits = text == " " || text == "\n" || text == "\n\n";
    } else if (IsByteByByte(piece)) {
      fits = std::equal(text.begin(), text.end(), from.begin(), ComesFrom);
    } else {
      fits = from.front() == '&' || text == "\n";  // an entity, or a line's end of two bytes
    }
    if (!tiles || !goes_forward || !fits) {
      FAIL() << "'" << text << "' from bytes " << piece.source_begin << " to " << piece.source_end << " '" << from
             << "' of " << source.substr(0, 2000);
    }
    at = piece.end;
    source_at = piece.source_end;
  }
  ASSERT_EQ(at, html.text.size());
}

HtmlText Read(std::string_view source) {
  auto html = ReadHtml(source);
  if (!html.ok()) ADD_FAILURE() << html.status().ToString() << " in " << source.substr(0, 200);
  if (html.ok()) CheckPieces(source, *html);
  return html.ok() ? *std::move(html) : HtmlText{};
}

std::string Text(std::string_view source) { return Read(source).text; }

std::string Title(std::string_view source) {
  const HtmlText html = Read(source);
  return html.title ? html.text.substr(html.title->title.begin, html.title->title.end - html.title->title.begin) : "";
}

std::string Repeat(std::string_view text, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += text;
  return out;
}

TEST(HtmlReader, WhiteSpaceCollapsesAcrossElements) {
  EXPECT_EQ(Text("  one \n\t two<b> three</b> <i> four</i>.  "), "one two three four.");
  EXPECT_EQ(Text("<p>a<span> </span>b</p>"), "a b");
  EXPECT_EQ(Text("a&nbsp; b"), "a\u00a0 b");  // a no-break space is text
  EXPECT_EQ(Text("a&#32;&#10; b"), "a b");
  EXPECT_EQ(Text("a\r\nb\x01\x0b\x7f"), "a b \x7f");
  EXPECT_EQ(Text("<p> \n </p>"), "");
}

TEST(HtmlReader, BlocksAreParagraphsAndItemsAreLines) {
  EXPECT_EQ(Text("<p>one<p>two<div>three</div>four<hr>five"), "one\n\ntwo\n\nthree\n\nfour\n\nfive");
  EXPECT_EQ(Text("one<br>two<br/><br>three"), "one\ntwo\nthree");
  EXPECT_EQ(Text("<ul><li>one<li> two</li></ul>after"), "one\ntwo\n\nafter");
  EXPECT_EQ(Text("<dl><dt>term<dd>what it is</dl>"), "term\nwhat it is");
  EXPECT_EQ(Text("<table><tr><th>Year</th><th>Event</th></tr><tr><td>1911<td>Built</table>x"),
            "Year Event\n1911 Built\n\nx");
  EXPECT_EQ(Text("<section><h2>Head</h2>text</section><blockquote>quote</blockquote>"), "Head\n\ntext\n\nquote");
  EXPECT_EQ(Text("<h1>a<br>b <div>c</div></h1>d"), "a b c\n\nd");  // a heading is one line
}

TEST(HtmlReader, PreKeepsItsWhiteSpace) {
  EXPECT_EQ(Text("<p>x<pre>\na  b\n\n\tc\n</pre>y"), "x\n\na  b\n\n\tc\n\ny");
  EXPECT_EQ(Text("<pre>a\r\n b\rc</pre>"), "a\n b\nc");
  EXPECT_EQ(Text("<pre><code>\n  if (a &lt; b)\n</code></pre>"), "  if (a < b)\n");
}

TEST(HtmlReader, EntitiesAreDecoded) {
  EXPECT_EQ(Text("caf&eacute; &amp; &#x1F600; &#26085; &lt;b&gt; &quot;q&apos;"),
            "caf\u00e9 & \U0001F600 \u65e5 <b> \"q'");
  EXPECT_EQ(Text("AT&T a & b &unknown; &amp;amp; 1 < 2 <3"), "AT&T a & b &unknown; &amp; 1 < 2 <3");
  EXPECT_EQ(Text("&#60<b>x</b>&#60;<&#x3c<"), "<x<<<<");
  const HtmlText html = Read("<p>caf&eacute;s");
  ASSERT_EQ(html.pieces.size(), 3U);
  EXPECT_EQ(html.pieces[0], (PieceSpan{0, 3, 3, 6}));
  EXPECT_EQ(html.pieces[1], (PieceSpan{3, 5, 6, 14}));
  EXPECT_EQ(html.pieces[2], (PieceSpan{5, 6, 14, 15}));
}

TEST(HtmlReader, WhatIsNoTextIsLeftOut) {
  for (const char* gone : {"<script>if (a < b) document.write('<p>no</p>')</script>",
                           "<style>p > a { color: red }</style>",
                           "<template><p>no</p></template>",
                           "<noscript>no <b>no</b></noscript>",
                           "<svg><title>no</title><text>no</text></svg>",
                           "<iframe>no</iframe>",
                           "<button>no</button>",
                           "<select><option>no<option>no</select>",
                           "<textarea>no</textarea>",
                           "<!-- no <p> -->",
                           "<nav><ul><li>no<li>no</ul></nav>",
                           "<aside>no</aside>",
                           "<menu><li>no</menu>",
                           "<header>no<h1>no</h1></header>",
                           "<footer><p>no</footer>",
                           "<p hidden>no</p>",
                           "<div hidden=''><nav>no</nav>no</div>",
                           "<span aria-hidden=\"true\">no</span>",
                           "<div style='color:red; Display : NONE'>no</div>",
                           "<i style=\"visibility:hidden\">no</i>",
                           "<div role=navigation>no</div>",
                           "<div role=' Banner '>no</div>",
                           "<dialog>no</dialog>",
                           "<?php no ?>",
                           "<input value=no><img alt=no>"}) {
    const std::string text = Text(std::string("<div>one ").append(gone) + " two</div>");
    EXPECT_TRUE(text == "one two" || text == "one\n\ntwo") << gone << ": " << text;
  }
  for (const char* kept : {"<main><header>x</header></main>", "<article><footer>x</footer></article>",
                           "<section><header><p>x</p></header></section>", "<body style='display:none'>x</body>",
                           "<span aria-hidden=false>x</span>", "<dialog open>x</dialog>", "<div role=main>x</div>",
                           "<div style='display:block'>x</div>", "<div role=''>x</div>", "<form>x</form>"}) {
    EXPECT_EQ(Text(kept), "x") << kept;
  }
}

TEST(HtmlReader, TitleIsOfTheElementOrTheFirstHeading) {
  EXPECT_EQ(Title("<title> A \n title </title><h1>Head</h1>"), "A title");
  EXPECT_EQ(Text("<title>A title</title><h1>Head</h1>text"), "A title\n\nHead\n\ntext");
  EXPECT_EQ(Text("<title>Same</title><h1>Same</h1>text<h2>Same</h2>"), "Same\n\ntext\n\nSame");
  EXPECT_EQ(Text("<title>Caf&eacute;</title><p>intro<h1>Caf\u00e9</h1>text"), "Caf\u00e9\n\nintro\n\ntext");
  EXPECT_EQ(Title("<p>intro</p><h2>First <i>head</i></h2><h1>Second</h1>"), "First head");
  EXPECT_EQ(Title("<title></title><h3>Head</h3>"), "Head");
  EXPECT_EQ(Title("<header><h1>Site</h1></header><h1>Page</h1>"), "Page");
  EXPECT_EQ(Title("<p>none"), "");
  EXPECT_EQ(Title("<title>" + std::string(160, 'x') + "</title>"), std::string(160, 'x'));
  EXPECT_EQ(Title("<title>" + std::string(161, 'x') + "</title><h1>Head</h1>"), "Head");
  EXPECT_EQ(Text("<p>text<title>no</title>"), "text") << "a page shows no title in its body";
  EXPECT_EQ(Title("<title>one</title><title>two</title>"), "one");
}

TEST(HtmlReader, BrokenMarkupIsReadAsItCanBe) {
  EXPECT_EQ(Text("no markup at all"), "no markup at all");
  EXPECT_EQ(Text("<p>one <b>two <i>three</b> four</i> five"), "one two three four five");
  EXPECT_EQ(Text("</div></p>one</span>two"), "onetwo");
  EXPECT_EQ(Text("one</body></html>two"), "one\n\ntwo");
  EXPECT_EQ(Text("one <a href='unclosed>two"), "one");
  EXPECT_EQ(Text("one<!-- unclosed two"), "one");
  EXPECT_EQ(Text("one<"), "one<");
  EXPECT_EQ(Text("one&"), "one&");
  EXPECT_EQ(Text("one&#xZ; &#1114112;two").substr(0, 3), "one");
  EXPECT_EQ(Text("\xef\xbb\xbf<p>mark"), "mark");
  EXPECT_EQ(Text("a\xef\xbf\xbf"
                 "b"),
            "a b");
  EXPECT_EQ(Text(std::string_view("a\0b", 3)), "a b");
  EXPECT_EQ(Text(""), "");
}

constexpr std::string_view kPage = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name=viewport content="width=device-width">
<title>The Old  Bridge &ndash; Town Guide</title>
<link rel=stylesheet href=style.css><style>body > p { color: black }</style>
<script>if (1 < 2) document.write("<p>no</p>");</script>
</head>
<body class="page">
<header><a href="/">Town Guide</a></header>
<nav><ul><li><a href="/">Home</a></li><li>Sights</li></ul></nav>
<main>
<article>
<header><h1>The Old Bridge</h1><p class=by>by Jane &amp; Joe</p></header>
<p>The bridge over the <b>river</b> was built by Peter in 1911
   and repaired by <a href="/w?a=1&b=2">the Widmer caf&eacute;</a>.
<figure><img src=a.png alt="A bridge"><figcaption>In winter</figcaption></figure>
<h2>Parts</h2>
<ul><li>One arch<li>Two pillars,
each 3&thinsp;m wide</ul>
<table><thead><tr><th>Year<th>Event<tbody><tr><td>1911<td>Built</table>
<pre>
  north
    south
</pre>
<div aria-hidden="true">&#9733;</div><p style="display:none">Subscribe!</p>
</article>
<aside>Related sights</aside>
</main>
<footer><p>Copyright</footer>
</body>
</html>
)";

TEST(HtmlReader, AWholePage) {
  EXPECT_EQ(Text(kPage),
            "The Old Bridge \u2013 Town Guide\n\nThe Old Bridge\n\nby Jane & Joe\n\n"
            "The bridge over the river was built by Peter in 1911 and repaired by the Widmer caf\u00e9.\n\n"
            "In winter\n\nParts\n\nOne arch\nTwo pillars, each 3\u2009m wide\n\nYear Event\n\n1911 Built\n\n"
            "  north\n    south\n");
  EXPECT_EQ(Title(kPage), "The Old Bridge \u2013 Town Guide");
}

// ---- where text comes from

TEST(ReadableText, RangesOfTheTextAndOfTheFileMapOntoEachOther) {
  const auto read = ReadableText::Read(kPage, TextFormat::kHtml);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  const std::string_view text = read->text();
  const auto size = static_cast<std::uint32_t>(text.size());
  for (std::uint32_t begin = 0; begin < size; ++begin) {
    for (const std::uint32_t length : {1U, 2U, 7U, 40U, 400U}) {
      const ByteRange range{begin, std::min(begin + length, size)};
      const ByteRange bytes = read->ToSource(range);
      ASSERT_LE(bytes.begin, bytes.end);
      ASSERT_LE(bytes.end, kPage.size());
      const std::string_view wanted = text.substr(range.begin, range.end - range.begin);
      const std::string_view found = read->TextIn(bytes);
      if (bytes.empty()) {
        ASSERT_TRUE(wanted == "\n" || wanted == "\n\n" || wanted == " ") << wanted;
      } else {
        // Our own breaks at the ends are in no byte of the file; a part of a decoded character brings all of it.
        const std::size_t first = std::min(wanted.find_first_not_of("\n "), wanted.size());
        const std::size_t last = wanted.find_last_not_of("\n ") + 1;
        ASSERT_NE(found.find(wanted.substr(first, last - std::min(first, last))), std::string_view::npos) << wanted;
        ASSERT_LE(found.size(), wanted.size() + 4);
      }
    }
  }
  const std::size_t at = text.find("Peter");
  const ByteRange peter = read->ToSource({static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at) + 5});
  EXPECT_EQ(kPage.substr(peter.begin, peter.end - peter.begin), "Peter");
}

TEST(ReadableText, SourceOfRanges) {
  // "ab" as it stands, a break of our own, "<" for "&lt;", "cd" as it stands.
  const std::vector<PieceSpan> pieces = {{0, 2, 10, 12}, {2, 4, 20, 20}, {4, 5, 20, 24}, {5, 7, 30, 32}};
  EXPECT_EQ(SourceOf(pieces, {0, 7}), (ByteRange{10, 32}));
  EXPECT_EQ(SourceOf(pieces, {1, 2}), (ByteRange{11, 12}));
  EXPECT_EQ(SourceOf(pieces, {1, 4}), (ByteRange{11, 12}));
  EXPECT_EQ(SourceOf(pieces, {2, 4}), (ByteRange{20, 20}));
  EXPECT_EQ(SourceOf(pieces, {3, 5}), (ByteRange{20, 24}));
  EXPECT_EQ(SourceOf(pieces, {4, 6}), (ByteRange{20, 31}));
  EXPECT_EQ(SourceOf(pieces, {2, 6}), (ByteRange{20, 31}));
  EXPECT_EQ(SourceOf(pieces, {6, 7}), (ByteRange{31, 32}));
  EXPECT_EQ(SourceOf(pieces, {1, 1}), (ByteRange{11, 11}));
  EXPECT_EQ(SourceOf(pieces, {5, 5}), (ByteRange{30, 30}));
  EXPECT_EQ(SourceOf(pieces, {7, 7}), (ByteRange{32, 32}));
  EXPECT_EQ(SourceOf({}, {0, 0}), (ByteRange{0, 0}));
}

TEST(ReadableText, PlainTextIsItsOwn) {
  const std::string source = "Title\n\n<p>text &amp; more";
  const auto read = ReadableText::Read(source, TextFormat::kPlain);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->text().data(), source.data()) << "it is not copied";
  EXPECT_EQ(read->ToSource({3, 9}), (ByteRange{3, 9}));
  EXPECT_EQ(read->TextIn({0, 5}), "Title");
  EXPECT_EQ(read->title()->title, (ByteRange{0, 5}));
}

TEST(ReadableText, OtherCharsetsAreRefusedByName) {
  const auto message = [](std::string_view source) {
    return ReadableText::Read(source, TextFormat::kHtml).status().message();
  };
  EXPECT_EQ(message("<p>caf\xe9 noir"), "not UTF-8: byte 6 is invalid");
  EXPECT_EQ(message("<META Charset='Windows-1252'><p>caf\xe9"),
            "not UTF-8: byte 35 is invalid; it declares charset Windows-1252: convert it to UTF-8");
  EXPECT_EQ(message("<meta http-equiv=content-type content='text/html; charset=ISO-8859-1'>\xe9"),
            "not UTF-8: byte 70 is invalid; it declares charset ISO-8859-1: convert it to UTF-8");
  // What a page declares counts no more than that.
  const auto read = ReadableText::Read("<meta charset=iso-8859-1><p>caf\u00e9", TextFormat::kHtml);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(read->text(), "caf\u00e9");
  EXPECT_NE(message("<nav>Home</nav><script>1</script>").find("no text outside of navigation"), std::string::npos);
}

TEST(HtmlReaderProperty, RandomPages) {
  const std::vector<std::string> fragments = {"<p>",
                                              "</p>",
                                              "<b>",
                                              "</b>",
                                              "<div hidden>",
                                              "<div>",
                                              "</div>",
                                              "<nav>",
                                              "</nav>",
                                              "<h1>",
                                              "</h1>",
                                              "<pre>",
                                              "</pre>",
                                              "<br>",
                                              "<table>",
                                              "<td>",
                                              "</table>",
                                              "<title>",
                                              "</title>",
                                              "<script>",
                                              "</script>",
                                              "<!--",
                                              "-->",
                                              "<a href='x>y' b=\"",
                                              "\"",
                                              "'",
                                              ">",
                                              "<",
                                              "&",
                                              ";",
                                              "&amp;",
                                              "&eacute;",
                                              "&#233;",
                                              "&#x",
                                              "&nosuch;",
                                              "&lt",
                                              "word ",
                                              "caf\u00e9",
                                              "\u65e5\u672c",
                                              "\U0001F600",
                                              " ",
                                              "\n",
                                              "\r\n",
                                              "\t",
                                              "\x01",
                                              "\xef\xbf\xbe",
                                              "<li>",
                                              "<ul>",
                                              "</ul>",
                                              "<svg>",
                                              "</svg>",
                                              "<![CDATA[",
                                              "]]>",
                                              "<?x",
                                              "?>",
                                              "<!DOCTYPE html>",
                                              "<main>",
                                              "<header>",
                                              "</header>",
                                              "x",
                                              std::string(1100, 'y'),
                                              Repeat("z\u00e9 ", 500),
                                              "</",
                                              "<textarea>",
                                              "</body>",
                                              "<body style=\"display:none\">"};
  std::mt19937 random(11);
  std::size_t num_bytes = 0, num_decoded = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string source;
    const std::size_t count = 1 + random() % 60;
    for (std::size_t i = 0; i < count; ++i) source += fragments[random() % fragments.size()];
    const HtmlText html = Read(source);
    ASSERT_FALSE(testing::Test::HasFailure()) << source;
    ASSERT_EQ(FindInvalidUtf8(html.text), std::string::npos) << source;
    num_bytes += html.text.size();
    for (const PieceSpan& piece : html.pieces) num_decoded += IsByteByByte(piece) ? 0 : 1;
  }
  EXPECT_GT(num_bytes, 1'000'000U);
  EXPECT_GT(num_decoded, 2'000U);
}

// ---- limits

TEST(HtmlReader, DepthAndAttributesHaveLimits) {
  // html and body are open too.
  EXPECT_EQ(Text(Repeat("<div>", kMaxHtmlDepth - 2) + "x"), "x");
  const auto deep = ReadHtml(Repeat("<div>", kMaxHtmlDepth - 1) + "x");
  EXPECT_EQ(deep.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(deep.status().message(), "more than 1024 elements are open at byte 5114");
  const auto tag = [](int count) {
    std::string source = "<p";
    for (int i = 0; i < count; ++i) source += " a" + std::to_string(i) + "=b";
    return source + ">x";
  };
  EXPECT_EQ(Text(tag(kMaxHtmlAttributes)), "x");
  EXPECT_EQ(ReadHtml(tag(kMaxHtmlAttributes + 10)).status().message(), "a tag has more than 700 attributes");
  EXPECT_EQ(Text(Repeat("<b>", 3) + Repeat("<p>text</p>", 20'000)).size(), 20'000U * 6 - 2) << "width has no limit";
}

// Four megabytes of each, on a slow machine with sanitizers too: the bound only has to tell linear from quadratic.
TEST(HtmlReader, HugeAndMaliciousPagesTakeLinearTime) {
  constexpr std::size_t kBytes = std::size_t{4} << 20;
  std::string many_attributes = "<p ";
  for (int i = 0; many_attributes.size() < kBytes; ++i) many_attributes += "a" + std::to_string(i) + "=b ";
  const std::vector<std::pair<std::string, std::string>> pages = {{"deep", "<div>"},
                                                                  {"formatting", "<b><p>"},
                                                                  {"ends", "</a>"},
                                                                  {"lt", "<"},
                                                                  {"amp", "&"},
                                                                  {"amps", "&amp;"},
                                                                  {"comments", "<!--"},
                                                                  {"declarations", "<!"},
                                                                  {"questions", "<?"},
                                                                  {"cdata", "<![CDATA["},
                                                                  {"words", "word "},
                                                                  {"one word", "x"},
                                                                  {"paragraphs", "<p>x"},
                                                                  {"tables", "<table><td>"},
                                                                  {"items", "<li>x"},
                                                                  {"misnested", "<a><div></a>"},
                                                                  {"white", " \n"},
                                                                  {"quote", "<a b='&lt;"},
                                                                  {"pre", "<pre>\n\n"},
                                                                  {"headings", "<h1>x</h1>"},
                                                                  {"titles", "<title>x</title>"}};
  const auto time = [](const std::string& name, const std::string& source) {
    const std::clock_t start = std::clock();
    const auto html = ReadHtml(source);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    if (html.ok()) CheckPieces(source, *html);
    std::printf("%s: %.2f s, %s\n", name.c_str(), seconds, html.ok() ? "read" : html.status().message().c_str());
    EXPECT_LT(seconds, 60.0) << name;
  };
  for (const auto& [name, unit] : pages) time(name, Repeat(unit, kBytes / unit.size()));
  time("attributes", many_attributes);
  // As deep as is allowed, and then ends that look through all of it.
  time("deep ends", Repeat("<span>", kMaxHtmlDepth - 3) + Repeat("</b>", kBytes / 4));
}

}  // namespace
}  // namespace unfold
