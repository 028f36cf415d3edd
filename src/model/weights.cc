// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <set>
#include <string>
#include <utility>

namespace unfold {
namespace {

// Remembers which names were taken. Not thread-safe; one per checkpoint.
class CheckpointSource : public WeightSource {
 public:
  CheckpointSource(const SafeTensors& checkpoint, Backend& backend) : checkpoint_(checkpoint), backend_(backend) {}

  Result<Tensor> Take(const std::string& name, std::initializer_list<std::int64_t> shape) override {
    UNFOLD_TRY_ASSIGN(const Tensor host, checkpoint_.Get(name, shape));
    taken_.insert(name);
    return backend_.ImportWeights(host);
  }

  // A tensor that nothing took would change the model if it were computed. Old checkpoints also carry the rotary
  // frequencies, and tied ones sometimes the output matrix.
  Status CheckAllTaken(const ModelConfig& config) const {
    for (const auto& [name, tensor] : checkpoint_.tensors()) {
      if (taken_.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
      if (config.tied_embeddings && name == "lm_head.weight") continue;
      return Status::InvalidArgument("tensor '" + name + "' is no part of a " + std::string(FamilyName(config.family)) +
                                     " model as config.json describes it, and would be left out");
    }
    return Status::Ok();
  }

 private:
  const SafeTensors& checkpoint_;
  Backend& backend_;
  std::set<std::string> taken_;
};

// Gives names to roles.
class Binder {
 public:
  explicit Binder(WeightSource& source) : source_(source) {}

  Status operator()(Tensor& target, const std::string& name, std::initializer_list<std::int64_t> shape) {
    UNFOLD_TRY_ASSIGN(target, source_.Take(name, shape));
    return Status::Ok();
  }

 private:
  WeightSource& source_;
};

Status BindAttention(Binder& bind, const ModelConfig& config, const std::string& prefix, LayerWeights& layer) {
  const std::int64_t model = config.model_dim, head = config.head_dim;
  const std::int64_t query = config.heads * head, kv = config.kv_heads * head;
  UNFOLD_TRY(bind(layer.q, prefix + "q_proj.weight", {query, model}));
  UNFOLD_TRY(bind(layer.k, prefix + "k_proj.weight", {kv, model}));
  UNFOLD_TRY(bind(layer.v, prefix + "v_proj.weight", {kv, model}));
  UNFOLD_TRY(bind(layer.o, prefix + "o_proj.weight", {model, query}));
  if (config.has_qkv_bias()) {
    UNFOLD_TRY(bind(layer.q_bias, prefix + "q_proj.bias", {query}));
    UNFOLD_TRY(bind(layer.k_bias, prefix + "k_proj.bias", {kv}));
    UNFOLD_TRY(bind(layer.v_bias, prefix + "v_proj.bias", {kv}));
  }
  if (config.has_qk_norm()) {
    UNFOLD_TRY(bind(layer.q_norm, prefix + "q_norm.weight", {head}));
    UNFOLD_TRY(bind(layer.k_norm, prefix + "k_norm.weight", {head}));
  }
  return Status::Ok();
}

Status BindLayer(Binder& bind, const ModelConfig& config, const std::string& prefix, LayerWeights& layer) {
  const std::int64_t model = config.model_dim, ffn = config.ffn_dim;
  UNFOLD_TRY(bind(layer.input_norm, prefix + "input_layernorm.weight", {model}));
  UNFOLD_TRY(BindAttention(bind, config, prefix + "self_attn.", layer));
  UNFOLD_TRY(bind(layer.post_norm, prefix + "post_attention_layernorm.weight", {model}));
  UNFOLD_TRY(bind(layer.gate, prefix + "mlp.gate_proj.weight", {ffn, model}));
  UNFOLD_TRY(bind(layer.up, prefix + "mlp.up_proj.weight", {ffn, model}));
  return bind(layer.down, prefix + "mlp.down_proj.weight", {model, ffn});
}

}  // namespace

Result<Weights> BindWeights(WeightSource& source, const ModelConfig& config) {
  Binder bind(source);
  Weights weights;
  UNFOLD_TRY(bind(weights.embedding, "model.embed_tokens.weight", {config.vocab_size, config.model_dim}));
  weights.layers.resize(config.num_layers);
  for (int n = 0; n < config.num_layers; ++n) {
    UNFOLD_TRY(BindLayer(bind, config, "model.layers." + std::to_string(n) + ".", weights.layers[n]));
  }
  UNFOLD_TRY(bind(weights.final_norm, "model.norm.weight", {config.model_dim}));
  if (config.tied_embeddings) {
    weights.output = weights.embedding;
  } else {
    UNFOLD_TRY(bind(weights.output, "lm_head.weight", {config.vocab_size, config.model_dim}));
  }
  return weights;
}

Result<Weights> BindWeights(const SafeTensors& checkpoint, const ModelConfig& config, Backend& backend) {
  CheckpointSource source(checkpoint, backend);
  UNFOLD_TRY_ASSIGN(Weights weights, BindWeights(source, config));
  UNFOLD_TRY(source.CheckAllTaken(config));
  return weights;
}

}  // namespace unfold
