// SPDX-License-Identifier: Apache-2.0
#include "rag/kv_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/float16.h"

namespace unfold {
namespace {

// Little-endian machines only, as checked here: the bytes in memory are the bytes of the format.
static_assert(std::endian::native == std::endian::little, "stored KV is little-endian");

constexpr float kLargestInt8 = 127;

// The smallest bf16 that is at least x >= 0. NaN and infinity stay what they are.
std::uint16_t RoundUpToBF16(float x) {
  const std::uint16_t bits = F32ToBF16(x);
  return BF16ToF32(bits) < x ? static_cast<std::uint16_t>(bits + 1) : bits;
}

// Scales of `count` channels, bf16, written at `scales_at`; then the rows as int8 at `at`.
char* WriteQuantised(const float* source, std::span<const std::int64_t> rows, std::size_t count, char* scales_at,
                     char* at) {
  std::vector<float> scale(count, 0.0F);
  for (const std::int64_t row : rows) {
    const float* values = source + row * static_cast<std::int64_t>(count);
    for (std::size_t i = 0; i < count; ++i) scale[i] = std::max(scale[i], std::abs(values[i]));
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint16_t bits = RoundUpToBF16(scale[i] / kLargestInt8);
    std::memcpy(scales_at + i * sizeof bits, &bits, sizeof bits);
    scale[i] = BF16ToF32(bits);
  }
  for (const std::int64_t row : rows) {
    const float* values = source + row * static_cast<std::int64_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
      const float steps = scale[i] > 0 ? std::nearbyint(values[i] / scale[i]) : 0.0F;
      *at++ = static_cast<char>(static_cast<std::int8_t>(std::clamp(steps, -kLargestInt8, kLargestInt8)));
    }
  }
  return at;
}

}  // namespace

std::string SealKvRows(RecordKind kind, const KvHeader& layout, const HostKv& kv, std::span<const std::int64_t> rows) {
  KvHeader header = layout;
  header.num_rows = static_cast<std::uint32_t>(rows.size());
  std::string payload(header.PayloadBytes(), '\0');
  const std::size_t count = std::size_t{header.kv_heads} * header.head_dim, row_bytes = header.row_bytes();
  char* scales_at = payload.data();
  char* at = payload.data() + 2 * header.scale_bytes();
  for (const std::byte* source : {kv.k, kv.v}) {
    if (header.dtype == DType::kInt8) {
      at = WriteQuantised(reinterpret_cast<const float*>(source), rows, count, scales_at, at);
      scales_at += header.scale_bytes();
      continue;
    }
    for (const std::int64_t row : rows) {
      std::memcpy(at, source + static_cast<std::size_t>(row) * row_bytes, row_bytes);
      at += row_bytes;
    }
  }
  return SealKv(kind, header, payload);
}

Result<Tensor> KvLoader::Stage(Backend& backend, ScratchBuffer& buffer, DType type,
                               std::initializer_list<std::int64_t> shape, const char* bytes) {
  UNFOLD_TRY_ASSIGN(const Tensor staged, buffer.Get(backend, type, shape));
  UNFOLD_TRY(backend.Upload(staged, bytes));
  return staged;
}

Status KvLoader::Load(Transformer& model, const KvView& record, std::int64_t row_begin,
                      std::span<const std::int32_t> positions, std::int64_t out_begin, const Tensor& out_k,
                      const Tensor& out_v) {
  const auto num_rows = static_cast<std::int64_t>(positions.size());
  if (num_rows == 0) return Status::Ok();
  Backend& backend = model.backend();
  const DType type = record.header.dtype;
  const std::int64_t heads = model.config().kv_heads, dim = model.config().head_dim;
  UnfoldArgs args;
  UNFOLD_TRY_ASSIGN(args.k, Stage(backend, k_, type, {num_rows, heads, dim}, record.k_row(row_begin)));
  UNFOLD_TRY_ASSIGN(args.v, Stage(backend, v_, type, {num_rows, heads, dim}, record.v_row(row_begin)));
  if (type == DType::kInt8) {
    UNFOLD_TRY_ASSIGN(args.k_scale, Stage(backend, k_scale_, DType::kBF16, {heads, dim}, record.k_scale()));
    UNFOLD_TRY_ASSIGN(args.v_scale, Stage(backend, v_scale_, DType::kBF16, {heads, dim}, record.v_scale()));
  }
  UNFOLD_TRY_ASSIGN(args.positions, positions_.Upload(backend, positions));
  args.rope = model.rope();
  args.row_begin = out_begin;
  args.out_k = out_k;
  args.out_v = out_v;
  return backend.Unfold(args);
}

void CopyKey(const KvView& record, std::int64_t row, int head, char* out) {
  const std::size_t dim = record.header.head_dim, at = static_cast<std::size_t>(head) * dim;
  const char* key = record.k_row(static_cast<std::size_t>(row)) + at * DTypeBytes(record.header.dtype);
  if (record.header.dtype != DType::kInt8) {
    std::memcpy(out, key, dim * DTypeBytes(record.header.dtype));
    return;
  }
  for (std::size_t i = 0; i < dim; ++i) {
    std::uint16_t scale = 0;
    std::memcpy(&scale, record.k_scale() + (at + i) * sizeof scale, sizeof scale);
    const std::uint16_t bits = F32ToBF16(static_cast<float>(static_cast<std::int8_t>(key[i])) * BF16ToF32(scale));
    std::memcpy(out + i * sizeof bits, &bits, sizeof bits);
  }
}

}  // namespace unfold
