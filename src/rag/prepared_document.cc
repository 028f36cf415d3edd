// SPDX-License-Identifier: Apache-2.0
#include "rag/prepared_document.h"

#include <xxhash.h>

#include <algorithm>

#include "text/document_parts.h"

namespace unfold {
namespace {

// The source byte where byte `at` of a part's text stands.
std::uint32_t PlaceInSource(const PartText& part, std::uint32_t at) {
  std::uint32_t place = 0;
  for (const PieceSpan& piece : part.pieces) {
    if (at < piece.begin) break;
    place = std::min(piece.source_begin + (at - piece.begin), piece.source_end);
  }
  return place;
}

// The source bytes of bytes [begin, end) of a part's text. A template's literal has none of its own, and neither has a
// space that the tokenizer put in: a token that holds nothing else cites the empty range where that stands.
ByteSpan ToSource(const PartText& part, std::uint32_t begin, std::uint32_t end) {
  if (begin == end) return {PlaceInSource(part, begin), PlaceInSource(part, begin)};
  ByteSpan bytes;
  bool found = false;
  for (const PieceSpan& piece : part.pieces) {
    const std::uint32_t low = std::max(begin, piece.begin);
    const std::uint32_t high = std::min(end, piece.end);
    if (low >= high) continue;
    const bool literal = piece.source_begin == piece.source_end;
    if (literal) {
      if (!found) bytes = {piece.source_begin, piece.source_begin};
      continue;
    }
    if (!found) bytes.begin = piece.source_begin + (low - piece.begin);
    bytes.end = piece.source_begin + (high - piece.begin);
    found = true;
  }
  return bytes;
}

PreparedPart PreparePart(const PartText& part, const TextRules& rules) {
  PreparedPart prepared;
  ChunkTable& table = prepared.table;
  for (const TokenSpan& token : rules.tokenizer->Encode(part.text)) {
    table.token_ids.push_back(token.id);
    table.token_spans.push_back(ToSource(part, token.begin, token.end));
    if (part.has_title && token.end <= part.title_bytes_in_text) ++table.num_title_tokens;
  }
  prepared.sequence = BuildGistSequence(table.token_ids, rules.config->rules, rules.word_starts);
  table.num_sinks = static_cast<std::uint32_t>(prepared.sequence.num_sinks);
  table.chunk_tokens = prepared.sequence.chunk_tokens;
  PartSummary& summary = prepared.summary;
  summary.num_tokens = static_cast<std::uint32_t>(table.token_ids.size());
  summary.num_sinks = table.num_sinks;
  summary.num_chunks = static_cast<std::uint32_t>(table.chunk_tokens.size());
  summary.num_gists = static_cast<std::uint32_t>(prepared.sequence.num_gists);
  summary.body = {part.body.begin, part.body.end};
  return prepared;
}

}  // namespace

void HashContent(const DocumentInput& input, std::uint64_t hash[2]) {
  const XXH128_hash_t value =
      XXH3_128bits_withSeed(input.text.data(), input.text.size(), static_cast<std::uint64_t>(input.format));
  hash[0] = value.low64;
  hash[1] = value.high64;
}

Result<PreparedDocument> PrepareDocument(const DocumentInput& input, const TextRules& rules) {
  if (const std::size_t bad = FindInvalidUtf8(input.text); bad != std::string::npos) {
    return Status::InvalidArgument("not UTF-8: byte " + std::to_string(bad) + " is invalid");
  }
  const DocumentFormat format =
      input.format == TextFormat::kMarkdown ? DocumentFormat::kMarkdown : DocumentFormat::kPlain;
  UNFOLD_TRY_ASSIGN(
      const DocumentParts split,
      SplitDocument(input.text, format, *rules.tokenizer, rules.config->part_tokens, rules.config->document_template));
  PreparedDocument prepared;
  prepared.record.name = input.name;
  prepared.record.title = split.title;
  prepared.record.text_bytes = input.text.size();
  HashContent(input, prepared.record.content_hash);
  for (const PartText& part : split.parts) {
    prepared.parts.push_back(PreparePart(part, rules));
    prepared.record.parts.push_back(prepared.parts.back().summary);
  }
  return prepared;
}

std::vector<StoreRecord> TextRecords(DocumentId id, std::string_view text, const PreparedDocument& prepared) {
  std::vector<StoreRecord> records;
  records.push_back({{RecordKind::kText, id, 0, 0, 0}, SealText(text)});
  for (std::uint32_t part = 0; part < prepared.parts.size(); ++part) {
    records.push_back({{RecordKind::kChunks, id, part, 0, 0}, SealChunks(prepared.parts[part].table)});
  }
  return records;
}

}  // namespace unfold
