// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace unfold {
namespace {

constexpr std::int64_t kFfnRows = 1024;

}  // namespace

Result<Tensor> ScratchBuffer::Get(Backend& backend, DType type, std::initializer_list<std::int64_t> shape) {
  const std::size_t bytes = Tensor(nullptr, type, shape).bytes();
  if (bytes > buffer_.bytes()) {
    buffer_ = Buffer();  // freed first: the old and the new one need not fit together
    UNFOLD_TRY_ASSIGN(buffer_, backend.Allocate(bytes + bytes / 4));
  }
  return buffer_.View(type, shape);
}

Result<Tensor> ScratchBuffer::Upload(Backend& backend, std::span<const std::int32_t> values) {
  UNFOLD_TRY_ASSIGN(const Tensor device, Get(backend, DType::kInt32, {static_cast<std::int64_t>(values.size())}));
  UNFOLD_TRY(backend.Upload(device, values.data()));
  return device;
}

Result<std::unique_ptr<Transformer>> Transformer::Load(const std::string& model_dir, Backend& backend, DType compute) {
  UNFOLD_TRY_ASSIGN(ModelConfig config, LoadModelConfig(model_dir));
  UNFOLD_TRY_ASSIGN(SafeTensors checkpoint, SafeTensors::Open(model_dir));
  std::unique_ptr<Transformer> model(new Transformer(std::move(config), std::move(checkpoint), backend, compute));
  UNFOLD_TRY_ASSIGN(model->weights_, BindWeights(model->checkpoint_, model->config_, backend));
  UNFOLD_TRY(model->BuildRope());
  return model;
}

// Angles are computed in float as the training code and Hugging Face do: a more exact table would be another model.
Status Transformer::BuildRope() {
  const std::int64_t half = config_.head_dim / 2;
  const std::int64_t positions = config_.max_positions;
  std::vector<float> inverse(half);
  for (std::int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config_.head_dim);
    inverse[i] = 1.0F / std::pow(static_cast<float>(config_.rope_theta), exponent);
  }
  std::vector<float> cosines(positions * half), sines(positions * half);
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * inverse[i];
      cosines[p * half + i] = std::cos(angle);
      sines[p * half + i] = std::sin(angle);
    }
  }
  UNFOLD_TRY_ASSIGN(rope_cos_, backend_.Allocate(cosines.size() * sizeof(float)));
  UNFOLD_TRY_ASSIGN(rope_sin_, backend_.Allocate(sines.size() * sizeof(float)));
  rope_.cos = rope_cos_.View(DType::kF32, {positions, half});
  rope_.sin = rope_sin_.View(DType::kF32, {positions, half});
  UNFOLD_TRY(backend_.Upload(rope_.cos, cosines.data()));
  return backend_.Upload(rope_.sin, sines.data());
}

Status Transformer::Run(std::span<const TokenId> ids, LayerAttention& attention, const PassOptions& options) {
  const auto num_tokens = static_cast<std::int64_t>(ids.size());
  if (num_tokens == 0) return Status::InvalidArgument("a forward pass needs at least one token");
  UNFOLD_TRY_ASSIGN(const Tensor id_view, ids_.Upload(backend_, ids));
  UNFOLD_TRY_ASSIGN(hidden_view_, hidden_.Get(backend_, DType::kF32, {num_tokens, config_.model_dim}));
  UNFOLD_TRY(backend_.Embed({.table = weights_.embedding, .ids = id_view, .out = hidden_view_}));
  const int num_layers = options.num_layers > 0 ? options.num_layers : config_.num_layers;
  for (int layer = 0; layer < num_layers; ++layer) {
    UNFOLD_TRY(RunLayer(layer, num_tokens, options.keys_only && layer + 1 == num_layers, attention));
  }
  return Status::Ok();
}

