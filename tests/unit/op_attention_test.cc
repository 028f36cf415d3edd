// SPDX-License-Identifier: Apache-2.0
// The op suite, attention part: GistPrefill and SparseAttention against `ref`, and what they promise beside.
#include <limits>
#include <numeric>

#include "op_cases.h"
#include "op_testing.h"

namespace unfold {
namespace {

struct PrefillCase {
  GistBatch batch;
  HeadShape shape;
  Guarded q, k, v;

  PrefillCase(Random& random, GistBatch gist_batch, const HeadShape& head_shape, float magnitude)
      : batch(std::move(gist_batch)),
        shape(head_shape),
        q(random.Make(DType::kF32, {batch.rows(), shape.heads(), shape.head_dim}, magnitude)),
        k(random.Make(DType::kF32, {batch.rows(), shape.kv_heads, shape.head_dim}, magnitude)),
        v(random.Make(DType::kF32, {batch.rows(), shape.kv_heads, shape.head_dim})) {}

  Status Run(Backend& backend, DType compute, const Tensor& out) const {
    return backend.GistPrefill({q, k, v, batch.tokens, batch.sequence_begin, batch.rules, out, compute});
  }
  Guarded Run(Backend& backend, DType compute = DType::kF32) const {
    Guarded out(DType::kF32, {batch.rows(), shape.heads(), shape.head_dim});
    EXPECT_TRUE(Succeeds(Run(backend, compute, out)));
    return out;
  }
  double Longest() const {
    std::int64_t longest = 0;
    for (std::size_t b = 1; b < batch.sequence_begin.size(); ++b) {
      longest = std::max(longest, batch.sequence_begin[b] - batch.sequence_begin[b - 1]);
    }
    return static_cast<double>(longest);
  }
  double Bound(DType compute = DType::kF32) const {
    const double d = static_cast<double>(shape.head_dim);
    const double logit = LargestNorm(q, shape.head_dim) * LargestNorm(k, shape.head_dim) / std::sqrt(d);
    const double rounding = (2 * Longest() + d + 8) * kEps + (compute == DType::kBF16 ? 0x1p-7 : 0);
    return rounding * (1 + logit) * LargestMagnitude(v);
  }
};

constexpr DType kComputeTypes[] = {DType::kF32, DType::kBF16};

GistBatch RandomBatch(Random& random, const GistShape& shape) {
  GistBatch batch;
  for (std::int64_t raw : {37, 1, 64, 2, 3, 4, 7}) AppendDocument(batch, random, shape, raw);
  return batch;
}

// A document's bits do not depend on what it is packed with, or where.
void ExpectPackedEqualsAlone(Backend& backend, const PrefillCase& packed, DType compute) {
  const Guarded all = packed.Run(backend, compute);
  for (std::size_t b = 0; b + 1 < packed.batch.sequence_begin.size(); ++b) {
    const std::int64_t begin = packed.batch.sequence_begin[b], end = packed.batch.sequence_begin[b + 1];
    const std::vector<std::int64_t> bounds = {0, end - begin};
    Guarded out(DType::kF32, {end - begin, packed.shape.heads(), packed.shape.head_dim});
    const std::span<const GistToken> tokens(packed.batch.tokens.data() + begin, static_cast<std::size_t>(end - begin));
    ASSERT_TRUE(Succeeds(
        backend.GistPrefill({(*packed.q).Rows(begin, end), (*packed.k).Rows(begin, end), (*packed.v).Rows(begin, end),
                             tokens, bounds, packed.batch.rules, out, compute})));
    ASSERT_TRUE(SameBits(out, (*all).Rows(begin, end))) << "document " << b;
  }
}

std::vector<GistShape> MaskShapes() {
  std::vector<GistShape> shapes;
  for (int levels : {0, 1, 2, 3}) {
    for (std::int32_t previous : {0, 1, 2}) shapes.push_back({levels, 4, 2, previous == 2 ? 0 : 3, previous});
  }
  return shapes;
}

TEST_P(OpSuite, GistPrefill) {
  Random random(20);
  for (const GistShape& gist_shape : MaskShapes()) {
    for (const HeadShape& heads : HeadShapes()) {
      const float magnitude = random.Below(2) == 0 ? 1.0F : 30.0F;
      const PrefillCase c(random, RandomBatch(random, gist_shape), heads, magnitude);
      const Guarded want = c.Run(*ref_);
      for (DType compute : kComputeTypes) {
        const double bound = c.Bound(compute);
        ASSERT_TRUE(Near(c.Run(*backend_, compute), want, [&](std::int64_t) { return bound; }))
            << gist_shape.levels << " levels, P " << gist_shape.previous_chunks << ", group " << heads.group << ", "
            << DTypeName(compute);
      }
    }
  }
}

// Tensors in bf16, all or some, of head dims that a tensor-core kernel takes and of others; without them it refuses.
TEST_P(OpSuite, GistPrefillOfBf16) {
  Random random(23);
  for (const std::int64_t head_dim : {8, 64, 80, 96, 128, 256}) {
    for (int mix = 1; mix < 16; ++mix) {
      const auto type = [&](int tensor) { return (mix >> tensor & 1) != 0 ? DType::kBF16 : DType::kF32; };
      PrefillCase c(random, RandomBatch(random, {1, 4, 2, 3, 1}), {2, 2, head_dim}, 3);
      c.q = InType(c.q, type(0)), c.k = InType(c.k, type(1)), c.v = InType(c.v, type(2));
      Guarded want(DType::kF32, {c.batch.rows(), 4, head_dim}), out(InType(want, type(3)));
      std::memset((*out).data, 0xff, (*out).bytes());
      const Status status = c.Run(*backend_, DType::kBF16, out);
      if (backend_->WorkingType(DType::kBF16) == DType::kF32) {
        ASSERT_EQ(status.code(), StatusCode::kInvalidArgument) << status.ToString();
        continue;
      }
      ASSERT_TRUE(Succeeds(status));
      ASSERT_TRUE(Succeeds(c.Run(*ref_, DType::kBF16, want)));
      const double bound = c.Bound(DType::kBF16), rounding = type(3) == DType::kBF16 ? 0x1p-8 : 0;
      ASSERT_TRUE(Near(out, want, [&](std::int64_t i) { return bound + rounding * std::abs(want[i]); }))
          << "D " << head_dim << ", mix " << mix;
    }
  }
}

// Long enough for several blocks of far keys, with rows before, at and past the end of a block, and documents of other
// lengths around it.
GistBatch LongBatch(Random& random, int levels) {
  GistBatch batch;
  const GistShape shape{levels, 2, 2, 3, 1};
  for (std::int64_t raw : {5, levels == 0 ? 300 : 700, 40, levels == 0 ? 128 : 520}) {
    AppendDocument(batch, random, shape, raw);
  }
  return batch;
}

TEST_P(OpSuite, GistPrefillOfLongDocuments) {
  Random random(30);
  for (int levels : {0, 1, 2}) {
    const PrefillCase c(random, LongBatch(random, levels), levels == 1 ? HeadShape{2, 2, 64} : HeadShape{1, 3, 96},
                        levels == 2 ? 1.0F : 20.0F);
    const Guarded want = c.Run(*ref_);
    for (DType compute : kComputeTypes) {
      const double bound = c.Bound(compute);
      ASSERT_TRUE(Near(c.Run(*backend_, compute), want, [&](std::int64_t) { return bound; })) << levels << " levels";
    }
  }
}

TEST_P(OpSuite, GistPrefillOfLongDocumentsPackedEqualsAlone) {
  Random random(31);
  for (int levels : {0, 1, 2}) {
    const PrefillCase packed(random, LongBatch(random, levels), {2, 2, 64}, 1);
    for (DType compute : kComputeTypes) ExpectPackedEqualsAlone(*backend_, packed, compute);
  }
}

// With q = 0 each visible row weighs the same, so one row too many or too few moves the mean far beyond the bound:
// random sequences, `ref` asks MaySee for every pair. Weights of 1 and these values are exact in bf16 too.
TEST_P(OpSuite, GistPrefillSeesExactlyTheMask) {
  Random random(21);
  for (int round = 0; round < 60; ++round) {
    const GistShape shape{static_cast<int>(random.Below(4)), 1 + random.Below(6), 1 + random.Below(3), random.Below(4),
                          static_cast<std::int32_t>(random.Below(3))};
    GistBatch batch;
    // One in six is long enough for blocks of far keys: rows see hundreds.
    const std::int64_t longest = round % 6 == 0 ? 250 : 60;
    for (int document = 0; document < 3; ++document) AppendDocument(batch, random, shape, 1 + random.Below(longest));
    PrefillCase c(random, std::move(batch), {1, 1, 64}, 1);
    std::fill(c.q.f32(), c.q.f32() + c.q.size(), 0.0F);
    for (std::int64_t i = 0; i < c.v.size(); ++i) c.v.f32()[i] = BF16ToF32(F32ToBF16(c.v[i]));
    const double bound = c.Bound();
    // A row moves the mean of n by its distance from it over n; of 64 elements one is nearly half the range away.
    ASSERT_LT(bound, 0.4 / c.Longest() * LargestMagnitude(c.v)) << "the bound could hide a row";
    const Guarded want = c.Run(*ref_);
    for (DType compute : kComputeTypes) {
      ASSERT_TRUE(Near(c.Run(*backend_, compute), want, [&](std::int64_t) { return bound; })) << "round " << round;
    }
  }
}

// What a row may not see is not even read: NaN there leaves the row's bits as they were.
TEST_P(OpSuite, GistPrefillReadsOnlyVisibleKeys) {
  Random random(22);
  for (int levels : {1, 2, 3}) {
    const PrefillCase c(random, RandomBatch(random, {levels, 4, 2, 3, 1}), {2, 2, 64}, 1);
    const Guarded all = c.Run(*backend_);
    for (std::int64_t i = 0; i < c.batch.rows(); i += 5) {
      PrefillCase holes = c;
      std::size_t b = 0;
      while (c.batch.sequence_begin[b + 1] <= i) ++b;
      const std::int64_t begin = c.batch.sequence_begin[b];
      for (std::int64_t j = 0; j < c.batch.rows(); ++j) {
        const bool same = j >= begin && j < c.batch.sequence_begin[b + 1];
        if (same && MaySee(c.batch.rules, i - begin, j - begin, c.batch.tokens[i], c.batch.tokens[j])) continue;
        for (std::int64_t e = j * 2 * 64; e < (j + 1) * 2 * 64; ++e) {
          const float nan = std::numeric_limits<float>::quiet_NaN();
          holes.k.f32()[e] = holes.v.f32()[e] = nan;
        }
      }
      const Guarded out = holes.Run(*backend_);
      ASSERT_TRUE(SameBits((*out).Rows(i, i + 1), (*all).Rows(i, i + 1))) << "row " << i;
    }
  }
}

TEST_P(OpSuite, GistPrefillPackedEqualsAlone) {
  Random random(23);
  for (int levels : {0, 1, 2}) {
    const PrefillCase packed(random, RandomBatch(random, {levels, 4, 2, 3, 1}), {2, 2, 64}, 1);
    for (DType compute : kComputeTypes) ExpectPackedEqualsAlone(*backend_, packed, compute);
  }
}

TEST_P(OpSuite, GistPrefillOfNothing) {
  const std::vector<std::int64_t> bounds = {0, 0, 0};
  Guarded q(DType::kF32, {0, 4, 64}), kv(DType::kF32, {0, 2, 64}), out(DType::kF32, {0, 4, 64});
  EXPECT_TRUE(Succeeds(backend_->GistPrefill({q, kv, kv, {}, bounds, {}, out})));
  EXPECT_TRUE(out.Intact());
}

TEST_P(OpSuite, SparseAttention) {
  Random random(24);
  const std::vector<std::vector<std::int32_t>> contexts = {{}, {1}, {0, 7}, {9, 0, 5}, {20, 13, 1}};
  for (const HeadShape& heads : HeadShapes()) {
    for (const auto& chunks : contexts) {
      for (std::int64_t rows : {0, 1, 2, 7, 37}) {
        std::vector<std::int32_t> sinks;
        for (std::size_t j = 0; j < chunks.size(); ++j) sinks.push_back(static_cast<std::int32_t>(random.Below(4)));
        const int levels = 1 + static_cast<int>(random.Below(kMaxGistLevels));
        const std::vector<DType> types = KvTypes(*backend_);
        const DType kv = types[random.Below(static_cast<std::int64_t>(types.size()))];
        const SparseCase c(random, heads, rows, random.Below(5), random.Below(20), chunks, sinks, 1, levels, kv);
        const Guarded out = c.Out(), want = c.Out();
        std::vector<float> mass(static_cast<std::size_t>(heads.kv_heads * c.context.chunks()), 0.5F), want_mass = mass;
        ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(out, TensorOf(mass)))));
        ASSERT_TRUE(Succeeds(ref_->SparseAttention(c.Args(want, TensorOf(want_mass)))));
        const double bound = c.Bound(), mass_bound = (c.WeightBound() + kEps) * static_cast<double>(1 + heads.heads());
        ASSERT_TRUE(Near(out, want, [&](std::int64_t) { return bound; })) << rows << " rows, group " << heads.group;
        for (std::size_t i = 0; i < mass.size(); ++i) ASSERT_NEAR(mass[i], want_mass[i], mass_bound) << "chunk " << i;
        const double total = std::accumulate(mass.begin(), mass.end(), -0.5 * static_cast<double>(mass.size()));
        ASSERT_LE(total, static_cast<double>(rows == 0 ? 0 : heads.heads()) + mass_bound);
      }
    }
  }
}

