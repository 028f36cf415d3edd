// SPDX-License-Identifier: Apache-2.0
#include "rag/prepared_document.h"

#include <xxhash.h>

#include "text/document_parts.h"

namespace unfold {
namespace {

// Bytes of the document's file that a range of its readable text comes from.
ByteSpan FileBytes(const ReadableText& readable, ByteRange range) {
  const ByteRange bytes = readable.ToSource(range);
  return {bytes.begin, bytes.end};
}

PreparedPart PreparePart(const PartText& part, const ReadableText& readable, const TextRules& rules) {
  PreparedPart prepared;
  ChunkTable& table = prepared.table;
  for (const TokenSpan& token : rules.tokenizer->Encode(part.text)) {
    table.token_ids.push_back(token.id);
    table.token_spans.push_back(FileBytes(readable, SourceOf(part.pieces, {token.begin, token.end})));
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
  summary.body = FileBytes(readable, part.body);
  return prepared;
}

}  // namespace

void HashContent(const DocumentInput& input, std::uint64_t hash[2]) {
  const std::uint64_t rules = input.format == TextFormat::kHtml ? kHtmlRulesVersion << 8 : 0;
  const XXH128_hash_t value =
      XXH3_128bits_withSeed(input.text.data(), input.text.size(), rules | static_cast<std::uint64_t>(input.format));
  hash[0] = value.low64;
  hash[1] = value.high64;
}

Result<PreparedDocument> PrepareDocument(const DocumentInput& input, const TextRules& rules) {
  UNFOLD_TRY_ASSIGN(const ReadableText readable, ReadableText::Read(input.text, input.format));
  UNFOLD_TRY_ASSIGN(const DocumentParts split,
                    SplitDocument(readable.text(), readable.title(), *rules.tokenizer, rules.config->part_tokens,
                                  rules.config->document_template));
  PreparedDocument prepared;
  prepared.record.name = input.name;
  prepared.record.title = split.title;
  prepared.record.format = input.format;
  prepared.record.text_bytes = input.text.size();
  HashContent(input, prepared.record.content_hash);
  for (const PartText& part : split.parts) {
    prepared.parts.push_back(PreparePart(part, readable, rules));
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
