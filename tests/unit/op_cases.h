// SPDX-License-Identifier: Apache-2.0
// Random inputs with structure: gist sequences, and contexts of documents with chosen chunks.
#ifndef UNFOLD_TESTS_UNIT_OP_CASES_H_
#define UNFOLD_TESTS_UNIT_OP_CASES_H_

#include <algorithm>
#include <vector>

#include "op_testing.h"

namespace unfold {

// Documents packed one after another, by the rules of method.md sections 1 and 2, with chunks of L - 1, L or L + 1.
struct GistBatch {
  std::vector<GistToken> tokens;
  std::vector<std::int64_t> sequence_begin = {0};
  MaskRules rules;

  std::int64_t rows() const { return static_cast<std::int64_t>(tokens.size()); }
};

struct GistShape {
  int levels = 1;
  std::int64_t chunk_size = 4, section_size = 2, sink_size = 3;
  std::int32_t previous_chunks = 1;
};

// Appends tokens to one sequence and keeps count of gists.
class GistWriter {
 public:
  GistWriter(GistBatch& batch, const GistShape& shape) : batch_(batch), shape_(shape) {}

  void Raw(bool sink) { Put(kRawLevel, sink); }
  // The gist that closes a chunk, and those of higher levels that it fills up.
  void CloseChunk() {
    Gist(0);
    ++chunk_;
    for (int level = 1; level < shape_.levels && open_[level - 1] == shape_.section_size; ++level) Gist(level);
  }
  void CloseDocument() {
    for (int level = 1; level < shape_.levels; ++level) {
      if (open_[level - 1] > 0) Gist(level);
    }
    batch_.sequence_begin.push_back(batch_.rows());
  }

 private:
  void Put(int level, bool sink) {
    GistToken token;
    token.position = raw_;
    token.chunk = chunk_;
    for (int n = 0; n < kMaxGistLevels - 1; ++n) token.section[n] = closed_[n + 1];
    token.level = static_cast<std::int8_t>(level);
    token.sink = sink ? 1 : 0;
    if (level == kRawLevel)
      ++raw_;
    else
      token.position = raw_ - 1;
    batch_.tokens.push_back(token);
  }
  void Gist(int level) {
    Put(level, false);
    ++closed_[level];
    ++open_[level];
    if (level > 0) open_[level - 1] = 0;
  }

  GistBatch& batch_;
  GistShape shape_;
  std::int32_t raw_ = 0, chunk_ = 0;
  std::int32_t closed_[kMaxGistLevels] = {};  // gists of each level so far
  std::int64_t open_[kMaxGistLevels] = {};    // since the last gist of the level above
};

inline void AppendDocument(GistBatch& batch, Random& random, const GistShape& shape, std::int64_t raw_tokens) {
  batch.rules = {shape.previous_chunks, shape.levels - 1};
  GistWriter writer(batch, shape);
  std::int64_t left = raw_tokens;
  for (std::int64_t s = 0; s < std::min(shape.sink_size, raw_tokens) && shape.levels > 0; ++s, --left) writer.Raw(true);
  do {
    const std::int64_t want = std::max<std::int64_t>(1, shape.chunk_size - 1 + random.Below(3));
    const std::int64_t length = shape.levels == 0 ? left : std::min(left, want);
    for (std::int64_t i = 0; i < length; ++i) writer.Raw(false);
    left -= length;
    if (shape.levels > 0) writer.CloseChunk();
  } while (left > 0);
  writer.CloseDocument();
}

struct HeadShape {
  std::int64_t kv_heads = 2, group = 2, head_dim = 64;
  std::int64_t heads() const { return kv_heads * group; }
};

// GQA ratios 1, 2, 3, 4, 7, 8, 16 and head dims 64, 96, 128, 256, each at least once; and one of 80, which no form of
// its own has.
inline std::vector<HeadShape> HeadShapes() {
  return {{2, 1, 64},  {2, 2, 64},  {1, 4, 96},  {2, 7, 128},  {1, 8, 64}, {3, 2, 128},
          {1, 16, 64}, {1, 3, 256}, {1, 9, 128}, {1, 12, 256}, {1, 2, 80}};
}

// One level of gists in the layout of GistLevel.
struct LevelCase {
  std::vector<std::int32_t> segment, child;
  Guarded k, v;

  std::int64_t gists() const { return segment.back(); }
  GistLevel view() const { return {TensorOf(segment), child.empty() ? Tensor() : TensorOf(child), k, v}; }
};

// Documents in the layout of ContextView. Pages stand in random order, page[c] * Hk + head for a chunk and head.
struct ContextCase {
  static constexpr std::int64_t kPageTokens = 5;
  static constexpr std::int32_t kSectionSize = 3;
  std::vector<std::int32_t> offset, sink = {0}, page, tokens;
  std::vector<LevelCase> levels;
  Guarded sink_k, sink_v, page_k, page_v;
  std::int64_t next_position = 0;  // the first after all documents

