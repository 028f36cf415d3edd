// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_store.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "base/float16.h"

namespace unfold {
namespace {

constexpr std::size_t kPatternValues = 1048573;  // a prime: rows begin at different places

std::string MakePattern(std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::string bytes;
  for (std::size_t i = 0; i < kPatternValues; ++i) PutLittle(&bytes, F32ToBF16(normal(engine)), 2);
  return bytes;
}

}  // namespace

RandomSnapshot::RandomSnapshot(BenchRun& run, std::int64_t num_tokens, std::int64_t document_tokens)
    : kv_heads_(static_cast<std::uint16_t>(run.shape().kv_heads)),
      head_dim_(static_cast<std::uint16_t>(run.shape().head_dim)),
      seed_(run.options().seed),
      pattern_(MakePattern(seed_)) {
  for (std::int64_t begin = 0; begin < num_tokens; begin += document_tokens) {
    const GistSequence sequence = run.RandomDocument(std::min(document_tokens, num_tokens - begin));
    Document document;
    ChunkTable& table = document.table;
    for (std::size_t i = 0; i < sequence.ids.size(); ++i) {
      if (sequence.tokens[i].level != kRawLevel) continue;
      const auto at = static_cast<std::uint32_t>(table.token_ids.size());
      table.token_ids.push_back(sequence.ids[i]);
      table.token_spans.push_back({at, at + 1});
    }
    table.num_sinks = static_cast<std::uint32_t>(sequence.num_sinks);
    table.chunk_tokens = sequence.chunk_tokens;
    document.num_gists = static_cast<std::uint32_t>(sequence.num_gists);
    document.top_level = static_cast<std::int8_t>(sequence.mask.top_level);
    documents_.push_back(std::move(document));
  }
}

std::int64_t RandomSnapshot::num_chunks() const {
  std::size_t chunks = 0;
  for (const Document& document : documents_) chunks += document.table.chunk_tokens.size();
  return static_cast<std::int64_t>(chunks);
}

Status NoCollection(std::string_view collection) {
  return Status::NotFound("no collection '" + std::string(collection) + "': random documents are in none");
}

Result<std::vector<PublishedDocument>> RandomSnapshot::Documents(std::string_view collection) const {
  return NoCollection(collection);
}

Result<PublishedDocument> RandomSnapshot::Find(std::string_view collection, std::string_view) const {
  return NoCollection(collection);
}

std::string RandomSnapshot::MakeKv(const RecordKey& key, std::int8_t level, std::uint32_t rows) const {
  const KvHeader header{
      .dtype = DType::kBF16, .level = level, .num_rows = rows, .kv_heads = kv_heads_, .head_dim = head_dim_};
  std::seed_seq place{seed_, key.document.value, std::uint64_t{key.layer}, std::uint64_t{key.block},
                      static_cast<std::uint64_t>(key.kind)};
  std::size_t at = std::mt19937(place)() % kPatternValues * DTypeBytes(DType::kBF16);
  std::string payload;
  payload.reserve(header.PayloadBytes());
  for (; payload.size() < header.PayloadBytes(); at = 0) {
    payload.append(pattern_, at, header.PayloadBytes() - payload.size());
  }
  return SealKv(key.kind, header, payload);
}

Result<std::string> RandomSnapshot::Read(const RecordKey& key) const {
  if (key.document.value < 1 || key.document.value > documents_.size() || key.part != 0) {
    return Status::NotFound(key.ToString() + " does not exist");
  }
  const Document& document = documents_[key.document.value - 1];
  const std::vector<std::uint16_t>& chunks = document.table.chunk_tokens;
  switch (key.kind) {
    case RecordKind::kChunks: return SealChunks(document.table);
    case RecordKind::kGist: return MakeKv(key, document.top_level, document.table.num_sinks + document.num_gists);
    case RecordKind::kRaw: {
      const std::size_t begin = std::min<std::size_t>(chunks.size(), std::size_t{key.block} * kChunksPerRawBlock);
      const std::size_t end = std::min<std::size_t>(chunks.size(), begin + kChunksPerRawBlock);
      return MakeKv(key, kRawLevel, std::accumulate(chunks.begin() + begin, chunks.begin() + end, std::uint32_t{0}));
    }
    case RecordKind::kText: break;
  }
  return Status::NotFound(key.ToString() + ": random documents have no text");
}

Result<std::vector<std::string>> RandomSnapshot::ReadMany(std::span<const RecordKey> keys) const {
  std::vector<std::string> records;
  for (const RecordKey& key : keys) {
    UNFOLD_TRY_ASSIGN(std::string record, Read(key));
    records.push_back(std::move(record));
  }
  return records;
}

std::vector<PartRef> AllParts(const std::shared_ptr<const RandomSnapshot>& snapshot, std::uint64_t source) {
  std::vector<PartRef> parts;
  for (std::uint64_t id = 1; id <= snapshot->num_documents(); ++id) {
    PartRef ref;
    ref.source = source;
    ref.snapshot = snapshot;
    ref.id = {id};
    ref.document = std::to_string(id);
    parts.push_back(std::move(ref));
  }
  return parts;
}

}  // namespace unfold
