// SPDX-License-Identifier: Apache-2.0
// What a model costs by its shape alone: bytes of its weights, and flops of its products.
#ifndef UNFOLD_MODEL_COST_H_
#define UNFOLD_MODEL_COST_H_

#include "model/config.h"

namespace unfold {

struct ModelCost {
  double weight_bytes = 0;      // of all weights, two bytes a value
  double decode_bytes = 0;      // of those, read for one decoded token: not the rows of the embedding, unless tied
  double encode_bytes = 0;      // of those, read by a pass that encodes: no output, and of the last layer k and v alone
  double encode_row_flops = 0;  // of the products of one row of such a pass
};
ModelCost CostOf(const ModelConfig& config);

}  // namespace unfold

#endif  // UNFOLD_MODEL_COST_H_
