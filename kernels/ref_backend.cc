// SPDX-License-Identifier: Apache-2.0
// RefBackend: each op as its formula, scalar, in double, rounded once at the end. Slow on purpose and never optimised:
// every other backend is held to it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/float16.h"
#include "kernels/host_backend.h"

namespace unfold {
namespace {

using Index = std::int64_t;

// Element i of a weight, activation or stored KV, widened.
double At(const Tensor& tensor, Index i) {
  switch (tensor.dtype) {
    case DType::kF32: return tensor.as<float>()[i];
    case DType::kF16: return F16ToF32(tensor.as<std::uint16_t>()[i]);
    case DType::kBF16: return BF16ToF32(tensor.as<std::uint16_t>()[i]);
    case DType::kInt8: return tensor.as<std::int8_t>()[i];
    case DType::kInt32: return tensor.as<std::int32_t>()[i];
  }
  return 0;
}

// Element i of an activation, rounded to its type.
void Put(const Tensor& tensor, Index i, double value) {
  const auto rounded = static_cast<float>(value);
  if (tensor.dtype == DType::kBF16) {
    tensor.as<std::uint16_t>()[i] = F32ToBF16(rounded);
  } else {
    tensor.as<float>()[i] = rounded;
  }
}

// D elements, turned to `position`.
std::vector<double> Turned(const std::vector<double>& x, const RopeTable& rope, Index position) {
  const auto half = static_cast<Index>(x.size() / 2);
  std::vector<double> turned(x.size());
  for (Index i = 0; i < half; ++i) {
    const double c = At(rope.cos, position * half + i), s = At(rope.sin, position * half + i);
    turned[i] = x[i] * c - x[half + i] * s;
    turned[half + i] = x[half + i] * c + x[i] * s;
  }
  return turned;
}

// Row `row` of x, likewise.
std::vector<double> Rotated(const Tensor& x, Index row, Index head_dim, const RopeTable& rope, Index position) {
  std::vector<double> values(static_cast<std::size_t>(head_dim));
  for (Index i = 0; i < head_dim; ++i) values[i] = At(x, row * head_dim + i);
  return Turned(values, rope, position);
}

double Dot(const std::vector<double>& q, const Tensor& keys, Index row) {
  double sum = 0;
  const auto d = static_cast<Index>(q.size());
  for (Index i = 0; i < d; ++i) sum += q[i] * At(keys, row * d + i);
  return sum;
}

// One query head's attention: logits and values are collected, then weighed by softmax.
struct Attention {
  struct Value {
    const Tensor* rows;
    Index row;  // of D elements
  };
  std::vector<double> logits;
  std::vector<Value> values;
  std::vector<Index> chunks;  // the chunk a key belongs to, -1: none

  // `v` stays where it is until Finish.
  void Add(double logit, const Tensor& v, Index row, Index chunk = -1) {
    logits.push_back(logit);
    values.push_back({&v, row});
    chunks.push_back(chunk);
  }

  // Writes D elements of `out` from `at` on. Returns the weights.
  std::vector<double> Finish(Index head_dim, const Tensor& out, Index at) const {
    const double largest = *std::max_element(logits.begin(), logits.end());
    std::vector<double> weights;
    for (double logit : logits) weights.push_back(std::exp(logit - largest));
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (double& weight : weights) weight /= total;
    for (Index e = 0; e < head_dim; ++e) {
      double sum = 0;
      for (std::size_t j = 0; j < weights.size(); ++j) {
        sum += weights[j] * At(*values[j].rows, values[j].row * head_dim + e);
      }
      Put(out, at + e, sum);
    }
    return weights;
  }
};

class RefBackend final : public HostBackend {
 public:
  std::string_view name() const override { return "ref"; }

 private:
  Status DoEmbed(const EmbedArgs& args) override {
    UNFOLD_TRY(CheckIndices("Embed", "ids", args.ids, args.table.dims[0]));
    const Index width = args.table.dims[1];
    for (Index t = 0; t < args.ids.dims[0]; ++t) {
      const Index id = args.ids.as<std::int32_t>()[t];
      for (Index i = 0; i < width; ++i) {
        args.out.as<float>()[t * width + i] = static_cast<float>(At(args.table, id * width + i));
      }
    }
    return Status::Ok();
  }

