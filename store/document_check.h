// SPDX-License-Identifier: Apache-2.0
// Whether the records of a published document are all there, sound, and fit each other.
#ifndef UNFOLD_STORE_DOCUMENT_CHECK_H_
#define UNFOLD_STORE_DOCUMENT_CHECK_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "store/store.h"

namespace unfold {

// Thread-compatible. One document: Add each of its records, those of kChunks before the others of their part, then
// Finish. What is wrong goes to `report->findings`.
class DocumentCheck {
 public:
  // Both must outlive this.
  DocumentCheck(const PublishedDocument& document, VerifyReport* report);

  void Add(const RecordKey& key, std::string_view sealed);
  // Leaves out what follows from records that could not be read, when the caller has already reported those.
  void SkipCompleteness() { complete_ = false; }
  void Finish();

 private:
  using LayerBlock = std::pair<std::uint16_t, std::uint32_t>;
  struct Part {
    std::optional<ChunkTable> table;
    std::map<std::uint16_t, std::uint32_t> gist_rows;  // by layer
    std::map<LayerBlock, std::uint32_t> raw_rows;
  };

  void Find(const std::string& where, std::string what);
  void AddKv(const RecordKey& key, std::string_view sealed);
  void CheckTable(std::uint32_t index, const Part& part, const PartSummary& summary);
  void CheckGist(std::uint32_t index, const Part& part, const PartSummary& summary);
  void CheckRaw(std::uint32_t index, const Part& part);

  const PublishedDocument& document_;
  VerifyReport* report_;
  bool complete_ = true;
  bool has_text_ = false;
  std::array<std::uint64_t, 5> bytes_{};  // values by kind
  std::uint32_t num_layers_ = 0;          // of any of its records
  std::vector<Part> parts_;
  std::optional<KvHeader> first_kv_;  // type and dimensions that the others must share
};

}  // namespace unfold

#endif  // UNFOLD_STORE_DOCUMENT_CHECK_H_
