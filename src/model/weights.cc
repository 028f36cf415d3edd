// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <string>

namespace unfold {

Result<Weights> BindWeights(const SafeTensors& checkpoint, const ModelConfig& config, Backend& backend) {
  const auto bind = [&](Tensor& target, const std::string& name, std::initializer_list<std::int64_t> shape) -> Status {
    UNFOLD_TRY_ASSIGN(const Tensor host, checkpoint.Get(name, shape));
    UNFOLD_TRY_ASSIGN(target, backend.ImportWeights(host));
    return Status::Ok();
  };
  const std::int64_t model = config.model_dim;
  const std::int64_t query = std::int64_t{config.heads} * config.head_dim;
  const std::int64_t kv = std::int64_t{config.kv_heads} * config.head_dim;
  const std::int64_t ffn = config.ffn_dim;

  Weights weights;
  UNFOLD_TRY(bind(weights.embedding, "model.embed_tokens.weight", {config.vocab_size, model}));
  weights.layers.resize(config.num_layers);
  for (int n = 0; n < config.num_layers; ++n) {
    LayerWeights& layer = weights.layers[n];
    const std::string prefix = "model.layers." + std::to_string(n) + ".";
    UNFOLD_TRY(bind(layer.input_norm, prefix + "input_layernorm.weight", {model}));
    UNFOLD_TRY(bind(layer.q, prefix + "self_attn.q_proj.weight", {query, model}));
    UNFOLD_TRY(bind(layer.k, prefix + "self_attn.k_proj.weight", {kv, model}));
    UNFOLD_TRY(bind(layer.v, prefix + "self_attn.v_proj.weight", {kv, model}));
    UNFOLD_TRY(bind(layer.o, prefix + "self_attn.o_proj.weight", {model, query}));
    UNFOLD_TRY(bind(layer.post_norm, prefix + "post_attention_layernorm.weight", {model}));
    UNFOLD_TRY(bind(layer.gate, prefix + "mlp.gate_proj.weight", {ffn, model}));
    UNFOLD_TRY(bind(layer.up, prefix + "mlp.up_proj.weight", {ffn, model}));
    UNFOLD_TRY(bind(layer.down, prefix + "mlp.down_proj.weight", {model, ffn}));
  }
  UNFOLD_TRY(bind(weights.final_norm, "model.norm.weight", {model}));
  if (config.tied_embeddings) {
    weights.output = weights.embedding;
  } else {
    UNFOLD_TRY(bind(weights.output, "lm_head.weight", {config.vocab_size, model}));
  }
  return weights;
}

}  // namespace unfold
