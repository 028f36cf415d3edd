// SPDX-License-Identifier: Apache-2.0
// GistScore (method.md 4.1 and 4.4): the scores of the candidate gists. Here is the form for all types and dims;
// score_bf16.cu has the one on tensor cores.
//
// Bytes: the candidates' keys once for every kHeadsAtOnce heads of a group.
// Tried (f32, H200, 28/4 heads x 128, 128K tokens of context, launches included): a warp for each key, queries rotated
// by a kernel of their own: 51 us; a thread for each key: 19.
#include <algorithm>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/query_fragments.cuh"
#include "kernels/cuda/score.cuh"

namespace unfold {
namespace {

constexpr int kScoreThreads = 128;

// One candidate a thread, for up to kHeadsAtOnce heads; document by document, as far as the block's candidates have
// them.
template <bool kVectors, typename Kv>
__global__ void __launch_bounds__(kScoreThreads)
    ScoreKernel(const __grid_constant__ ScoreInputs<Kv> in, float* scores) {
  extern __shared__ __align__(16) float queries[];  // [kHeadsAtOnce, D]
  const Index group = in.queries.heads / in.kv_heads, batches = CeilDiv(group, kHeadsAtOnce);
  const Index tiles = CeilDiv(in.gists, kScoreThreads);
  Index rest = blockIdx.x;
  const Index first = rest % tiles * kScoreThreads;
  rest /= tiles;
  const Index batch = rest % batches, list = rest / batches, t = list / in.kv_heads, kv_head = list % in.kv_heads;
  const Index count = in.Count(list);
  if (first >= count) return;
  const Index i = first + threadIdx.x, gist = in.GistAt(list, min(i, count - 1)),
              document = in.Checked(in.DocumentOf(gist));
  const Index last_document =
      min(in.DocumentOf(in.GistAt(list, min(first + kScoreThreads, count) - 1)), in.queries.documents - 1);
  const Index first_head = kv_head * group + batch * kHeadsAtOnce;
  const int heads = static_cast<int>(min(Index{kHeadsAtOnce}, group - batch * kHeadsAtOnce));
  const int d = static_cast<int>(in.queries.head_dim);
  for (Index now = in.DocumentOf(in.GistAt(list, first)); now <= last_document; ++now) {
    __syncthreads();
    LoadQueries(in.queries, t, now, first_head, heads, queries);
    __syncthreads();
    if (document != now || i >= count) continue;
    float dots[kHeadsAtOnce];
    DotHeads<kVectors>(queries, in.keys + (kv_head * in.gists + gist) * d, d, dots);
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (h < heads) scores[(t * in.queries.heads + first_head + h) * in.gists + i] = dots[h];
    }
  }
}

// The best of every kScoresOfBest scores of a row and head; one a thread.
template <typename Kv>
__global__ void __launch_bounds__(kScoreThreads)
    BestKernel(const __grid_constant__ ScoreInputs<Kv> in, const float* scores, Index bests, float* best) {
  const Index tiles = CeilDiv(bests, kScoreThreads), row = blockIdx.x / tiles;
  const Index own = blockIdx.x % tiles * kScoreThreads + threadIdx.x, group = in.queries.heads / in.kv_heads;
  const Index count = in.Count(row / group), first = own * kScoresOfBest;
  if (own >= bests || first >= count) return;
  float most = -INFINITY;
  for (Index i = first; i < min(first + kScoresOfBest, count); ++i) most = fmaxf(most, scores[row * in.gists + i]);
  best[row * bests + own] = most;
}

template <typename Kv>
ScoreInputs<Kv> MakeInputs(CudaContext& context, const GistScoreArgs& args, const Candidates& candidates) {
  const GistLevel& level = args.context->gists[args.level];
  return {MakeQueries(args.q, args.positions, args.rope, args.context->segment_offset, context.NextCall(),
                      FaultKind::kScorePositions, FaultKind::kScoreOffsets),
          level.k.as<Kv>(),
          level.segment.as<std::int32_t>(),
          candidates,
          level.k.dims[0],
          level.k.dims[1],
          args.q.dims[2] % 8 == 0 && HasVectors(level.k.data)};
}

std::vector<Candidates> CandidatesOf(CudaContext& context, CallMemory& memory,
                                     std::span<const GistScoreArgs> requests) {
  std::vector<CandidateRequest> lists;
  for (const GistScoreArgs& args : requests) {
    const bool narrowed = args.parents.gists.rank != 0;
    lists.push_back({args.parents, narrowed ? args.context->gists[args.level + 1].child : Tensor(),
                     args.context->gists[args.level].k.dims[1]});
  }
  return CollectCandidates(
      context, memory, lists,
      {FaultKind::kScoreParentCounts, FaultKind::kScoreParents, FaultKind::kScoreParentOrder, FaultKind::kScoreChild});
}

RowsToRotate RotationOf(const GistScoreArgs& args, const QueryInputs& queries) {
  return {queries, args.q.dims[0], args.context->gists[args.level].k.dims[0], args.turned.data, args.is_turned};
}

// On tensor cores, several requests as one. Their keys can be loaded 16 bytes at a time.
Status ScoreTogether(CudaContext& context, std::span<const GistScoreArgs> requests) {
  CallMemory memory(context, "GistScore");
  const std::vector<Candidates> candidates = CandidatesOf(context, memory, requests);
  std::vector<ScoreRequest> all;
  std::vector<RowsToRotate> rows;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    all.push_back({MakeInputs<__nv_bfloat16>(context, requests[i], candidates[i]),
                   {},
                   requests[i].scores.as<float>(),
                   requests[i].best.as<float>()});
    rows.push_back(RotationOf(requests[i], all[i].in.queries));
  }
  const std::vector<RotatedQueries> rotated = RotateQueries(context, memory, rows);
  UNFOLD_TRY(memory.status());
  for (std::size_t i = 0; i < all.size(); ++i) all[i].queries = rotated[i];
  return LaunchTensorCoreScore(context, all, rows.front().rows * rows.front().kv_heads);
}

