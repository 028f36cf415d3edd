// SPDX-License-Identifier: Apache-2.0
// GistPrefill in f32 (method.md section 3): flash attention of a tile of rows of one head over the keys of its plan
// (prefill_plan.h), which are gathered into shared memory kTileKeys at a time.
//
// Flops: 4 * D for each pair of the plan. Keys and values of a tile are read once for each query head of a group.
#include <algorithm>
#include <cstring>
#include <span>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/prefill.cuh"
#include "kernels/cuda/products.h"

namespace unfold {
namespace {

constexpr int kTileRows = 32;
constexpr int kTileKeys = 32;
constexpr int kThreadsOfRow = 4;
constexpr int kThreads = kTileRows * kThreadsOfRow;
constexpr int kKeysOfThread = kTileKeys / kThreadsOfRow;

struct PrefillInputs {
  const float *q, *k, *v;
  PrefillShape shape;
  Index head_dim;
};

// Four threads share a row: in the scores each takes every fourth key, in the output every fourth dim. kMaxDim bounds
// D.
template <int kMaxDim>
__global__ void __launch_bounds__(kThreads) PrefillKernel(PrefillInputs in, float* out) {
  extern __shared__ float shared[];
  const Index d = in.head_dim, stride = d + 1;
  float *q_tile = shared, *k_tile = q_tile + kTileRows * stride, *v_tile = k_tile + kTileKeys * stride;
  float* weights = v_tile + kTileKeys * stride;  // [kTileRows, kTileKeys + 1]
  __shared__ GistToken key_tokens[kTileKeys];
  __shared__ Index key_rows[kTileKeys];

  const PrefillTile tile = in.shape.tiles[blockIdx.x / in.shape.heads];
  const Index head = blockIdx.x % in.shape.heads, kv_head = head / (in.shape.heads / in.shape.kv_heads);
  const int r = threadIdx.x / kThreadsOfRow, part = threadIdx.x % kThreadsOfRow;
  const bool is_row = r < tile.rows;
  const Index row = tile.first_row + (is_row ? r : 0);
  const GistToken own = in.shape.tokens[row];
  const float scale = 1.0F / sqrtf(static_cast<float>(d));
  for (Index e = part; e < d; e += kThreadsOfRow) {
    q_tile[r * stride + e] = is_row ? in.q[(row * in.shape.heads + head) * d + e] : 0.0F;
  }

  float largest = -INFINITY, total = 0, sums[kMaxDim / kThreadsOfRow] = {};
  const Index keys = tile.far_count + tile.near_count;
  for (Index first = 0; first < keys; first += kTileKeys) {
    const int count = static_cast<int>(min(Index{kTileKeys}, keys - first));
    __syncthreads();
    if (threadIdx.x < count) {
      key_rows[threadIdx.x] = *in.shape.KeyRow(tile, first + threadIdx.x);
      key_tokens[threadIdx.x] = in.shape.tokens[key_rows[threadIdx.x]];
    }
    __syncthreads();
    for (Index i = threadIdx.x; i < count * d; i += kThreads) {
      const Index key = i / d, e = i % d, from = (key_rows[key] * in.shape.kv_heads + kv_head) * d + e;
      k_tile[key * stride + e] = in.k[from];
      v_tile[key * stride + e] = in.v[from];
    }
    __syncthreads();

    float logits[kKeysOfThread];
    float tile_largest = -INFINITY;
    for (int i = 0; i < kKeysOfThread; ++i) {
      const int key = part + i * kThreadsOfRow;
      logits[i] = -INFINITY;
      if (!is_row || key >= count) continue;
      const Index j = key_rows[key];
      if (!MaySee(in.shape.rules, row - tile.sequence_begin, j - tile.sequence_begin, own, key_tokens[key])) continue;
      float dot = 0;
      for (Index e = 0; e < d; ++e) dot = fmaf(q_tile[r * stride + e], k_tile[key * stride + e], dot);
      logits[i] = dot * scale;
      tile_largest = fmaxf(tile_largest, logits[i]);
    }
    for (int step = 1; step < kThreadsOfRow; step *= 2) {
      tile_largest = fmaxf(tile_largest, __shfl_xor_sync(kAllLanes, tile_largest, step));
    }
    const float now = fmaxf(largest, tile_largest);
    const float shrink = now == -INFINITY ? 1.0F : expf(largest - now);
    float tile_total = 0;
    for (int i = 0; i < kKeysOfThread; ++i) {
      const float weight = logits[i] == -INFINITY ? 0.0F : expf(logits[i] - now);
      weights[r * (kTileKeys + 1) + part + i * kThreadsOfRow] = weight;
      tile_total += weight;
    }
    for (int step = 1; step < kThreadsOfRow; step *= 2) {
      tile_total += __shfl_xor_sync(kAllLanes, tile_total, step);
    }
    total = total * shrink + tile_total;
    largest = now;
    __syncwarp();
    for (int i = 0; i < kMaxDim / kThreadsOfRow; ++i) sums[i] *= shrink;
    for (int key = 0; key < count; ++key) {
      const float weight = weights[r * (kTileKeys + 1) + key];
      if (weight == 0.0F) continue;  // not seen: its value may be anything
#pragma unroll
      for (int i = 0; i < kMaxDim / kThreadsOfRow; ++i) {
        const Index e = part + i * kThreadsOfRow;
        if (e < d) sums[i] = fmaf(weight, v_tile[key * stride + e], sums[i]);
      }
    }
  }
  if (!is_row) return;
  for (int i = 0; i < kMaxDim / kThreadsOfRow; ++i) {
    const Index e = part + i * kThreadsOfRow;
    if (e < d) out[(row * in.shape.heads + head) * d + e] = sums[i] / total;
  }
}

constexpr Index kMaxHeadDim = 256;

// One tile a block, one of its rows a thread: the bits of every mask of the tile.
__global__ void __launch_bounds__(kTensorCoreTileRows) MaskKernel(PrefillShape shape, unsigned long long* masks) {
  constexpr int kKeys = CudaPrefillPlan::kMaskKeys;
  __shared__ GistToken tokens[kKeys];
  __shared__ Index rows[kKeys];
  const PrefillTile tile = shape.tiles[blockIdx.x];
  const Index keys = tile.far_count + tile.near_count, begin = tile.sequence_begin;
  const Index row = tile.first_row + min(static_cast<int>(threadIdx.x), tile.rows - 1);
  const GistToken own = shape.tokens[row];
  Index block = tile.mask_begin;
  for (Index first = tile.seen_keys; first < keys; first += kKeys, ++block) {
    const int count = static_cast<int>(min(Index{kKeys}, keys - first));
    __syncthreads();
    if (threadIdx.x < count) {
      rows[threadIdx.x] = *shape.KeyRow(tile, first + threadIdx.x);
      tokens[threadIdx.x] = shape.tokens[rows[threadIdx.x]];
    }
    __syncthreads();
    unsigned long long mask = 0;
    for (int key = 0; key < count; ++key) {
      if (MaySee(shape.rules, row - begin, rows[key] - begin, own, tokens[key])) mask |= 1ULL << key;
    }
    masks[block * kTensorCoreTileRows + threadIdx.x] = mask;
  }
}

}  // namespace

bool DevicePrefillPlan::Has(const GistPrefillArgs& args, Index tile_rows) const {
  return tile_rows == tile_rows_ && rules_.top_level == args.rules.top_level &&
         rules_.previous_chunks == args.rules.previous_chunks && tokens_.size() == args.tokens.size() &&
         std::equal(sequence_begin_.begin(), sequence_begin_.end(), args.sequence_begin.begin(),
                    args.sequence_begin.end()) &&
         std::memcmp(tokens_.data(), args.tokens.data(), args.tokens.size_bytes()) == 0;
}

Status DevicePrefillPlan::Make(const GistPrefillArgs& args, Index tile_rows) {
  tile_rows_ = 0;
  const CudaPrefillPlan plan(args, tile_rows);
  // One piece of memory: tokens, tiles, far and near rows, each aligned to 4 bytes as all of them are.
  const std::span<const std::byte> parts[] = {std::as_bytes(args.tokens), std::as_bytes(std::span(plan.tiles)),
                                              std::as_bytes(std::span(plan.far)), std::as_bytes(std::span(plan.near))};
  std::size_t bytes = 0;
  for (const auto& part : parts) bytes += part.size();
  if (bytes > memory_.bytes()) {
    memory_ = Buffer();
    UNFOLD_TRY_ASSIGN(memory_, context_.MakeBuffer(bytes + bytes / 4));
  }
  const std::byte* places[4];
  std::size_t at = 0;
  for (int i = 0; i < 4; ++i) {
    std::byte* to = static_cast<std::byte*>(memory_.data()) + at;
    UNFOLD_TRY(context_.CopyIn(to, parts[i].data(), parts[i].size()));
    places[i] = to;
    at += parts[i].size();
  }
  shape_ = {};
  shape_.tokens = reinterpret_cast<const GistToken*>(places[0]);
  shape_.tiles = reinterpret_cast<const PrefillTile*>(places[1]);
  shape_.far = reinterpret_cast<const std::int32_t*>(places[2]);
  shape_.near = reinterpret_cast<const std::int32_t*>(places[3]);
  shape_.num_tiles = static_cast<Index>(plan.tiles.size());
  shape_.rules = args.rules;
  if (tile_rows == kTensorCoreTileRows) UNFOLD_TRY(MakeMasks(plan.num_masks));
  tokens_.assign(args.tokens.begin(), args.tokens.end());
  sequence_begin_.assign(args.sequence_begin.begin(), args.sequence_begin.end());
  rules_ = args.rules;
  tile_rows_ = tile_rows;
  return Status::Ok();
}

Status DevicePrefillPlan::MakeMasks(Index num_masks) {
  const std::size_t bytes = static_cast<std::size_t>(num_masks) * kTensorCoreTileRows * sizeof(unsigned long long);
  if (bytes > masks_.bytes()) {
    masks_ = Buffer();
    UNFOLD_TRY_ASSIGN(masks_, context_.MakeBuffer(bytes + bytes / 4));
  }
  auto* masks = static_cast<unsigned long long*>(masks_.data());
  MaskKernel<<<static_cast<unsigned>(shape_.num_tiles), kTensorCoreTileRows, 0, context_.stream()>>>(shape_, masks);
  shape_.masks = masks;
  return context_.Launched("GistPrefill");
}

Result<PrefillShape> DevicePrefillPlan::For(const GistPrefillArgs& args, Index tile_rows) {
  if (!Has(args, tile_rows)) UNFOLD_TRY(Make(args, tile_rows));
  PrefillShape shape = shape_;
  shape.heads = args.q.dims[1];
  shape.kv_heads = args.k.dims[1];
  return shape;
}

Status CudaBackend::DoGistPrefill(const GistPrefillArgs& args) {
  const auto [rows, heads, head_dim, unused] = args.q.dims;
  if (rows == 0) return Status::Ok();
  if (head_dim > kMaxHeadDim || rows > INT32_MAX) {
    return Status::InvalidArgument("GistPrefill: q is " + args.q.ShapeString() + ", cuda takes D up to " +
                                   std::to_string(kMaxHeadDim));
  }
  const bool on_tensor_cores = TakesPrefillOnTensorCores(args);
  UNFOLD_TRY_ASSIGN(const PrefillShape shape,
                    prefill_plan_->For(args, on_tensor_cores ? kTensorCoreTileRows : kTileRows));
  if (on_tensor_cores) return PrefillOnTensorCores(*context_, args, shape);

  // Of bf16 (with a head dimension that the tensor cores' kernel does not take) copies are worked on.
  CallMemory memory(*context_, "GistPrefill");
  const PrefillInputs in{WidenToF32(*context_, memory, args.q), WidenToF32(*context_, memory, args.k),
                         WidenToF32(*context_, memory, args.v), shape, head_dim};
  const bool narrow = args.out.dtype == DType::kBF16;
  const Tensor out(narrow ? memory.Array<float>(args.out.size()) : args.out.data, DType::kF32, {args.out.size()});
  UNFOLD_TRY(memory.status());
  const auto kernel = head_dim <= 64 ? PrefillKernel<64> : head_dim <= 128 ? PrefillKernel<128> : PrefillKernel<256>;
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>((kTileRows + 2 * kTileKeys) * (head_dim + 1) +
                                                                     kTileRows * (kTileKeys + 1));
  UNFOLD_TRY(context_->Explain(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
      "GistPrefill"));
  kernel<<<static_cast<unsigned>(shape.num_tiles * heads), kThreads, bytes, context_->stream()>>>(in, out.as<float>());
  if (narrow) UNFOLD_TRY(Convert(*context_, out, args.out));
  return context_->Launched("GistPrefill");
}

}  // namespace unfold
