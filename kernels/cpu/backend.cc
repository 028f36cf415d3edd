// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/backend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/float16.h"
#include "kernels/cpu/isa.h"

namespace unfold {
namespace {

using Index = std::int64_t;

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kSlabBytes = std::size_t{32} << 20;  // pages that hold no weights are never touched
constexpr Index kRouteKeys = 512;                          // keys that a routing task scores at once

const std::byte* RowAt(const Tensor& tensor, Index row, Index width) {
  return tensor.as<const std::byte>() + static_cast<std::size_t>(row * width) * DTypeBytes(tensor.dtype);
}
int TypeIndex(const Tensor& tensor) { return static_cast<int>(tensor.dtype); }
static_assert(static_cast<int>(DType::kF32) == 0 && static_cast<int>(DType::kF16) == 1 &&
              static_cast<int>(DType::kBF16) == 2);

// Of the words in bytes [begin, end), both halves of the result together: eight cache lines a step, fetched a page
// ahead: the hardware's own prefetch alone is slower here.
std::uint64_t XorPiece(const char* bytes, Index begin, Index end) {
  constexpr Index kLine = 64, kStep = 8 * kLine, kAhead = 4096;
  std::uint64_t lanes[8] = {};
  Index at = begin;
  for (; at + kStep <= end; at += kStep) {
    for (Index line = 0; line < kStep; line += kLine) __builtin_prefetch(bytes + at + kAhead + line, 0, 2);
    for (Index line = 0; line < kStep; line += kLine) {
      std::uint64_t words[8];
      std::memcpy(words, bytes + at + line, sizeof words);
      for (int lane = 0; lane < 8; ++lane) lanes[lane] ^= words[lane];
    }
  }
  std::uint64_t result = 0;
  for (const std::uint64_t lane : lanes) result ^= lane;
  for (; at < end; at += static_cast<Index>(sizeof(std::uint32_t))) {
    std::uint32_t word = 0;
    std::memcpy(&word, bytes + at, sizeof word);
    result ^= word;
  }
  return result;
}

}  // namespace

std::unique_ptr<CpuScratch> CpuScratchPool::Take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) return std::make_unique<CpuScratch>();
  std::unique_ptr<CpuScratch> scratch = std::move(free_.back());
  free_.pop_back();
  return scratch;
}

void CpuScratchPool::Return(std::unique_ptr<CpuScratch> scratch) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(scratch));
}

Result<Tensor> CpuBackend::ImportWeights(const Tensor& host) {
  const std::size_t bytes = (host.bytes() + kCacheLine - 1) / kCacheLine * kCacheLine;
  if (weights_.empty() || weights_used_ + bytes > weights_.back().bytes()) {
    UNFOLD_TRY_ASSIGN(Buffer slab, Allocate(std::max(kSlabBytes, bytes)));
    weights_.push_back(std::move(slab));
    weights_used_ = 0;
  }
  Tensor copy = host;
  copy.data = static_cast<std::byte*>(weights_.back().data()) + weights_used_;
  UNFOLD_TRY(Upload(copy, host.data));
  weights_used_ += bytes;
  return copy;
}

Index CpuBackend::GrainFor(Index count, Index item_work) const {
  const Index fair = count / (4 * pool_.size());  // four ranges a thread even out uneven items
  const Index least = kSmallWork / 4 / (item_work + 1);
  return std::clamp<Index>(std::max(fair, least), 1, count);
}

Status CpuBackend::DoEmbed(const EmbedArgs& args) {
  UNFOLD_TRY(CheckIndices("Embed", "ids", args.ids, args.table.dims[0]));
  const Index width = args.table.dims[1];
  for (Index t = 0; t < args.ids.dims[0]; ++t) {
    const std::byte* row = RowAt(args.table, args.ids.as<std::int32_t>()[t], width);
    simd_.widen[TypeIndex(args.table)](row, args.out.as<float>() + t * width, width);
  }
  return Status::Ok();
}

