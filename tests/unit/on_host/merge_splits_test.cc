// SPDX-License-Identifier: Apache-2.0
// How splits of attention are merged (merge_splits.cuh), run on the host.
#include "kernels/cuda/merge_splits.cuh"

#include <gtest/gtest.h>

#include <random>

namespace unfold {
namespace {

struct MergeCase {
  std::int64_t head_dim, splits, used;
  unsigned blocks_of_head, threads;
};

class MergeOnHost : public ::testing::TestWithParam<MergeCase> {};

TEST_P(MergeOnHost, IsOneSoftmax) {
  const MergeCase& c = GetParam();
  constexpr std::int64_t kRows = 2, kHeads = 4, kKvHeads = 2;
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  std::vector<float2> states(kRows * kHeads * c.splits);
  std::vector<float> sums(states.size() * c.head_dim), out(kRows * kHeads * c.head_dim, NAN);
  for (std::size_t i = 0; i < states.size(); ++i) {
    // A split without keys has no total, but the first has some; what splits that are not used have does not count.
    const std::size_t split = i % static_cast<std::size_t>(c.splits);
    const bool empty = split % 5 == 3;
    states[i] = make_float2(empty ? -INFINITY : 3 * normal(engine), empty ? 0.0F : 1 + std::abs(normal(engine)));
    if (static_cast<std::int64_t>(split) >= c.used) states[i] = make_float2(NAN, NAN);
  }
  for (float& sum : sums) sum = normal(engine);
  std::vector<int> used(kRows * kKvHeads, static_cast<int>(c.used));
  AttentionInputs<__nv_bfloat16> in;
  in.queries.heads = kHeads, in.queries.head_dim = c.head_dim, in.kv_heads = kKvHeads;
  const Partials partials{states.data(), sums.data(), c.splits, used.data(), 1};
  std::vector<float2> whole(kRows * kHeads);
  MergeShared shared;
  on_host::RunBlocks(static_cast<unsigned>(kRows * kHeads) * c.blocks_of_head, c.threads,
                     [&] { MergeHead(in, partials, out.data(), whole.data(), c.blocks_of_head, shared, NoWait()); });
  for (std::int64_t row = 0; row < kRows * kHeads; ++row) {
    double largest = -INFINITY, total = 0;
    for (std::int64_t s = 0; s < c.used; ++s) largest = std::max(largest, double{states[row * c.splits + s].x});
    const auto share = [&](std::int64_t s) {
      const float2& one = states[row * c.splits + s];
      return one.y == 0 ? 0 : std::exp(double{one.x} - largest);
    };
    for (std::int64_t s = 0; s < c.used; ++s) total += share(s) * states[row * c.splits + s].y;
    EXPECT_EQ(whole[row].x, static_cast<float>(largest));
    EXPECT_NEAR(whole[row].y, total, 1e-5 * total);
    for (std::int64_t e = 0; e < c.head_dim; ++e) {
      double want = 0, magnitude = 0;
      for (std::int64_t s = 0; s < c.used; ++s) {
        const double term = share(s) * sums[(row * c.splits + s) * c.head_dim + e] / total;
        want += term, magnitude += std::abs(term);
      }
      ASSERT_NEAR(out[row * c.head_dim + e], want, 1e-5 * magnitude) << row << ", " << e;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, MergeOnHost,
                         ::testing::Values(MergeCase{128, 96, 96, 4, 256},  // 32 dims a block
                                           MergeCase{128, 100, 37, 1, 256}, MergeCase{128, 200, 192, 4, 512},
                                           MergeCase{64, 3, 1, 2, 256}, MergeCase{256, 20, 20, 1, 512},
                                           MergeCase{80, 40, 33, 1, 512},  // dims that are no multiple of a warp
                                           MergeCase{40, 5, 5, 2, 256}));

}  // namespace
}  // namespace unfold
