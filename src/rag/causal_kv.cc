// SPDX-License-Identifier: Apache-2.0
#include "rag/causal_kv.h"

#include <cmath>
#include <numeric>

namespace unfold {

Result<CausalKv> CausalKv::Make(Transformer& model, int num_layers, std::int64_t capacity) {
  CausalKv kv;
  kv.type_ = model.kv_type();
  kv.kv_heads_ = model.config().kv_heads;
  kv.head_dim_ = model.config().head_dim;
  kv.capacity_ = capacity;
  const std::size_t values = static_cast<std::size_t>(num_layers) * 2 * kv.kv_heads_ * capacity * kv.head_dim_;
  UNFOLD_TRY_ASSIGN(kv.memory_, model.backend().Allocate(values * DTypeBytes(kv.type_)));
  return kv;
}

Tensor CausalKv::View(int layer, int which) const {
  const std::int64_t slab = kv_heads_ * capacity_ * head_dim_;
  auto* data = static_cast<std::byte*>(memory_.data()) +
               static_cast<std::size_t>((2 * layer + which) * slab) * DTypeBytes(type_);
  return Tensor(data, type_, {kv_heads_, capacity_, head_dim_});
}

UnfoldArgs CausalKv::Append(const Transformer& model, int layer, std::int64_t first_position, const Tensor& keys,
                            const Tensor& values, const Tensor& positions) const {
  return {.k = keys,
          .v = values,
          .positions = positions,
          .rope = model.rope(),
          .first_position = first_position,
          .out_k = k(layer),
          .out_v = v(layer)};
}

Status CausalAttention::Prepare(std::int64_t num_tokens, std::int64_t first) {
  std::vector<std::int32_t> positions(static_cast<std::size_t>(num_tokens));
  std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(first));
  UNFOLD_TRY_ASSIGN(positions_, position_memory_.Upload(model_.backend(), positions));
  return Status::Ok();
}

Status CausalAttention::Attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
  UNFOLD_TRY(model_.backend().Unfold(kv_.Append(model_, layer, /*first_position=*/0, k, v, positions_)));
  if (q.data == nullptr) return Status::Ok();
  SparseAttentionArgs args;
  args.q = q;
  args.positions = positions_;
  args.rope = model_.rope();
  args.scale = 1.0F / std::sqrt(static_cast<float>(model_.config().head_dim));
  args.prefix_k = kv_.k(layer);  // no prefix rows are read: prefix_tokens is 0
  args.prefix_v = kv_.v(layer);
  args.tail_k = kv_.k(layer);
  args.tail_v = kv_.v(layer);
  args.tail_position = 0;
  args.out = out;
  return model_.backend().SparseAttention(args);
}

}  // namespace unfold