// The row kernels have no form for activations, or attended KV, in bf16.
Status CpuBackend::TakesF32(std::string_view op, std::initializer_list<Tensor> activations) {
  for (const Tensor& tensor : activations) {
    if (tensor.dtype == DType::kF32) continue;
    return Status::InvalidArgument(std::string(op) + ": an activation or KV is " + tensor.ShapeString() +
                                   "; the cpu backend takes f32 (its WorkingType)");
  }
  return Status::Ok();
}

Status CpuBackend::DoRmsNorm(const RmsNormArgs& args) {
  UNFOLD_TRY(TakesF32("RmsNorm", {args.x, args.out}));
  const Index width = args.x.dims[1];
  Split(args.x.dims[0], width, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      const float* x = args.x.as<float>() + t * width;
      const void* same = x;
      float squares = 0;
      simd_.dots[0](&x, 1, &same, 1, width, &squares, 1, false);
      const float scale = 1.0F / std::sqrt(squares / static_cast<float>(width) + args.epsilon);
      simd_.scale_rows[TypeIndex(args.weight)](x, scale, args.weight.data, args.out.as<float>() + t * width, width);
    }
  });
  return Status::Ok();
}

Status CpuBackend::DoRope(const RopeArgs& args) {
  UNFOLD_TRY(TakesF32("Rope", {args.x, args.out}));
  UNFOLD_TRY(CheckIndices("Rope", "positions", args.positions, args.rope.cos.dims[0]));
  const Index heads = args.x.dims[1], head_dim = args.x.dims[2], half = head_dim / 2;
  Split(args.x.dims[0], heads * head_dim, [&](Index begin, Index end) {
    for (Index row = begin * heads; row < end * heads; ++row) {
      const Index position = args.positions.as<std::int32_t>()[row / heads];
      simd_.rotate[0](args.x.as<float>() + row * head_dim, args.rope.cos.as<float>() + position * half,
                      args.rope.sin.as<float>() + position * half, args.out.as<float>() + row * head_dim, half);
    }
  });
  return Status::Ok();
}

Status CpuBackend::DoSwiGlu(const SwiGluArgs& args) {
  UNFOLD_TRY(TakesF32("SwiGlu", {args.gate}));
  const Index width = args.gate.dims[1];
  Split(args.gate.dims[0], 4 * width, [&](Index begin, Index end) {
    simd_.swiglu(args.gate.as<float>() + begin * width, args.up.as<float>() + begin * width,
                 args.out.as<float>() + begin * width, (end - begin) * width);
  });
  return Status::Ok();
}

// Row `row` of `head`: an int8 times a bf16 is exact in f32, so every instruction set gives the same bits.
static void Dequantise(const Tensor& rows, const Tensor& scale, Index row, Index head, Index head_dim, float* out) {
  const auto* values = rows.as<std::int8_t>() + row * head_dim;
  const auto* scales = scale.as<std::uint16_t>() + head * head_dim;
  for (Index i = 0; i < head_dim; ++i) out[i] = static_cast<float>(values[i]) * BF16ToF32(scales[i]);
}

Status CpuBackend::UnfoldOne(const UnfoldArgs& args) {
  UNFOLD_TRY(TakesF32("Unfold", {args.out_k}));
  UNFOLD_TRY(CheckUnfoldPositions(args));
  const Index kv_heads = args.k.dims[1], head_dim = args.k.dims[2], half = head_dim / 2, out_rows = args.out_k.dims[1];
  Split(args.k.dims[0], 2 * kv_heads * head_dim, [&](Index begin, Index end) {
    CpuScratchPool::Lease scratch(scratch_);
    scratch->row.resize(static_cast<std::size_t>(head_dim));
    for (Index row = begin * kv_heads; row < end * kv_heads; ++row) {
      const Index t = row / kv_heads, head = row % kv_heads;
      const Index out_at = (head * out_rows + OutRow(args, t)) * head_dim;
      const Index position = args.positions.as<std::int32_t>()[t];
      if (args.k.dtype == DType::kInt8) {
        Dequantise(args.k, args.k_scale, row, head, head_dim, scratch->row.data());
        simd_.rotate[0](scratch->row.data(), args.rope.cos.as<float>() + position * half,
                        args.rope.sin.as<float>() + position * half, args.out_k.as<float>() + out_at, half);
        Dequantise(args.v, args.v_scale, row, head, head_dim, args.out_v.as<float>() + out_at);
        continue;
      }
      simd_.rotate[TypeIndex(args.k)](RowAt(args.k, row, head_dim), args.rope.cos.as<float>() + position * half,
                                      args.rope.sin.as<float>() + position * half, args.out_k.as<float>() + out_at,
                                      half);
      simd_.widen[TypeIndex(args.v)](RowAt(args.v, row, head_dim), args.out_v.as<float>() + out_at, head_dim);
    }
  });
  return Status::Ok();
}

