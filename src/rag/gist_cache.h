// SPDX-License-Identifier: Apache-2.0
// GistCache: the KV of parts' sinks and gists in the backend's memory (design.md section 6), so that a part which was
// placed before is placed again without a read. Parts used longest ago go first.
#ifndef UNFOLD_RAG_GIST_CACHE_H_
#define UNFOLD_RAG_GIST_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "model/transformer.h"
#include "rag/part_key.h"
#include "unfold/base.h"

namespace unfold {

// One part's rows of all layers: sinks, then the gists of each level, keys rotated to positions inside their document.
class GistRows {
 public:
  static Result<std::shared_ptr<GistRows>> Make(Transformer& model, std::int64_t num_rows);

  Tensor k(int layer) const { return View(layer, 0); }  // [Hk, rows, D] of the model's kv_type
  Tensor v(int layer) const { return View(layer, 1); }
  std::int64_t num_rows() const { return num_rows_; }
  std::uint64_t bytes() const { return memory_.bytes(); }

 private:
  Tensor View(int layer, int which) const;
  Buffer memory_;  // [N, 2, Hk, rows, D]
  DType type_ = DType::kF32;
  std::int64_t kv_heads_ = 0, num_rows_ = 0, head_dim_ = 0;
};

// Thread-compatible.
class GistCache {
 public:
  explicit GistCache(std::uint64_t budget) : budget_(budget) {}

  // Null when it is not known.
  std::shared_ptr<const GistRows> Find(const PartKey& key);
  // What is larger than the budget is not kept.
  void Keep(const PartKey& key, std::shared_ptr<const GistRows> rows);

 private:
  struct Part {
    PartKey key;
    std::shared_ptr<const GistRows> rows;
  };
  std::uint64_t budget_, bytes_ = 0;
  std::list<Part> parts_;  // the latest first
  std::unordered_map<PartKey, std::list<Part>::iterator, PartKeyHash> part_of_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_GIST_CACHE_H_