  Status DoRmsNorm(const RmsNormArgs& args) override {
    const Index width = args.x.dims[1];
    for (Index t = 0; t < args.x.dims[0]; ++t) {
      double squares = 0;
      for (Index i = 0; i < width; ++i) squares += At(args.x, t * width + i) * At(args.x, t * width + i);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + args.epsilon);
      for (Index i = 0; i < width; ++i) {
        Put(args.out, t * width + i, At(args.x, t * width + i) * scale * At(args.weight, i));
      }
    }
    return Status::Ok();
  }

  Status DoMatMuls(std::span<const MatMulArgs> products) override {
    for (const MatMulArgs& args : products) Product(args);
    return Status::Ok();
  }

  static void Product(const MatMulArgs& args) {
    const auto x = [&](Index i) {
      const double value = At(args.x, i);
      return args.compute == DType::kBF16 ? double{BF16ToF32(F32ToBF16(static_cast<float>(value)))} : value;
    };
    const Index rows = args.x.dims[0], inner = args.x.dims[1], columns = args.weight.dims[0];
    for (Index t = 0; t < rows; ++t) {
      for (Index n = 0; n < columns; ++n) {
        double sum = args.accumulate ? At(args.out, t * columns + n) : 0.0;
        if (args.bias.rank != 0) sum = At(args.bias, n);
        for (Index k = 0; k < inner; ++k) sum += x(t * inner + k) * At(args.weight, n * inner + k);
        Put(args.out, t * columns + n, sum);
      }
    }
  }

  Status DoRope(const RopeArgs& args) override {
    UNFOLD_TRY(CheckIndices("Rope", "positions", args.positions, args.rope.cos.dims[0]));
    const Index heads = args.x.dims[1], head_dim = args.x.dims[2];
    for (Index row = 0; row < args.x.dims[0] * heads; ++row) {
      const Index position = args.positions.as<std::int32_t>()[row / heads];
      const std::vector<double> turned = Rotated(args.x, row, head_dim, args.rope, position);
      for (Index i = 0; i < head_dim; ++i) Put(args.out, row * head_dim + i, turned[i]);
    }
    return Status::Ok();
  }

  Status DoSwiGlu(const SwiGluArgs& args) override {
    for (Index i = 0; i < args.gate.size(); ++i) {
      const double gate = At(args.gate, i);
      Put(args.out, i, gate / (1 + std::exp(-gate)) * At(args.up, i));
    }
    return Status::Ok();
  }

  Status DoGistPrefill(const GistPrefillArgs& args) override {
    const Index heads = args.q.dims[1], kv_heads = args.k.dims[1], head_dim = args.q.dims[2];
    for (std::size_t b = 0; b + 1 < args.sequence_begin.size(); ++b) {
      const Index begin = args.sequence_begin[b], end = args.sequence_begin[b + 1];
      for (Index i = begin; i < end; ++i) {
        for (Index h = 0; h < heads; ++h) {
          PrefillHead(args, begin, i, (i * heads + h) * head_dim, h / (heads / kv_heads), kv_heads, head_dim);
        }
      }
    }
    return Status::Ok();
  }

  static void PrefillHead(const GistPrefillArgs& args, Index begin, Index i, Index q_at, Index kv_head, Index kv_heads,
                          Index head_dim) {
    std::vector<double> query(static_cast<std::size_t>(head_dim));
    for (Index e = 0; e < head_dim; ++e) query[e] = At(args.q, q_at + e);
    Attention attention;
    for (Index j = begin; j <= i; ++j) {
      if (!MaySee(args.rules, i - begin, j - begin, args.tokens[i], args.tokens[j])) continue;
      const Index row = j * kv_heads + kv_head;
      attention.Add(Dot(query, args.k, row) / std::sqrt(static_cast<double>(head_dim)), args.v, row);
    }
    attention.Finish(head_dim, args.out, q_at);
  }