// More chosen gists of the levels above than one run of them takes, runs of one document and of several.
TEST_P(OpSuite, SparseAttentionUnderManySections) {
  Random random(29);
  for (const HeadShape& heads : {HeadShape{1, 4, 96}, HeadShape{2, 7, 128}, HeadShape{1, 9, 64}, HeadShape{1, 2, 80}}) {
    for (const DType kv : KvTypes(*backend_)) {
      for (int levels : {2, 3}) {
        const SparseCase c(random, heads, 2, 3, 5, {600, 3, 0, 17, 240, 5}, {1, 0, 2, 1, 1, 1}, 1, levels, kv);
        const Guarded out = c.Out(), want = c.Out();
        ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(out))));
        ASSERT_TRUE(Succeeds(ref_->SparseAttention(c.Args(want))));
        const double bound = c.Bound();
        ASSERT_TRUE(Near(out, want, [&](std::int64_t) { return bound; })) << levels << " levels, group " << heads.group;
      }
    }
  }
}

TEST_P(OpSuite, SparseAttentionWithoutDocuments) {
  Random random(25);
  for (const DType kv : KvTypes(*backend_)) {
    const SparseCase c(random, {2, 2, 64}, 7, 3, 5, {}, {}, 1, 1, kv);
    const Guarded out = c.Out(), want = c.Out(), empty = c.Out();
    SparseAttentionArgs args = c.Args(out), ref_args = c.Args(want);
    args.context = ref_args.context = nullptr;
    ASSERT_TRUE(Succeeds(backend_->SparseAttention(args)));
    ASSERT_TRUE(Succeeds(ref_->SparseAttention(ref_args)));
    const double bound = c.Bound();
    EXPECT_TRUE(Near(out, want, [&](std::int64_t) { return bound; }));
    ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(empty))));  // a context without documents
    EXPECT_TRUE(SameBits(out, empty));
  }
}

