// SPDX-License-Identifier: Apache-2.0
// The op suite, choosing part: GistScore, SelectChunks and RouteScore against `ref`, and what they promise beside.
#include <limits>
#include <set>

#include "op_cases.h"
#include "op_testing.h"

namespace unfold {
namespace {

Guarded BestLike(const Guarded& scores) {
  const auto [rows, heads, gists, unused] = (*scores).dims;
  return Guarded(DType::kF32, {rows, heads, NumBest(gists)});
}

// The best of the first `count` scores of row `row` of all heads, every kScoresOfBest.
std::vector<float> BestOf(const Guarded& scores, std::int64_t row, std::int64_t count) {
  std::vector<float> best;
  const float* first = scores.f32() + row * (*scores).dims[2];
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % kScoresOfBest == 0) best.push_back(-std::numeric_limits<float>::infinity());
    if (first[i] > best.back()) best.back() = first[i];
  }
  return best;
}

// That `best` is of `scores`, and behind their candidates as it was.
void ExpectBest(const Guarded& best, const Guarded& scores, std::int64_t row, std::int64_t count) {
  const std::vector<float> want = BestOf(scores, row, count);
  const std::int64_t bests = (*best).dims[2];
  const float* first = best.f32() + row * bests;
  ASSERT_EQ(std::vector<float>(first, first + want.size()), want);
  for (std::int64_t i = static_cast<std::int64_t>(want.size()); i < bests; ++i) ASSERT_TRUE(std::isnan(first[i]));
}

TEST_P(OpSuite, GistScore) {
  Random random(30);
  const std::vector<std::vector<std::int32_t>> contexts = {{}, {1}, {0, 7}, {9, 0, 5}, {20, 13, 1}};
  for (const HeadShape& heads : HeadShapes()) {
    for (const auto& chunks : contexts) {
      for (std::int64_t rows : {0, 1, 2, 7, 37, 64}) {
        const std::vector<std::int32_t> sinks(chunks.size(), 2);
        const std::vector<DType> types = KvTypes(*backend_);
        const DType kv = types[random.Below(static_cast<std::int64_t>(types.size()))];
        const SparseCase c(random, heads, rows, 3, 1, chunks, sinks, 4, 1, kv);
        Guarded out(DType::kF32, {rows, heads.heads(), c.context.chunks()});
        Guarded want(DType::kF32, {rows, heads.heads(), c.context.chunks()});
        Guarded best = BestLike(out);
        ASSERT_TRUE(Succeeds(backend_->GistScore({.q = c.q,
                                                  .positions = c.positions,
                                                  .rope = c.rope.table(),
                                                  .context = &c.view,
                                                  .scores = out,
                                                  .best = best})));
        for (std::int64_t row = 0; row < rows * heads.heads(); ++row) {
          ASSERT_NO_FATAL_FAILURE(ExpectBest(best, out, row, c.context.chunks()));
        }
        ASSERT_TRUE(best.Intact());
        ASSERT_TRUE(Succeeds(ref_->GistScore(
            {.q = c.q, .positions = c.positions, .rope = c.rope.table(), .context = &c.view, .scores = want})));
        const std::int64_t d = heads.head_dim;
        ASSERT_TRUE(Near(out, want, [&](std::int64_t i) {
          const std::int64_t chunk = i % c.context.chunks(), row = i / c.context.chunks();
          const std::int64_t kv_head = row % heads.heads() / heads.group;
          const double rounding = (static_cast<double>(d) + 6) * kEps + (kv == DType::kBF16 ? 0x1p-8 : 0);
          return rounding * Norm(c.q, row, d) * Norm(c.context.levels[0].k, kv_head * c.context.chunks() + chunk, d);
        }));
      }
    }
  }
}

