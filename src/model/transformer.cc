// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <algorithm>
#include <utility>

#include "model/random_weights.h"

namespace unfold {

Result<Tensor> ScratchBuffer::Get(Backend& backend, DType type, std::initializer_list<std::int64_t> shape) {
  const std::size_t bytes = Tensor(nullptr, type, shape).bytes();
  if (bytes > buffer_.bytes()) {
    buffer_ = Buffer();  // freed first: the old and the new one need not fit together
    ++moves_;
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
  UNFOLD_TRY_ASSIGN(model->rope_, RopeMemory::Make(model->config_, backend));
  return model;
}

Result<std::unique_ptr<Transformer>> Transformer::Random(ModelConfig config, Backend& backend, DType compute,
                                                         std::uint64_t seed, const std::function<Status()>& check) {
  std::unique_ptr<Transformer> model(new Transformer(std::move(config), SafeTensors{}, backend, compute));
  model->random_memory_ = std::make_unique<RandomTensors>(backend, seed);
  UNFOLD_TRY_ASSIGN(model->weights_, RandomWeights(model->config_, *model->random_memory_, check));
  UNFOLD_TRY_ASSIGN(model->rope_, RopeMemory::Make(model->config_, backend));
  return model;
}

Status Transformer::Run(std::span<const TokenId> ids, LayerAttention& attention, const PassOptions& options) {
  UNFOLD_TRY(TakeTokens(ids));
  return RunTaken(static_cast<std::int64_t>(ids.size()), attention, options);
}

Status Transformer::TakeTokens(std::span<const TokenId> ids) {
  if (ids.empty()) return Status::InvalidArgument("a forward pass needs at least one token");
  return ids_.Upload(backend_, ids).status();
}

Status Transformer::RunTaken(std::int64_t num_tokens, LayerAttention& attention, const PassOptions& options) {
  query_ = options.query;
  query_type_ = options.query_type;
  UNFOLD_TRY_ASSIGN(const Tensor ids, ids_.Get(backend_, DType::kInt32, {num_tokens}));
  UNFOLD_TRY_ASSIGN(hidden_view_, hidden_.Get(backend_, DType::kF32, {num_tokens, config_.model_dim}));
  UNFOLD_TRY(backend_.Embed({.table = weights_.embedding, .ids = ids, .out = hidden_view_}));
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
  const DType working = backend_.WorkingType(compute_);
  UNFOLD_TRY_ASSIGN(const Tensor normed, normed_.Get(backend_, working, {num_tokens, config_.model_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor k, k_.Get(backend_, DType::kF32, {num_tokens, kv_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor v, v_.Get(backend_, DType::kF32, {num_tokens, kv_dim}));
  const RmsNormArgs norm{
      .x = hidden_view_, .weight = weights.input_norm, .epsilon = config_.norm_epsilon, .out = normed};
  const MatMulArgs k_product = Product(normed, weights.k, k, weights.k_bias);
  const MatMulArgs v_product = Product(normed, weights.v, v, weights.v_bias);
  if (keys_only) {
    const MatMulArgs products[] = {k_product, v_product};
    UNFOLD_TRY(backend_.NormedMatMuls(norm, products));
    UNFOLD_TRY(NormHeads(weights.k_norm, k));
    return attention.Attend(layer, {}, heads(k, config_.kv_heads), heads(v, config_.kv_heads), {});
  }
  UNFOLD_TRY_ASSIGN(const Tensor q, q_.Get(backend_, query_type_, {num_tokens, query_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor attended, attended_.Get(backend_, query_type_, {num_tokens, query_dim}));
  const MatMulArgs products[] = {k_product, v_product, Product(normed, weights.q, q, weights.q_bias)};
  UNFOLD_TRY(backend_.NormedMatMuls(norm, products));
  UNFOLD_TRY(NormHeads(weights.k_norm, k));
  UNFOLD_TRY(NormHeads(weights.q_norm, q));
  UNFOLD_TRY(attention.Attend(layer, heads(q, config_.heads), heads(k, config_.kv_heads), heads(v, config_.kv_heads),
                              heads(attended, config_.heads)));
  UNFOLD_TRY(AddProduct(attended, weights.o, hidden_view_));
  return RunFfn(weights, num_tokens);
}

Status Transformer::AddProduct(const Tensor& x, const Tensor& weight, const Tensor& hidden) {
  MatMulArgs product = Product(x, weight, hidden);
  product.accumulate = true;
  return backend_.MatMul(product);
}

Status Transformer::NormHeads(const Tensor& weight, const Tensor& rows) {
  if (weight.rank == 0) return Status::Ok();
  const Tensor heads = rows.Reshape({rows.size() / config_.head_dim, config_.head_dim});
  return backend_.RmsNorm({.x = heads, .weight = weight, .epsilon = config_.norm_epsilon, .out = heads});
}

// In even slices of rows: their memory does not grow with the pass, and rows do not see each other.
Status Transformer::RunFfn(const LayerWeights& weights, std::int64_t num_tokens) {
  const std::int64_t most = backend_.FeedForwardRows(), num_slices = (num_tokens + most - 1) / most;
  const std::int64_t slice = (num_tokens + num_slices - 1) / num_slices;
  for (std::int64_t begin = 0; begin < num_tokens; begin += slice) {
    UNFOLD_TRY(RunFfnRows(weights, hidden_view_.Rows(begin, std::min(num_tokens, begin + slice))));
  }
  return Status::Ok();
}

Status Transformer::RunFfnRows(const LayerWeights& weights, const Tensor& hidden) {
  const std::int64_t num_rows = hidden.dims[0];
  const DType working = backend_.WorkingType(compute_);
  UNFOLD_TRY_ASSIGN(const Tensor normed, normed_.Get(backend_, working, {num_rows, config_.model_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor gate, gate_.Get(backend_, working, {num_rows, config_.ffn_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor up, up_.Get(backend_, working, {num_rows, config_.ffn_dim}));
  const RmsNormArgs norm{.x = hidden, .weight = weights.post_norm, .epsilon = config_.norm_epsilon, .out = normed};
  UNFOLD_TRY(backend_.NormedGatedProduct(
      norm, {.gate = Product(normed, weights.gate, gate), .up = Product(normed, weights.up, up), .out = gate}));
  return AddProduct(gate, weights.down, hidden);
}

Status Transformer::ComputeLogits(std::int64_t begin, std::int64_t end) {
  const std::int64_t rows = end - begin;
  UNFOLD_TRY_ASSIGN(const Tensor normed, row_.Get(backend_, backend_.WorkingType(compute_), {rows, config_.model_dim}));
  UNFOLD_TRY_ASSIGN(const Tensor out, logits_.Get(backend_, DType::kF32, {rows, config_.vocab_size}));
  const RmsNormArgs norm{.x = hidden_view_.Rows(begin, end),
                         .weight = weights_.final_norm,
                         .epsilon = config_.norm_epsilon,
                         .out = normed};
  MatMulArgs product = Product(normed, weights_.output, out);
  product.query = true;  // few rows, whatever the pass was
  return backend_.NormedMatMuls(norm, std::span(&product, 1));
}

Result<std::span<const float>> Transformer::FetchLogits(std::int64_t rows, std::int64_t to) {
  UNFOLD_TRY_ASSIGN(const Tensor out, logits_.Get(backend_, DType::kF32, {rows, config_.vocab_size}));
  const auto first = static_cast<std::size_t>(to * config_.vocab_size), count = static_cast<std::size_t>(out.size());
  if (host_logits_.bytes() < (first + count) * sizeof(float)) {
    UNFOLD_TRY_ASSIGN(host_logits_, backend_.AllocateHost((first + count) * sizeof(float)));
  }
  float* host = static_cast<float*>(host_logits_.data()) + first;
  UNFOLD_TRY(backend_.Download(host, out));
  return std::span<const float>(host, count);
}

Result<std::span<const float>> Transformer::Logits(std::int64_t begin, std::int64_t end, std::int64_t to) {
  UNFOLD_TRY(ComputeLogits(begin, end));
  return FetchLogits(end - begin, to);
}

Status Transformer::Logits(std::int64_t row, std::vector<float>& logits) {
  UNFOLD_TRY_ASSIGN(const std::span<const float> values, Logits(row, row + 1));
  logits.assign(values.begin(), values.end());
  return Status::Ok();
}

std::uint64_t Transformer::moves() const {
  std::uint64_t moves = 0;
  for (const ScratchBuffer* buffer :
       {&ids_, &hidden_, &normed_, &q_, &k_, &v_, &attended_, &gate_, &up_, &row_, &logits_}) {
    moves += buffer->moves();
  }
  return moves;
}

}  // namespace unfold