// Gists that share one value per level and head, as at layer 0.
void ShareGistValues(SparseCase& c) {
  const std::int64_t d = c.shape.head_dim;
  for (const LevelCase& level : c.context.levels) {
    for (std::int64_t row = 0; row < c.shape.kv_heads * level.gists(); ++row) {
      const std::size_t bytes = static_cast<std::size_t>(d) * DTypeBytes((*level.v).dtype);
      auto* values = (*level.v).as<char>();
      std::memcpy(values + row * bytes, values + row / level.gists() * level.gists() * bytes, bytes);
    }
  }
}

TEST_P(OpSuite, SparseAttentionOfAllGists) {
  Random random(26);
  for (const HeadShape& heads : HeadShapes()) {
    for (int levels : {1, 2, 3}) {
      const std::int64_t rows = 7;
      const std::vector<DType> types = KvTypes(*backend_);
      const DType kv = types[random.Below(static_cast<std::int64_t>(types.size()))];
      SparseCase c(random, heads, rows, 2, 4, {11, 0, 30}, {3, 1, 0}, 1, levels, kv);
      ShareGistValues(c);
      const Guarded collapsed = c.Out(), all = c.Out(), want = c.Out(), plain = c.Out();
      const std::vector<std::int32_t> seen = {0, 1, 1, 2, 3, 3, 3};
      const auto with = [&](const Tensor& out, GistRead read) {
        SparseAttentionArgs args = c.Args(out);
        args.read = read;
        args.chosen = {};  // unused
        args.row_documents = TensorOf(seen);
        return args;
      };
      ASSERT_TRUE(Succeeds(backend_->SparseAttention(with(collapsed, GistRead::kCollapsed))));
      ASSERT_TRUE(Succeeds(backend_->SparseAttention(with(all, GistRead::kAll))));
      ASSERT_TRUE(Succeeds(ref_->SparseAttention(with(want, GistRead::kAll))));
      const double bound = c.Bound();
      ASSERT_TRUE(Near(all, want, [&](std::int64_t) { return bound; })) << levels << " levels";
      ASSERT_TRUE(Near(collapsed, want, [&](std::int64_t) { return bound; })) << levels << " levels";

      // The same sum by the plain path: every gist chosen, no raw tokens. Both are within the bound of the truth. Rows
      // that see all documents only.
      std::fill(c.context.tokens.begin(), c.context.tokens.end(), 0);
      for (std::size_t n = 0; n < c.chosen.size(); ++n) {
        const std::int64_t gists = c.context.levels[n].gists();
        for (std::int64_t list = 0; list < rows * heads.kv_heads; ++list) {
          c.chosen[n].counts.i32()[list] = static_cast<std::int32_t>(gists);
          std::iota(c.chosen[n].gists.i32() + list * gists, c.chosen[n].gists.i32() + (list + 1) * gists, 0);
        }
      }
      c.FindPages();
      ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(plain))));
      for (std::int64_t e = 4 * heads.heads() * heads.head_dim; e < plain.size(); ++e) {
        ASSERT_NEAR(all[e], plain[e], 2 * bound) << "element " << e;
      }
    }
  }
}