// Only position - offset counts, and a row's scores do not depend on its batch: to the bit.
TEST_P(OpSuite, GistScoreMovesWithItsDocument) {
  Random random(31);
  for (const DType kv : KvTypes(*backend_)) {
    const SparseCase c(random, {2, 2, 64}, 7, 3, 1, {9, 5}, {2, 0}, 1, 1, kv);
    Guarded before(DType::kF32, {7, 4, 14}), after(DType::kF32, {7, 4, 14});
    ASSERT_TRUE(Succeeds(backend_->GistScore(
        {.q = c.q, .positions = c.positions, .rope = c.rope.table(), .context = &c.view, .scores = before})));
    std::vector<std::int32_t> offset = c.context.offset;
    for (std::int32_t& at : offset) at += 100;
    Guarded positions(DType::kInt32, {7});
    for (std::int64_t t = 0; t < 7; ++t) positions.i32()[t] = c.positions.i32()[t] + 100;
    ContextView moved = c.view;
    moved.segment_offset = TensorOf(offset);
    ASSERT_TRUE(Succeeds(backend_->GistScore(
        {.q = c.q, .positions = positions, .rope = c.rope.table(), .context = &moved, .scores = after})));
    EXPECT_TRUE(SameBits(before, after));
    for (std::int64_t t = 0; t < 7; ++t) {
      Guarded one(DType::kF32, {1, 4, 14});
      ASSERT_TRUE(Succeeds(backend_->GistScore({.q = (*c.q).Rows(t, t + 1),
                                                .positions = (*c.positions).Rows(t, t + 1),
                                                .rope = c.rope.table(),
                                                .context = &c.view,
                                                .scores = one})));
      EXPECT_TRUE(SameBits(one, (*before).Rows(t, t + 1)));
    }
  }
}

struct Selection {
  Guarded chosen, counts;
  Selection(std::int64_t rows, std::int64_t kv_heads, std::int64_t chunks)
      : chosen(DType::kInt32, {rows, kv_heads, chunks}), counts(DType::kInt32, {rows, kv_heads}) {}

  // The list of (row, kv_head), checked to ascend.
  std::vector<std::int32_t> List(std::int64_t list) const {
    const std::int64_t chunks = (*chosen).dims[2];
    const std::int32_t* first = chosen.i32() + list * chunks;
    std::vector<std::int32_t> found(first, first + counts.i32()[list]);
    for (std::size_t i = 1; i < found.size(); ++i) EXPECT_LT(found[i - 1], found[i]);
    return found;
  }
};

// Scores from few distinct values, so that ties are everywhere; `wild` adds NaN, infinities and both zeros.
void FillWithTies(Random& random, const Guarded& scores, bool wild) {
  const float inf = std::numeric_limits<float>::infinity();
  const float odd[] = {std::nanf(""), -inf, 0.0F, -0.0F, inf};
  for (std::int64_t i = 0; i < scores.size(); ++i) {
    scores.f32()[i] = static_cast<float>(random.Below(7)) - 3;
    if (wild && random.Below(4) == 0) scores.f32()[i] = odd[random.Below(5)];
  }
}

// The rule in one sentence: a chunk is kept by a head when fewer than k chunks are better, a tie going to the lower.
std::vector<std::int32_t> BestByCounting(const Guarded& scores, std::int64_t list, std::int64_t group, std::int64_t k) {
  const std::int64_t chunks = (*scores).dims[2];
  std::vector<std::int32_t> kept;
  const auto value = [&](std::int64_t row, std::int64_t c) {
    const float score = scores[row * chunks + c];
    return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
  };
  for (std::int64_t c = 0; c < chunks; ++c) {
    bool any = false;
    for (std::int64_t row = list * group; row < (list + 1) * group; ++row) {
      std::int64_t better = 0;
      for (std::int64_t other = 0; other < chunks; ++other) {
        better += value(row, other) > value(row, c) || (value(row, other) == value(row, c) && other < c) ? 1 : 0;
      }
      any = any || better < k;
    }
    if (any) kept.push_back(static_cast<std::int32_t>(c));
  }
  return kept;
}

