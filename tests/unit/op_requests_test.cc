// SPDX-License-Identifier: Apache-2.0
// Operations of a decoding step with several requests at once: each has the bits it has alone, or those that it has in
// any company. The other tests hold one request against `ref`.
#include <cstring>
#include <deque>
#include <vector>

#include "op_cases.h"
#include "op_testing.h"

namespace unfold {
namespace {

// A request of one row over documents of its own, and what a step makes of it.
class Request {
 public:
  Request(Random& random, const HeadShape& heads, int levels, DType kv, std::vector<std::int32_t> chunks)
      : case_(random, heads, 1, 1 + random.Below(4), 1 + random.Below(20), chunks,
              std::vector<std::int32_t>(chunks.size(), 2), 1, levels, kv),
        own_k_(random.Make(DType::kF32, {1, heads.kv_heads, heads.head_dim})),
        own_v_(random.Make(DType::kF32, {1, heads.kv_heads, heads.head_dim})),
        top_k_(1 + random.Below(5)),
        top_p_(random.Below(3) == 0 ? 0.5F : 0.0F) {}

  // Where the results of a step go.
  struct Step {
    Guarded tail_k, tail_v;
    Guarded mass, out;
    bool lists_children = false;
    std::vector<Guarded> scores{}, best{}, chosen{}, counts{}, children{}, child_counts{};  // by level
  };
  Step MakeStep(bool lists_children = false) const {
    const HeadShape& heads = case_.shape;
    Step step{.tail_k = case_.tail_k,
              .tail_v = case_.tail_v,
              .mass = Guarded(DType::kF32, {heads.kv_heads, case_.context.chunks()}),
              .out = case_.Out(),
              .lists_children = lists_children};
    for (const LevelCase& level : case_.context.levels) {
      step.scores.emplace_back(DType::kF32, std::initializer_list<std::int64_t>{1, heads.heads(), level.gists()});
      step.best.emplace_back(DType::kF32,
                             std::initializer_list<std::int64_t>{1, heads.heads(), NumBest(level.gists())});
      step.chosen.emplace_back(DType::kInt32, std::initializer_list<std::int64_t>{1, heads.kv_heads, level.gists()});
      step.counts.emplace_back(DType::kInt32, std::initializer_list<std::int64_t>{1, heads.kv_heads});
      const std::int64_t below = step.chosen.size() == 1 ? 0 : (*step.chosen[step.chosen.size() - 2]).dims[2];
      step.children.emplace_back(DType::kInt32, std::initializer_list<std::int64_t>{1, heads.kv_heads, below});
      step.child_counts.emplace_back(DType::kInt32, std::initializer_list<std::int64_t>{1, heads.kv_heads});
    }
    std::memset((*step.mass).data, 0, (*step.mass).bytes());
    return step;
  }

  const SparseCase& sparse_case() const { return case_; }
  int levels() const { return static_cast<int>(case_.context.levels.size()); }
  UnfoldArgs Append(const Step& step) const {
    UnfoldArgs args;
    args.k = own_k_, args.v = own_v_;
    args.positions = case_.positions;
    args.rope = case_.rope.table();
    args.row_begin = case_.tail_begin;
    args.out_k = step.tail_k, args.out_v = step.tail_v;
    return args;
  }
  GistScoreArgs Score(const Step& step, int level) const {
    return {.q = case_.q,
            .positions = case_.positions,
            .rope = case_.rope.table(),
            .context = &case_.view,
            .level = level,
            .parents = Parents(step, level),
            .scores = step.scores[level],
            .best = step.best[level]};
  }
  SelectChunksArgs Select(const Step& step, int level) const {
    return {.scores = step.scores[level],
            .context = &case_.view,
            .level = level,
            .parents = Parents(step, level),
            .kv_heads = case_.shape.kv_heads,
            .top_k = top_k_,
            .top_p = top_p_,
            .scale = case_.scale(),
            .chosen = Chosen(step, level),
            .best = step.best[level]};
  }
  // Over chunks chosen at random.
  SparseAttentionArgs Attend(const Step& step) const {
    SparseAttentionArgs args = case_.Args(step.out, step.mass);
    args.tail_k = step.tail_k, args.tail_v = step.tail_v;
    return args;
  }

  void ExpectChildren(const Step& step, int level) const {
    const std::vector<std::int32_t>& child = case_.context.levels[level].child;
    for (std::int64_t head = 0; head < case_.shape.kv_heads; ++head) {
      std::vector<std::int32_t> want;
      for (std::int32_t i = 0; i < step.counts[level].i32()[head]; ++i) {
        const std::int32_t gist = step.chosen[level].i32()[head * case_.context.levels[level].gists() + i];
        for (std::int32_t below = child[gist]; below < child[gist + 1]; ++below) want.push_back(below);
      }
      const std::int32_t* found = step.children[level].i32() + head * case_.context.levels[level - 1].gists();
      EXPECT_EQ(std::vector<std::int32_t>(found, found + step.child_counts[level].i32()[head]), want);
    }
  }

 private:
  ChosenGists Parents(const Step& step, int level) const {
    return level + 1 < levels() ? Chosen(step, level + 1) : ChosenGists{};
  }
  ChosenGists Chosen(const Step& step, int level) const {
    ChosenGists chosen{step.chosen[level], step.counts[level]};
    if (level > 0 && step.lists_children)
      chosen.children = step.children[level], chosen.child_counts = step.child_counts[level];
    return chosen;
  }