  Status UnfoldOne(const UnfoldArgs& args) override {
    UNFOLD_TRY(CheckUnfoldPositions(args));
    const Index kv_heads = args.k.dims[1], head_dim = args.k.dims[2], out_rows = args.out_k.dims[1];
    for (Index row = 0; row < args.k.dims[0] * kv_heads; ++row) {
      const Index t = row / kv_heads, head = row % kv_heads;
      const Index out_at = (head * out_rows + OutRow(args, t)) * head_dim;
      const auto scaled = [&](const Tensor& x, const Tensor& scale, Index i) {
        return At(x, row * head_dim + i) * (x.dtype == DType::kInt8 ? At(scale, head * head_dim + i) : 1);
      };
      std::vector<double> key(static_cast<std::size_t>(head_dim));
      for (Index i = 0; i < head_dim; ++i) key[i] = scaled(args.k, args.k_scale, i);
      key = Turned(key, args.rope, args.positions.as<std::int32_t>()[t]);
      for (Index i = 0; i < head_dim; ++i) {
        Put(args.out_k, out_at + i, key[i]);
        Put(args.out_v, out_at + i, scaled(args.v, args.v_scale, i));
      }
    }
    return Status::Ok();
  }

  Status ScoreGists(std::span<const GistScoreArgs> requests) override {
    return InTurn(requests, *this, &RefBackend::GistScoreOne);
  }
  Status DoSelectChunks(std::span<const SelectChunksArgs> requests) override {
    return InTurn(requests, *this, &RefBackend::SelectChunksOne);
  }
  Status GistScoreOne(const GistScoreArgs& args) {
    UNFOLD_TRY(CheckQueryPositions("GistScore", args.positions, args.rope, args.context));
    UNFOLD_TRY(CheckContext("GistScore", *args.context, false));
    UNFOLD_TRY(CheckParents("GistScore", args.context, args.level, args.parents));
    const ContextView& context = *args.context;
    const GistLevel& level = context.gists[args.level];
    const Index heads = args.q.dims[1], head_dim = args.q.dims[2], kv_heads = level.k.dims[0], gists = level.k.dims[1];
    std::vector<std::int32_t> candidates;
    for (Index row = 0; row < args.q.dims[0] * heads; ++row) {
      const Index kv_head = row % heads / (heads / kv_heads);
      CollectCandidates(context, args.level, args.parents, row / heads * kv_heads + kv_head, &candidates);
      for (std::size_t i = 0; i < candidates.size(); ++i) {
        const std::span<const std::int32_t> segment = Ints(level.segment);
        const auto document = std::upper_bound(segment.begin() + 1, segment.end(), candidates[i]);
        const Index offset = Ints(context.segment_offset)[document - segment.begin() - 1];
        const Index position = args.positions.as<std::int32_t>()[row / heads] - offset;
        const std::vector<double> query = Rotated(args.q, row, head_dim, args.rope, position);
        const double score = Dot(query, level.k, kv_head * gists + candidates[i]);
        args.scores.as<float>()[row * gists + static_cast<Index>(i)] = static_cast<float>(score);
      }
    }
    return Status::Ok();
  }