Status Transformer::RunLayer(int layer, std::int64_t num_tokens, bool keys_only, LayerAttention& attention) {
  const LayerWeights& weights = weights_.layers[layer];
  const std::int64_t query_dim = std::int64_t{config_.heads} * config_.head_dim;
  const std::int64_t kv_dim = std::int64_t{config_.kv_heads} * config_.head_dim;
  const auto heads = [&](const Tensor& rows, std::int64_t count) {
    return rows.Reshape({num_tokens, count, config_.head_dim});
  };
  UNFOLD_TRY_ASSIGN(const Tensor normed, normed_.Get(backend_, DType::kF32, {num_tokens, config_.model_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor k, k_.Get(backend_, DType::kF32, {num_tokens, kv_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor v, v_.Get(backend_, DType::kF32, {num_tokens, kv_dim}));
  UNFOLD_TRY(backend_.RmsNorm(
      {.x = hidden_view_, .weight = weights.input_norm, .epsilon = config_.norm_epsilon, .out = normed}));
  const MatMulArgs kv_products[] = {Product(normed, weights.k, k), Product(normed, weights.v, v)};
  if (keys_only) {
    UNFOLD_TRY(backend_.MatMuls(kv_products));
    return attention.Attend(layer, {}, heads(k, config_.kv_heads), heads(v, config_.kv_heads), {});
  }
  UNFOLD_TRY_ASSIGN(const Tensor q, q_.Get(backend_, DType::kF32, {num_tokens, query_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor attended, attended_.Get(backend_, DType::kF32, {num_tokens, query_dim}));
  const MatMulArgs products[] = {kv_products[0], kv_products[1], Product(normed, weights.q, q)};
  UNFOLD_TRY(backend_.MatMuls(products));
  UNFOLD_TRY(attention.Attend(layer, heads(q, config_.heads), heads(k, config_.kv_heads), heads(v, config_.kv_heads),
                              heads(attended, config_.heads)));
  UNFOLD_TRY(backend_.MatMul(Product(attended, weights.o, hidden_view_, /*accumulate=*/true)));
  return RunFfn(weights, num_tokens);
}

// In slices of rows: their memory does not grow with the pass, and rows do not see each other.
Status Transformer::RunFfn(const LayerWeights& weights, std::int64_t num_tokens) {
  for (std::int64_t begin = 0; begin < num_tokens; begin += kFfnRows) {
    UNFOLD_TRY(RunFfnRows(weights, hidden_view_.Rows(begin, std::min(num_tokens, begin + kFfnRows))));
  }
  return Status::Ok();
}

Status Transformer::RunFfnRows(const LayerWeights& weights, const Tensor& hidden) {
  const std::int64_t num_rows = hidden.dims[0];
  UNFOLD_TRY_ASSIGN(const Tensor normed, normed_.Get(backend_, DType::kF32, {num_rows, config_.model_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor gate, gate_.Get(backend_, DType::kF32, {num_rows, config_.ffn_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor up, up_.Get(backend_, DType::kF32, {num_rows, config_.ffn_dim}));
  UNFOLD_TRY(
      backend_.RmsNorm({.x = hidden, .weight = weights.post_norm, .epsilon = config_.norm_epsilon, .out = normed}));
  const MatMulArgs products[] = {Product(normed, weights.gate, gate), Product(normed, weights.up, up)};
  UNFOLD_TRY(backend_.MatMuls(products));
  UNFOLD_TRY(backend_.SwiGlu({.gate = gate, .up = up, .out = gate}));
  return backend_.MatMul(Product(gate, weights.down, hidden, /*accumulate=*/true));
}

Status Transformer::Logits(std::int64_t row, std::vector<float>& logits) {
  UNFOLD_TRY_ASSIGN(const Tensor normed, row_.Get(backend_, DType::kF32, {1, config_.model_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor out, logits_.Get(backend_, DType::kF32, {1, config_.vocab_size}));
  UNFOLD_TRY(backend_.RmsNorm({.x = hidden_view_.Rows(row, row + 1),
                               .weight = weights_.final_norm,
                               .epsilon = config_.norm_epsilon,
                               .out = normed}));
  UNFOLD_TRY(backend_.MatMul(Product(normed, weights_.output, out)));
  logits.resize(config_.vocab_size);
  return backend_.Download(logits.data(), out);
}

}  // namespace unfold
