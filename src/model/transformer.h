// SPDX-License-Identifier: Apache-2.0
// Transformer: the layer loop of a Llama or Qwen decoder in backend operations. What a query attends is the caller's
// matter: the loop hands un-rotated q, k, v of each layer to a LayerAttention and goes on with what it returns.
#ifndef UNFOLD_MODEL_TRANSFORMER_H_
#define UNFOLD_MODEL_TRANSFORMER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/random_tensors.h"
#include "model/rope_table.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "unfold/base.h"

namespace unfold {

// Attention of one forward pass. Tensors are on the backend and valid during the call only: k and v f32, since what is
// stored of them is to be rounded once; q and out of the type that the pass says.
class LayerAttention {
 public:
  virtual ~LayerAttention() = default;
  // q [T, H, D], k and v [T, Hk, D], none rotated; writes out [T, H, D]. A Status other than Ok ends the pass with it:
  // that is also how a pass is cancelled between layers. In the last layer of a keys_only pass q and out are empty.
  virtual Status Attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) = 0;
};

// Grows on demand, so that steady work allocates nothing.
class ScratchBuffer {
 public:
  // Not initialised; valid until the next call. Memory that has been large enough stays where it is.
  Result<Tensor> Get(Backend& backend, DType type, std::initializer_list<std::int64_t> shape);
  // The same, filled from host memory: i32 [values.size()].
  Result<Tensor> Upload(Backend& backend, std::span<const std::int32_t> values);
  // How often it has moved.
  std::uint64_t moves() const { return moves_; }

 private:
  Buffer buffer_;
  std::uint64_t moves_ = 0;
};

// Thread-compatible: one pass at a time; it owns the activations.
class Transformer {
 public:
  // `backend` must outlive it. `compute` is that of MatMulArgs, for all products.
  static Result<std::unique_ptr<Transformer>> Load(const std::string& model_dir, Backend& backend,
                                                   DType compute = DType::kF32);
  // With seeded weights that nobody trained, for measurements: no checkpoint is read, and checkpoint() is empty.
  // `check` is asked before each tensor.
  static Result<std::unique_ptr<Transformer>> Random(ModelConfig config, Backend& backend, DType compute,
                                                     std::uint64_t seed, const std::function<Status()>& check);

  const ModelConfig& config() const { return config_; }
  const SafeTensors& checkpoint() const { return checkpoint_; }
  DType compute() const { return compute_; }
  DType kv_type() const { return backend_.WorkingType(compute_); }  // in which contexts lie in memory
  const RopeTable& rope() const { return rope_.table(); }
  Backend& backend() { return backend_; }

  struct PassOptions {
    int num_layers = 0;              // 0: all
    bool keys_only = false;          // the last layer computes k and v alone: encoding needs no more of it
    bool query = false;              // rows of a question or an answer, which are not stored (MatMulArgs)
    DType query_type = DType::kF32;  // of q and of what attention returns: this or the backend's WorkingType
  };
  // Runs `ids` [T] through the layers. The result of the last layer stays inside for Logits.
  Status Run(std::span<const TokenId> ids, LayerAttention& attention, const PassOptions& options);
  Status Run(std::span<const TokenId> ids, LayerAttention& attention) { return Run(ids, attention, PassOptions{}); }
  // Its two parts. The second can be recorded (Backend::Record), and then run as long as moves() is what it was.
  Status TakeTokens(std::span<const TokenId> ids);
  Status RunTaken(std::int64_t num_tokens, LayerAttention& attention, const PassOptions& options);

  // Logits of rows [begin, end) of the last full pass, V floats each, in host memory of the model's own, from row `to`
  // on; what stands there is valid until a call that writes it, or asks for more memory.
  Result<std::span<const float>> Logits(std::int64_t begin, std::int64_t end, std::int64_t to = 0);
  // Its two parts, of which the first can be recorded. Logits lie [rows, V] in between.
  Status ComputeLogits(std::int64_t begin, std::int64_t end);
  Result<std::span<const float>> FetchLogits(std::int64_t rows, std::int64_t to = 0);
  // Those of one row.
  Status Logits(std::int64_t row, std::vector<float>& logits);
  // How often memory has moved that passes and logits use.
  std::uint64_t moves() const;

 private:
  Transformer(ModelConfig config, SafeTensors checkpoint, Backend& backend, DType compute)
      : config_(std::move(config)), checkpoint_(std::move(checkpoint)), backend_(backend), compute_(compute) {}
  // The product x * weight^T + bias; a bias that is not set is none.
  MatMulArgs Product(const Tensor& x, const Tensor& weight, const Tensor& out, const Tensor& bias = {}) const {
    return {.x = x, .weight = weight, .out = out, .compute = compute_, .query = query_, .bias = bias};
  }
  // hidden += x * weight^T.
  Status AddProduct(const Tensor& x, const Tensor& weight, const Tensor& hidden);
  Status RunLayer(int layer, std::int64_t num_tokens, bool keys_only, LayerAttention& attention);
  Status RunFfn(const LayerWeights& weights, std::int64_t num_tokens);
  Status RunFfnRows(const LayerWeights& weights, const Tensor& hidden);
  // RMS norm of each head of `rows` [T, heads * D], in place; a weight that is not set is none.
  Status NormHeads(const Tensor& weight, const Tensor& rows);

  ModelConfig config_;
  SafeTensors checkpoint_;
  Backend& backend_;
  DType compute_;
  bool query_ = false;  // of the running pass, as the next
  DType query_type_ = DType::kF32;
  std::unique_ptr<RandomTensors> random_memory_;  // of Random
  Weights weights_;
  RopeMemory rope_;
  // Activations: hidden, f32, and normed [T, M], q and attended [T, H * D], k and v [T, Hk * D], gate and up [rows of a
  // slice, F]. What products alone read and write is of the backend's WorkingType.
  ScratchBuffer ids_, hidden_, normed_, q_, k_, v_, attended_, gate_, up_, row_, logits_;
  Tensor hidden_view_;
  Buffer host_logits_;
};

}  // namespace unfold

#endif  // UNFOLD_MODEL_TRANSFORMER_H_