TEST_P(OpSuite, SelectChunksByCount) {
  Random random(32);
  for (std::int64_t group : {1, 2, 4, 7, 8}) {
    for (std::int64_t chunks : {0, 1, 2, 17, 60}) {
      for (std::int64_t rows : {0, 1, 7}) {
        for (std::int64_t k : {1, 2, 5, 16, 17, 100}) {
          Guarded scores(DType::kF32, {rows, 2 * group, chunks});
          FillWithTies(random, scores, k % 2 == 0);
          Selection mine(rows, 2, chunks), want(rows, 2, chunks);
          ASSERT_TRUE(Succeeds(backend_->SelectChunks({.scores = scores,
                                                       .kv_heads = 2,
                                                       .top_k = k,
                                                       .top_p = 0,
                                                       .scale = 1,
                                                       .chosen = {mine.chosen, mine.counts}})));
          ASSERT_TRUE(Succeeds(ref_->SelectChunks({.scores = scores,
                                                   .kv_heads = 2,
                                                   .top_k = k,
                                                   .top_p = 0,
                                                   .scale = 1,
                                                   .chosen = {want.chosen, want.counts}})));
          ASSERT_TRUE(mine.chosen.Intact() && mine.counts.Intact());
          for (std::int64_t list = 0; list < rows * 2; ++list) {
            ASSERT_EQ(mine.List(list), BestByCounting(scores, list, group, k));
            ASSERT_EQ(mine.List(list), want.List(list));
          }
        }
      }
    }
  }
}

// The kept set reaches the mass, and without its worst member it does not.
void CheckMass(const Guarded& scores, const std::vector<std::int32_t>& kept, std::int64_t row, double top_p,
               double scale) {
  const std::int64_t chunks = (*scores).dims[2];
  double largest = -std::numeric_limits<double>::infinity(), worst = -largest, total = 0, mass = 0;
  for (std::int64_t c = 0; c < chunks; ++c) largest = std::max(largest, double{scores[row * chunks + c]});
  for (std::int64_t c = 0; c < chunks; ++c) total += std::exp(scale * (scores[row * chunks + c] - largest));
  for (std::int32_t c : kept) {
    const double weight = std::exp(scale * (scores[row * chunks + c] - largest)) / total;
    mass += weight;
    worst = std::min(worst, weight);
  }
  const double rounding = static_cast<double>(chunks) * std::numeric_limits<double>::epsilon();
  EXPECT_GE(mass, top_p - rounding);
  EXPECT_LT(mass - worst, top_p + rounding);
}

// Contexts of which every head has many parts to look through: scores that crowd, that are all the same, that are all
// minus infinity or NaN. By all scores, and by the best of tiles too.
TEST_P(OpSuite, SelectChunksOfLongContexts) {
  Random random(37);
  constexpr std::int64_t kChunks = 9001, kHeads = 2, kRows = 2;
  for (const std::int64_t group : {1, 7, 16}) {
    for (int kind = 0; kind < 5; ++kind) {
      Guarded scores(DType::kF32, {kRows, kHeads * group, kChunks});
      for (std::int64_t i = 0; i < scores.size(); ++i) {
        const float sum = random.Uniform(1) + random.Uniform(1) + random.Uniform(1);
        const float kinds[] = {sum, sum * sum * sum * 1e6F, 2.5F, -std::numeric_limits<float>::infinity(),
                               random.Below(3000) == 0 ? 100.0F : std::nanf("")};
        scores.f32()[i] = kinds[kind];
      }
      Guarded best = BestLike(scores);
      for (std::int64_t row = 0; row < kRows * kHeads * group; ++row) {
        std::ranges::copy(BestOf(scores, row, kChunks), best.f32() + row * (*best).dims[2]);
      }
      for (const std::int64_t k : {1, 40, 250, 700, 8000}) {
        Selection mine(kRows, kHeads, kChunks), by_best(kRows, kHeads, kChunks), want(kRows, kHeads, kChunks);
        SelectChunksArgs args{.scores = scores, .kv_heads = kHeads, .top_k = k, .chosen = {mine.chosen, mine.counts}};
        ASSERT_TRUE(Succeeds(backend_->SelectChunks(args)));
        args.chosen = {by_best.chosen, by_best.counts};
        args.best = best;
        ASSERT_TRUE(Succeeds(backend_->SelectChunks(args)));
        args.chosen = {want.chosen, want.counts};
        ASSERT_TRUE(Succeeds(ref_->SelectChunks(args)));
        for (std::int64_t list = 0; list < kRows * kHeads; ++list) {
          ASSERT_EQ(mine.List(list), want.List(list)) << "group " << group << ", kind " << kind << ", k " << k;
          ASSERT_EQ(by_best.List(list), want.List(list)) << "group " << group << ", kind " << kind << ", k " << k;
        }
      }
    }
  }
}

