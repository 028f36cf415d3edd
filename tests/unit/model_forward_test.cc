// SPDX-License-Identifier: Apache-2.0
// The whole forward pass against a naive one in double precision, on every backend; and the same logits from every form
// that a checkpoint can have.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "model/transformer.h"
#include "text/gist_sequence.h"
#include "tiny_model.h"

namespace unfold {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

// A Llama decoder as its paper has it. The switches break it, to show that the test would notice.
struct NaiveLlama {
  TinyWeights weights;
  bool rotate = true, group_heads = true, interleave = false;

  Row Times(const Row& x, const std::string& name) const {
    const TinyTensor& w = weights.at(name);
    Row out(w.shape[0]);
    for (std::size_t n = 0; n < out.size(); ++n) {
      for (std::size_t k = 0; k < x.size(); ++k) out[n] += x[k] * w.values[n * x.size() + k];
    }
    return out;
  }
  Row Norm(const Row& x, const std::string& name) const {
    const double mean = std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size());
    Row out(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) out[i] = x[i] / std::sqrt(mean + 1e-5) * weights.at(name).values[i];
    return out;
  }
  void Rotate(Row& x, int position) const {
    constexpr int kHalf = kTinyHeadDim / 2;
    for (std::size_t head = 0; rotate && head < x.size(); head += kTinyHeadDim) {
      for (int i = 0; i < kHalf; ++i) {
        const double angle = position * std::pow(10000.0, -2.0 * i / kTinyHeadDim);
        double& a = x[head + (interleave ? 2 * i : i)];
        double& b = x[head + (interleave ? 2 * i + 1 : i + kHalf)];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = turned;
      }
    }
  }
  Row Attend(const Row& q, std::size_t t, const Rows& k, const Rows& v, const GistSequence& sequence) const {
    Row out(q.size());
    for (int h = 0; h < kTinyHeads; ++h) {
      const int kv = group_heads ? h / (kTinyHeads / kTinyKvHeads) : h % kTinyKvHeads;
      Row weight(t + 1);
      for (std::size_t j = 0; j <= t; ++j) {
        if (!MaySee(sequence.mask, t, j, sequence.tokens[t], sequence.tokens[j])) continue;
        double dot = 0;
        for (int d = 0; d < kTinyHeadDim; ++d) dot += q[h * kTinyHeadDim + d] * k[j][kv * kTinyHeadDim + d];
        weight[j] = std::exp(dot / std::sqrt(kTinyHeadDim));
      }
      const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
      for (std::size_t j = 0; j <= t; ++j) {
        for (int d = 0; d < kTinyHeadDim; ++d) {
          out[h * kTinyHeadDim + d] += weight[j] / total * v[j][kv * kTinyHeadDim + d];
        }
      }
    }
    return out;
  }
  // Logits of every index.
  Rows Run(const GistSequence& sequence) const {
    Rows x;
    for (const TokenId id : sequence.ids) {
      const float* row = weights.at("model.embed_tokens.weight").values.data() + std::size_t(id) * kTinyHidden;
      x.emplace_back(row, row + kTinyHidden);
    }
    for (int layer = 0; layer < kTinyLayers; ++layer) {
      const std::string p = "model.layers." + std::to_string(layer) + ".";
      Rows q, k, v;
      for (std::size_t t = 0; t < x.size(); ++t) {
        const Row h = Norm(x[t], p + "input_layernorm.weight");
        q.push_back(Times(h, p + "self_attn.q_proj.weight"));
        k.push_back(Times(h, p + "self_attn.k_proj.weight"));
        v.push_back(Times(h, p + "self_attn.v_proj.weight"));
        Rotate(q[t], sequence.tokens[t].position);
        Rotate(k[t], sequence.tokens[t].position);
      }
      for (std::size_t t = 0; t < x.size(); ++t) {
        const auto add = [&](const Row& more) {
          std::transform(x[t].begin(), x[t].end(), more.begin(), x[t].begin(), std::plus<>());
        };
        add(Times(Attend(q[t], t, k, v, sequence), p + "self_attn.o_proj.weight"));
        const Row h = Norm(x[t], p + "post_attention_layernorm.weight");
        Row gate = Times(h, p + "mlp.gate_proj.weight");
        const Row up = Times(h, p + "mlp.up_proj.weight");
        for (std::size_t f = 0; f < gate.size(); ++f) gate[f] *= up[f] / (1 + std::exp(-gate[f]));
        add(Times(gate, p + "mlp.down_proj.weight"));
      }
    }
    Rows logits;
    for (const Row& row : x) logits.push_back(Times(Norm(row, "model.norm.weight"), "model.embed_tokens.weight"));
    return logits;
  }
};