std::vector<std::pair<GistRead, DType>> ReadsAndTypes(const Backend& backend, std::initializer_list<GistRead> reads) {
  std::vector<std::pair<GistRead, DType>> both;
  for (const GistRead read : reads) {
    for (const DType kv : KvTypes(backend)) both.emplace_back(read, kv);
  }
  return both;
}

// A row that sees the first documents only equals, bit for bit, a call whose context ends there.
TEST_P(OpSuite, SparseAttentionSeesTheFirstDocumentsOnly) {
  Random random(30);
  for (const auto& [read, kv] : ReadsAndTypes(*backend_, {GistRead::kAll, GistRead::kCollapsed})) {
    SparseCase c(random, {2, 2, 64}, 1, 2, 4, {11, 4, 30}, {3, 1, 0}, 1, 2, kv);
    ShareGistValues(c);
    for (std::int32_t seen = 0; seen <= 3; ++seen) {
      const Guarded masked = c.Out(), holes = c.Out();
      const std::vector<std::int32_t> documents = {seen};
      SparseAttentionArgs args = c.Args(masked);
      args.read = read;
      args.row_documents = TensorOf(documents);
      ASSERT_TRUE(Succeeds(backend_->SparseAttention(args)));
      SparseCase poisoned = c;
      poisoned.view = poisoned.context.view();
      for (const LevelCase& level : poisoned.context.levels) {
        for (std::int64_t head = 0; head < 2; ++head) {
          for (std::int64_t gist = level.segment[seen]; gist < level.gists(); ++gist) {
            const std::int64_t at = (head * level.gists() + gist) * 64;
            Poison(level.k, at, 64);
            // A collapsed level reads the first gist's value for all.
            if (gist > 0) Poison(level.v, at, 64);
          }
        }
      }
      SparseAttentionArgs poisoned_args = poisoned.Args(holes);
      poisoned_args.read = read;
      poisoned_args.row_documents = TensorOf(documents);
      ASSERT_TRUE(Succeeds(backend_->SparseAttention(poisoned_args)));
      ASSERT_TRUE(SameBits(masked, holes)) << seen << " documents seen";
    }
  }
}