  SparseCase case_;
  Guarded own_k_, own_v_;
  std::int64_t top_k_;
  float top_p_;
};

// What `of` makes of each request and its step.
template <typename Of>
auto Each(const std::deque<Request>& requests, const std::deque<Request::Step>& steps, Of of) {
  std::vector<decltype(of(requests[0], steps[0]))> args;
  for (std::size_t i = 0; i < requests.size(); ++i) args.push_back(of(requests[i], steps[i]));
  return args;
}

// A step of all requests; `call(args)` runs the operations of one kind.
template <typename Call>
void RunStep(const std::deque<Request>& requests, const std::deque<Request::Step>& steps, int levels, Call call) {
  call(Each(requests, steps, [](const Request& r, const Request::Step& s) { return r.Append(s); }));
  for (int level = levels - 1; level >= 0; --level) {
    call(Each(requests, steps, [&](const Request& r, const Request::Step& s) { return r.Score(s, level); }));
    call(Each(requests, steps, [&](const Request& r, const Request::Step& s) { return r.Select(s, level); }));
  }
}

// Attention of requests [begin, end).
Status AttendSome(Backend& backend, const std::deque<Request>& requests, const std::deque<Request::Step>& steps,
                  std::size_t begin, std::size_t end) {
  std::vector<SparseAttentionArgs> args;
  for (std::size_t i = begin; i < end; ++i) args.push_back(requests[i].Attend(steps[i]));
  return backend.SparseAttention(args);
}

struct CallOperation {
  Backend& backend;
  Status operator()(std::span<const UnfoldArgs> args) const { return backend.Unfold(args); }
  Status operator()(std::span<const GistScoreArgs> args) const { return backend.GistScore(args); }
  Status operator()(std::span<const SelectChunksArgs> args) const { return backend.SelectChunks(args); }
};

TEST_P(OpSuite, SeveralRequestsAtOnce) {
  Random random(51);
  for (const DType kv : KvTypes(*backend_)) {
    for (const HeadShape& heads : {HeadShape{2, 7, 128}, HeadShape{1, 16, 64}, HeadShape{1, 2, 80}}) {
      for (const int levels : {1, 2}) {
        // More than a launch takes, once.
        const std::int64_t count = heads.head_dim == 64 && levels == 2 ? 70 : 5;
        std::deque<Request> requests;
        std::deque<Request::Step> together, alone;
        for (std::int64_t i = 0; i < count; ++i) {
          const auto chunks = static_cast<std::int32_t>(1 + random.Below(i % 5 == 3 ? 100 : 30));
          requests.emplace_back(random, heads, levels, kv, std::vector<std::int32_t>{chunks, 0, 5});
          together.push_back(requests.back().MakeStep(backend_->ListsChildren()));
          alone.push_back(requests.back().MakeStep());
        }
        const CallOperation call{*backend_};
        RunStep(requests, together, levels, [&](const auto& args) { ASSERT_TRUE(Succeeds(call(std::span(args)))); });
        RunStep(requests, alone, levels, [&](const auto& args) {
          for (const auto& own : args) ASSERT_TRUE(Succeeds(call(std::span(&own, 1))));
        });
        // All; in other companies, of two or three; and by `ref`.
        ASSERT_TRUE(Succeeds(AttendSome(*backend_, requests, together, 0, requests.size())));
        for (std::size_t begin = 0; begin < requests.size();) {
          const std::size_t end = begin + 4 > requests.size() ? requests.size() : begin + 2;
          ASSERT_TRUE(Succeeds(AttendSome(*backend_, requests, alone, begin, end)));
          begin = end;
        }
        for (std::size_t i = 0; i < requests.size(); ++i) {
          const Request::Step &found = together[i], &want = alone[i];
          EXPECT_TRUE(SameBits(found.tail_k, want.tail_k) && SameBits(found.tail_v, want.tail_v)) << i;
          for (int level = 0; level < levels; ++level) {
            EXPECT_TRUE(SameBits(found.scores[level], want.scores[level])) << i << " level " << level;
            EXPECT_TRUE(SameBits(found.chosen[level], want.chosen[level])) << i << " level " << level;
            EXPECT_TRUE(SameBits(found.counts[level], want.counts[level])) << i << " level " << level;
            if (level > 0 && found.lists_children) requests[i].ExpectChildren(found, level);
          }
          EXPECT_TRUE(SameBits(found.mass, want.mass)) << i;
          EXPECT_TRUE(SameBits(found.out, want.out)) << i;
          EXPECT_TRUE(found.out.Intact() && found.mass.Intact());
          const Guarded exact = requests[i].sparse_case().Out(), exact_mass = requests[i].MakeStep().mass;
          SparseAttentionArgs args = requests[i].Attend(found);
          args.out = exact, args.chunk_mass = exact_mass;
          ASSERT_TRUE(Succeeds(ref_->SparseAttention(args)));
          const SparseCase& c = requests[i].sparse_case();
          for (std::int64_t at = 0; at < exact.size(); ++at) ASSERT_NEAR(found.out[at], exact[at], c.Bound()) << i;
          const double heads_of_group = static_cast<double>(heads.heads() / heads.kv_heads);
          for (std::int64_t at = 0; at < exact_mass.size(); ++at) {
            ASSERT_NEAR(found.mass[at], exact_mass[at], c.WeightBound() * heads_of_group) << i;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace unfold
