// SPDX-License-Identifier: Apache-2.0
// SparseAttention (method.md 4.5): flash decoding of each row and key/value head over its items (attention_items.cuh),
// split as SplitsOf says, merged in order. Which items a split has depends on the row's own lists alone. Here is what
// chooses the form, and what merges splits of the one on tensor cores (sparse_attention_bf16.cu); the other is in
// sparse_attention_any.cu.
#include <algorithm>

#include "kernels/cuda/attention_inputs.cuh"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/chunk_mass.cuh"
#include "kernels/cuda/merge_splits.cuh"

namespace unfold {
namespace {

constexpr Index kCallBytes = Index{384} << 20;  // that the splits of one launch may take

constexpr std::size_t kMergeOrMassBytes = sizeof(MergeShared) > sizeof(MassShared) ? sizeof(MergeShared)
                                                                                   : sizeof(MassShared);

// Merges all rows and heads of a request by its first `merging` blocks, and adds the attention mass of its last row by
// those after, `mass_at_once` a list.
template <int kMost>
__global__ void __launch_bounds__(kMergeThreads)
    MergeAndMassKernel(const __grid_constant__ Together<AttendRequest, kMost> requests, unsigned merging,
                       unsigned blocks_of_head, unsigned mass_at_once) {
  __shared__ alignas(16) unsigned char shared[kMergeOrMassBytes];
  const AttendRequest& own = requests();
  if (blockIdx.x < merging) {
    MergeHead(own.in, own.partials, own.out, nullptr, blocks_of_head, *reinterpret_cast<MergeShared*>(shared),
              WaitWithThis());
    return;
  }
  if (own.mass == nullptr) return WaitWithThis()();
  AddKeptMass(own, mass_at_once, blockIdx.x - merging, *reinterpret_cast<MassShared*>(shared), WaitWithThis());
}

// Rows [begin, end) of a call as a call of their own.
SparseAttentionArgs RowsOf(const SparseAttentionArgs& args, Index begin, Index end) {
  SparseAttentionArgs part = args;
  const Index turned = args.turned.rank == 0 ? 0 : args.turned.dims[0] / args.q.dims[0];
  if (turned > 0) part.turned = args.turned.Rows(begin * turned, end * turned);
  part.q = args.q.Rows(begin, end);
  part.positions = args.positions.Rows(begin, end);
  for (ChosenGists& chosen : part.chosen) {
    if (chosen.gists.rank != 0) chosen = chosen.Rows(begin, end);
  }
  if (args.chunks.rank != 0) part.chunks = args.chunks.Rows(begin, end);
  if (args.row_documents.rank != 0) part.row_documents = args.row_documents.Rows(begin, end);
  if (end < args.q.dims[0]) part.chunk_mass = Tensor();  // of the last row
  part.out = args.out.Rows(begin, end);
  return part;
}

Status Merge(CudaContext& context, const std::vector<AttendRequest>& requests, Index rows) {
  static_assert(kItemsOfSplit * 2 * kTileHeads <= kMergeThreads && kMaxQueryDim <= kMergeThreads / 2);
  // As few as have a thread for each head of each item, so that blocks of the work after find a place beside them.
  const Index heads_of_items = requests.front().queries.heads_at_once * kItemsOfSplit;
  const int threads = heads_of_items <= kMergeThreads / 2 ? kMergeThreads / 2 : kMergeThreads;
  const AttentionInputs<__nv_bfloat16>& first = requests.front().in;
  // Where splits are many, a block for each 32 dims: whatever the rows, so that a row's bits do not depend on others.
  const Index blocks_of_head =
      requests.front().partials.usual == kUsualSplits ? CeilDiv(first.queries.head_dim, kWarp) : 1;
  const Index merging = rows * first.queries.heads * blocks_of_head;
  Index splits = 0;
  bool with_mass = false;
  for (const AttendRequest& request : requests) {
    splits = std::max(splits, request.partials.splits);
    with_mass |= request.mass != nullptr;
  }
  return LaunchTogether(requests, [&]<int kMost>(const Together<AttendRequest, kMost>& some, int count) {
    const Index at_once = with_mass ? SplitsAtOnce(context, first.kv_heads * count, splits) : 0;
    return context.Launch(
        MergeAndMassKernel<kMost>, {merging + first.kv_heads * at_once, threads, 0, "SparseAttention", false, count},
        some, static_cast<unsigned>(merging), static_cast<unsigned>(blocks_of_head), static_cast<unsigned>(at_once));
  });
}

AttendRequest MakeRequest(CudaContext& context, CallMemory& memory, const SparseAttentionArgs& args, int usual_splits) {
  AttendRequest request;
  request.in = MakeInputs<__nv_bfloat16>(args, context.NextCall(), true);
  request.partials = MakePartials<__nv_bfloat16>(memory, args, usual_splits);
  request.out = args.out.as<float>();
  if (!HasMass(args)) return request;
  const Index items = request.in.kv_heads * request.partials.splits * kItemsOfSplit;
  request.mass = args.chunk_mass.as<float>();
  request.kept.first_row = args.q.dims[0] - 1;
  request.kept.tiles = static_cast<int>(CeilDiv(request.in.pages.stride + 1, unfold::kTileKeys));
  request.kept.items = memory.Array<int2>(items);
  request.kept.sums = memory.Array<float2>(items * request.kept.tiles *
                                           TensorCoreHeads(request.in.queries.heads / request.in.kv_heads));
  return request;
}

// On tensor cores, requests as one. All that they read can be loaded 16 bytes at a time.
Status AttendTogether(CudaContext& context, std::span<const SparseAttentionArgs> requests, int usual_splits) {
  CallMemory memory(context, "SparseAttention");
  std::vector<AttendRequest> all;
  std::vector<RowsToRotate> queries;
  const Index rows = requests.front().q.dims[0];
  for (const SparseAttentionArgs& args : requests) {
    const AttendRequest& request = all.emplace_back(MakeRequest(context, memory, args, usual_splits));
    queries.push_back({request.in.queries, rows, request.in.kv_heads, args.turned.data, args.turned.data != nullptr});
  }
  UNFOLD_TRY(memory.status());
  const std::vector<RotatedQueries> rotated = RotateQueries(context, memory, queries);
  UNFOLD_TRY(memory.status());
  for (std::size_t i = 0; i < all.size(); ++i) all[i].queries = rotated[i];
  UNFOLD_TRY(LaunchTensorCoreAttention(context, all, rows));
  return Merge(context, all, rows);
}

bool OnTensorCores(const SparseAttentionArgs& args) {
  return args.tail_k.dtype == DType::kBF16 && TakesTensorCores(args.q.dims[1] / args.tail_k.dims[0], args.q.dims[2]) &&
         AllHaveVectors(args);
}

// Whether one launch can take all: of one row each, and as many heads and dims.
bool AreAlike(std::span<const SparseAttentionArgs> requests) {
  const SparseAttentionArgs& first = requests.front();
  return std::all_of(requests.begin(), requests.end(), [&](const SparseAttentionArgs& args) {
    return OnTensorCores(args) && args.q.dims[0] == 1 && args.q.dims[1] == first.q.dims[1] &&
           args.q.dims[2] == first.q.dims[2] && args.tail_k.dims[0] == first.tail_k.dims[0];
  });
}

// What the splits of a row, and its queries, take.
Index RowBytes(const SparseAttentionArgs& args, int usual_splits) {
  const Index heads = args.q.dims[1], head_dim = args.q.dims[2], kv_heads = args.tail_k.dims[0];
  const Index documents = args.context == nullptr ? 0 : args.context->num_documents();
  const Index items = args.tail_k.dtype == DType::kBF16 ? MostItems<__nv_bfloat16>(args) : MostItems<float>(args);
  return std::max<Index>(1, heads * SplitsOf(items, usual_splits) * (head_dim + 2) * static_cast<Index>(sizeof(float)) +
                                RotatedQueryBytes(1, documents, kv_heads, heads / kv_heads, head_dim));
}

Status AttendRows(CudaContext& context, const SparseAttentionArgs& args) {
  const Index rows = args.q.dims[0];
  const Index at_once = std::clamp<Index>(kCallBytes / RowBytes(args, kUsualSplits), 1, std::max<Index>(rows, 1));
  for (Index begin = 0; begin < rows; begin += at_once) {
    const SparseAttentionArgs part = RowsOf(args, begin, std::min(begin + at_once, rows));
    if (OnTensorCores(part)) {
      UNFOLD_TRY(AttendTogether(context, std::span(&part, 1), kUsualSplits));
    } else if (part.tail_k.dtype == DType::kBF16) {
      UNFOLD_TRY(AttendInAnyForm<__nv_bfloat16>(context, part));
    } else {
      UNFOLD_TRY(AttendInAnyForm<float>(context, part));
    }
  }
  return Status::Ok();
}

}  // namespace

Status CudaBackend::DoSparseAttention(std::span<const SparseAttentionArgs> requests) {
  for (const SparseAttentionArgs& args : requests) {
    if (args.q.dims[2] > kMaxQueryDim) return Status::InvalidArgument("SparseAttention: cuda takes D up to 256");
  }
  if (requests.size() <= 1 || !AreAlike(requests)) {
    for (const SparseAttentionArgs& args : requests) UNFOLD_TRY(AttendRows(*context_, args));
    return Status::Ok();
  }
  for (std::size_t begin = 0, end = 0; begin < requests.size(); begin = end) {
    Index bytes = RowBytes(requests[end++], kSplitsOfMany);
    while (end < requests.size() && (bytes += RowBytes(requests[end], kSplitsOfMany)) <= kCallBytes) ++end;
    UNFOLD_TRY(AttendTogether(*context_, requests.subspan(begin, end - begin), kSplitsOfMany));
  }
  return Status::Ok();
}

}  // namespace unfold
