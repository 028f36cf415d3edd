// SPDX-License-Identifier: Apache-2.0
#include "store/document_check.h"

#include <algorithm>

namespace unfold {
namespace {

std::uint32_t NumBlocks(const ChunkTable& table) {
  return static_cast<std::uint32_t>((table.chunk_tokens.size() + kChunksPerRawBlock - 1) / kChunksPerRawBlock);
}

// Raw tokens in a block's chunks.
std::uint64_t BlockTokens(const ChunkTable& table, std::uint32_t block) {
  const std::size_t begin = std::size_t{block} * kChunksPerRawBlock;
  const std::size_t end = std::min(begin + kChunksPerRawBlock, table.chunk_tokens.size());
  std::uint64_t tokens = 0;
  for (std::size_t chunk = begin; chunk < end; ++chunk) tokens += table.chunk_tokens[chunk];
  return tokens;
}

std::string Count(std::uint64_t found, std::uint64_t expected) {
  return std::to_string(found) + " instead of " + std::to_string(expected);
}

}  // namespace

DocumentCheck::DocumentCheck(const PublishedDocument& document, VerifyReport* report)
    : document_(document), report_(report), parts_(document.record.parts.size()) {}

void DocumentCheck::Find(const std::string& where, std::string what) {
  report_->findings.push_back({where + " ('" + document_.record.name + "')", std::move(what)});
}

void DocumentCheck::Add(const RecordKey& key, std::string_view sealed) {
  bytes_[static_cast<std::size_t>(key.kind)] += sealed.size();
  const Status status = CheckRecord(key, sealed);
  if (!status.ok()) {
    SkipCompleteness();
    return Find(key.ToString(), status.ToString());
  }
  if (key.part >= parts_.size()) return Find(key.ToString(), "its document has no such part");
  switch (key.kind) {
    case RecordKind::kText: {
      if (key.part != 0 || key.layer != 0 || key.block != 0) return Find(key.ToString(), "under a key of another form");
      has_text_ = true;
      const std::size_t bytes = OpenText(sealed, "")->size();
      if (bytes != document_.record.text_bytes)
        Find(key.ToString(), "bytes: " + Count(bytes, document_.record.text_bytes));
      return;
    }
    case RecordKind::kChunks:
      if (key.layer != 0 || key.block != 0) return Find(key.ToString(), "under a key of another form");
      parts_[key.part].table = *OpenChunks(sealed, "");
      return;
    case RecordKind::kGist:
    case RecordKind::kRaw: return AddKv(key, sealed);
  }
}

void DocumentCheck::AddKv(const RecordKey& key, std::string_view sealed) {
  const KvHeader header = OpenKv(key.kind, sealed, "")->header;
  if (!first_kv_.has_value()) first_kv_ = header;
  if (header.dtype != first_kv_->dtype || header.kv_heads != first_kv_->kv_heads ||
      header.head_dim != first_kv_->head_dim) {
    return Find(key.ToString(), "type or dimensions differ from those of the document's other records");
  }
  num_layers_ = std::max(num_layers_, key.layer + 1U);
  Part& part = parts_[key.part];
  if (key.kind == RecordKind::kRaw) {
    part.raw_rows[{key.layer, key.block}] = header.num_rows;
  } else if (key.block != 0) {
    Find(key.ToString(), "under a key of another form");
  } else {
    part.gist_rows[key.layer] = header.num_rows;
  }
}

void DocumentCheck::CheckTable(std::uint32_t index, const Part& part, const PartSummary& summary) {
  const std::string where = RecordKey{RecordKind::kChunks, document_.id, index, 0, 0}.ToString();
  const ChunkTable& table = *part.table;
  if (table.token_ids.size() != summary.num_tokens)
    Find(where, "tokens: " + Count(table.token_ids.size(), summary.num_tokens));
  if (table.num_sinks != summary.num_sinks) Find(where, "sinks: " + Count(table.num_sinks, summary.num_sinks));
  if (table.chunk_tokens.size() != summary.num_chunks)
    Find(where, "chunks: " + Count(table.chunk_tokens.size(), summary.num_chunks));
  const std::uint64_t text_bytes = document_.record.text_bytes;
  const auto outside = [&](const ByteSpan& span) { return span.end > text_bytes; };
  if (outside(summary.body) || std::any_of(table.token_spans.begin(), table.token_spans.end(), outside)) {
    Find(where, "a span ends behind the text");
  }
}

void DocumentCheck::CheckGist(std::uint32_t index, const Part& part, const PartSummary& summary) {
  const std::uint64_t expected = std::uint64_t{summary.num_sinks} + summary.num_gists;
  for (const auto& [layer, rows] : part.gist_rows) {
    const std::string where = RecordKey{RecordKind::kGist, document_.id, index, layer, 0}.ToString();
    if (rows != expected) Find(where, "rows: " + Count(rows, expected));
  }
  for (std::uint32_t layer = 0; layer < std::max(num_layers_, 1U); ++layer) {
    if (part.gist_rows.find(static_cast<std::uint16_t>(layer)) == part.gist_rows.end()) {
      Find(RecordKey{RecordKind::kGist, document_.id, index, static_cast<std::uint16_t>(layer), 0}.ToString(),
           "missing");
    }
  }
}

void DocumentCheck::CheckRaw(std::uint32_t index, const Part& part) {
  const auto where = [&](std::uint16_t layer, std::uint32_t block) {
    return RecordKey{RecordKind::kRaw, document_.id, index, layer, block}.ToString();
  };
  const std::uint32_t num_blocks = NumBlocks(*part.table);
  for (const auto& [place, rows] : part.raw_rows) {
    const auto [layer, block] = place;
    if (layer == 0) Find(where(layer, block), "layer 0 has no raw KV");
    if (block >= num_blocks) {
      Find(where(layer, block), "its part has no such block");
    } else if (rows != BlockTokens(*part.table, block)) {
      Find(where(layer, block), "rows: " + Count(rows, BlockTokens(*part.table, block)));
    }
  }
  for (std::uint32_t wide_layer = 1; wide_layer < num_layers_; ++wide_layer) {
    const auto layer = static_cast<std::uint16_t>(wide_layer);
    for (std::uint32_t block = 0; block < num_blocks; ++block) {
      const bool needed = BlockTokens(*part.table, block) > 0;  // a part of sinks alone has a chunk without raw tokens
      if (needed && part.raw_rows.find({layer, block}) == part.raw_rows.end()) Find(where(layer, block), "missing");
    }
  }
}

void DocumentCheck::Finish() {
  if (!complete_) return;
  const std::string where = "document " + std::to_string(document_.id.value);
  if (!has_text_) Find(RecordKey{RecordKind::kText, document_.id, 0, 0, 0}.ToString(), "missing");
  for (RecordKind kind : {RecordKind::kText, RecordKind::kChunks, RecordKind::kGist, RecordKind::kRaw}) {
    const auto index = static_cast<std::size_t>(kind);
    if (bytes_[index] != document_.record.stored_bytes[index]) {
      Find(where, "bytes stored of kind " + std::to_string(index) + ": " +
                      Count(bytes_[index], document_.record.stored_bytes[index]));
    }
  }
  if (parts_.empty()) Find(where, "has no parts");
  for (std::uint32_t index = 0; index < parts_.size(); ++index) {
    const Part& part = parts_[index];
    if (!part.table.has_value()) {
      Find(RecordKey{RecordKind::kChunks, document_.id, index, 0, 0}.ToString(), "missing");
      continue;
    }
    CheckTable(index, part, document_.record.parts[index]);
    CheckGist(index, part, document_.record.parts[index]);
    CheckRaw(index, part);
  }
}

}  // namespace unfold
