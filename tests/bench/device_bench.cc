// SPDX-License-Identifier: Apache-2.0
// Times single operations of a backend at the sizes of a 7B model, beside what their bytes and flops would take at the
// machine's measured rates. JSON lines. usage: device_bench BACKEND [prefill|products|step|encode]...
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "base/float16.h"
#include "kernels/backend.h"

namespace unfold {
namespace {

[[noreturn]] void Die(const Status& status) {
  std::fprintf(stderr, "device_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}
void Must(const Status& status) {
  if (!status.ok()) Die(status);
}

// Memory that the program keeps, filled with seeded values of about unit variance.
class Memory {
 public:
  explicit Memory(Backend& backend) : backend_(backend), bf16_(kPattern), f32_(kPattern) {
    std::mt19937_64 engine(1);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < kPattern; ++i) {
      f32_[i] = normal(engine);
      bf16_[i] = F32ToBF16(f32_[i]);
    }
  }
  Tensor Make(DType type, std::initializer_list<std::int64_t> shape) {
    Result<Buffer> buffer = backend_.Allocate(Tensor(nullptr, type, shape).bytes());
    if (!buffer.ok()) Die(buffer.status());
    buffers_.push_back(*std::move(buffer));
    const Tensor whole = buffers_.back().View(type, shape);
    for (std::int64_t at = 0; at < whole.size(); at += kPattern) {
      const std::int64_t count = std::min<std::int64_t>(kPattern, whole.size() - at);
      const Tensor part = Tensor(whole.as<char>() + at * DTypeBytes(type), type, {count});
      Must(backend_.Upload(part, type == DType::kBF16 ? static_cast<const void*>(bf16_.data()) : f32_.data()));
    }
    return whole;
  }

 private:
  static constexpr std::int64_t kPattern = 1 << 22;
  Backend& backend_;
  std::vector<std::uint16_t> bf16_;
  std::vector<float> f32_;
  std::vector<Buffer> buffers_;
};

// Median milliseconds of `run`, which is done when Download of nothing has returned.
template <typename Run>
double Median(Backend& backend, int repeats, Run run) {
  std::vector<double> times;
  for (int i = 0; i < repeats + 3; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    Must(run());
    Must(backend.Download(nullptr, Tensor(nullptr, DType::kF32, {0})));
    if (i >= 3) {
      times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    }
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void Print(const std::string& what, double ms, double bytes, double flops) {
  std::printf("{\"op\": \"%s\", \"ms\": %.4f, \"gb\": %.3f, \"tb_per_s\": %.3f, \"tflop_per_s\": %.1f}\n", what.c_str(),
              ms, bytes * 1e-9, bytes * 1e-9 / ms, flops * 1e-9 / ms);
  std::fflush(stdout);
}

// One document of `raw` tokens, chunks of 8 with a gist each.
void AppendDocument(std::int64_t raw, std::vector<GistToken>& tokens) {
  GistToken token;
  for (std::int64_t i = 0; i < raw; ++i) {
    token.position = static_cast<std::int32_t>(i);
    token.level = kRawLevel;
    token.sink = i < 4 ? 1 : 0;
    tokens.push_back(token);
    if (i >= 4 && (i - 4) % 8 == 7) {
      token.level = 0;
      token.sink = 0;
      tokens.push_back(token);
      ++token.chunk;
      ++token.section[0];
    }
  }
}

void Prefill(Backend& backend, DType compute, std::int64_t raw, int documents) {
  Memory memory(backend);
  constexpr std::int64_t kHeads = 28, kKvHeads = 4, kDim = 128;
  std::vector<GistToken> tokens;
  std::vector<std::int64_t> begin = {0};
  for (int d = 0; d < documents; ++d) {
    AppendDocument(raw, tokens);
    begin.push_back(static_cast<std::int64_t>(tokens.size()));
  }
  const auto rows = static_cast<std::int64_t>(tokens.size());
  GistPrefillArgs args;
  args.q = memory.Make(DType::kF32, {rows, kHeads, kDim});
  args.k = memory.Make(DType::kF32, {rows, kKvHeads, kDim});
  args.v = memory.Make(DType::kF32, {rows, kKvHeads, kDim});
  args.out = memory.Make(DType::kF32, {rows, kHeads, kDim});
  args.tokens = tokens;
  args.sequence_begin = begin;
  args.rules = {1, 0};
  args.compute = compute;
  double pairs = 0;  // that are visible: sinks, gists so far, raw tokens of two chunks
  for (const GistToken& token : tokens) pairs += 4 + token.chunk + 13;
  const double ms = Median(backend, 20, [&] { return backend.GistPrefill(args); });
  Print("prefill " + std::to_string(documents) + " x " + std::to_string(raw) + " " + std::string(DTypeName(compute)),
        ms, static_cast<double>(args.q.bytes() * 2 + args.k.bytes() * 2), 4 * pairs * kHeads * kDim);
}

// Products of a batch of documents.
void Products(Backend& backend, std::int64_t rows) {
  Memory memory(backend);
  for (const auto& [columns, inner] :
       {std::pair<std::int64_t, std::int64_t>{3584, 3584}, {1024, 3584}, {18944, 3584}, {3584, 18944}}) {
    const Tensor x = memory.Make(DType::kF32, {rows, inner}), out = memory.Make(DType::kF32, {rows, columns});
    const Tensor weight = memory.Make(DType::kBF16, {columns, inner});
    const double ms = Median(backend, 20, [&] { return backend.MatMul({x, weight, false, out, DType::kBF16}); });
    Print("product " + std::to_string(rows) + " x " + std::to_string(inner) + " x " + std::to_string(columns), ms,
          2.0 * static_cast<double>(columns * inner), 2.0 * static_cast<double>(rows * inner * columns));
  }
}

// The products of a layer of a decoding step of `rows` answers, as Transformer gives them: each over several layers'
// weights, which no cache holds together, then all.
void StepProducts(Backend& backend, std::int64_t rows) {
  constexpr std::int64_t kModel = 3584, kKv = 512, kFfn = 18944;
  constexpr int kLayers = 8;
  Memory memory(backend);
  struct Layer {
    Tensor q, k, v, o, gate, up, down, q_bias, kv_bias;
  };
  std::vector<Layer> layers(kLayers);
  const auto matrix = [&](std::int64_t columns, std::int64_t inner) {
    return memory.Make(DType::kBF16, {columns, inner});
  };
  for (Layer& layer : layers) {
    layer = {matrix(kModel, kModel),
             matrix(kKv, kModel),
             matrix(kKv, kModel),
             matrix(kModel, kModel),
             matrix(kFfn, kModel),
             matrix(kFfn, kModel),
             matrix(kModel, kFfn),
             memory.Make(DType::kBF16, {kModel}),
             memory.Make(DType::kBF16, {kKv})};
  }
  const DType working = backend.WorkingType(DType::kBF16);
  const Tensor x = memory.Make(working, {rows, kModel}), attended = memory.Make(DType::kF32, {rows, kModel});
  const Tensor hidden = memory.Make(DType::kF32, {rows, kModel}), q = memory.Make(DType::kF32, {rows, kModel});
  const Tensor k = memory.Make(DType::kF32, {rows, kKv}), v = memory.Make(DType::kF32, {rows, kKv});
  const Tensor gate = memory.Make(working, {rows, kFfn}), up = memory.Make(working, {rows, kFfn});
  const auto product = [](const Tensor& in, const Tensor& weight, const Tensor& out, const Tensor& bias = {}) {
    return MatMulArgs{in, weight, false, out, DType::kBF16, true, bias};
  };
  const auto add = [&](const Tensor& in, const Tensor& weight) {
    MatMulArgs args = product(in, weight, hidden);
    args.accumulate = true;
    return backend.MatMul(args);
  };
  const auto qkv = [&](const Layer& layer) {
    const MatMulArgs three[] = {product(x, layer.k, k, layer.kv_bias), product(x, layer.v, v, layer.kv_bias),
                                product(x, layer.q, q, layer.q_bias)};
    return backend.MatMuls(three);
  };
  const auto o = [&](const Layer& layer) { return add(attended, layer.o); };
  const auto gated = [&](const Layer& layer) {
    return backend.GatedProduct({product(x, layer.gate, gate), product(x, layer.up, up), gate});
  };
  const auto down = [&](const Layer& layer) { return add(gate, layer.down); };
  const auto time = [&](const std::string& name, std::int64_t weights, auto run) {
    const double all = Median(backend, 20, [&] {
      for (const Layer& layer : layers) UNFOLD_TRY(run(layer));
      return Status::Ok();
    });
    Print("step product " + name + ", " + std::to_string(rows) + " rows", all / kLayers,
          2.0 * static_cast<double>(weights), 2.0 * static_cast<double>(weights * rows));
  };
  constexpr std::int64_t kOfQkv = kModel * (kModel + 2 * kKv), kOfO = kModel * kModel, kOfFfn = kModel * kFfn;
  time("q, k, v", kOfQkv, qkv);
  time("o", kOfO, o);
  time("gate, up", 2 * kOfFfn, gated);
  time("down", kOfFfn, down);
  time("all of a layer", kOfQkv + kOfO + 3 * kOfFfn, [&](const Layer& layer) {
    UNFOLD_TRY(qkv(layer));
    UNFOLD_TRY(o(layer));
    UNFOLD_TRY(gated(layer));
    return down(layer);
  });
}

// One layer of an encoding pass of 16,384 rows, 8 documents with a gist for every 8 tokens, in bf16.
class EncodeLayer {
 public:
  explicit EncodeLayer(Backend& backend) : backend_(backend), memory_(backend) {
    std::vector<std::int32_t> positions;
    for (int d = 0; d < kDocuments; ++d) {
      AppendDocument(kRaw, tokens_);
      begin_.push_back(static_cast<std::int64_t>(tokens_.size()));
    }
    for (const GistToken& token : tokens_) positions.push_back(token.position);
    rows_ = static_cast<std::int64_t>(tokens_.size());
    positions_ = memory_.Make(DType::kInt32, {rows_});
    Must(backend.Upload(positions_, positions.data()));
    rope_ = {memory_.Make(DType::kF32, {kRaw, kDim / 2}), memory_.Make(DType::kF32, {kRaw, kDim / 2})};
    const DType working = backend.WorkingType(DType::kBF16);
    hidden_ = memory_.Make(DType::kF32, {rows_, kModel});
    normed_ = memory_.Make(working, {rows_, kModel});
    q_ = memory_.Make(working, {rows_, kHeads * kDim});
    k_ = memory_.Make(DType::kF32, {rows_, kKvHeads * kDim});
    v_ = memory_.Make(DType::kF32, {rows_, kKvHeads * kDim});
    rotated_k_ = memory_.Make(working, {rows_, kKvHeads, kDim});
    attended_ = memory_.Make(working, {rows_, kHeads * kDim});
    gate_ = memory_.Make(working, {rows_, kFfn});
    up_ = memory_.Make(working, {rows_, kFfn});
    Result<Buffer> host = backend.AllocateHost(k_.bytes());
    if (!host.ok()) Die(host.status());
    host_ = *std::move(host);
  }

  Status Norm() { return backend_.RmsNorm({.x = hidden_, .weight = norm_weight_, .epsilon = 1e-6F, .out = normed_}); }
  Status Project() {
    const MatMulArgs products[] = {Product(normed_, k_weight_, k_, kv_bias_), Product(normed_, v_weight_, v_, kv_bias_),
                                   Product(normed_, q_weight_, q_, q_bias_)};
    return backend_.MatMuls(products);
  }
  Status ProjectKeys() {
    const MatMulArgs products[] = {Product(normed_, k_weight_, k_, kv_bias_),
                                   Product(normed_, v_weight_, v_, kv_bias_)};
    return backend_.MatMuls(products);
  }
  // The rows of the layer before are there when this one's start.
  Status StartKv() {
    UNFOLD_TRY(backend_.FinishDownloads());
    auto* to = static_cast<std::byte*>(host_.data());
    UNFOLD_TRY(backend_.StartDownload(to, k_, DType::kBF16));
    return backend_.StartDownload(to + k_.bytes() / 2, v_, DType::kBF16);
  }
  Status Turn() {
    const Tensor q = Heads(q_, kHeads);
    UNFOLD_TRY(backend_.Rope({.x = q, .positions = positions_, .rope = rope_, .out = q}));
    return backend_.Rope({.x = Heads(k_, kKvHeads), .positions = positions_, .rope = rope_, .out = rotated_k_});
  }
  Status Attend() {
    return backend_.GistPrefill({.q = Heads(q_, kHeads),
                                 .k = rotated_k_,
                                 .v = Heads(v_, kKvHeads),
                                 .tokens = tokens_,
                                 .sequence_begin = begin_,
                                 .rules = {1, 0},
                                 .out = Heads(attended_, kHeads),
                                 .compute = DType::kBF16});
  }
  Status Output() { return backend_.MatMul(Added(attended_, o_weight_)); }
  Status GateAndUp() {
    const MatMulArgs products[] = {Product(normed_, gate_weight_, gate_), Product(normed_, up_weight_, up_)};
    return backend_.MatMuls(products);
  }
  Status Activate() { return backend_.SwiGlu({.gate = gate_, .up = up_, .out = gate_}); }
  Status Down() { return backend_.MatMul(Added(gate_, down_weight_)); }
  Status All() {
    for (const auto step : {&EncodeLayer::Norm, &EncodeLayer::Project, &EncodeLayer::StartKv, &EncodeLayer::Turn,
                            &EncodeLayer::Attend, &EncodeLayer::Output, &EncodeLayer::Norm, &EncodeLayer::GateAndUp,
                            &EncodeLayer::Activate, &EncodeLayer::Down}) {
      UNFOLD_TRY((this->*step)());
    }
    return Status::Ok();
  }

  // Each step alone with the bytes that it must move, then the layer, and what 28 of them come to.
  void Time() {
    const double t = static_cast<double>(rows_), model = kModel, query = kHeads * kDim, kv = kKvHeads * kDim,
                 ffn = kFfn;
    const auto step = [&](const char* name, Status (EncodeLayer::*run)(), double bytes, double products) {
      const double ms = Median(backend_, 20, [&] { return (this->*run)(); });
      Print("encode, " + std::string(name), ms, bytes, 2 * t * products);
      return ms;
    };
    const double norm_ms = step("norm", &EncodeLayer::Norm, t * model * 6, 0);
    step("q, k, v", &EncodeLayer::Project, t * (2 * model + 2 * query + 8 * kv), model * (query + 2 * kv));
    const double keys_ms = step("k, v", &EncodeLayer::ProjectKeys, t * (2 * model + 8 * kv), model * 2 * kv);
    step("download of k, v", &EncodeLayer::DownloadKv, t * 2 * kv * 2, 0);
    step("rope", &EncodeLayer::Turn, t * (4 * query + 6 * kv), 0);
    step("prefill", &EncodeLayer::Attend, t * (4 * query + 6 * kv), 0);
    step("o", &EncodeLayer::Output, t * (2 * query + 8 * model), query * model);
    step("gate, up", &EncodeLayer::GateAndUp, t * (2 * model + 4 * ffn), 2 * model * ffn);
    step("swiglu", &EncodeLayer::Activate, t * ffn * 6, 0);
    step("down", &EncodeLayer::Down, t * (2 * ffn + 8 * model), ffn * model);
    constexpr int kTogether = 8;
    const double layer_ms = Median(backend_, 10,
                                   [&] {
                                     for (int i = 0; i < kTogether; ++i) UNFOLD_TRY(All());
                                     return backend_.FinishDownloads();
                                   }) /
                            kTogether;
    Print("encode, one layer", layer_ms, 0, 2 * t * model * (2 * query + 2 * kv + 3 * ffn));
    // The last layer's keys and values need no more of it.
    const double pass_ms = 27 * layer_ms + norm_ms + keys_ms;
    std::printf("{\"op\": \"encode, 28 layers\", \"ms\": %.2f, \"raw_tokens_per_s\": %.0f}\n", pass_ms,
                kDocuments * kRaw * 1e3 / pass_ms);
    std::fflush(stdout);
  }

 private:
  static constexpr std::int64_t kRaw = 1821, kModel = 3584, kFfn = 18944, kHeads = 28, kKvHeads = 4, kDim = 128;
  static constexpr int kDocuments = 8;  // of 2,048 rows each

  Tensor Heads(const Tensor& rows, std::int64_t count) const { return rows.Reshape({rows_, count, kDim}); }
  Tensor Weight(std::int64_t columns, std::int64_t inner) { return memory_.Make(DType::kBF16, {columns, inner}); }
  static MatMulArgs Product(const Tensor& x, const Tensor& weight, const Tensor& out, const Tensor& bias = {}) {
    return {.x = x, .weight = weight, .out = out, .compute = DType::kBF16, .bias = bias};
  }
  MatMulArgs Added(const Tensor& x, const Tensor& weight) const {
    MatMulArgs product = Product(x, weight, hidden_);
    product.accumulate = true;
    return product;
  }
  Status DownloadKv() {
    UNFOLD_TRY(StartKv());
    return backend_.FinishDownloads();
  }

  Backend& backend_;
  Memory memory_;
  std::vector<GistToken> tokens_;
  std::vector<std::int64_t> begin_ = {0};
  std::int64_t rows_ = 0;
  RopeTable rope_;
  Tensor positions_, hidden_, normed_, q_, k_, v_, rotated_k_, attended_, gate_, up_;
  Tensor norm_weight_ = memory_.Make(DType::kBF16, {kModel});
  Tensor q_weight_ = Weight(kHeads * kDim, kModel), q_bias_ = memory_.Make(DType::kBF16, {kHeads * kDim});
  Tensor k_weight_ = Weight(kKvHeads * kDim, kModel), v_weight_ = Weight(kKvHeads * kDim, kModel);
  Tensor kv_bias_ = memory_.Make(DType::kBF16, {kKvHeads * kDim});
  Tensor o_weight_ = Weight(kModel, kHeads*kDim), gate_weight_ = Weight(kFfn, kModel);
  Tensor up_weight_ = Weight(kFfn, kModel), down_weight_ = Weight(kModel, kFfn);
  Buffer host_;
};

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: device_bench BACKEND [prefill|products|step|encode]...\n");
    return 2;
  }
  Result<std::unique_ptr<Backend>> made = MakeBackend(argv[1], 0);
  if (!made.ok()) Die(made.status());
  Backend& backend = **made;
  const auto wanted = [&](const std::string& name) {
    return argc == 2 || std::find(argv + 2, argv + argc, name) != argv + argc;
  };
  if (wanted("prefill")) {
    Prefill(backend, DType::kBF16, 2048, 8);
    Prefill(backend, DType::kBF16, 16384, 1);
    Prefill(backend, DType::kBF16, 65536, 1);
    Prefill(backend, DType::kF32, 2048, 8);
  }
  if (wanted("products")) Products(backend, 16384);
  if (wanted("step")) {
    for (const std::int64_t rows : {1, 8, 16, 32, 64}) StepProducts(backend, rows);
  }
  if (wanted("encode")) EncodeLayer(backend).Time();
  return 0;
}

}  // namespace
}  // namespace unfold

int main(int argc, char** argv) { return unfold::Main(argc, argv); }
