// SPDX-License-Identifier: Apache-2.0
// CausalKv: per-layer keys and values of uncompressed text, in attention layout and rotated to global positions: the
// prefix before the documents, the question and answer after them, a routing prompt.
#ifndef UNFOLD_RAG_CAUSAL_KV_H_
#define UNFOLD_RAG_CAUSAL_KV_H_

#include <cstdint>
#include <span>
#include <vector>

#include "model/transformer.h"
#include "unfold/base.h"

namespace unfold {

// Thread-compatible.
class CausalKv {
 public:
  // Room for `capacity` tokens in each of `num_layers` layers.
  static Result<CausalKv> Make(Transformer& model, int num_layers, std::int64_t capacity);

  // What writes the rows of `layer` that stand at `positions`, row 0 at `first_position`: k and v [T, Hk, D] as the
  // layer computed them.
  UnfoldArgs Append(const Transformer& model, int layer, std::int64_t first_position, const Tensor& k, const Tensor& v,
                    const Tensor& positions) const;

  std::int64_t capacity() const { return capacity_; }
  Tensor k(int layer) const { return View(layer, 0); }  // [Hk, capacity, D] of the model's kv_type
  Tensor v(int layer) const { return View(layer, 1); }

 private:
  Tensor View(int layer, int which) const;
  Buffer memory_;  // [layers, 2, Hk, capacity, D]
  DType type_ = DType::kF32;
  std::int64_t kv_heads_ = 0, head_dim_ = 0, capacity_ = 0;
};

// Plain causal attention over the pass's own tokens and those of the passes before it: for a prefix, or a routing
// prompt.
class CausalAttention : public LayerAttention {
 public:
  // `kv` receives the keys and values. Both must outlive the pass.
  CausalAttention(Transformer& model, CausalKv& kv) : model_(model), kv_(kv) {}
  // The next pass has `num_tokens`, of which the first stands at position and row `first`; rows before it are kept.
  Status Prepare(std::int64_t num_tokens, std::int64_t first = 0);
  Status Attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override;

 private:
  Transformer& model_;
  CausalKv& kv_;
  ScratchBuffer position_memory_;
  Tensor positions_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_CAUSAL_KV_H_
