// SPDX-License-Identifier: Apache-2.0
// WorkingSet: the documents one question is answered from, placed one after the other (method.md section 6), with what
// every query reads of them in memory (sinks and gists) and raw chunks unfolded on demand.
#ifndef UNFOLD_RAG_WORKING_SET_H_
#define UNFOLD_RAG_WORKING_SET_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "rag/encoder.h"
#include "rag/kv_rows.h"
#include "rag/unfold_cache.h"
#include "store/store.h"
#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

// A part in a store: what placing needs to know of it.
struct PartRef {
  std::uint64_t source = 0;  // see PartKey
  std::shared_ptr<const StoreSnapshot> snapshot;
  DocumentId id;
  std::string document;
  std::uint32_t part = 0;
  PartSummary summary;
  TextFormat format = TextFormat::kPlain;  // of its document
};

struct PlacedPart {
  PartRef ref;
  ChunkTable table;
  std::int32_t offset = 0;                 // global position of its first token
  std::int32_t first_chunk = 0;            // its chunk 0 among the chunks of the working set
  std::shared_ptr<const PartPlace> place;  // null for parts without chunks of their own
  std::int32_t num_chunks() const { return static_cast<std::int32_t>(table.chunk_tokens.size()); }
};

// Thread-compatible. `model` and `cache` must outlive it.
class WorkingSet {
 public:
  // Loads chunk tables, sinks and gists of `parts` from their stores, placed in this order from global position
  // `first_position` on; `rules` are those they were encoded by. Corruption when records contradict each other or the
  // model.
  static Result<std::unique_ptr<WorkingSet>> Place(Transformer& model, UnfoldCache& cache, const GistRules& rules,
                                                   std::vector<PartRef> parts, std::int32_t first_position);
  // For comparison: the same parts encoded now as plain text, all of it always visible. Reads no stored KV.
  static Result<std::unique_ptr<WorkingSet>> PlaceDense(Transformer& model, UnfoldCache& cache,
                                                        std::vector<PartRef> parts, std::int32_t first_position,
                                                        std::int64_t batch_tokens, const CancelCheck& check);

  const std::vector<PlacedPart>& parts() const { return parts_; }
  std::int64_t num_tokens() const { return num_tokens_; }  // raw
  std::int64_t num_gists() const;                          // all levels
  std::int64_t num_chunks() const { return static_cast<std::int64_t>(places_.size()); }
  std::int32_t end_position() const { return end_position_; }

  // What unfolds the chosen chunks at `layer`. What it leaves out shows in EndPass.
  Result<UnfoldChunksArgs> Unfolding(int layer, const ChosenGists& chosen, const Tensor& chunks);
  // Unfolds them, reads what is not in memory and leaves nothing out.
  Status Unfold(int layer, const ChosenGists& chosen, const Tensor& chunks) {
    const auto begin = std::chrono::steady_clock::now();
    const Status status = UnfoldAll(layer, chosen, chunks);
    unfold_ms_ += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    return status;
  }
  // After all layers of a pass that did not wait: takes its counts, of UnfoldCache::Found. Whether no chosen chunk was
  // left out.
  bool EndPass(std::span<const PagesFound> found);
  // Brings the tables of the cache up to date. How often they have moved.
  Result<std::uint64_t> UpdatePool();
  ContextView View(int layer) const;
  const UnfoldCache& cache() const { return cache_; }

  std::uint64_t kv_bytes_read() const { return kv_bytes_read_; }
  std::uint64_t pages_hit() const { return pages_hit_; }
  std::uint64_t pages_missed() const { return pages_missed_; }
  double unfold_ms() const { return unfold_ms_; }                   // in Unfold
  std::uint64_t unfolded_bytes() const { return unfolded_bytes_; }  // of raw KV, read from host memory for it

 private:
  struct LayerKv {
    Tensor sink_k, sink_v;
    std::array<Tensor, kMaxGistLevels> gist_k, gist_v;
  };
  // The gists of one level: where each document's begin, and each gist's children and position inside its document.
  struct Level {
    std::vector<std::int32_t> segment = {0}, child, position;
    Buffer device_segment, device_child;
  };

  WorkingSet(Transformer& model, UnfoldCache& cache) : model_(model), cache_(cache), levels_(1) {}
  Status ReadTables(std::vector<PartRef> parts, std::int32_t first_position, bool dense);
  Status PlacePart(PartRef ref, bool dense);
  void AddChunks(const PlacedPart& part);
  void AddSections(const GistRules& rules);
  Status AllocateLayers();
  // Copies the tables of integers that operations read to the backend.
  Status UploadTables();
  Status PlaceGists();
  Result<std::shared_ptr<const GistRows>> GistsOf(std::size_t part);
  Result<std::shared_ptr<const GistRows>> ReadGists(std::size_t part);
  Status EncodeDense(std::size_t begin, std::size_t end, const CancelCheck& check);
  Status HoldParts();
  // A block of raw KV to be read: whose, and its place in the cache.
  struct WantedBlock {
    const PartRef* ref;
    RecordKey key;
    std::int32_t place;
  };
  Status ReadMissing(int layer, std::vector<std::int32_t> blocks);
  std::vector<std::int32_t> BlocksOf(int layer) const;
  Status UnfoldAll(int layer, const ChosenGists& chosen, const Tensor& chunks);
  Status StageNext(int layer, std::uint64_t unfolded);
  Status ReadBlocks(std::span<const WantedBlock> wanted);
  std::uint64_t RawBlockBytes() const;
  Tensor PlacesView() const;
  // What was found since the last call of this, given all that was found.
  PagesFound TakeFound(const PagesFound& found);

  Transformer& model_;
  UnfoldCache& cache_;
  std::vector<PlacedPart> parts_;
  std::vector<std::int32_t> segment_offset_, segment_sink_;
  Buffer device_offset_, device_sink_, device_places_;
  std::shared_ptr<const std::size_t> found_place_;  // in UnfoldCache::Found
  PagesFound last_found_;
  std::vector<Level> levels_;
  std::vector<ChunkPlace> places_;  // by chunk
  Buffer kv_memory_;                // of all layers
  std::vector<LayerKv> layers_;
  std::int64_t num_tokens_ = 0;
  std::int32_t end_position_ = 0;
  double unfold_ms_ = 0;
  std::uint64_t kv_bytes_read_ = 0, pages_hit_ = 0, pages_missed_ = 0, unfolded_bytes_ = 0;
  KvLoader loader_;
  ScratchBuffer positions_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_WORKING_SET_H_