  // `chunks[j]` and `sinks[j]` of each document j.
  ContextCase(Random& random, const HeadShape& shape, const std::vector<std::int32_t>& chunks,
              const std::vector<std::int32_t>& sinks, std::int64_t first_position, float magnitude = 1,
              int num_levels = 1, DType kv = DType::kF32)
      : sink_k(random.Make(kv, {shape.kv_heads, Total(sinks), shape.head_dim}, magnitude)),
        sink_v(random.Make(kv, {shape.kv_heads, Total(sinks), shape.head_dim})),
        page_k(random.Make(kv, {(Total(chunks) + 2) * shape.kv_heads, kPageTokens, shape.head_dim}, magnitude)),
        page_v(random.Make(kv, {(Total(chunks) + 2) * shape.kv_heads, kPageTokens, shape.head_dim})) {
    next_position = first_position;
    for (std::size_t j = 0; j < chunks.size(); ++j) {
      offset.push_back(static_cast<std::int32_t>(next_position));
      next_position += chunks[j] * kPageTokens + sinks[j];
      sink.push_back(sink.back() + sinks[j]);
    }
    std::vector<std::int32_t> gists = chunks;
    for (int level = 0; level < num_levels; ++level) {
      AddLevel(random, shape, gists, magnitude, kv);
      for (std::int32_t& count : gists) count = (count + kSectionSize - 1) / kSectionSize;
    }
    for (std::int32_t c = 0; c < this->chunks(); ++c) {
      page.push_back(c + 2);
      tokens.push_back(static_cast<std::int32_t>(random.Below(kPageTokens + 1)));
    }
    for (std::size_t c = 1; c < page.size(); ++c)
      std::swap(page[c], page[random.Below(static_cast<std::int64_t>(c) + 1)]);
  }

  std::int64_t chunks() const { return levels[0].gists(); }
  ContextView view() const {
    ContextView view;
    view.segment_offset = TensorOf(offset);
    view.segment_sink = TensorOf(sink);
    view.sink_k = sink_k;
    view.sink_v = sink_v;
    view.num_levels = static_cast<int>(levels.size());
    for (std::size_t n = 0; n < levels.size(); ++n) view.gists[n] = levels[n].view();
    return view;
  }

 private:
  // The next level, `gists[j]` of document j. Above the lowest each stands for up to kSectionSize of the level below.
  void AddLevel(Random& random, const HeadShape& shape, const std::vector<std::int32_t>& gists, float magnitude,
                DType kv) {
    LevelCase level{{0},
                    {},
                    random.Make(kv, {shape.kv_heads, Total(gists), shape.head_dim}, magnitude),
                    random.Make(kv, {shape.kv_heads, Total(gists), shape.head_dim})};
    if (!levels.empty()) level.child.push_back(0);
    for (std::size_t j = 0; j < gists.size(); ++j) {
      level.segment.push_back(level.segment.back() + gists[j]);
      for (std::int32_t s = 1; s <= gists[j] && !levels.empty(); ++s) {
        const LevelCase& below = levels.back();
        level.child.push_back(std::min(below.segment[j] + s * kSectionSize, below.segment[j + 1]));
      }
    }
    levels.push_back(std::move(level));
  }

  static std::int64_t Total(const std::vector<std::int32_t>& counts) {
    std::int64_t total = 0;
    for (std::int32_t count : counts) total += count;
    return total;
  }
};

// A call of SparseAttention with everything it reads.
struct SparseCase {
  HeadShape shape;
  std::int64_t rows, prefix_tokens, tail_begin;
  ContextCase context;
  RopeFixture rope;
  Guarded q, positions, prefix_k, prefix_v, tail_k, tail_v;
  struct Lists {
    Guarded gists, counts;
    operator ChosenGists() const { return {gists, counts}; }  // NOLINT(google-explicit-constructor)
  };
  std::vector<Lists> chosen;        // by level; on every level at random
  std::vector<ChosenChunk> chunks;  // an entry for each of chosen[0]
  ContextView view;

  SparseCase(Random& random, const HeadShape& head_shape, std::int64_t num_rows, std::int64_t prefix, std::int64_t tail,
             const std::vector<std::int32_t>& chunks, const std::vector<std::int32_t>& sinks, float magnitude = 1,
             int num_levels = 1, DType kv = DType::kF32)
      : shape(head_shape),
        rows(num_rows),
        prefix_tokens(prefix),
        tail_begin(tail),
        context(random, shape, chunks, sinks, prefix, magnitude, num_levels, kv),
        rope(std::max<std::int64_t>(700, context.next_position + tail + rows), shape.head_dim),
        q(random.Make(DType::kF32, {rows, shape.heads(), shape.head_dim}, magnitude)),
        positions(DType::kInt32, {rows}),
        prefix_k(random.Make(kv, {shape.kv_heads, prefix + 1, shape.head_dim}, magnitude)),
        prefix_v(random.Make(kv, {shape.kv_heads, prefix + 1, shape.head_dim})),
        tail_k(random.Make(kv, {shape.kv_heads, tail + rows + 3, shape.head_dim}, magnitude)),
        tail_v(random.Make(kv, {shape.kv_heads, tail + rows + 3, shape.head_dim})) {
    for (std::int64_t t = 0; t < rows; ++t) {
      positions.i32()[t] = static_cast<std::int32_t>(context.next_position + tail + t);
    }
    for (const LevelCase& level : context.levels) Choose(random, level.gists());
    FindPages();
    view = context.view();
  }

