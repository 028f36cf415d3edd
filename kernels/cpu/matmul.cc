// SPDX-License-Identifier: Apache-2.0
// MatMul of the cpu backend.
//   Math      out[t, n] = sum over k of x[t, k] * weight[n, k], x rounded to bf16 first when told; what it is added to,
//             `out` or the bias, stands in `out` before
//   Bound     backend.h; a row's bits depend on that row and its weights alone (the lane law, simd.h)
//   Traffic   few rows: every weight once, 2 N K bytes of bf16: bound by memory. Many rows: 2 T N K flops against 32
//             (f32) or 64 (bf16 pairs) a core and cycle, weights once for each block of rows
//   Tasks     kRowBlock rows of x times some columns. At K = 1408 the rows take half of a 1 MiB L2, four columns lie
//             in L1. With few rows tasks are small, so that threads end together
//   Measured  op_bench, speed_bench (tests/bench), one Zen 4 core, 2,048 rows, K 512 to 4,096: f32 91 to 106 GFLOP/s of
//             106, bf16 pairs 162 to 194 of 212. A decoded token, two cores, weights of 55.6 MB and 8.4 MB of f32 KV:
//             1.84 ms where plain reads reach 29 GB/s, that is 1.9 ms for the weights alone (some stay in L3)
#include <algorithm>
#include <array>

#include "kernels/cpu/backend.h"

namespace unfold {
namespace {

using Index = std::int64_t;

constexpr Index kRowBlock = 96;
constexpr Index kMostColumns = 128;
constexpr Index kLeastColumns = 16;

Index RowBlocks(const MatMulArgs& args) { return (args.x.dims[0] + kRowBlock - 1) / kRowBlock; }

// Pointers to the first `count` rows of a block that begins at `rows`.
template <typename T>
std::array<const T*, kRowBlock> RowPointers(const T* rows, Index count, Index width) {
  std::array<const T*, kRowBlock> pointers;
  for (Index i = 0; i < count; ++i) pointers[i] = rows + i * width;
  return pointers;
}

}  // namespace

void CpuBackend::PrepareRows(CpuProduct& product, const CpuProduct* before) {
  const MatMulArgs& args = *product.args;
  product.x = args.x.as<float>();
  if (args.compute == DType::kF32) return;
  const bool pairs = simd_.dots_bf16 != nullptr && args.weight.dtype == DType::kBF16;
  if (before != nullptr && before->args->x.data == args.x.data && before->args->compute == args.compute &&
      before->args->x.size() == args.x.size() && (before->x_bf16 != nullptr) == pairs) {
    product.x = before->x;
    product.x_bf16 = before->x_bf16;
    return;
  }
  const std::size_t place = products_.size();
  if (rounded_.size() <= place) rounded_.resize(place + 1), widened_.resize(place + 1);
  const Index inner = args.x.dims[1];
  std::vector<std::uint16_t>& rounded = rounded_[place];
  std::vector<float>& widened = widened_[place];
  if (static_cast<Index>(rounded.size()) < args.x.size()) rounded.resize(static_cast<std::size_t>(args.x.size()));
  if (!pairs && static_cast<Index>(widened.size()) < args.x.size()) {
    widened.resize(static_cast<std::size_t>(args.x.size()));
  }
  Split(args.x.dims[0], inner, [&](Index begin, Index end) {
    const Index at = begin * inner, count = (end - begin) * inner;
    simd_.round_bf16(args.x.as<float>() + at, rounded.data() + at, count);
    if (!pairs) simd_.widen[static_cast<int>(DType::kBF16)](rounded.data() + at, widened.data() + at, count);
  });
  if (pairs) {
    product.x_bf16 = rounded.data();
  } else {
    product.x = widened.data();
  }
}

void CpuBackend::RunProductTask(const CpuProduct& product, Index task) {
  const MatMulArgs& args = *product.args;
  const Index inner = args.x.dims[1], columns = args.weight.dims[0];
  const Index row = task / product.column_blocks * kRowBlock;
  const Index column = task % product.column_blocks * product.column_block;
  const Index num_rows = std::min(kRowBlock, args.x.dims[0] - row);
  const Index num_columns = std::min(product.column_block, columns - column);
  const Index weight_bytes = inner * static_cast<Index>(DTypeBytes(args.weight.dtype));
  std::array<const void*, kMostColumns> w;
  for (Index i = 0; i < num_columns; ++i) w[i] = args.weight.as<std::byte>() + (column + i) * weight_bytes;
  float* out = args.out.as<float>() + row * columns + column;
  const bool has_bias = args.bias.rank != 0;
  if (has_bias) {
    const std::byte* bias = args.bias.as<std::byte>() + column * static_cast<Index>(DTypeBytes(args.bias.dtype));
    for (Index t = 0; t < num_rows; ++t) {
      simd_.widen[static_cast<int>(args.bias.dtype)](bias, out + t * columns, num_columns);
    }
  }
  const bool accumulate = args.accumulate || has_bias;
  if (product.x_bf16 != nullptr) {
    const auto x = RowPointers(product.x_bf16 + row * inner, num_rows, inner);
    simd_.dots_bf16(x.data(), num_rows, w.data(), num_columns, inner, out, columns, accumulate);
  } else {
    const auto x = RowPointers(product.x + row * inner, num_rows, inner);
    simd_.dots[static_cast<int>(args.weight.dtype)](x.data(), num_rows, w.data(), num_columns, inner, out, columns,
                                                    accumulate);
  }
}

Status CpuBackend::DoMatMuls(std::span<const MatMulArgs> products) {
  for (const MatMulArgs& args : products) UNFOLD_TRY(TakesF32("MatMul", {args.x, args.out}));
  products_.clear();
  Index num_blocks = 0, work = 0;
  for (const MatMulArgs& args : products) {
    num_blocks += args.weight.dims[0] * RowBlocks(args);
    // Weights are read once for each row block: with few rows their bytes are the work.
    work += args.weight.dims[0] * args.x.dims[1] * std::max<Index>(args.x.dims[0], 2);
  }
  const Index fair = (num_blocks / (4 * pool_.size()) + 3) / 4 * 4;
  Index num_tasks = 0;
  for (const MatMulArgs& args : products) {
    if (args.x.dims[0] == 0 || args.weight.dims[0] == 0) continue;
    CpuProduct product{.args = &args};
    PrepareRows(product, products_.empty() ? nullptr : &products_.back());
    product.column_block = std::clamp(fair, kLeastColumns, kMostColumns);
    product.column_blocks = (args.weight.dims[0] + product.column_block - 1) / product.column_block;
    num_tasks += RowBlocks(args) * product.column_blocks;
    product.end_task = num_tasks;
    products_.push_back(product);
  }
  const auto tasks = [&](Index begin, Index end) {
    std::size_t p = 0;
    for (Index task = begin; task < end; ++task) {
      while (task >= products_[p].end_task) ++p;
      RunProductTask(products_[p], task - (p == 0 ? 0 : products_[p - 1].end_task));
    }
  };
  pool_.ParallelFor(num_tasks, work < kSmallWork ? num_tasks : 1, std::cref(tasks));
  return Status::Ok();
}

}  // namespace unfold