// Row t of a batch equals the same row alone.
TEST_P(OpSuite, SparseAttentionRowsStandAlone) {
  Random random(27);
  for (const auto& [read, kv] : ReadsAndTypes(*backend_, {GistRead::kChosen, GistRead::kAll, GistRead::kCollapsed})) {
    SparseCase c(random, {2, 2, 64}, 37, 2, 4, {11, 0, 30}, {3, 1, 0}, 1, 2, kv);
    ShareGistValues(c);
    const Guarded all = c.Out();
    SparseAttentionArgs args = c.Args(all);
    args.read = read;
    ASSERT_TRUE(Succeeds(backend_->SparseAttention(args)));
    for (std::int64_t t = 0; t < c.rows; ++t) {
      Guarded one(DType::kF32, {1, 4, 64});
      SparseAttentionArgs single = args;
      single.q = args.q.Rows(t, t + 1);
      single.positions = args.positions.Rows(t, t + 1);
      for (int n = 0; n < 2; ++n) {
        single.chosen[n] = {args.chosen[n].gists.Rows(t, t + 1), args.chosen[n].counts.Rows(t, t + 1)};
      }
      single.chunks = args.chunks.Rows(t, t + 1);
      single.out = one;
      ASSERT_TRUE(Succeeds(backend_->SparseAttention(single)));
      ASSERT_TRUE(SameBits(one, (*all).Rows(t, t + 1))) << "row " << t;
    }
  }
}

