// SPDX-License-Identifier: Apache-2.0
#include "model/cost.h"

namespace unfold {

ModelCost CostOf(const ModelConfig& config) {
  constexpr double kValueBytes = 2;
  const double model = config.model_dim, ffn = config.ffn_dim;
  const double query = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  const double layer = model * (2 * query + 2 * kv + 3 * ffn), vocabulary = config.vocab_size * model;
  const double vectors = 2 * model + (config.has_qkv_bias() ? query + 2 * kv : 0);
  const double encode_values = (config.num_layers - 1) * layer + 2 * kv * model;
  ModelCost cost;
  cost.decode_bytes = kValueBytes * (config.num_layers * (layer + vectors) + vocabulary + model);
  cost.weight_bytes = cost.decode_bytes + (config.tied_embeddings ? 0 : kValueBytes * vocabulary);
  cost.encode_bytes = kValueBytes * encode_values;
  cost.encode_row_flops = 2 * encode_values;
  return cost;
}

}  // namespace unfold