  // The chunks that one head keeps, best first.
  static std::vector<Index> Best(const float* scores, Index chunks, const SelectChunksArgs& args) {
    std::vector<Index> order(static_cast<std::size_t>(chunks));
    std::iota(order.begin(), order.end(), 0);
    const auto rank = [scores](Index c) {
      return std::isnan(scores[c]) ? -std::numeric_limits<float>::infinity() : scores[c];
    };
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return rank(a) > rank(b); });
    Index kept = std::min(args.top_k, chunks);
    if (args.top_p > 0) {
      std::vector<double> mass;
      for (Index c : order) mass.push_back(std::exp(args.scale * (double{rank(c)} - rank(order[0]))));
      const double wanted = args.top_p * std::accumulate(mass.begin(), mass.end(), 0.0);
      double reached = 0;
      for (kept = 0; kept < chunks && (kept == 0 || reached < wanted); ++kept) reached += mass[kept];
    }
    order.resize(static_cast<std::size_t>(kept));
    return order;
  }

  Status SelectChunksOne(const SelectChunksArgs& args) {
    UNFOLD_TRY(CheckParents("SelectChunks", args.context, args.level, args.parents));
    const Index heads = args.scores.dims[1], gists = args.scores.dims[2], group = heads / args.kv_heads;
    std::vector<std::int32_t> candidates(static_cast<std::size_t>(gists));
    std::iota(candidates.begin(), candidates.end(), 0);
    for (Index list = 0; list < args.scores.dims[0] * args.kv_heads; ++list) {
      if (args.parents.gists.rank != 0) CollectCandidates(*args.context, args.level, args.parents, list, &candidates);
      const auto num_candidates = static_cast<Index>(candidates.size());
      std::vector<bool> chosen(candidates.size());
      for (Index row = list * group; row < (list + 1) * group && num_candidates > 0; ++row) {
        for (Index i : Best(args.scores.as<float>() + row * gists, num_candidates, args)) chosen[i] = true;
      }
      std::int32_t& count = args.chosen.counts.as<std::int32_t>()[list];
      count = 0;
      for (Index i = 0; i < num_candidates; ++i) {
        if (chosen[i]) args.chosen.gists.as<std::int32_t>()[list * gists + count++] = candidates[i];
      }
    }
    return Status::Ok();
  }

  Status SparseAttentionOne(const SparseAttentionArgs& args) override {
    UNFOLD_TRY(CheckAttention(args));
    const Index heads = args.q.dims[1], head_dim = args.q.dims[2];
    const bool with_mass = args.chunk_mass.rank != 0;
    std::vector<double> mass(with_mass ? static_cast<std::size_t>(args.chunk_mass.size()) : 0);
    for (Index row = 0; row < args.q.dims[0] * heads; ++row) {
      Attention attention;
      AddOwn(args, row, args.prefix_k, args.prefix_v, args.prefix_tokens, &attention);
      if (args.context != nullptr) AddDocuments(args, row, &attention);
      const Index position = Ints(args.positions)[row / heads];
      AddOwn(args, row, args.tail_k, args.tail_v, position - args.tail_position + 1, &attention);
      const std::vector<double> weights = attention.Finish(head_dim, args.out, row * head_dim);
      if (!with_mass || row / heads + 1 < args.q.dims[0]) continue;
      const Index first = row % heads * args.tail_k.dims[0] / heads * args.chunk_mass.dims[1];
      for (std::size_t j = 0; j < weights.size(); ++j) {
        if (attention.chunks[j] >= 0) mass[first + attention.chunks[j]] += weights[j];
      }
    }
    for (std::size_t c = 0; c < mass.size(); ++c) {
      args.chunk_mass.as<float>()[c] = static_cast<float>(At(args.chunk_mass, static_cast<Index>(c)) + mass[c]);
    }
    return Status::Ok();
  }

  // Keys at global positions: the first `count` rows.
  static void AddOwn(const SparseAttentionArgs& args, Index row, const Tensor& k, const Tensor& v, Index count,
                     Attention* attention) {
    const Index heads = args.q.dims[1], head_dim = args.q.dims[2], kv_head = row % heads * args.tail_k.dims[0] / heads;
    const Index position = args.positions.as<std::int32_t>()[row / heads];
    const std::vector<double> query = Rotated(args.q, row, head_dim, args.rope, position);
    for (Index key = kv_head * k.dims[1]; key < kv_head * k.dims[1] + count; ++key) {
      attention->Add(args.scale * Dot(query, k, key), v, key);
    }
  }

  // Sinks, and gists: all, or the chosen ones with the raw tokens of chosen chunks. To collapse needs no path of its
  // own here: equal values weighed apart or together are the same sum.
  static void AddDocuments(const SparseAttentionArgs& args, Index row, Attention* attention) {
    const ContextView& context = *args.context;
    const Index heads = args.q.dims[1], head_dim = args.q.dims[2], kv_heads = args.tail_k.dims[0], t = row / heads;
    const Index kv_head = row % heads * kv_heads / heads, list = t * kv_heads + kv_head;
    const Index sinks = context.sink_k.dims[1];
    const Index seen = args.row_documents.rank == 0 ? context.num_documents() : Ints(args.row_documents)[t];
    for (Index j = 0; j < seen; ++j) {
      const Index position = args.positions.as<std::int32_t>()[t] - Ints(context.segment_offset)[j];
      const std::vector<double> query = Rotated(args.q, row, head_dim, args.rope, position);
      const auto add = [&](const Tensor& k, const Tensor& v, Index key, Index chunk) {
        attention->Add(args.scale * Dot(query, k, key), v, key, chunk);
      };
      const std::span<const std::int32_t> sink = Ints(context.segment_sink);
      for (Index s = sink[j]; s < sink[j + 1]; ++s) {
        add(context.sink_k, context.sink_v, kv_head * sinks + s, -1);
      }
      for (int n = 0; n < context.num_levels; ++n) {
        const GistLevel& level = context.gists[n];
        const Index gists = level.k.dims[1];
        for (Index c = Ints(level.segment)[j]; c < Ints(level.segment)[j + 1]; ++c) {
          const bool chooses = args.read == GistRead::kChosen;
          const ChosenChunk* chunk = chooses && n == 0 ? ChunkOf(args, list, c) : nullptr;
          if (chooses && (n == 0 ? chunk == nullptr : !IsChosen(args.chosen[n], list, c))) continue;
          add(level.k, level.v, kv_head * gists + c, n == 0 ? c : -1);
          for (Index raw = 0; chunk != nullptr && chunk->page >= 0 && raw < chunk->tokens; ++raw) {
            add(args.page_k, args.page_v, chunk->page * args.page_k.dims[1] + raw, c);
          }
        }
      }
    }
  }

  // The entry of chunk c, null where it is not chosen.
  static const ChosenChunk* ChunkOf(const SparseAttentionArgs& args, Index list, Index c) {
    const auto* begin = args.chunks.as<ChosenChunk>() + list * args.chunks.dims[2];
    const auto* end = begin + Ints(args.chosen[0].counts)[list];
    const auto* found = std::find_if(begin, end, [c](const ChosenChunk& chunk) { return chunk.chunk == c; });
    return found == end ? nullptr : found;
  }

  static bool IsChosen(const ChosenGists& chosen, Index list, Index gist) {
    const auto* begin = chosen.gists.as<std::int32_t>() + list * chosen.gists.dims[2];
    return std::binary_search(begin, begin + chosen.counts.as<std::int32_t>()[list], static_cast<std::int32_t>(gist));
  }

  Status DoRouteScores(std::span<const RouteScoreArgs> heads) override {
    for (const RouteScoreArgs& args : heads) ScoreHead(args);
    return Status::Ok();
  }

  Status DoXorWords(const XorWordsArgs& args) override {
    std::int32_t result = 0;
    for (const std::int32_t word : Ints(args.words)) result ^= word;
    *args.out.as<std::int32_t>() = result;
    return Status::Ok();
  }

  static void ScoreHead(const RouteScoreArgs& args) {
    const Index head_dim = args.q.dims[1], units = args.best.dims[1];
    for (Index t = 0; t < args.q.dims[0]; ++t) {
      const float* q = args.q.as<float>() + t * head_dim;
      const std::vector<double> query(q, q + head_dim);
      args.sum[t] = args.sum_squares[t] = 0;
      for (Index p = 0; p < units; ++p) {
        double best = -std::numeric_limits<double>::infinity();
        for (Index c = args.unit_begin[p]; c < args.unit_begin[p + 1]; ++c) {
          const double score = Dot(query, args.keys, c);
          best = std::max(best, score);
          args.sum[t] += score;
          args.sum_squares[t] += score * score;
        }
        args.best.as<float>()[t * units + p] = static_cast<float>(best);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Backend> MakeRefBackend() { return std::make_unique<RefBackend>(); }

}  // namespace unfold