// Unchosen chunks are invisible, their gists too; so are rows of a page past the chunk's end and of the tail past t.
TEST_P(OpSuite, SparseAttentionReadsOnlyVisibleKeys) {
  Random random(28);
  for (const DType kv : KvTypes(*backend_)) {
    SparseCase c(random, {2, 2, 64}, 1, 2, 4, {11, 0, 30}, {3, 1, 0}, 1, 3, kv);
    const Guarded before = c.Out(), after = c.Out();
    ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(before))));
    for (std::int64_t head = 0; head < 2; ++head) {
      for (std::size_t n = 0; n < c.context.levels.size(); ++n) {
        const LevelCase& level = c.context.levels[n];
        const std::int64_t gists = level.gists();
        const std::int32_t* chosen = c.chosen[n].gists.i32() + head * gists;
        const std::int32_t* end = chosen + c.chosen[n].counts.i32()[head];
        for (std::int32_t gist = 0; gist < gists; ++gist) {
          const bool visible = std::find(chosen, end, gist) != end;
          if (!visible) Poison(level.k, (head * gists + gist) * 64, 64);
          if (!visible) Poison(level.v, (head * gists + gist) * 64, 64);
          if (n > 0) continue;
          const std::int64_t first = visible ? c.context.tokens[gist] : 0;
          const std::int64_t page_at = ((c.context.page[gist] * 2 + head) * ContextCase::kPageTokens + first) * 64;
          Poison(c.context.page_k, page_at, (ContextCase::kPageTokens - first) * 64);
          Poison(c.context.page_v, page_at, (ContextCase::kPageTokens - first) * 64);
        }
      }
      Poison(c.tail_k, (head * 8 + 5) * 64, 3 * 64);  // rows 5 to 7 of 8
      Poison(c.prefix_v, (head * 3 + 2) * 64, 64);    // row 2 of 3
    }
    ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(after))));
    EXPECT_TRUE(SameBits(before, after));
  }
}