// In the form for all types and dims.
template <typename Kv>
Status ScoreOne(CudaContext& context, const GistScoreArgs& args) {
  CallMemory memory(context, "GistScore");
  const ScoreInputs<Kv> in = MakeInputs<Kv>(context, args, CandidatesOf(context, memory, std::span(&args, 1)).front());
  const Index lists = args.q.dims[0] * in.kv_heads, group = args.q.dims[1] / in.kv_heads;
  // Attention in bf16 counts on what was to be turned, whatever form scores.
  if (sizeof(Kv) == sizeof(__nv_bfloat16) && args.turned.rank != 0 && TakesTensorCores(group, args.q.dims[2])) {
    RotateQueries(context, memory, {RotationOf(args, in.queries)});
  }
  UNFOLD_TRY(memory.status());
  const Index blocks = lists * CeilDiv(group, kHeadsAtOnce) * CeilDiv(in.gists, kScoreThreads);
  const auto kernel = in.vectors ? ScoreKernel<true, Kv> : ScoreKernel<false, Kv>;
  kernel<<<static_cast<unsigned>(blocks), kScoreThreads, kHeadsAtOnce * args.q.dims[2] * sizeof(float),
           context.stream()>>>(in, args.scores.as<float>());
  UNFOLD_TRY(context.Launched("GistScore"));
  if (args.best.rank == 0) return Status::Ok();
  const Index bests = args.best.dims[2];
  BestKernel<<<static_cast<unsigned>(args.q.dims[0] * args.q.dims[1] * CeilDiv(bests, kScoreThreads)), kScoreThreads, 0,
               context.stream()>>>(in, args.scores.as<float>(), bests, args.best.as<float>());
  return context.Launched("GistScore");
}

bool OnTensorCores(const GistScoreArgs& args) {
  const Tensor& keys = args.context->gists[args.level].k;
  return keys.dtype == DType::kBF16 && HasVectors(keys.data) &&
         TakesTensorCores(args.q.dims[1] / keys.dims[0], args.q.dims[2]);
}

// Whether one launch can take all: of one row each, and as many heads and dims.
bool AreAlike(std::span<const GistScoreArgs> requests) {
  const GistScoreArgs& first = requests.front();
  return std::all_of(requests.begin(), requests.end(), [&](const GistScoreArgs& args) {
    return OnTensorCores(args) && args.q.dims[0] == 1 && args.scores.size() > 0 && args.q.dims[1] == first.q.dims[1] &&
           args.q.dims[2] == first.q.dims[2] && args.context->gists[0].k.dims[0] == first.context->gists[0].k.dims[0] &&
           args.level == first.level;
  });
}

Status Score(CudaContext& context, const GistScoreArgs& args) {
  if (args.scores.size() == 0) return Status::Ok();
  if (OnTensorCores(args)) return ScoreTogether(context, std::span(&args, 1));
  return args.context->gists[args.level].k.dtype == DType::kBF16 ? ScoreOne<__nv_bfloat16>(context, args)
                                                                 : ScoreOne<float>(context, args);
}

// As many rows at a time as have their rotated queries in some memory.
Status ScoreRows(CudaContext& context, const GistScoreArgs& args) {
  if (args.context->gists[args.level].k.dtype != DType::kBF16) return Score(context, args);
  constexpr Index kQueryBytes = Index{256} << 20;
  const auto [rows, heads, head_dim, unused] = args.q.dims;
  const Index kv_heads = args.context->gists[args.level].k.dims[0];
  const Index bytes = RotatedQueryBytes(1, args.context->num_documents(), kv_heads, heads / kv_heads, head_dim);
  const Index at_once = std::max<Index>(kQueryBytes / bytes, 1);
  for (Index begin = 0; begin < rows; begin += at_once) {
    const Index end = std::min(begin + at_once, rows);
    GistScoreArgs part = args;
    part.q = args.q.Rows(begin, end);
    part.positions = args.positions.Rows(begin, end);
    part.scores = args.scores.Rows(begin, end);
    if (args.best.rank != 0) part.best = args.best.Rows(begin, end);
    if (args.turned.rank != 0) part.turned = args.turned.Rows(begin * bytes, end * bytes);
    part.parents = args.parents.Rows(begin, end);
    UNFOLD_TRY(Score(context, part));
  }
  return Status::Ok();
}

}  // namespace

std::size_t CudaBackend::TurnedQueryBytes(const Tensor& q, std::int64_t kv_heads, std::int64_t documents) const {
  const auto [rows, heads, head_dim, unused] = q.dims;
  if (!TakesTensorCores(heads / kv_heads, head_dim)) return 0;
  return static_cast<std::size_t>(RotatedQueryBytes(rows, documents, kv_heads, heads / kv_heads, head_dim));
}

Status CudaBackend::DoGistScore(std::span<const GistScoreArgs> requests) {
  for (const GistScoreArgs& args : requests) {
    if (args.q.dims[2] > kMaxQueryDim) return Status::InvalidArgument("GistScore: cuda takes D up to 256");
  }
  if (requests.size() > 1 && AreAlike(requests)) return ScoreTogether(*context_, requests);
  for (const GistScoreArgs& args : requests) UNFOLD_TRY(ScoreRows(*context_, args));
  return Status::Ok();
}

}  // namespace unfold
