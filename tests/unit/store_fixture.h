// SPDX-License-Identifier: Apache-2.0
// Small documents whose every byte follows from (name, seed).
#ifndef UNFOLD_TESTS_UNIT_STORE_FIXTURE_H_
#define UNFOLD_TESTS_UNIT_STORE_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "store/rocksdb_store.h"
#include "store/store.h"
#include "tests/unit/temp_dir.h"

namespace unfold {

inline testing::AssertionResult IsOk(const char* expression, const Status& status) {
  if (status.ok()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << expression << ": " << status.ToString();
}
#define ASSERT_OK(expr) ASSERT_PRED_FORMAT1(::unfold::IsOk, (expr))
#define EXPECT_OK(expr) EXPECT_PRED_FORMAT1(::unfold::IsOk, (expr))

inline std::string ReadBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

inline std::vector<std::string> FilesOf(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.is_regular_file()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct DocumentShape {
  std::uint32_t parts = 1;
  std::uint16_t layers = 2;
  std::uint32_t chunks = 40;  // two raw blocks
  std::uint16_t chunk_tokens = 4;
  std::uint16_t head_dim = 16;
};

struct TestDocument {
  DocumentRecord record;
  std::vector<StoreRecord> records;  // keys with the id given to MakeDocument
};

namespace fixture_internal {

inline std::string Noise(std::size_t bytes, std::mt19937_64& random) {
  std::string out(bytes, '\0');
  for (char& byte : out) byte = static_cast<char>(random());
  return out;
}

inline ChunkTable MakeTable(const DocumentShape& shape, std::uint32_t text_bytes, std::mt19937_64& random) {
  ChunkTable table;
  table.num_sinks = 3;
  table.num_title_tokens = 2;
  table.chunk_tokens.assign(shape.chunks, shape.chunk_tokens);
  const std::uint32_t tokens = 3 + shape.chunks * shape.chunk_tokens;
  for (std::uint32_t i = 0; i < tokens; ++i) {
    const auto begin = static_cast<std::uint32_t>(random() % text_bytes);
    table.token_ids.push_back(static_cast<std::int32_t>(random() % 50000));
    table.token_spans.push_back({begin, begin + 1});
  }
  return table;
}

}  // namespace fixture_internal

inline TestDocument MakeDocument(DocumentId id, const std::string& name, std::uint64_t seed, DocumentShape shape = {}) {
  std::mt19937_64 random(seed * 7919 + std::hash<std::string>()(name));
  TestDocument document;
  document.record.name = name;
  document.record.title = "Title of " + name;
  document.record.content_hash[0] = seed;
  document.record.content_hash[1] = random();
  const std::string text = "text of " + name + " " + fixture_internal::Noise(300, random);
  document.record.text_bytes = text.size();
  const auto add = [&](RecordKey key, std::string value) {
    document.record.stored_bytes[static_cast<std::size_t>(key.kind)] += value.size();
    document.records.push_back({key, std::move(value)});
  };
  for (std::uint32_t part = 0; part < shape.parts; ++part) {
    const ChunkTable table = fixture_internal::MakeTable(shape, static_cast<std::uint32_t>(text.size()), random);
    const auto tokens = static_cast<std::uint32_t>(table.token_ids.size());
    document.record.parts.push_back({tokens, 3, shape.chunks, shape.chunks, {0, 10}});
    add({RecordKind::kChunks, id, part, 0, 0}, SealChunks(table));
    for (std::uint16_t layer = 0; layer < shape.layers; ++layer) {
      KvHeader header{DType::kBF16, 0, 3 + shape.chunks, 2, shape.head_dim};
      add({RecordKind::kGist, id, part, layer, 0},
          SealKv(RecordKind::kGist, header, fixture_internal::Noise(header.PayloadBytes(), random)));
      header.level = -1;
      for (std::uint32_t block = 0; layer > 0 && block * kChunksPerRawBlock < shape.chunks; ++block) {
        const std::uint32_t chunks = std::min(kChunksPerRawBlock, shape.chunks - block * kChunksPerRawBlock);
        header.num_rows = chunks * shape.chunk_tokens;
        add({RecordKind::kRaw, id, part, layer, block},
            SealKv(RecordKind::kRaw, header, fixture_internal::Noise(header.PayloadBytes(), random)));
      }
    }
  }
  add({RecordKind::kText, id, 0, 0, 0}, SealText(text));
  return document;
}

// Writes a document in two batches and publishes it.
inline Status PutDocument(Store& store, const std::string& collection, const std::string& name, std::uint64_t seed,
                          DocumentShape shape = {}) {
  UNFOLD_TRY_ASSIGN(const CollectionId collection_id, store.EnsureCollection(collection));
  UNFOLD_TRY_ASSIGN(const DocumentId id, store.AllocateDocument());
  const TestDocument document = MakeDocument(id, name, seed, shape);
  const std::span<const StoreRecord> records(document.records);
  UNFOLD_TRY(store.Write(records.first(records.size() / 2)));
  UNFOLD_TRY(store.Write(records.subspan(records.size() / 2)));
  const Publication publication{collection_id, id, document.record};
  return store.Publish({&publication, 1});
}

// Every record of a published document, byte for byte.
inline void ExpectWhole(const StoreSnapshot& snapshot, const PublishedDocument& published, std::uint64_t seed,
                        DocumentShape shape = {}) {
  const TestDocument expected = MakeDocument(published.id, published.record.name, seed, shape);
  EXPECT_EQ(published.record, expected.record);
  std::vector<RecordKey> keys;
  for (const StoreRecord& record : expected.records) keys.push_back(record.key);
  const auto values = snapshot.ReadMany(keys);
  ASSERT_TRUE(values.ok()) << values.status().ToString();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ((*values)[i], expected.records[i].value) << keys[i].ToString();
    const auto one = snapshot.Read(keys[i]);
    ASSERT_TRUE(one.ok()) << one.status().ToString();
    ASSERT_EQ(*one, expected.records[i].value) << keys[i].ToString();
  }
}

inline std::vector<std::string> NamesIn(const StoreSnapshot& snapshot, const std::string& collection) {
  const auto documents = snapshot.Documents(collection);
  std::vector<std::string> names;
  if (!documents.ok()) return names;
  for (const PublishedDocument& document : *documents) names.push_back(document.record.name);
  return names;
}

inline std::string Describe(const VerifyReport& report) {
  std::string text = std::to_string(report.num_documents) + " documents, " + std::to_string(report.num_records) +
                     " records, " + std::to_string(report.num_orphans) + " orphans";
  for (const VerifyFinding& finding : report.findings) text += "\n" + finding.where + ": " + finding.what;
  return text;
}

inline void ExpectClean(const Store& store, std::uint64_t num_documents) {
  const auto report = store.Verify({});
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_TRUE(report->clean()) << Describe(*report);
  EXPECT_EQ(report->num_documents, num_documents);
}

inline std::unique_ptr<Store> OpenOrFail(const RocksDbStoreOptions& options) {
  auto store = OpenRocksDbStore(options);
  if (!store.ok()) {
    ADD_FAILURE() << store.status().ToString();
    return nullptr;
  }
  return *std::move(store);
}

}  // namespace unfold

#endif  // UNFOLD_TESTS_UNIT_STORE_FIXTURE_H_