TEST_P(OpSuite, SelectChunksByMass) {
  Random random(33);
  for (std::int64_t chunks : {1, 2, 17, 60}) {
    for (float top_p : {0.01F, 0.3F, 0.9F, 1.0F}) {
      for (bool ties : {false, true}) {
        Guarded scores = random.Make(DType::kF32, {7, 2, chunks}, 20);
        if (ties) FillWithTies(random, scores, false);
        Selection mine(7, 2, chunks), want(7, 2, chunks), group(7, 1, chunks);
        ASSERT_TRUE(Succeeds(backend_->SelectChunks({.scores = scores,
                                                     .kv_heads = 2,
                                                     .top_k = 0,
                                                     .top_p = top_p,
                                                     .scale = 0.125F,
                                                     .chosen = {mine.chosen, mine.counts}})));
        ASSERT_TRUE(Succeeds(ref_->SelectChunks({.scores = scores,
                                                 .kv_heads = 2,
                                                 .top_k = 0,
                                                 .top_p = top_p,
                                                 .scale = 0.125F,
                                                 .chosen = {want.chosen, want.counts}})));
        ASSERT_TRUE(Succeeds(backend_->SelectChunks({.scores = scores,
                                                     .kv_heads = 1,
                                                     .top_k = 0,
                                                     .top_p = top_p,
                                                     .scale = 0.125F,
                                                     .chosen = {group.chosen, group.counts}})));
        for (std::int64_t row = 0; row < 14; ++row) {
          ASSERT_EQ(mine.List(row), want.List(row));
          CheckMass(scores, mine.List(row), row, top_p, 0.125);
        }
        for (std::int64_t t = 0; t < 7; ++t) {  // the group's list is the union of its heads'
          std::set<std::int32_t> both;
          for (std::int64_t head = 0; head < 2; ++head) {
            for (std::int32_t c : mine.List(2 * t + head)) both.insert(c);
          }
          ASSERT_EQ(group.List(t), std::vector<std::int32_t>(both.begin(), both.end()));
        }
      }
    }
  }
}