// Attention of one sequence under its mask, by the backend's prefill.
class PrefillAttention : public LayerAttention {
 public:
  PrefillAttention(Transformer& model, const GistSequence& sequence) : model_(model), sequence_(sequence) {
    for (const GistToken& token : sequence.tokens) host_positions_.push_back(token.position);
  }
  Status Attend(int, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    Backend& backend = model_.backend();
    UNFOLD_TRY_ASSIGN(const Tensor positions, positions_.Upload(backend, host_positions_));
    UNFOLD_TRY(backend.Rope({.x = q, .positions = positions, .rope = model_.rope(), .out = q}));
    UNFOLD_TRY(backend.Rope({.x = k, .positions = positions, .rope = model_.rope(), .out = k}));
    const std::vector<std::int64_t> begin = {0, static_cast<std::int64_t>(sequence_.ids.size())};
    return backend.GistPrefill({.q = q,
                                .k = k,
                                .v = v,
                                .tokens = sequence_.tokens,
                                .sequence_begin = begin,
                                .rules = sequence_.mask,
                                .out = out});
  }

 private:
  Transformer& model_;
  const GistSequence& sequence_;
  std::vector<std::int32_t> host_positions_;
  ScratchBuffer positions_;
};

std::vector<std::vector<float>> Logits(Transformer& model, const GistSequence& sequence) {
  PrefillAttention attention(model, sequence);
  Must(model.Run(sequence.ids, attention));
  std::vector<std::vector<float>> logits(sequence.ids.size());
  for (std::size_t t = 0; t < logits.size(); ++t) Must(model.Logits(static_cast<std::int64_t>(t), logits[t]));
  return logits;
}

std::vector<TokenId> RandomIds(std::size_t count) {
  std::mt19937 random(11);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = kTinyFirstByte + static_cast<TokenId>(random() % 256);
  return ids;
}

GistSequence Gists(const std::vector<TokenId>& raw) {
  GistRules rules;
  rules.chunk_size = 4;
  rules.sink_size = 2;
  rules.word_aware = false;
  rules.gist_ids = {kTinyGist};
  return BuildGistSequence(raw, rules, {});
}

double MaxDifference(const std::vector<std::vector<float>>& got, const Rows& want) {
  double worst = 0;
  for (std::size_t t = 0; t < want.size(); ++t) {
    for (std::size_t v = 0; v < want[t].size(); ++v) worst = std::max(worst, std::abs(got[t][v] - want[t][v]));
  }
  return worst;
}
double MaxDifference(const Rows& a, const Rows& b) {
  double worst = 0;
  for (std::size_t t = 0; t < a.size(); ++t) {
    for (std::size_t v = 0; v < a[t].size(); ++v) worst = std::max(worst, std::abs(a[t][v] - b[t][v]));
  }
  return worst;
}

// Every one of the eight sums of a layer, and the last two, errs by at most (K + 8) * eps of its norms (backend.h), K
// at most kTinyFfn or H * D. Norms divide by the row's length and attention averages, so errors pass on about as large
// as they came: the sum of the parts times the largest logit bounds the whole.
double Bound(const Rows& logits) {
  constexpr int kLongest = std::max({kTinyFfn, kTinyHidden, kTinyHeads * kTinyHeadDim});
  double scale = 0;
  for (const Row& row : logits) {
    for (const double value : row) scale = std::max(scale, std::abs(value));
  }
  return (8 * kTinyLayers + 2) * (kLongest + 8) * 0x1p-23 * scale;
}

std::unique_ptr<Backend> Make(const std::string& name) { return name == "ref" ? MakeRefBackend() : MakeCpuBackend(2); }

class ForwardPass : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> backend_ = Make(GetParam());
};