Status CpuBackend::DoRouteScores(std::span<const RouteScoreArgs> heads) {
  for (const RouteScoreArgs& args : heads) RouteHead(args);
  return Status::Ok();
}

void CpuBackend::RouteHead(const RouteScoreArgs& args) {
  const Index rows = args.q.dims[0], head_dim = args.q.dims[1], chunks = args.keys.dims[0], units = args.best.dims[1];
  unit_sums_.assign(static_cast<std::size_t>(2 * rows * units), 0.0);
  const auto unit_range = [&](Index begin, Index end) {
    CpuScratchPool::Lease scratch(scratch_);
    const Index first = args.unit_begin[begin], num_keys = args.unit_begin[end] - first;
    scratch->keys.resize(static_cast<std::size_t>(num_keys));
    for (Index c = 0; c < num_keys; ++c) scratch->keys[c] = RowAt(args.keys, first + c, head_dim);
    scratch->heads.resize(static_cast<std::size_t>(rows));
    for (Index t = 0; t < rows; ++t) scratch->heads[t] = args.q.as<float>() + t * head_dim;
    scratch->logits.resize(static_cast<std::size_t>(rows * num_keys));
    simd_.dots[TypeIndex(args.keys)](scratch->heads.data(), rows, scratch->keys.data(), num_keys, head_dim,
                                     scratch->logits.data(), num_keys, false);
    for (Index t = 0; t < rows; ++t) {
      for (Index p = begin; p < end; ++p) {
        const Index count = args.unit_begin[p + 1] - args.unit_begin[p];
        float best = -std::numeric_limits<float>::infinity();
        double* sums = unit_sums_.data() + 2 * (t * units + p);
        const float* scores = scratch->logits.data() + t * num_keys + args.unit_begin[p] - first;
        if (count > 0) best = simd_.max_and_moments(scores, count, sums, sums + 1);
        args.best.as<float>()[t * units + p] = best;
      }
    }
  };
  if (rows > 0)
    pool_.ParallelFor(units, std::max<Index>(1, kRouteKeys * units / std::max<Index>(1, chunks)), unit_range);
  for (Index t = 0; t < rows; ++t) {
    args.sum[t] = args.sum_squares[t] = 0;
    for (Index p = 0; p < units; ++p) {
      args.sum[t] += unit_sums_[2 * (t * units + p)];
      args.sum_squares[t] += unit_sums_[2 * (t * units + p) + 1];
    }
  }
}

Status CpuBackend::DoXorWords(const XorWordsArgs& args) {
  constexpr Index kPiece = Index{4} << 20;  // bytes
  const auto bytes = static_cast<Index>(args.words.bytes());
  std::atomic<std::uint64_t> result{0};
  pool_.ParallelFor((bytes + kPiece - 1) / kPiece, 1, [&](Index begin, Index end) {
    result ^= XorPiece(args.words.as<char>(), begin * kPiece, std::min(bytes, end * kPiece));
  });
  *args.out.as<std::uint32_t>() = static_cast<std::uint32_t>(result ^ (result >> 32));
  return Status::Ok();
}

std::unique_ptr<Backend> MakeCpuBackendWith(const SimdKernels& kernels, int threads) {
  return std::make_unique<CpuBackend>(kernels, threads);
}

std::unique_ptr<Backend> MakeCpuBackend(int threads) {
  Result<const SimdKernels*> chosen = ChooseCpuKernels();
  return MakeCpuBackendWith(chosen.ok() ? **chosen : *UsableCpuKernels().front(), threads);
}

std::string_view CpuIsaName(const Backend& cpu_backend) {
  return static_cast<const CpuBackend&>(cpu_backend).isa_name();
}

}  // namespace unfold
