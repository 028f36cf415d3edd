// SPDX-License-Identifier: Apache-2.0
#include "rag/gist_cache.h"

#include <utility>

namespace unfold {

Result<std::shared_ptr<GistRows>> GistRows::Make(Transformer& model, std::int64_t num_rows) {
  auto rows = std::make_shared<GistRows>();
  const ModelConfig& config = model.config();
  rows->type_ = model.kv_type();
  rows->kv_heads_ = config.kv_heads;
  rows->num_rows_ = num_rows;
  rows->head_dim_ = config.head_dim;
  const std::size_t values = std::size_t{2} * config.num_layers * config.kv_heads * num_rows * config.head_dim;
  UNFOLD_TRY_ASSIGN(rows->memory_, model.backend().Allocate(values * DTypeBytes(rows->type_)));
  return rows;
}

Tensor GistRows::View(int layer, int which) const {
  const std::size_t values = static_cast<std::size_t>(kv_heads_ * num_rows_ * head_dim_);
  auto* data = static_cast<std::byte*>(memory_.data()) + (2 * layer + which) * values * DTypeBytes(type_);
  return Tensor(data, type_, {kv_heads_, num_rows_, head_dim_});
}

std::shared_ptr<const GistRows> GistCache::Find(const PartKey& key) {
  const auto known = part_of_.find(key);
  if (known == part_of_.end()) return nullptr;
  parts_.splice(parts_.begin(), parts_, known->second);
  return known->second->rows;
}

void GistCache::Keep(const PartKey& key, std::shared_ptr<const GistRows> rows) {
  if (rows->bytes() > budget_ || part_of_.contains(key)) return;
  bytes_ += rows->bytes();
  parts_.push_front({key, std::move(rows)});
  part_of_.emplace(key, parts_.begin());
  while (bytes_ > budget_) {
    bytes_ -= parts_.back().rows->bytes();
    part_of_.erase(parts_.back().key);
    parts_.pop_back();
  }
}

}  // namespace unfold