TEST_P(ForwardPass, EqualsTheNaiveOne) {
  ASSERT_EQ(backend_->name(), GetParam());
  const TinyModel files;
  const NaiveLlama naive{MakeTinyWeights({})};
  const auto model = Must(Transformer::Load(files.dir(), *backend_));
  for (const std::size_t length : {1, 2, 13, 60}) {
    for (const GistSequence& sequence : {BuildPlainSequence(RandomIds(length)), Gists(RandomIds(length))}) {
      const Rows want = naive.Run(sequence);
      const double difference = MaxDifference(Logits(*model, sequence), want);
      EXPECT_LE(difference, Bound(want)) << length << " tokens, gists " << sequence.num_gists;
      RecordProperty("share_of_bound_" + std::to_string(length) + "_" + std::to_string(sequence.num_gists),
                     std::to_string(difference / Bound(want)));
    }
  }
}

TEST_P(ForwardPass, EveryFormOfACheckpointGivesTheSameBits) {
  const GistSequence sequence = Gists(RandomIds(21));
  const TinyModel first;
  const auto want = Logits(*Must(Transformer::Load(first.dir(), *backend_)), sequence);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const bool tied : {true, false}) {
      for (const int shards : {1, 3}) {
        TinyModelOptions options;
        options.dtype = dtype;
        options.tied = tied;
        options.num_shards = shards;
        const TinyModel files(options);
        const auto model = Must(Transformer::Load(files.dir(), *backend_));
        ASSERT_EQ(model->config().tied_embeddings, tied);
        ASSERT_EQ(model->checkpoint().tensors().at("model.norm.weight").dtype, dtype);
        EXPECT_TRUE(Logits(*model, sequence) == want)
            << DTypeName(dtype) << (tied ? " tied " : " untied ") << shards << " shards";
      }
    }
  }
}

TEST_P(ForwardPass, RowsDoNotDependOnTheirCompany) {
  const TinyModel files;
  const auto model = Must(Transformer::Load(files.dir(), *backend_));
  const std::vector<TokenId> ids = RandomIds(33);
  const auto whole = Logits(*model, BuildPlainSequence(ids));
  for (const std::size_t length : {1, 5, 17}) {
    const auto part = Logits(*model, BuildPlainSequence({ids.data(), length}));
    for (std::size_t t = 0; t < length; ++t) EXPECT_TRUE(part[t] == whole[t]) << "row " << t << " of " << length;
  }
}

TEST_P(ForwardPass, RefusesTokensOutsideTheVocabulary) {
  const TinyModel files;
  const auto model = Must(Transformer::Load(files.dir(), *backend_));
  for (const TokenId id : {-1, TinyVocabSize()}) {
    const GistSequence sequence = BuildPlainSequence(std::vector<TokenId>{5, id});
    PrefillAttention attention(*model, sequence);
    EXPECT_EQ(model->Run(sequence.ids, attention).code(), StatusCode::kInvalidArgument) << id;
  }
  const GistSequence none;
  PrefillAttention attention(*model, none);
  EXPECT_EQ(model->Run({}, attention).code(), StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Backends, ForwardPass, testing::Values("ref", "cpu"),
                         [](const auto& info) { return info.param; });

// The bound is tight enough to tell a wrong model from a right one.
TEST(NaiveForwardPass, WrongModelsLieFarBeyondTheBound) {
  const GistSequence sequence = Gists(RandomIds(13));
  const NaiveLlama right{MakeTinyWeights({})};
  const Rows want = right.Run(sequence);
  for (const auto& [rotate, group, interleave] :
       {std::tuple(false, true, false), {true, false, false}, {true, true, true}}) {
    const NaiveLlama wrong{right.weights, rotate, group, interleave};
    EXPECT_GT(MaxDifference(wrong.Run(sequence), want), 100 * Bound(want)) << rotate << group << interleave;
  }
  GistSequence plain = sequence;
  plain.mask.top_level = kRawLevel;
  EXPECT_GT(MaxDifference(right.Run(plain), want), 100 * Bound(want)) << "mask";
  for (std::size_t i = 0; i < plain.tokens.size(); ++i) plain.tokens[i].position = static_cast<std::int32_t>(i);
  plain.mask = sequence.mask;
  EXPECT_GT(MaxDifference(right.Run(plain), want), 100 * Bound(want)) << "positions";
}

}  // namespace
}  // namespace unfold
