// SPDX-License-Identifier: Apache-2.0
// Wrong arguments of every op are InvalidArgument with a message that names op and field, on every backend, and the
// output stays as it was.
#include <string_view>

#include "op_cases.h"
#include "op_testing.h"

namespace unfold {
namespace {

class OpErrors : public ::testing::TestWithParam<Candidate> {
 protected:
  void SetUp() override { backend_ = GetParam().make(); }

  // Changes a copy of valid `args` and expects a refusal that names `field`.
  template <typename Args, typename Change>
  void Refused(const Args& args, Status (Backend::*call)(const Args&), std::string_view op, std::string_view field,
               Change change) {
    Args changed = args;
    change(changed);
    const Status status = ((*backend_).*call)(changed);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << op << ' ' << field;
    const std::string want = std::string(op) + ": " + std::string(field);
    EXPECT_EQ(status.message().substr(0, want.size()), want) << status.message();
  }

  std::unique_ptr<Backend> backend_;
  Random random_{50};
};

Tensor As(Tensor tensor, DType type) {
  tensor.dtype = type;
  return tensor;
}

TEST_P(OpErrors, Embed) {
  const Guarded table = random_.Make(DType::kF32, {10, 8});
  Guarded ids(DType::kInt32, {2}), out(DType::kF32, {2, 8});
  ids.i32()[0] = ids.i32()[1] = 9;
  const EmbedArgs args{table, ids, out};
  ASSERT_TRUE(Succeeds(backend_->Embed(args)));
  const auto bad = [&](std::string_view field, auto change) { Refused(args, &Backend::Embed, "Embed", field, change); };
  bad("table", [](EmbedArgs& a) { a.table = As(a.table, DType::kInt8); });
  bad("ids", [](EmbedArgs& a) { a.ids = As(a.ids, DType::kF32); });
  bad("out", [](EmbedArgs& a) { a.out = a.out.Reshape({8, 2}); });
  bad("out has no memory", [](EmbedArgs& a) { a.out.data = nullptr; });
  for (std::int32_t id : {-1, 10}) {
    ids.i32()[1] = id;
    bad("ids[1] is " + std::to_string(id), [](EmbedArgs&) {});
  }
}

TEST_P(OpErrors, Dense) {
  const Guarded x = random_.Make(DType::kF32, {2, 8}), weight = random_.Make(DType::kF32, {3, 8});
  Guarded out(DType::kF32, {2, 3}), same(DType::kF32, {2, 8});
  const MatMulArgs mul{x, weight, false, out};
  ASSERT_TRUE(Succeeds(backend_->MatMul(mul)));
  const auto bad = [&](std::string_view field, auto change) {
    Refused(mul, &Backend::MatMul, "MatMul", field, change);
  };
  bad("x is bf16[2, 8], expected f32", [](MatMulArgs& a) { a.x = As(a.x, DType::kBF16); });
  bad("out is bf16[2, 3], expected f32", [](MatMulArgs& a) { a.out = As(a.out, DType::kBF16); });
  bad("out is bf16[2, 3], expected f32",
      [](MatMulArgs& a) { a.out = As(a.out, DType::kBF16), a.compute = DType::kBF16, a.accumulate = true; });
  const Guarded bias = random_.Make(DType::kF32, {3});
  bad("bias is f32[2]", [&](MatMulArgs& a) { a.bias = (*bias).Rows(0, 2); });
  bad("bias is int32", [&](MatMulArgs& a) { a.bias = As(bias, DType::kInt32); });
  bad("bias cannot", [&](MatMulArgs& a) { a.bias = bias, a.accumulate = true; });
  bad("compute", [](MatMulArgs& a) { a.compute = DType::kF16; });
  bad("x", [](MatMulArgs& a) { a.x = a.x.Reshape({2, 4, 2}); });
  bad("weight is f32[3, 8], expected f32|f16|bf16[any, 4]", [](MatMulArgs& a) { a.x = a.x.Reshape({4, 4}); });
  bad("weight", [](MatMulArgs& a) { a.weight = As(a.weight, DType::kInt8); });
  bad("out", [](MatMulArgs& a) { a.out = a.out.Reshape({3, 2}); });

  const RmsNormArgs norm{x, (*weight).Rows(0, 1).Reshape({8}), 1e-5F, same};
  ASSERT_TRUE(Succeeds(backend_->RmsNorm(norm)));
  Refused(norm, &Backend::RmsNorm, "RmsNorm", "weight", [](RmsNormArgs& a) { a.weight.dims[0] = 7; });
  Refused(norm, &Backend::RmsNorm, "RmsNorm", "epsilon", [](RmsNormArgs& a) { a.epsilon = -1; });
  Refused(norm, &Backend::RmsNorm, "RmsNorm", "epsilon", [](RmsNormArgs& a) { a.epsilon = std::nanf(""); });
  Refused(norm, &Backend::RmsNorm, "RmsNorm", "out", [](RmsNormArgs& a) { a.out.dims[0] = 1; });

  // Products of a norm: each refusal by both operations.
  const Guarded square = random_.Make(DType::kF32, {8, 8});
  Guarded wide(DType::kF32, {2, 8});
  const MatMulArgs product{same, square, false, wide};
  const auto refused = [&](std::string_view why, const RmsNormArgs& by, const MatMulArgs& of) {
    for (const Status& status :
         {backend_->NormedMatMuls(by, std::span(&of, 1)), backend_->NormedGatedProduct(by, {of, of, of.out})}) {
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_NE(status.message().find(why), std::string::npos) << status.message();
    }
  };
  ASSERT_TRUE(Succeeds(backend_->NormedMatMuls(norm, std::span(&product, 1))));
  ASSERT_TRUE(Succeeds(backend_->NormedGatedProduct(norm, {product, product, wide})));
  refused("epsilon", {x, norm.weight, -1, same}, product);
  refused("x must be norm.out", norm, {x, square, false, wide});
  refused("out is f32[2, 8], expected f32[2, 2]", norm, {same, x, false, wide});
  refused("out must not be norm.x", norm, {same, square, false, x});

  const SwiGluArgs glu{x, x, same};
  ASSERT_TRUE(Succeeds(backend_->SwiGlu(glu)));
  Refused(glu, &Backend::SwiGlu, "SwiGlu", "up", [](SwiGluArgs& a) { a.up.dims[1] = 7; });
  Refused(glu, &Backend::SwiGlu, "SwiGlu", "up is bf16[2, 8], expected f32",
          [](SwiGluArgs& a) { a.up = As(a.up, DType::kBF16); });
  Refused(glu, &Backend::SwiGlu, "SwiGlu", "gate", [](SwiGluArgs& a) { a.gate.dims[0] = -1; });
}

TEST_P(OpErrors, Positions) {
  const RopeFixture rope(20, 8);
  const Guarded x = random_.Make(DType::kF32, {2, 3, 8});
  Guarded positions(DType::kInt32, {2}), out(DType::kF32, {2, 3, 8}), cache(DType::kF32, {3, 5, 8});
  positions.i32()[0] = positions.i32()[1] = 19;
  const RopeArgs args{x, positions, rope.table(), out};
  const UnfoldArgs unfold{x, x, {}, {}, positions, rope.table(), 3, -1, cache, cache};
  ASSERT_TRUE(Succeeds(backend_->Rope(args)));
  ASSERT_TRUE(Succeeds(backend_->Unfold(unfold)));
  Refused(args, &Backend::Rope, "Rope", "D", [](RopeArgs& a) { a.x = a.out = a.x.Reshape({2, 8, 3}); });
  Refused(args, &Backend::Rope, "Rope", "rope.sin", [](RopeArgs& a) { a.rope.sin.dims[0] = 19; });
  Refused(unfold, &Backend::Unfold, "Unfold", "row_begin", [](UnfoldArgs& a) { a.row_begin = 4; });
  Refused(unfold, &Backend::Unfold, "Unfold", "row_begin", [](UnfoldArgs& a) { a.row_begin = -1; });
  Refused(unfold, &Backend::Unfold, "Unfold", "first_position", [](UnfoldArgs& a) { a.first_position = -2; });
  for (const std::int64_t first : {14, 20}) {  // rows 5 and -1
    Refused(unfold, &Backend::Unfold, "Unfold", "positions[0]", [&](UnfoldArgs& a) { a.first_position = first; });
  }
  Refused(unfold, &Backend::Unfold, "Unfold", "k", [](UnfoldArgs& a) { a.k = As(a.k, DType::kF16); });
  Refused(unfold, &Backend::Unfold, "Unfold", "v", [](UnfoldArgs& a) { a.v = As(a.v, DType::kBF16); });
  Refused(unfold, &Backend::Unfold, "Unfold", "k_scale", [](UnfoldArgs& a) { a.k = a.v = As(a.k, DType::kInt8); });
  Refused(unfold, &Backend::Unfold, "Unfold", "out_v", [](UnfoldArgs& a) { a.out_v.dims[1] = 4; });
  for (std::int32_t position : {-1, 20}) {
    positions.i32()[1] = position;
    Refused(args, &Backend::Rope, "Rope", "positions[1]", [](RopeArgs&) {});
    Refused(unfold, &Backend::Unfold, "Unfold", "positions[1]", [](UnfoldArgs&) {});
  }
}

TEST_P(OpErrors, GistPrefill) {
  GistBatch batch;
  AppendDocument(batch, random_, {1, 4, 2, 3, 1}, 20);
  const Guarded q = random_.Make(DType::kF32, {batch.rows(), 4, 8}),
                k = random_.Make(DType::kF32, {batch.rows(), 2, 8});
  const Guarded out(DType::kF32, {batch.rows(), 4, 8});
  const GistPrefillArgs args{q, k, k, batch.tokens, batch.sequence_begin, batch.rules, out};
  ASSERT_TRUE(Succeeds(backend_->GistPrefill(args)));
  const auto bad = [&](std::string_view field, auto change) {
    Refused(args, &Backend::GistPrefill, "GistPrefill", field, change);
  };
  using Args = GistPrefillArgs;
  bad("tokens", [](Args& a) { a.tokens = a.tokens.subspan(1); });
  bad("sequence_begin is empty", [](Args& a) { a.sequence_begin = {}; });
  const std::vector<std::int64_t> late = {1, batch.rows()}, shorter = {0, 3}, back = {0, 9, 5, batch.rows()};
  bad("sequence_begin must begin at 0", [&](Args& a) { a.sequence_begin = late; });
  bad("sequence_begin", [&](Args& a) { a.sequence_begin = shorter; });
  bad("sequence_begin must not descend", [&](Args& a) { a.sequence_begin = back; });
  bad("rules.top_level", [](Args& a) { a.rules.top_level = kMaxGistLevels; });
  bad("rules.previous_chunks", [](Args& a) { a.rules.previous_chunks = -1; });
  bad("tokens.level", [](Args& a) { a.rules.top_level = kRawLevel; });
  bad("H", [](Args& a) { a.q = a.out = a.q.Reshape({a.q.dims[0], 4, 8}), a.k.dims[1] = a.v.dims[1] = 3; });
  bad("v", [](Args& a) { a.v.dims[2] = 4; });
  bad("k is bf16", [](Args& a) { a.k = As(a.k, DType::kBF16); });
  bad("compute", [](Args& a) { a.compute = DType::kF16; });
  std::vector<GistToken> tokens = batch.tokens;
  bad("tokens.chunk", [&](Args& a) { tokens.back().chunk = 0, a.tokens = tokens; });
  tokens = batch.tokens;
  bad("tokens.sink", [&](Args& a) { tokens[4].sink = 1, a.tokens = tokens; });
}

TEST_P(OpErrors, ScoreAndSelect) {
  const SparseCase c(random_, {2, 2, 8}, 2, 1, 0, {3, 2}, {1, 1});
  Guarded scores(DType::kF32, {2, 4, 5}), chosen(DType::kInt32, {2, 2, 5}), counts(DType::kInt32, {2, 2});
  const GistScoreArgs score{
      .q = c.q, .positions = c.positions, .rope = c.rope.table(), .context = &c.view, .scores = scores};
  ASSERT_TRUE(Succeeds(backend_->GistScore(score)));
  const auto bad = [&](std::string_view field, auto change) {
    Refused(score, &Backend::GistScore, "GistScore", field, change);
  };
  bad("context is missing", [](GistScoreArgs& a) { a.context = nullptr; });
  bad("scores", [](GistScoreArgs& a) { a.scores.dims[2] = 4; });
  ContextView view = c.view;
  const std::vector<std::int32_t> few = {0, 5}, wrong = {0, 3, 4}, late = {0, 500};
  bad("context.gists.segment", [&](GistScoreArgs& a) { view.gists[0].segment = TensorOf(few), a.context = &view; });
  bad("context.gists.segment", [&](GistScoreArgs& a) { view.gists[0].segment = TensorOf(wrong), a.context = &view; });
  view = c.view;
  bad("level", [](GistScoreArgs& a) { a.level = 1; });
  bad("parents need a level above", [&](GistScoreArgs& a) { a.parents = {chosen, counts}; });
  bad("context.num_levels", [&](GistScoreArgs& a) { view.num_levels = 4, a.context = &view; });
  view = c.view;
  bad("context.segment_offset[1]", [&](GistScoreArgs& a) { view.segment_offset = TensorOf(late), a.context = &view; });

  const SparseCase two(random_, {2, 2, 8}, 2, 1, 0, {3, 2}, {1, 1}, 1, 2);
  Guarded parents(DType::kInt32, {2, 2, 2}), parent_counts(DType::kInt32, {2, 2});
  for (std::int64_t list = 0; list < 4; ++list) {
    parent_counts.i32()[list] = 1;
    parents.i32()[2 * list] = 1;
  }
  GistScoreArgs fine = score;
  view = two.view;
  fine.context = &view;
  fine.parents = {parents, parent_counts};
  ASSERT_TRUE(Succeeds(backend_->GistScore(fine)));
  const auto bad_parents = [&](std::string_view field, auto change) {
    Refused(fine, &Backend::GistScore, "GistScore", field, change);
    view = two.view;
  };
  const std::vector<std::int32_t> orphans = {0, 3, 6};
  bad_parents("context.gists.child", [&](GistScoreArgs&) { view.gists[1].child = TensorOf(orphans); });
  bad_parents("parents", [&](GistScoreArgs& a) { a.parents.gists.dims[2] = 1; });
  bad_parents("best", [](GistScoreArgs& a) { a.best = As(a.scores, DType::kInt32); });
  parents.i32()[2] = 2;
  bad_parents("parents[2] is 2", [](GistScoreArgs&) {});

  const SelectChunksArgs select{.scores = scores, .kv_heads = 2, .top_k = 3, .chosen = {chosen, counts}};
  ASSERT_TRUE(Succeeds(backend_->SelectChunks(select)));
  const auto bad_choice = [&](std::string_view field, auto change) {
    Refused(select, &Backend::SelectChunks, "SelectChunks", field, change);
  };
  bad_choice("H", [](SelectChunksArgs& a) { a.kv_heads = 3; });
  bad_choice("H", [](SelectChunksArgs& a) { a.kv_heads = 0; });
  bad_choice("top_k", [](SelectChunksArgs& a) { a.top_k = 0; });
  bad_choice("top_p", [](SelectChunksArgs& a) { a.top_p = 1.5F; });
  bad_choice("top_p", [](SelectChunksArgs& a) { a.top_p = std::nanf(""); });
  bad_choice("scale", [](SelectChunksArgs& a) { a.scale = 0; });
  bad_choice("chosen", [](SelectChunksArgs& a) { a.chosen.gists.dims[1] = 1; });
  bad_choice("best", [](SelectChunksArgs& a) { a.best = a.scores.Reshape({2, 2, 2}); });
  bad_choice("counts", [](SelectChunksArgs& a) { a.chosen.counts = As(a.chosen.counts, DType::kF32); });
}

TEST_P(OpErrors, SparseAttention) {
  SparseCase c(random_, {2, 2, 8}, 2, 2, 3, {3, 2}, {1, 1});
  const Guarded out = c.Out();
  const std::vector<float> mass(2 * 5);
  for (std::int64_t list = 0; list < 4; ++list) {
    c.chosen[0].counts.i32()[list] = 2;
    c.chosen[0].gists.i32()[list * 5] = 1;
    c.chosen[0].gists.i32()[list * 5 + 1] = 4;
  }
  c.FindPages();
  using Args = SparseAttentionArgs;
  const Args args = c.Args(out, TensorOf(mass));
  ASSERT_TRUE(Succeeds(backend_->SparseAttention(args)));
  const auto bad = [&](std::string_view field, auto change) {
    Refused(args, &Backend::SparseAttention, "SparseAttention", field, change);
  };
  bad("scale", [](Args& a) { a.scale = 0; });
  bad("tail_position", [](Args& a) { a.tail_position = -1; });
  bad("positions[0]", [](Args& a) { a.tail_position -= 6; });  // the tail has 8 rows, query row 0 the fourth
  bad("positions[0]", [](Args& a) { a.tail_position += 4; });
  bad("prefix_k has fewer rows", [](Args& a) { a.prefix_tokens = 4; });
  bad("prefix_k", [](Args& a) { a.prefix_k = Tensor(); });
  bad("chosen", [](Args& a) { a.chosen[0].gists = Tensor(); });
  bad("chunk_mass", [](Args& a) { a.chunk_mass.dims[0] = 4; });
  const std::vector<std::int32_t> one_row = {2}, too_many = {1, 3};
  bad("row_documents", [&](Args& a) { a.row_documents = TensorOf(one_row); });
  bad("row_documents", [&](Args& a) { a.row_documents = TensorOf(too_many); });
  bad("chunk_mass", [](Args& a) { a.read = GistRead::kCollapsed; });
  bad("out", [](Args& a) { a.out.dims[1] = 2; });
  ContextView view = c.view;
  const auto bad_view = [&](std::string_view field, auto change) {
    view = c.view;
    change();
    bad(field, [&](Args& a) { a.context = &view; });
  };
  bad("chunks", [](Args& a) { a.chunks.dims[2] = 4; });
  bad("page_v", [](Args& a) { a.page_v.dims[0] = 4; });
  bad_view("context.sink_v", [&] { view.sink_v.dims[1] = 1; });
  bad_view("context.segment_sink", [&] { view.segment_sink.dims[0] = 2; });
  const std::vector<std::int32_t> sinks = {0, 1, 3}, late = {2, 600};
  bad_view("context.segment_sink", [&] { view.segment_sink = TensorOf(sinks); });
  bad_view("context.segment_offset[1]", [&] { view.segment_offset = TensorOf(late); });
  const auto bad_choice = [&](std::string_view field, std::int32_t& place, std::int32_t value) {
    const std::int32_t before = place;
    place = value;
    bad(field, [](Args&) {});
    place = before;
  };
  bad_choice("chunks.page[5] is 14", c.chunks[5].page, 14);
  bad_choice("chunks.tokens[6] is 6", c.chunks[6].tokens, 6);
  bad_choice("chunks.document[6] is 2", c.chunks[6].document, 2);
  bad_choice("chunks[6] is 5", c.chunks[6].chunk, 5);
  bad_choice("chunks[5] is -1", c.chunks[5].chunk, -1);
  bad_choice("chunks[6] is 1, expected ascending", c.chunks[6].chunk, 1);
  bad_choice("chosen.counts[3] is 6", c.chosen[0].counts.i32()[3], 6);
  bad_choice("chosen.counts[3] is -1", c.chosen[0].counts.i32()[3], -1);
  bad_choice("positions[1] is 700", c.positions.i32()[1], 700);
}

TEST_P(OpErrors, RouteScore) {
  const Guarded q = random_.Make(DType::kF32, {2, 8}), keys = random_.Make(DType::kBF16, {6, 8});
  const Guarded best(DType::kF32, {2, 2});
  const std::vector<std::int64_t> units = {0, 2, 6}, shorter = {0, 2, 5};
  std::vector<double> sum(2), squares(2);
  const RouteScoreArgs args{q, keys, units, best, sum, squares};
  ASSERT_TRUE(Succeeds(backend_->RouteScore(args)));
  const auto bad = [&](std::string_view field, auto change) {
    Refused(args, &Backend::RouteScore, "RouteScore", field, change);
  };
  bad("keys", [](RouteScoreArgs& a) { a.keys = As(a.keys, DType::kF16); });
  bad("unit_begin is empty", [](RouteScoreArgs& a) { a.unit_begin = {}; });
  bad("unit_begin", [&](RouteScoreArgs& a) { a.unit_begin = shorter; });
  bad("best", [](RouteScoreArgs& a) { a.best.dims[1] = 1; });
  bad("sum", [](RouteScoreArgs& a) { a.sum = a.sum.subspan(1); });
  bad("sum_squares", [](RouteScoreArgs& a) { a.sum_squares = {}; });
  const std::vector<std::int64_t> others = {0, 3, 6};
  RouteScoreArgs second = args;
  second.unit_begin = others;
  const RouteScoreArgs heads[] = {args, second};
  const Status refused = backend_->RouteScores(heads);
  EXPECT_EQ(refused.message(), "RouteScore: unit_begin must be the same for all heads");
}

INSTANTIATE_TEST_SUITE_P(Backends, OpErrors, ::testing::ValuesIn(RefusingCandidates()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace unfold
