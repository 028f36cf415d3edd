// SPDX-License-Identifier: Apache-2.0
// RandomSnapshot: documents that nobody stored. Chunk tables are made at once; sealed records of gist and raw KV are
// made when they are read, bf16, the same bytes for the same key each time.
#ifndef UNFOLD_ENGINE_BENCH_STORE_H_
#define UNFOLD_ENGINE_BENCH_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/bench_run.h"
#include "rag/working_set.h"
#include "store/store.h"
#include "unfold/base.h"

namespace unfold {

// Immutable; thread-safe.
class RandomSnapshot : public StoreSnapshot {
 public:
  // Documents of up to `document_tokens` raw tokens, `num_tokens` in all; their ids are 1, 2, ...
  RandomSnapshot(BenchRun& run, std::int64_t num_tokens, std::int64_t document_tokens);

  std::size_t num_documents() const { return documents_.size(); }
  std::int64_t num_chunks() const;

  // There are no collections: documents are known by their ids.
  Result<std::vector<CollectionInfo>> Collections() const override { return std::vector<CollectionInfo>{}; }
  Result<bool> HasCollection(std::string_view) const override { return false; }
  Result<std::vector<PublishedDocument>> Documents(std::string_view collection) const override;
  Result<PublishedDocument> Find(std::string_view collection, std::string_view name) const override;
  Result<std::string> Read(const RecordKey& key) const override;
  Result<std::vector<std::string>> ReadMany(std::span<const RecordKey> keys) const override;

 private:
  struct Document {
    ChunkTable table;
    std::uint32_t num_gists = 0;
    std::int8_t top_level = 0;
  };
  // `rows` rows of K, then of V.
  std::string MakeKv(const RecordKey& key, std::int8_t level, std::uint32_t rows) const;

  std::uint16_t kv_heads_, head_dim_;
  std::uint64_t seed_;
  std::string pattern_;  // bf16 values, mean 0 and deviation 1
  std::vector<Document> documents_;
};

// All documents of `snapshot`. Parts of another `source` share no unfolded page with them.
std::vector<PartRef> AllParts(const std::shared_ptr<const RandomSnapshot>& snapshot, std::uint64_t source);

}  // namespace unfold

#endif  // UNFOLD_ENGINE_BENCH_STORE_H_