// A chosen chunk that has no page is attended by its gist alone: as one that has no raw tokens.
TEST_P(OpSuite, SparseAttentionOfChunksWithoutPages) {
  Random random(31);
  for (const DType kv : KvTypes(*backend_)) {
    SparseCase c(random, {2, 7, 128}, 2, 2, 4, {40, 30}, {3, 1}, 1, 2, kv);
    for (ChosenChunk& chunk : c.chunks) {
      if (random.Below(3) == 0) chunk.page = -1;
    }
    const Guarded out = c.Out(), want = c.Out(), some = c.Out();
    const std::vector<float> zeros(2 * 70);
    std::vector<float> mass = zeros, want_mass = zeros;
    ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(out, TensorOf(mass)))));
    ASSERT_TRUE(Succeeds(ref_->SparseAttention(c.Args(want, TensorOf(want_mass)))));
    EXPECT_TRUE(Near(out, want, [&](std::int64_t) { return c.Bound(); }));
    for (std::size_t i = 0; i < mass.size(); ++i) EXPECT_NEAR(mass[i], want_mass[i], 28 * 2 * c.WeightBound());
    for (ChosenChunk& chunk : c.chunks) chunk.tokens = 0;
    ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(some))));
    for (ChosenChunk& chunk : c.chunks) chunk.page = -1;
    ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(out))));
    EXPECT_TRUE(SameBits(some, out));
  }
}

// One logit far above all others takes the whole weight: the result is that value to the bit. And thousands of equal
// huge logits neither overflow nor lose the mean.
TEST_P(OpSuite, SparseAttentionOfExtremeLogits) {
  Random random(29);
  SparseCase c(random, {1, 2, 64}, 1, 1, 3, {6}, {2}, 1e-3F);
  c.chosen[0].counts.i32()[0] = 0;
  // A query equal to the key before its rotation gets q . k = |k|^2 there. Row 3 of the tail is the query's own.
  Guarded key(DType::kF32, {1, 1, 64}), turned(DType::kF32, {1, 1, 64});
  random.Fill(key, 100);
  ASSERT_TRUE(Succeeds(backend_->Rope({key, c.positions, c.rope.table(), turned})));
  std::memcpy(c.tail_k.f32() + 3 * 64, turned.f32(), 64 * sizeof(float));
  for (std::int64_t head = 0; head < 2; ++head) std::memcpy(c.q.f32() + head * 64, key.f32(), 64 * sizeof(float));
  const Guarded out = c.Out();
  ASSERT_TRUE(Succeeds(backend_->SparseAttention(c.Args(out))));
  for (std::int64_t e = 0; e < 128; ++e) ASSERT_EQ(out[e], c.tail_v[3 * 64 + e % 64]) << "element " << e;

  constexpr std::int64_t kMany = 4000;
  const RopeFixture rope(kMany, 64);
  Guarded q(DType::kF32, {1, 1, 64}), k(DType::kF32, {1, kMany, 64}), v = random.Make(DType::kF32, {1, kMany, 64});
  std::fill(q.f32(), q.f32() + 64, 1e15F);
  std::fill(k.f32(), k.f32() + k.size(), 1e15F);
  Guarded positions(DType::kInt32, {1}), mean(DType::kF32, {1, 1, 64}), want(DType::kF32, {1, 1, 64});
  positions.i32()[0] = kMany - 1;
  SparseAttentionArgs args;
  args.q = q;
  args.positions = positions;
  args.rope = rope.table();
  args.scale = 0.125F;
  args.tail_k = k;
  args.tail_v = v;
  args.tail_position = 0;
  args.out = mean;
  ASSERT_TRUE(Succeeds(backend_->SparseAttention(args)));
  args.out = want;
  ASSERT_TRUE(Succeeds(ref_->SparseAttention(args)));
  // Equal logits are equal in any arithmetic, so only the sums round: the bound without its logit term.
  EXPECT_TRUE(Near(mean, want, [&](std::int64_t) { return (2.0 * kMany + 72) * kEps * LargestMagnitude(v); }));
}

}  // namespace
}  // namespace unfold