// Coarse to fine (method.md 4.4): of the chosen sections' children alone the best are kept, by the scores that all
// gists of the level have.
TEST_P(OpSuite, GistsUnderChosenSections) {
  Random random(36);
  std::vector<std::pair<HeadShape, std::vector<std::int32_t>>> cases = {{{1, 2, 64}, {30000, 0, 70, 1}}};
  for (const HeadShape& heads : HeadShapes()) cases.push_back({heads, {40, 0, 23, 1}});
  for (const auto& [heads, chunks] : cases) {
    const bool large = chunks.front() > 1000;  // more sections than a block takes at once
    for (int levels : {2, 3}) {
      const std::int64_t rows = large ? 4 : 5;
      const SparseCase c(random, heads, rows, 3, 1, chunks, {2, 0, 1, 3}, 2, levels);
      for (int level = 0; level + 1 < levels; ++level) {
        const LevelCase& below = c.context.levels[level];
        const LevelCase& above = c.context.levels[level + 1];
        const std::int64_t gists = below.gists();
        const ChosenGists parents = c.chosen[level + 1];
        Guarded all(DType::kF32, {rows, heads.heads(), gists}), some(DType::kF32, {rows, heads.heads(), gists});
        GistScoreArgs score{c.q, c.positions, c.rope.table(), &c.view, level, {}, all};
        ASSERT_TRUE(Succeeds(backend_->GistScore(score)));
        score.parents = parents;
        score.scores = some;
        Guarded best = BestLike(some);
        score.best = best;
        ASSERT_TRUE(Succeeds(backend_->GistScore(score)));
        Selection mine(rows, heads.kv_heads, gists), want(rows, heads.kv_heads, gists);
        SelectChunksArgs select{some, &c.view, level, parents, heads.kv_heads, 4, 0, 1, {mine.chosen, mine.counts}};
        ASSERT_TRUE(Succeeds(backend_->SelectChunks(select)));
        select.chosen = {want.chosen, want.counts};
        ASSERT_TRUE(Succeeds(ref_->SelectChunks(select)));
        Selection by_best(rows, heads.kv_heads, gists);
        select.chosen = {by_best.chosen, by_best.counts};
        select.best = best;
        ASSERT_TRUE(Succeeds(backend_->SelectChunks(select)));
        for (std::int64_t list = 0; list < rows * heads.kv_heads; ++list) {
          std::vector<std::int32_t> candidates;
          for (std::int32_t i = 0; i < c.chosen[level + 1].counts.i32()[list]; ++i) {
            const std::int32_t section = c.chosen[level + 1].gists.i32()[list * above.gists() + i];
            for (std::int32_t g = above.child[section]; g < above.child[section + 1]; ++g) candidates.push_back(g);
          }
          std::set<std::int32_t> expected;
          for (std::int64_t row = list * heads.group; row < (list + 1) * heads.group; ++row) {
            ASSERT_NO_FATAL_FAILURE(ExpectBest(best, some, row, static_cast<std::int64_t>(candidates.size())));
            std::vector<std::int32_t> order = candidates;
            std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
              return all[row * gists + a] > all[row * gists + b];
            });
            order.resize(std::min<std::size_t>(order.size(), 4));
            expected.insert(order.begin(), order.end());
            for (std::size_t i = 0; i < candidates.size(); ++i) {
              const std::int64_t at = row * gists + static_cast<std::int64_t>(i);
              ASSERT_TRUE(SameBits(some.f32() + at, all.f32() + row * gists + candidates[i], 4));
            }
            for (std::int64_t i = static_cast<std::int64_t>(candidates.size()); i < gists; ++i) {
              ASSERT_TRUE(std::isnan(some[row * gists + i])) << "a gist outside was scored";
            }
          }
          ASSERT_EQ(mine.List(list), std::vector<std::int32_t>(expected.begin(), expected.end()));
          ASSERT_EQ(mine.List(list), want.List(list));
          ASSERT_EQ(by_best.List(list), want.List(list));
        }
      }
    }
  }
}

struct RouteCase {
  Guarded q, keys;
  std::vector<std::int64_t> unit_begin;

  // Units of 0 to 40 chunks, and some of none.
  RouteCase(Random& random, DType type, std::int64_t rows, std::int64_t head_dim, int units)
      : q(random.Make(DType::kF32, {rows, head_dim})), keys(DType::kF32, {0}), unit_begin{0} {
    for (int p = 0; p < units; ++p) unit_begin.push_back(unit_begin.back() + (p % 5 == 0 ? 0 : random.Below(41)));
    keys = random.Make(type, {unit_begin.back(), head_dim});
  }
};

struct RouteResult {
  Guarded best;
  std::vector<double> sum, squares;

  RouteResult(Backend& backend, const RouteCase& c, const Tensor& q)
      : best(DType::kF32, {q.dims[0], static_cast<std::int64_t>(c.unit_begin.size()) - 1}),
        sum(static_cast<std::size_t>(q.dims[0]), 7.0),
        squares(sum) {
    EXPECT_TRUE(Succeeds(backend.RouteScore({q, c.keys, c.unit_begin, best, sum, squares})));
  }
};

