// SPDX-License-Identifier: Apache-2.0
// encode_curve: what a raw token costs to encode in documents of 1k to 64k tokens, with one and two levels of gists
// (method.md section 3). The model has two layers of width 1024 and FFN 4096 and seeded weights, made here and thrown
// away. JSON lines on stdout.
//   encode_curve [--threads N] [--compute f32|bf16] [--runs N]
//
// Expected (L 8, M 4, H 16, Hk 4, D 64): the last layer of an encoding pass makes k and v alone, so a row passes the
// products of one layer and k, v of the next: 2 * (15.2 M + 0.5 M) = 31.5 MFLOP. A row of a document of n raw tokens
// sees 27 near rows and on average n / (2 L M) far ones: 4 H D flops each. At n = 65,536 these are 1,024, 4.2 MFLOP, or
// 13 % of the products; with one level, n / (2 L), 4,096 and 53 %. The quadratic part is what is left to see.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "base/float16.h"
#include "bench_common.h"
#include "rag/encoder.h"
#include "text/gist_sequence.h"

namespace unfold::bench {
namespace {

constexpr int kModel = 1024, kFfn = 4096, kHeads = 16, kKvHeads = 4, kHeadDim = 64, kLayers = 2, kVocab = 256;
constexpr int kMostTokens = 65536;
constexpr int kLongTokens = 16384;  // documents from here on are run in every kLongEvery-th round
constexpr int kLongEvery = 4;

// A checkpoint in a directory of its own, removed at the end.
class SeededModel {
 public:
  SeededModel() : dir_(std::filesystem::temp_directory_path() / ("encode_curve_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(dir_);
    const Json config = {{"architectures", {"LlamaForCausalLM"}},
                         {"model_type", "llama"},
                         {"vocab_size", kVocab},
                         {"hidden_size", kModel},
                         {"intermediate_size", kFfn},
                         {"num_hidden_layers", kLayers},
                         {"num_attention_heads", kHeads},
                         {"num_key_value_heads", kKvHeads},
                         {"head_dim", kHeadDim},
                         {"hidden_act", "silu"},
                         {"max_position_embeddings", kMostTokens},
                         {"rms_norm_eps", 1e-5},
                         {"rope_theta", 500000.0},
                         {"tie_word_embeddings", true},
                         {"eos_token_id", 0},
                         {"torch_dtype", "bfloat16"}};
    std::ofstream(dir_ / "config.json") << config.dump();
    WriteWeights();
  }
  ~SeededModel() { std::filesystem::remove_all(dir_); }
  SeededModel(const SeededModel&) = delete;
  SeededModel& operator=(const SeededModel&) = delete;
  std::string dir() const { return dir_; }

 private:
  void WriteWeights() {
    constexpr std::int64_t kQuery = kHeads * kHeadDim, kKv = kKvHeads * kHeadDim;
    std::map<std::string, std::vector<std::int64_t>> shapes = {{"model.embed_tokens.weight", {kVocab, kModel}},
                                                               {"model.norm.weight", {kModel}}};
    for (int n = 0; n < kLayers; ++n) {
      const std::string layer = "model.layers." + std::to_string(n) + ".";
      shapes[layer + "input_layernorm.weight"] = shapes[layer + "post_attention_layernorm.weight"] = {kModel};
      shapes[layer + "self_attn.q_proj.weight"] = {kQuery, kModel};
      shapes[layer + "self_attn.k_proj.weight"] = shapes[layer + "self_attn.v_proj.weight"] = {kKv, kModel};
      shapes[layer + "self_attn.o_proj.weight"] = {kModel, kQuery};
      shapes[layer + "mlp.gate_proj.weight"] = shapes[layer + "mlp.up_proj.weight"] = {kFfn, kModel};
      shapes[layer + "mlp.down_proj.weight"] = {kModel, kFfn};
    }
    Json header;
    std::vector<std::uint16_t> values;
    std::mt19937 random(7);
    for (const auto& [name, shape] : shapes) {
      const std::size_t begin = values.size() * sizeof values[0];
      const std::int64_t count = shape[0] * (shape.size() > 1 ? shape[1] : 1);
      for (std::int64_t i = 0; i < count; ++i) {
        const float uniform = static_cast<float>(random()) * 0x1p-31F - 1.0F;
        values.push_back(F32ToBF16(shape.size() == 1 ? 1.0F : 0.05F * uniform));
      }
      header[name] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {begin, values.size() * sizeof values[0]}}};
    }
    const std::string text = header.dump();
    const std::uint64_t length = text.size();
    std::ofstream file(dir_ / "model.safetensors", std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof length);
    file << text;
    file.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof values[0]));
  }

  std::filesystem::path dir_;
};

struct Case {
  int levels = 1;
  std::int64_t num_tokens = 0;
  GistSequence sequence;
  Samples seconds, cpu_seconds;
};

Case MakeCase(int levels, std::int64_t num_tokens) {
  GistRules rules;
  rules.chunk_size = 8;
  rules.section_size = levels > 1 ? 4 : 0;
  rules.sink_size = 3;
  rules.word_aware = false;
  for (int level = 0; level < levels; ++level) rules.gist_ids.push_back(level + 1);
  std::mt19937 random(11);
  std::vector<TokenId> raw;
  for (std::int64_t i = 0; i < num_tokens; ++i) raw.push_back(static_cast<TokenId>(8 + random() % (kVocab - 8)));
  return {levels, num_tokens, BuildGistSequence(raw, rules, std::vector<bool>(kVocab)), {}, {}};
}

void Run(const Flags& flags) {
  const auto backend = Must(MakeBackend("cpu", flags.threads));
  const SeededModel files;
  const auto model = Must(Transformer::Load(files.dir(), *backend, flags.compute_type()));
  std::vector<Case> cases;
  for (int levels : {1, 2}) {
    for (std::int64_t tokens = 1024; tokens <= kMostTokens; tokens *= 2) cases.push_back(MakeCase(levels, tokens));
  }
  const auto encode = [&](const Case& one) {
    const GistSequence* sequence = &one.sequence;
    Require(EncodePass(
        *model, std::span(&sequence, 1), [](int, const Tensor&, const Tensor&) { return Status::Ok(); },
        [] { return Status::Ok(); }));
  };
  encode(cases.back());  // all memory is there from now on
  for (int round = 0; round < flags.runs; ++round) {
    for (Case& one : cases) {
      if (one.num_tokens >= kLongTokens && round % kLongEvery != 0) continue;
      const double begin = SecondsNow(), cpu_begin = CpuSecondsNow();
      encode(one);
      one.seconds.Add(SecondsNow() - begin);
      one.cpu_seconds.Add(CpuSecondsNow() - cpu_begin);
    }
  }
  for (const Case& one : cases) {
    Json line = BeginLine("encode_curve", flags);
    line["levels"] = one.levels;
    line["tokens"] = one.num_tokens;
    one.seconds.Write("us_a_token", 1e6 / static_cast<double>(one.num_tokens), line);
    line["cpu_us_a_token"] = one.cpu_seconds.Median() * 1e6 / static_cast<double>(one.num_tokens);
    line["tokens_s"] = static_cast<double>(one.num_tokens) / one.seconds.Median();
    Print(line);
  }
}

}  // namespace
}  // namespace unfold::bench

int main(int argc, char** argv) { unfold::bench::Run(unfold::bench::ParseFlags(argc, argv)); }
