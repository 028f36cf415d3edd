// SPDX-License-Identifier: Apache-2.0
// Prepared documents: parts, tokens and the source bytes they cite; the default number of chunks.
#include "rag/prepared_document.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "model/config.h"
#include "rag/citations.h"
#include "rag/query_attention.h"
#include "text/readable_text.h"
#include "tiny_model.h"

namespace unfold {
namespace {

const std::string kModel = UNFOLD_SOURCE_DIR "/datasets/gist-mini";

std::vector<Json> ReadLines(const std::string& path) {
  std::ifstream in(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

class PreparedDocumentTest : public testing::Test {
 protected:
  PreparedDocumentTest() { UsePartTokens(176); }
  void UsePartTokens(int part_tokens) {
    const std::string overrides = "{\"part_tokens\": " + std::to_string(part_tokens) + "}";
    config_ = Must(LoadGistConfig(kModel, overrides, model_, *tokenizer_));
    rules_ = {tokenizer_.get(), &config_, WordStarts(*tokenizer_, model_.vocab_size)};
  }
  PreparedDocument Prepare(const std::string& text, TextFormat format = TextFormat::kPlain) const {
    return Must(PrepareDocument({.name = "d.txt", .text = text, .format = format, .read_status = {}}, rules_));
  }

  ModelConfig model_ = Must(LoadModelConfig(kModel));
  std::unique_ptr<Tokenizer> tokenizer_ = Must(Tokenizer::Load(kModel + "/tokenizer.json"));
  GistConfig config_;
  TextRules rules_;
};

std::string Cited(const std::string& text, const ByteSpan& span) {
  return text.substr(span.begin, span.end - span.begin);
}

// A part's own numbers agree with each other.
void ExpectConsistent(const PreparedPart& part, const PartSummary& recorded) {
  const ChunkTable& table = part.table;
  EXPECT_EQ(part.summary, recorded);
  EXPECT_EQ(table.token_ids.size(), table.token_spans.size());
  EXPECT_EQ(part.summary.num_tokens, table.token_ids.size());
  EXPECT_EQ(part.summary.num_chunks, table.chunk_tokens.size());
  EXPECT_EQ(part.summary.num_sinks, table.num_sinks);
  EXPECT_EQ(part.summary.num_gists + part.summary.num_tokens, part.sequence.ids.size());
  EXPECT_EQ(std::accumulate(table.chunk_tokens.begin(), table.chunk_tokens.end(), std::size_t{table.num_sinks}),
            table.token_ids.size());
  std::vector<TokenId> raw;
  for (std::size_t i = 0; i < part.sequence.ids.size(); ++i) {
    if (part.sequence.tokens[i].level == kRawLevel) raw.push_back(part.sequence.ids[i]);
  }
  EXPECT_EQ(raw, table.token_ids);
}

TEST_F(PreparedDocumentTest, AShortDocumentIsOnePartThatCitesItself) {
  const std::string text = " \n Caf\xC3\xA9 <gist> \xE2\x80\x94 \xF0\x9F\x98\x80 na\xC3\xAFve\n\nThe <|answer|>.  \n";
  const PreparedDocument prepared = Prepare(text);
  ASSERT_EQ(prepared.parts.size(), 1U);
  const PreparedPart& part = prepared.parts[0];
  ExpectConsistent(part, prepared.record.parts.at(0));
  EXPECT_EQ(part.table.num_title_tokens, 0U);
  std::uint32_t at = 3;  // white space in front is dropped
  for (std::size_t i = 0; i < part.table.token_ids.size(); ++i) {
    EXPECT_EQ(part.table.token_spans[i].begin, at);
    EXPECT_EQ(Cited(text, part.table.token_spans[i]), tokenizer_->TokenBytes(part.table.token_ids[i]));
    EXPECT_FALSE(tokenizer_->IsSpecial(part.table.token_ids[i])) << "the text of a special token is text";
    at = part.table.token_spans[i].end;
  }
  EXPECT_EQ(at, text.size() - 3);
  EXPECT_EQ(prepared.record.text_bytes, text.size());
  EXPECT_EQ(prepared.record.name, "d.txt");
}

// A title and paragraphs of numbered sentences.
std::string LongText(const std::string& title_line, int num_paragraphs) {
  std::string text = title_line;
  for (int p = 0; p < num_paragraphs; ++p) {
    text += "\n\n";
    for (int s = 0; s < 4; ++s) {
      text += "Sentence " + std::to_string(s) + " of paragraph " + std::to_string(p) +
              " caf\xC3\xA9 \xE2\x80\x94 it ends. ";
    }
    text.pop_back();
  }
  return text;
}

// Every token cites exactly its bytes, titles the title's, and bodies cover the text once and in order.
void ExpectExactCitations(const std::string& text, const PreparedDocument& prepared, const Tokenizer& tokenizer,
                          std::size_t title_at) {
  const std::string& title = prepared.record.title;
  std::vector<int> covered(text.size());
  std::uint32_t body_at = 0;
  for (std::size_t p = 0; p < prepared.parts.size(); ++p) {
    SCOPED_TRACE("part " + std::to_string(p));
    const ChunkTable& table = prepared.parts[p].table;
    ExpectConsistent(prepared.parts[p], prepared.record.parts.at(p));
    std::string repeated;
    for (std::size_t i = 0; i < table.token_ids.size(); ++i) {
      const ByteSpan span = table.token_spans[i];
      if (span.begin == span.end) {  // the template's own new line
        EXPECT_EQ(tokenizer.TokenBytes(table.token_ids[i]), "\n");
        EXPECT_EQ(i, table.num_title_tokens);
        continue;
      }
      EXPECT_EQ(Cited(text, span), tokenizer.TokenBytes(table.token_ids[i])) << "token " << i;
      if (i < table.num_title_tokens) {
        EXPECT_EQ(span.begin, title_at + repeated.size());
        repeated += Cited(text, span);
        continue;
      }
      EXPECT_GE(span.begin, body_at) << "token " << i;
      body_at = span.end;
      for (std::uint32_t b = span.begin; b < span.end; ++b) ++covered[b];
      EXPECT_GE(span.begin, prepared.parts[p].summary.body.begin);
      EXPECT_LE(span.end, prepared.parts[p].summary.body.end);
    }
    EXPECT_EQ(repeated, title);
  }
  for (std::size_t b = 0; b < text.size(); ++b) {
    const bool of_title = b >= title_at && b < title_at + title.size();
    const bool white = text[b] == ' ' || text[b] == '\n';
    EXPECT_LE(covered[b], 1) << "byte " << b << " is in two parts";
    if (of_title) {
      EXPECT_EQ(covered[b], 0) << "the title's line is in no body";
    } else if (!white && text[b] != '#') {
      EXPECT_EQ(covered[b], 1) << "byte " << b << " is in no part";
    }
  }
}

TEST_F(PreparedDocumentTest, ALongDocumentIsCutAndCitedExactly) {
  UsePartTokens(64);
  const std::string text = LongText("A short title", 9);
  const PreparedDocument prepared = Prepare(text);
  EXPECT_GT(prepared.parts.size(), 5U);
  EXPECT_EQ(prepared.record.title, "A short title");
  for (const PreparedPart& part : prepared.parts) {
    EXPECT_LE(part.summary.num_tokens, 64U);
    EXPECT_GT(part.table.num_title_tokens, 0U);
  }
  ExpectExactCitations(text, prepared, *tokenizer_, 0);
}

TEST_F(PreparedDocumentTest, AMarkdownHeadingIsTheTitle) {
  UsePartTokens(64);
  const std::string text = LongText("# The heading", 9);
  const PreparedDocument prepared = Prepare(text, TextFormat::kMarkdown);
  EXPECT_EQ(prepared.record.title, "The heading");
  ExpectExactCitations(text, prepared, *tokenizer_, 2);
}

// A tokenizer that puts a space in front of each text: with a character that has no token of its own behind it, that
// space is a token, which must not cite the document's first byte from the middle of the document.
TEST_F(PreparedDocumentTest, AddedSpacesCiteThePlaceWhereTheyStand) {
  UsePartTokens(64);
  const auto llama = Must(Tokenizer::Load(UNFOLD_SOURCE_DIR "/tests/golden/family_llama2.json"));
  rules_.tokenizer = llama.get();
  rules_.word_starts = WordStarts(*llama, llama->vocab_size());
  std::string text;
  for (int i = 0; i < 12; ++i) text += "\xE6\x97\xA5 the number " + std::to_string(i) + " of\nsome lines here.\n\n";
  for (const bool has_title : {false, true}) {
    const std::string whole =
        (has_title ? std::string("\xE6\x97\xA5 title\n\n") : std::string(200, 'x') + "\n\n") + text;
    const PreparedDocument prepared = Prepare(whole);
    EXPECT_EQ(prepared.record.title.empty(), !has_title);
    ASSERT_GT(prepared.parts.size(), 3U);
    int num_empty = 0;
    for (const PreparedPart& part : prepared.parts) {
      EXPECT_EQ(part.table.num_title_tokens > 0, has_title);
      for (std::size_t i = part.table.num_title_tokens; i < part.table.token_ids.size(); ++i) {
        const ByteSpan span = part.table.token_spans[i];
        EXPECT_GE(span.begin, part.summary.body.begin);
        EXPECT_LE(span.end, part.summary.body.end);
        num_empty += span.begin == span.end ? 1 : 0;
        const std::string token(llama->TokenBytes(part.table.token_ids[i]));
        const std::string cited = Cited(whole, span);
        EXPECT_TRUE(cited == token || " " + cited == token || (has_title && token == "\n")) << token << "|" << cited;
      }
    }
    EXPECT_GT(num_empty, 2);
  }
}

TEST_F(PreparedDocumentTest, WithoutATitleThereAreBodiesAlone) {
  UsePartTokens(64);
  const std::string text = LongText(std::string(161, 'x'), 6);
  const PreparedDocument prepared = Prepare(text);
  EXPECT_EQ(prepared.record.title, "");
  for (const PreparedPart& part : prepared.parts) EXPECT_EQ(part.table.num_title_tokens, 0U);
  ExpectExactCitations(text, prepared, *tokenizer_, 0);
}

// Each token of a page cites the bytes of the file that it was read from.
TEST_F(PreparedDocumentTest, HtmlIsReadAsTextAndCitesItsFile) {
  UsePartTokens(64);
  std::string page = "<html><head><title>Bridges &amp; ferries</title><style>p {}</style></head><body><nav>Home</nav>";
  for (int p = 0; p < 30; ++p) {
    page += "<p class='x y'>The <b>bridge</b> number " + std::to_string(p) +
            " was\n built caf&eacute; by <i>Peter</i>.</p>";
  }
  const PreparedDocument prepared = Prepare(page, TextFormat::kHtml);
  EXPECT_EQ(prepared.record.format, TextFormat::kHtml);
  EXPECT_EQ(prepared.record.title, "Bridges & ferries");
  EXPECT_EQ(prepared.record.text_bytes, page.size());
  ASSERT_GT(prepared.parts.size(), 5U);
  const ReadableText readable = Must(ReadableText::Read(page, TextFormat::kHtml));
  std::size_t num_exact = 0, num_decoded = 0;
  for (std::size_t p = 0; p < prepared.parts.size(); ++p) {
    const ChunkTable& table = prepared.parts[p].table;
    ExpectConsistent(prepared.parts[p], prepared.record.parts.at(p));
    const ByteSpan body = prepared.parts[p].summary.body;
    EXPECT_EQ(Cited(page, body).rfind("The <b>bridge</b> number ", 0), 0U) << "whole paragraphs: " << Cited(page, body);
    for (std::size_t i = 0; i < table.token_ids.size(); ++i) {
      const ByteSpan span = table.token_spans[i];
      const std::string bytes(tokenizer_->TokenBytes(table.token_ids[i]));
      const std::string cited = Cited(page, span);
      const std::string_view said = readable.TextIn({span.begin, span.end});
      if (cited == bytes) {
        ++num_exact;
      } else if (bytes.find_first_not_of("\n") == std::string::npos) {
        EXPECT_EQ(said, "") << "a break is in no byte of the file";
      } else {
        ++num_decoded;
        EXPECT_NE(std::string(said).find(bytes), std::string::npos) << cited;
      }
      if (i < table.num_title_tokens) {
        EXPECT_LE(span.end, page.find("</title>"));
      } else {
        EXPECT_TRUE(span.begin >= body.begin && span.end <= body.end);
      }
    }
  }
  EXPECT_GT(num_exact, 200U);
  EXPECT_GE(num_decoded, 30U);
}

TEST_F(PreparedDocumentTest, ContentHashTellsTextAndFormat) {
  const auto hash = [&](const std::string& text, TextFormat format) {
    const PreparedDocument prepared = Prepare(text, format);
    return std::pair(prepared.record.content_hash[0], prepared.record.content_hash[1]);
  };
  EXPECT_EQ(hash("a text", TextFormat::kPlain), hash("a text", TextFormat::kPlain));
  EXPECT_NE(hash("a text", TextFormat::kPlain), hash("a text.", TextFormat::kPlain));
  EXPECT_NE(hash("a text", TextFormat::kPlain), hash("a text", TextFormat::kMarkdown));
  EXPECT_NE(hash("a text", TextFormat::kPlain), hash("a text", TextFormat::kHtml));
}

TEST_F(PreparedDocumentTest, EmptyAndNotUtf8AreRefused) {
  const auto status = [&](const std::string& text) {
    return PrepareDocument({.name = "d", .text = text, .format = {}, .read_status = {}}, rules_).status();
  };
  for (const char* text : {"", " ", "\n\t \n"}) {
    EXPECT_EQ(status(text).code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status(text).message().find("empty"), std::string::npos) << status(text).message();
  }
  EXPECT_EQ(status("ab\xFF").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status("ab\xFF"
                   "c")
                .message(),
            "not UTF-8: byte 2 is invalid");
  EXPECT_EQ(status("caf\xC3").message(), "not UTF-8: byte 3 is invalid");
}

TEST_F(PreparedDocumentTest, TextRecordsHoldTextAndTables) {
  UsePartTokens(64);
  const std::string text = LongText("Title", 5);
  const PreparedDocument prepared = Prepare(text);
  const std::vector<StoreRecord> records = TextRecords(DocumentId{9}, text, prepared);
  ASSERT_EQ(records.size(), prepared.parts.size() + 1);
  EXPECT_EQ(records[0].key, (RecordKey{RecordKind::kText, DocumentId{9}, 0, 0, 0}));
  EXPECT_EQ(Must(OpenText(records[0].value, "t")), text);
  for (std::uint32_t p = 0; p < prepared.parts.size(); ++p) {
    EXPECT_EQ(records[p + 1].key, (RecordKey{RecordKind::kChunks, DocumentId{9}, p, 0, 0}));
    EXPECT_EQ(Must(OpenChunks(records[p + 1].value, "c")), prepared.parts[p].table);
  }
}

// Two sinks, then chunks of 3, 2 and 2 tokens; tokens of two bytes each, of a body that begins at byte 100.
PlacedPart PartWithTitle(std::uint32_t num_title_tokens) {
  PlacedPart part;
  part.table.num_sinks = 2;
  part.table.chunk_tokens = {3, 2, 2};
  part.table.num_title_tokens = num_title_tokens;
  for (std::uint32_t i = 0; i < 9; ++i) {
    part.table.token_ids.push_back(static_cast<TokenId>(i));
    const std::uint32_t begin = i < num_title_tokens ? 2 * i : 100 + 2 * i;
    part.table.token_spans.push_back({begin, begin + 2});
  }
  return part;
}

TEST(ChunkBytesTest, CoversItsTokens) {
  const PlacedPart part = PartWithTitle(0);
  EXPECT_EQ(ChunkBytes(part, 0, 1), (ByteSpan{100, 110})) << "sinks are cited with chunk 0";
  EXPECT_EQ(ChunkBytes(part, 1, 2), (ByteSpan{110, 114}));
  EXPECT_EQ(ChunkBytes(part, 2, 3), (ByteSpan{114, 118}));
  EXPECT_EQ(ChunkBytes(part, 1, 3), (ByteSpan{110, 118}));
  EXPECT_EQ(ChunkBytes(part, 0, 3), (ByteSpan{100, 118}));
}

TEST(ChunkBytesTest, ATitleInFrontCountsOnlyWhenThereIsNothingElse) {
  const PlacedPart some = PartWithTitle(4);
  EXPECT_EQ(ChunkBytes(some, 0, 1), (ByteSpan{108, 110}));
  EXPECT_EQ(ChunkBytes(some, 0, 3), (ByteSpan{108, 118}));
  const PlacedPart most = PartWithTitle(7);  // chunks 0 and 1 hold the title alone
  EXPECT_EQ(ChunkBytes(most, 0, 1), (ByteSpan{0, 10}));
  EXPECT_EQ(ChunkBytes(most, 1, 2), (ByteSpan{10, 14}));
  EXPECT_EQ(ChunkBytes(most, 0, 3), (ByteSpan{114, 118}));
}

TEST(ChunkBytesTest, AnEmptyChunkHasNoBytes) {
  PlacedPart part;
  part.table.num_sinks = 0;
  part.table.chunk_tokens = {0};
  EXPECT_EQ(ChunkBytes(part, 0, 1), (ByteSpan{0, 0}));
}

TEST(DefaultTopKTest, EqualsTheFormula) {
  for (std::int64_t n = 0; n < 3000; n += 7) {
    for (const int ratio : {1, 4, 8, 32}) {
      for (const int group : {1, 2, 7}) {
        for (const int chunk_size : {1, 4, 8}) {
          for (const std::int64_t chunks : {0, 1, 3, 4, 7, 8, 200}) {
            // The smallest k that is more than n / (r G L), unless a quarter of the chunks is less; never none.
            std::int64_t k = 0;
            while (k * ratio * group * chunk_size <= n) ++k;
            std::int64_t quarter = 0;
            while ((quarter + 1) * 4 <= chunks) ++quarter;
            ASSERT_EQ(DefaultTopK(n, ratio, group, chunk_size, chunks), std::min(k, std::max<std::int64_t>(1, quarter)))
                << n << " " << ratio << " " << group << " " << chunk_size << " " << chunks;
          }
        }
      }
    }
  }
  EXPECT_EQ(DefaultTopK(100, 2.5, 2, 4, 100), 6);  // 100 / 20, exactly
  EXPECT_EQ(DefaultTopK(99, 2.5, 2, 4, 100), 5);
}

TEST_F(PreparedDocumentTest, DefaultTopKEqualsTheReference) {
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> sizes;  // tokens with gists, chunks
  for (const Json& line : ReadLines(kModel + "/docs.jsonl")) {
    const PreparedDocument prepared = Prepare(line["text"]);
    ASSERT_EQ(prepared.parts.size(), 1U);
    sizes[line["name"]] = {prepared.parts[0].sequence.ids.size(), prepared.parts[0].summary.num_chunks};
  }
  const std::vector<Json> questions = ReadLines(UNFOLD_BINARY_DIR "/golden/reference.jsonl");
  ASSERT_EQ(questions.size(), 200U);
  std::map<std::int64_t, int> seen;
  for (const Json& question : questions) {
    std::int64_t tokens = 0, chunks = 0;
    for (const Json& name : question["documents"]) {
      tokens += sizes.at(name).first;
      chunks += sizes.at(name).second;
    }
    const std::int64_t k =
        DefaultTopK(tokens, config_.compression, model_.group_size(), config_.rules.chunk_size, chunks);
    EXPECT_EQ(k, question["k"].get<std::int64_t>()) << question["question"];
    ++seen[k];
  }
  EXPECT_GT(seen.size(), 2U) << "the questions must tell budgets apart";
}

}  // namespace
}  // namespace unfold
