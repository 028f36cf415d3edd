// SPDX-License-Identifier: Apache-2.0
// GistPrefill of the cpu backend.
//   Math      softmax(q k / sqrt(D)) v over the rows that PrefillPlan gives a row
//   Bound     backend.h; a row's keys come in an order fixed by its sequence, block by block, so its bits do not depend
//             on the rows it is computed with
//   Traffic   near keys through pointers, once for the G heads of a row: 27 of them with chunks of 8 and sections of 4.
//             Far keys in blocks of 128, turned once a call, then read once for 32 rows and G heads: 4 D flops for a
//             key, row and head, at 6 rows and 64 keys a tile (as a dense product)
//   Measured  encode_curve (tests/bench), two Zen 4 cores: 4.0 ns a far key, head and row, 2.4 at the peak. A token of
//             65,536 takes 1.16 times as long as one of 1,024 with two levels, 1.7 times with one
//   Tried     tiles of 4 heads and 2 vectors that ask for partial vectors inside: 7.8 ns
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/backend.h"

namespace unfold {
namespace {

using Index = std::int64_t;

constexpr Index kRowsPerTask = 32;
constexpr Index kBlock = PrefillPlan::kBlock;

}  // namespace

void CpuBackend::SoftmaxTerms(CpuScratch& scratch, Index group, Index num_keys, float scale) {
  scratch.sums.resize(static_cast<std::size_t>(group));
  scratch.largest.resize(static_cast<std::size_t>(group));
  for (Index g = 0; g < group; ++g) {
    scratch.sums[g] =
        simd_.softmax_terms(scratch.logits.data() + g * num_keys, scale, num_keys, scratch.largest.data() + g);
  }
}

void CpuBackend::SumValues(const CpuScratch& scratch, Index group, Index stride, Index head_dim, float* out) {
  std::fill(out, out + group * head_dim, 0.0F);
  simd_.weighted_sum(scratch.logits.data(), stride, group, scratch.values.data(),
                     static_cast<Index>(scratch.values.size()), head_dim, out);
}

// A softmax over more keys: `out` weighs the sum of `other` in; both are sums of terms relative to their largest logit.
void CpuBackend::MergeSoftmax(CpuSoftmax& state, float* out, const CpuSoftmax& other, const float* other_out,
                              Index head_dim) {
  const float largest = std::max(state.largest, other.largest);
  const float below[2] = {state.largest - largest, other.largest - largest};
  float factor[2];
  simd_.exp(below, factor, 2);
  simd_.merge(out, factor[0], other_out, factor[1], head_dim);
  state = {largest, state.sum * factor[0] + other.sum * factor[1]};
}

// All heads of a group over the near rows of one row; out is not divided by the sums.
void CpuBackend::PrefillNear(const GistPrefillArgs& args, Index row, Index kv_head, std::span<const Index> near,
                             CpuScratch& scratch, float* out) {
  const Index heads = args.q.dims[1], kv_heads = args.k.dims[1], head_dim = args.q.dims[2], group = heads / kv_heads;
  const auto num_keys = static_cast<Index>(near.size());
  scratch.keys.resize(near.size());
  scratch.values.resize(near.size());
  scratch.heads.resize(static_cast<std::size_t>(group));
  scratch.logits.resize(static_cast<std::size_t>(group * num_keys));
  for (Index n = 0; n < num_keys; ++n) {
    const Index at = (near[n] * kv_heads + kv_head) * head_dim;
    scratch.keys[n] = args.k.as<float>() + at;
    scratch.values[n] = args.v.as<float>() + at;
  }
  const float* first = args.q.as<float>() + (row * heads + kv_head * group) * head_dim;
  for (Index g = 0; g < group; ++g) scratch.heads[g] = first + g * head_dim;
  simd_.dots[0](scratch.heads.data(), group, scratch.keys.data(), num_keys, head_dim, scratch.logits.data(), num_keys,
                false);
  SoftmaxTerms(scratch, group, num_keys, 1.0F / std::sqrt(static_cast<float>(head_dim)));
  SumValues(scratch, group, num_keys, head_dim, out);
}

// Keys of far block `block`, one row for each dim, so that a product with them runs along keys.
void CpuBackend::TurnKeys(const GistPrefillArgs& args, Index block) {
  const Index kv_heads = args.k.dims[1], head_dim = args.k.dims[2];
  const std::size_t sequence = plan_.SequenceOfBlock(block);
  const Index first = (block - plan_.FirstBlock(sequence)) * kBlock;
  for (Index j = 0; j < kBlock; ++j) {
    const float* key = args.k.as<float>() + plan_.FarRow(sequence, first + j) * kv_heads * head_dim;
    float* out = turned_keys_.data() + block * kv_heads * head_dim * kBlock + j;
    for (Index e = 0; e < kv_heads * head_dim; ++e) out[e * kBlock] = key[e];
  }
}

// Rows [begin, end) over one far block, which all of them see: into scratch.far and scratch.far_softmax, from the
// queries in scratch.query. Rows there are counted from `first`, the task's first row of the sequence.
void CpuBackend::PrefillBlock(const GistPrefillArgs& args, std::size_t sequence, Index block, Index kv_head,
                              Index begin_head, CpuScratch& scratch) {
  const Index kv_heads = args.k.dims[1], head_dim = args.k.dims[2];
  const auto num_heads = static_cast<Index>(scratch.far_softmax.size()) - begin_head;
  const float* turned =
      turned_keys_.data() + ((plan_.FirstBlock(sequence) + block) * kv_heads + kv_head) * head_dim * kBlock;
  scratch.values.resize(static_cast<std::size_t>(std::max(head_dim, kBlock)));
  for (Index e = 0; e < head_dim; ++e) scratch.values[e] = turned + e * kBlock;
  scratch.logits.assign(static_cast<std::size_t>(num_heads * kBlock), 0.0F);
  simd_.weighted_sum(scratch.query.data() + begin_head * head_dim, head_dim, num_heads, scratch.values.data(), head_dim,
                     kBlock, scratch.logits.data());
  SoftmaxTerms(scratch, num_heads, kBlock, 1.0F / std::sqrt(static_cast<float>(head_dim)));
  for (Index j = 0; j < kBlock; ++j) {
    scratch.values[j] =
        args.v.as<float>() + (plan_.FarRow(sequence, block * kBlock + j) * kv_heads + kv_head) * head_dim;
  }
  scratch.partial.assign(static_cast<std::size_t>(num_heads * head_dim), 0.0F);
  simd_.weighted_sum(scratch.logits.data(), kBlock, num_heads, scratch.values.data(), kBlock, head_dim,
                     scratch.partial.data());
  for (Index h = 0; h < num_heads; ++h) {
    MergeSoftmax(scratch.far_softmax[begin_head + h], scratch.far.data() + (begin_head + h) * head_dim,
                 {scratch.largest[h], scratch.sums[h]}, scratch.partial.data() + h * head_dim, head_dim);
  }
}

// Rows [begin, end) of one sequence, one key/value head, over the far blocks.
void CpuBackend::PrefillFar(const GistPrefillArgs& args, std::size_t sequence, Index begin, Index end, Index kv_head,
                            CpuScratch& scratch) {
  const Index heads = args.q.dims[1], head_dim = args.q.dims[2], group = heads / args.k.dims[1];
  const Index num_heads = (end - begin) * group, num_blocks = plan_.BlocksSeen(sequence, end - 1);
  if (num_blocks == 0) return;
  scratch.query.resize(static_cast<std::size_t>(num_heads * head_dim));
  for (Index row = begin; row < end; ++row) {
    const float* from = args.q.as<float>() + (row * heads + kv_head * group) * head_dim;
    std::copy(from, from + group * head_dim, scratch.query.data() + (row - begin) * group * head_dim);
  }
  scratch.far.assign(static_cast<std::size_t>(num_heads * head_dim), 0.0F);
  scratch.far_softmax.assign(static_cast<std::size_t>(num_heads), {-std::numeric_limits<float>::infinity(), 0.0F});
  Index first = begin;  // the first row that sees the block
  for (Index block = 0; block < num_blocks; ++block) {
    while (plan_.BlocksSeen(sequence, first) <= block) ++first;
    PrefillBlock(args, sequence, block, kv_head, (first - begin) * group, scratch);
  }
}

// Rows [begin, end) of one sequence.
void CpuBackend::PrefillRows(const GistPrefillArgs& args, std::size_t sequence, Index begin, Index end,
                             CpuScratch& scratch) {
  const Index heads = args.q.dims[1], kv_heads = args.k.dims[1], head_dim = args.q.dims[2], group = heads / kv_heads;
  const bool any_far = plan_.BlocksSeen(sequence, end - 1) > 0;
  scratch.near.clear();
  scratch.near_begin.assign(1, 0);
  for (Index row = begin; row < end; ++row) {
    plan_.CollectNear(sequence, row, &scratch.near);
    scratch.near_begin.push_back(static_cast<Index>(scratch.near.size()));
  }
  for (Index kv_head = 0; kv_head < kv_heads; ++kv_head) {
    PrefillFar(args, sequence, begin, end, kv_head, scratch);
    for (Index row = begin; row < end; ++row) {
      const std::span<const Index> near(scratch.near.data() + scratch.near_begin[row - begin],
                                        scratch.near.data() + scratch.near_begin[row - begin + 1]);
      float* out = args.out.as<float>() + (row * heads + kv_head * group) * head_dim;
      const bool far = any_far && plan_.BlocksSeen(sequence, row) > 0;
      if (!near.empty()) PrefillNear(args, row, kv_head, near, scratch, out);
      for (Index g = 0; g < group; ++g) {
        float* head_out = out + g * head_dim;
        const Index h = (row - begin) * group + g;
        CpuSoftmax softmax = far ? scratch.far_softmax[h] : CpuSoftmax{scratch.largest[g], scratch.sums[g]};
        if (far) {
          float* sum = scratch.far.data() + h * head_dim;
          if (!near.empty()) MergeSoftmax(softmax, sum, {scratch.largest[g], scratch.sums[g]}, head_out, head_dim);
          std::copy(sum, sum + head_dim, head_out);
        }
        simd_.scale(head_out, 1.0F / softmax.sum, head_dim);
      }
    }
  }
}

Status CpuBackend::DoGistPrefill(const GistPrefillArgs& args) {
  UNFOLD_TRY(TakesF32("GistPrefill", {args.q, args.k, args.v, args.out}));
  plan_.Build(args);
  turned_keys_.resize(static_cast<std::size_t>(plan_.num_blocks() * kBlock * args.k.dims[1] * args.k.dims[2]));
  pool_.ParallelFor(plan_.num_blocks(), 1, [&](Index begin, Index end) {
    for (Index block = begin; block < end; ++block) TurnKeys(args, block);
  });
  pool_.ParallelFor(args.q.dims[0], kRowsPerTask, [&](Index begin, Index end) {
    CpuScratchPool::Lease scratch(scratch_);
    while (begin < end) {
      const std::size_t sequence = plan_.SequenceOf(begin);
      const Index stop = std::min(end, args.sequence_begin[sequence + 1]);
      PrefillRows(args, sequence, begin, stop, *scratch);
      begin = stop;
    }
  });
  return Status::Ok();
}

}  // namespace unfold
