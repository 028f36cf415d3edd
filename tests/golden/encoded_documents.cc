// SPDX-License-Identifier: Apache-2.0
#include "golden/encoded_documents.h"

#include <gtest/gtest.h>

#include "rag/encoder.h"

namespace unfold::golden {

std::vector<PartRef> PartsOf(const std::shared_ptr<const StoreSnapshot>& snapshot, std::uint64_t source,
                             const std::vector<DocumentInput>& documents) {
  const auto published = snapshot->Documents("c");
  EXPECT_TRUE(published.ok()) << published.status().ToString();
  std::vector<PartRef> parts;
  for (const DocumentInput& document : documents) {
    for (const PublishedDocument& one : *published) {
      if (one.record.name != document.name) continue;
      for (std::uint32_t part = 0; part < one.record.parts.size(); ++part) {
        parts.push_back({source, snapshot, one.id, document.name, part, one.record.parts[part]});
      }
    }
  }
  return parts;
}

std::unique_ptr<Store> EncodeAfresh(LoadedModel& model, DType kv_type, const std::vector<DocumentInput>& documents) {
  std::unique_ptr<Store> store = MakeMemoryStore();
  const CollectionId collection = *store->EnsureCollection("c");
  std::vector<Publication> publications;
  for (const DocumentInput& document : documents) {
    const auto prepared = PrepareDocument(document, model.text);
    EXPECT_TRUE(prepared.ok()) << prepared.status().ToString();
    const DocumentId id = *store->AllocateDocument();
    std::vector<StoreRecord> records = TextRecords(id, document.text, *prepared);
    for (std::uint32_t part = 0; part < prepared->parts.size(); ++part) {
      const EncodeJob job{id, part, &prepared->parts[part]};
      EXPECT_TRUE(EncodeParts(
                      *model.transformer, kv_type, std::span(&job, 1), [] { return Status::Ok(); }, records)
                      .ok());
    }
    EXPECT_TRUE(store->Write(records).ok());
    publications.push_back({collection, id, prepared->record});
  }
  EXPECT_TRUE(store->Publish(publications).ok());
  return store;
}

}  // namespace unfold::golden
