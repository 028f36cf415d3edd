// SPDX-License-Identifier: Apache-2.0
// The kernel of select.cu, run on the host: each way in which it finds what a head keeps, and the union of a group.
#include "kernels/cuda/select.cu"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

namespace unfold {

// candidates.cu's, of calls without parents.
std::vector<Candidates> CollectCandidates(CudaContext&, CallMemory&, const std::vector<CandidateRequest>& requests,
                                          const ListFaults&) {
  return std::vector<Candidates>(requests.size());
}
void ListChildren(CudaContext&, CallMemory&, const std::vector<CandidateRequest>&, const ListFaults&) {}

namespace {

enum class Kind { kNormal, kOutliers, kSteps, kTies, kInfinite, kNone };

struct SelectCase {
  std::int64_t gists, top_k;
  float top_p = 0;
  Kind kind = Kind::kNormal;
  std::int64_t kv_heads = 2, group = 2;
};

float MakeScore(Kind kind, std::int64_t i, std::mt19937& engine) {
  std::normal_distribution<float> normal;
  const float score = normal(engine);
  switch (kind) {
    case Kind::kOutliers: return i % 1000 == 7 ? 1e4F * score : score;
    case Kind::kSteps: return i < 700 ? score : 100 + score;  // what a block looks at first says little of the rest
    case Kind::kTies: return std::round(score);
    case Kind::kInfinite: return i % 50 == 3 ? INFINITY : i % 7 == 0 ? NAN : score;
    case Kind::kNone: return i % 2 == 0 ? -INFINITY : NAN;
    default: return i % 7 == 3 ? NAN : score;
  }
}

// The candidates of a head that it keeps, by sorting them all.
std::vector<std::int64_t> KeptOf(const float* scores, const SelectCase& c) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(c.gists));
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](std::int64_t i) { return std::isnan(scores[i]) ? -INFINITY : scores[i]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return value(a) > value(b); });
  std::size_t kept = static_cast<std::size_t>(std::min(c.top_k, c.gists));
  if (c.top_p > 0) {
    double total = 0, mass = 0;
    for (const std::int64_t i : order) total += std::exp(double{value(i)} - value(order[0]));
    for (kept = 0; mass < c.top_p * total && kept < order.size(); ++kept) {
      mass += std::exp(double{value(order[kept])} - value(order[0]));
    }
  }
  order.resize(kept);
  return order;
}

class SelectOnHost : public ::testing::TestWithParam<SelectCase> {};

TEST_P(SelectOnHost, KeepsTheBest) {
  const SelectCase& c = GetParam();
  const std::int64_t heads = c.kv_heads * c.group;
  std::mt19937 engine(11);
  std::vector<float> scores(static_cast<std::size_t>(heads * c.gists));
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i] = MakeScore(c.kind, static_cast<std::int64_t>(i) % c.gists, engine);
  }
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(c.kv_heads * c.gists)), counts(2);
  CudaContext context(5, memory);
  const std::int64_t bests = NumBest(c.gists);
  std::vector<float> best(static_cast<std::size_t>(heads * bests), -INFINITY);
  for (std::int64_t i = 0; i < heads * c.gists; ++i) {
    float& of = best[i / c.gists * bests + i % c.gists / kScoresOfBest];
    of = std::fmax(of, scores[i]);
  }
  for (int call = 0; call < 4; ++call) {  // the second finds what the first has left; then without the best of tiles
    const SelectChunksArgs args{.scores = Tensor(scores.data(), DType::kF32, {1, heads, c.gists}),
                                .kv_heads = c.kv_heads,
                                .top_k = c.top_k,
                                .top_p = c.top_p,
                                .chosen = {Tensor(chosen.data(), DType::kInt32, {1, c.kv_heads, c.gists}),
                                           Tensor(counts.data(), DType::kInt32, {1, c.kv_heads})},
                                .best = call < 2 ? Tensor(best.data(), DType::kF32, {1, heads, bests}) : Tensor()};
    const Status status = SelectAll(context, std::span(&args, 1));
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_TRUE(context.CountersAreZero());
    for (std::int64_t list = 0; list < c.kv_heads; ++list) {
      std::set<std::int64_t> want;
      for (std::int64_t head = list * c.group; head < (list + 1) * c.group; ++head) {
        for (const std::int64_t i : KeptOf(&scores[head * c.gists], c)) want.insert(i);
      }
      const auto first = chosen.begin() + list * c.gists;
      ASSERT_EQ(std::vector<std::int64_t>(first, first + counts[list]),
                std::vector<std::int64_t>(want.begin(), want.end()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, SelectOnHost,
                         ::testing::Values(SelectCase{3000, 40},                       // the best of tiles tell
                                           SelectCase{3001, 120},                      // little: most tiles are open
                                           SelectCase{3001, 700},                      // too many are wanted for that
                                           SelectCase{3000, 2500},                     // nearly all
                                           SelectCase{200, 300},                       // all are kept
                                           SelectCase{20003, 300},                     //
                                           SelectCase{20000, 300, 0, Kind::kSteps},    //
                                           SelectCase{3000, 40, 0, Kind::kOutliers},   //
                                           SelectCase{3000, 40, 0, Kind::kTies},       // digit by digit, the rest
                                           SelectCase{3000, 100, 0, Kind::kInfinite},  //
                                           SelectCase{300, 40, 0, Kind::kNone, 1, 3},  //
                                           SelectCase{3000, 0, .9F, Kind::kOutliers, 1},  //
                                           SelectCase{1000, 0, .5F}));

}  // namespace
}  // namespace unfold