TEST_P(OpSuite, RouteScore) {
  Random random(34);
  for (DType type : {DType::kF32, DType::kBF16}) {
    for (std::int64_t head_dim : {64, 96, 128}) {
      for (std::int64_t rows : {0, 1, 2, 7, 37, 64}) {
        for (int units : {0, 1, 60}) {
          const RouteCase c(random, type, rows, head_dim, units);
          const RouteResult mine(*backend_, c, c.q), want(*ref_, c, c.q);
          const double largest_key = LargestNorm(c.keys, head_dim), factor = (static_cast<double>(head_dim) + 2) * kEps;
          const auto chunks = static_cast<double>(c.unit_begin.back());
          for (std::int64_t i = 0; i < mine.best.size(); ++i) {
            const double bound = factor * Norm(c.q, i / units, head_dim) * largest_key;
            if (c.unit_begin[i % units] == c.unit_begin[i % units + 1]) {
              ASSERT_EQ(mine.best[i], -std::numeric_limits<float>::infinity());
              ASSERT_EQ(want.best[i], -std::numeric_limits<float>::infinity());
            } else {
              ASSERT_NEAR(mine.best[i], want.best[i], bound);
            }
          }
          ASSERT_TRUE(mine.best.Intact());
          for (std::int64_t t = 0; t < rows; ++t) {
            const double norms = Norm(c.q, t, head_dim) * largest_key, each = factor * norms;
            ASSERT_NEAR(mine.sum[t], want.sum[t], chunks * each);
            ASSERT_NEAR(mine.squares[t], want.squares[t], chunks * each * (2 * norms + each));
          }
        }
      }
    }
  }
}

TEST_P(OpSuite, RouteScoresTogetherEqualThoseAlone) {
  Random random(37);
  for (DType type : {DType::kF32, DType::kBF16}) {
    RouteCase c(random, type, 40, 128, 300);  // some 5,000 chunks: several ranges
    const Guarded other_q = random.Make(DType::kF32, {40, 128});
    Guarded other_keys = random.Make(type, {(*c.keys).dims[0], 128});
    const RouteResult first(*backend_, c, c.q);
    RouteResult both[2] = {first, first};
    const RouteScoreArgs heads[] = {{other_q, other_keys, c.unit_begin, both[0].best, both[0].sum, both[0].squares},
                                    {c.q, c.keys, c.unit_begin, both[1].best, both[1].sum, both[1].squares}};
    ASSERT_TRUE(Succeeds(backend_->RouteScores(heads)));
    EXPECT_TRUE(SameBits(first.best, both[1].best));
    EXPECT_EQ(first.sum, both[1].sum);
    EXPECT_EQ(first.squares, both[1].squares);
    c.keys = Guarded(other_keys);
    const RouteResult want(*ref_, c, other_q);
    const double bound = 130 * kEps * LargestNorm(other_q, 128) * LargestNorm(c.keys, 128);
    for (std::int64_t i = 0; i < want.best.size(); ++i) {
      if (c.unit_begin[i % 300] == c.unit_begin[i % 300 + 1]) continue;
      ASSERT_NEAR(both[0].best[i], want.best[i], bound);
    }
  }
}

TEST_P(OpSuite, RouteScoreRowsStandAlone) {
  Random random(35);
  const RouteCase c(random, DType::kBF16, 37, 64, 60);
  const RouteResult all(*backend_, c, c.q);
  for (std::int64_t t = 0; t < 37; ++t) {
    const RouteResult one(*backend_, c, (*c.q).Rows(t, t + 1));
    EXPECT_TRUE(SameBits(one.best, (*all.best).Rows(t, t + 1)));
    EXPECT_EQ(one.sum[0], all.sum[t]);
    EXPECT_EQ(one.squares[0], all.squares[t]);
  }
}

}  // namespace
}  // namespace unfold