  // After a change of chosen[0] or of context.tokens.
  void FindPages() {
    const std::vector<std::int32_t>& segment = context.levels[0].segment;
    chunks.assign(static_cast<std::size_t>(rows * shape.kv_heads * context.chunks()), ChosenChunk());
    for (std::size_t at = 0; at < chunks.size(); ++at) {
      const std::int64_t list = static_cast<std::int64_t>(at) / context.chunks();
      if (static_cast<std::int64_t>(at) % context.chunks() >= chosen[0].counts.i32()[list]) continue;
      const std::int32_t chunk = chosen[0].gists.i32()[at];
      const auto page = static_cast<std::int32_t>(context.page[chunk] * shape.kv_heads + list % shape.kv_heads);
      const auto document = std::upper_bound(segment.begin() + 1, segment.end(), chunk) - segment.begin() - 1;
      chunks[at] = {chunk, page, context.tokens[chunk], static_cast<std::int32_t>(document)};
    }
  }
  Tensor Chunks() const {
    return Tensor(const_cast<ChosenChunk*>(chunks.data()), DType::kInt8,
                  {rows, shape.kv_heads, context.chunks(), sizeof(ChosenChunk)});
  }

  void Choose(Random& random, std::int64_t gists) {
    Lists lists{Guarded(DType::kInt32, {rows, shape.kv_heads, gists}), Guarded(DType::kInt32, {rows, shape.kv_heads})};
    for (std::int64_t list = 0; list < rows * shape.kv_heads; ++list) {
      std::int32_t& count = lists.counts.i32()[list] = 0;
      const std::int64_t odds = 1 + random.Below(4);
      for (std::int32_t c = 0; c < gists; ++c) {
        if (random.Below(odds) == 0) lists.gists.i32()[list * gists + count++] = c;
      }
    }
    chosen.push_back(std::move(lists));
  }

  float scale() const { return 1.0F / std::sqrt(static_cast<float>(shape.head_dim)); }
  SparseAttentionArgs Args(const Tensor& out, const Tensor& mass = {}) const {
    SparseAttentionArgs args;
    args.q = q;
    args.positions = positions;
    args.rope = rope.table();
    args.scale = scale();
    args.prefix_k = prefix_k;
    args.prefix_v = prefix_v;
    args.prefix_tokens = prefix_tokens;
    args.context = &view;
    for (std::size_t n = 0; n < chosen.size(); ++n) args.chosen[n] = chosen[n];
    args.chunks = Chunks();
    args.page_k = context.page_k;
    args.page_v = context.page_v;
    args.tail_k = tail_k;
    args.tail_v = tail_v;
    args.tail_position = context.next_position;
    args.chunk_mass = mass.rank == 0 ? mass : mass.Reshape({shape.kv_heads, context.chunks()});
    args.out = out;
    return args;
  }
  Guarded Out() const { return Guarded(DType::kF32, {rows, shape.heads(), shape.head_dim}); }

  // The most keys that a row can see, and the bound of backend.h with it.
  double Keys() const {
    std::int64_t keys = prefix_tokens + tail_begin + rows + (*context.sink_k).dims[1];
    for (const LevelCase& level : context.levels) keys += level.gists();
    return static_cast<double>(keys + context.chunks() * ContextCase::kPageTokens);
  }
  double LogitBound() const {
    const std::int64_t d = shape.head_dim;
    double largest = std::max({LargestNorm(prefix_k, d), LargestNorm(tail_k, d), LargestNorm(context.sink_k, d),
                               LargestNorm(context.page_k, d)});
    for (const LevelCase& level : context.levels) largest = std::max(largest, LargestNorm(level.k, d));
    return scale() * LargestNorm(q, d) * largest;
  }
  // Relative to the weights; times max |v| it bounds an output.
  double WeightBound() const {
    const double rounding = (*tail_k).dtype == DType::kBF16 ? 0x1p-7 : 0;
    return ((2 * Keys() + static_cast<double>(shape.head_dim) + 8) * kEps + rounding) * (1 + LogitBound());
  }
  double Bound() const {
    double largest = std::max({LargestMagnitude(prefix_v), LargestMagnitude(tail_v), LargestMagnitude(context.sink_v),
                               LargestMagnitude(context.page_v)});
    for (const LevelCase& level : context.levels) largest = std::max(largest, LargestMagnitude(level.v));
    return WeightBound() * largest;
  }
};

}  // namespace unfold

#endif  // UNFOLD_TESTS_UNIT_OP_CASES_H_
