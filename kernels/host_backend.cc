// SPDX-License-Identifier: Apache-2.0
#include "kernels/host_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>

#include "base/float16.h"
#include "kernels/arg_check.h"

namespace unfold {
namespace {

constexpr std::size_t kAlignment = 64;                    // a cache line, and the widest vector
constexpr std::size_t kHugePage = std::size_t{2} << 20;   // of x86-64 and AArch64
constexpr std::size_t kHugeFrom = 4 * kHugePage;          // from here on rounding up to whole ones costs little
constexpr std::size_t kMostBytes = std::size_t{1} << 46;  // no machine has more; keeps the rounding from wrapping

Status Bad(std::string_view op, std::string_view field, std::int64_t index, std::int64_t value, std::string_view want) {
  return Status::InvalidArgument(std::string(op) + ": " + std::string(field) + '[' + std::to_string(index) + "] is " +
                                 std::to_string(value) + ", expected " + std::string(want));
}

}  // namespace

Result<Buffer> HostBackend::Allocate(std::size_t bytes) {
  const std::size_t alignment = bytes >= kHugeFrom ? kHugePage : kAlignment;
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = bytes > kMostBytes ? nullptr : std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) {
    return Status::ResourceExhausted(std::string(name()) + ": no memory for " + std::to_string(bytes) + " bytes");
  }
#if defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) (void)madvise(memory, rounded, MADV_HUGEPAGE);  // a wish: small pages do as well
#endif
  return Buffer(memory, bytes, [](void* data) { std::free(data); });
}

Status HostBackend::Upload(const Tensor& device, const void* host) {
  if (device.bytes() == 0) return Status::Ok();
  if (device.data == nullptr || host == nullptr) return Status::InvalidArgument("Upload: no memory");
  std::memcpy(device.data, host, device.bytes());
  return Status::Ok();
}

Status HostBackend::Download(void* host, const Tensor& device) {
  if (device.bytes() == 0) return Status::Ok();
  if (device.data == nullptr || host == nullptr) return Status::InvalidArgument("Download: no memory");
  std::memcpy(host, device.data, device.bytes());
  return Status::Ok();
}

Status HostBackend::DoStartDownload(void* host, const Tensor& device, DType type) {
  if (type == DType::kF32) return Download(host, device);
  const auto* from = device.as<float>();
  auto* to = static_cast<std::uint16_t*>(host);
  for (std::int64_t i = 0; i < device.size(); ++i) to[i] = F32ToBF16(from[i]);
  return Status::Ok();
}

Status HostBackend::DoCopyRows(std::span<const RowPiece> pieces) {
  for (const RowPiece& piece : pieces) {
    const std::size_t row = static_cast<std::size_t>(piece.from.dims[2]) * DTypeBytes(piece.from.dtype);
    for (std::int64_t head = 0; head < piece.from.dims[0] && piece.count > 0; ++head) {
      const auto* from = piece.from.as<std::byte>() + (head * piece.from.dims[1] + piece.from_begin) * row;
      auto* to = piece.to.as<std::byte>() + (head * piece.to.dims[1] + piece.to_begin) * row;
      std::memcpy(to, from, piece.count * row);
    }
  }
  return Status::Ok();
}

Result<Tensor> HostBackend::ImportWeights(const Tensor& host) { return host; }

Status CheckIndices(std::string_view op, std::string_view field, const Tensor& indices, std::int64_t limit) {
  const auto* values = indices.as<std::int32_t>();
  for (std::int64_t i = 0; i < indices.size(); ++i) {
    if (values[i] < 0 || values[i] >= limit) return Bad(op, field, i, values[i], "0 to " + std::to_string(limit - 1));
  }
  return Status::Ok();
}

Status CheckUnfoldPositions(const UnfoldArgs& args) {
  UNFOLD_TRY(CheckIndices("Unfold", "positions", args.positions, args.rope.cos.dims[0]));
  const std::int64_t last = args.first_position + args.out_k.dims[1] - 1;
  for (std::int64_t t = 0; t < args.positions.size() && args.first_position >= 0; ++t) {
    const std::int32_t position = Ints(args.positions)[t];
    if (position < args.first_position || position > last) {
      return Bad("Unfold", "positions", t, position,
                 std::to_string(args.first_position) + " to " + std::to_string(last) + ", the rows of out_k");
    }
  }
  return Status::Ok();
}

Status CheckContext(std::string_view op, const ContextView& context, bool sinks) {
  ArgCheck check(op);
  const std::int64_t documents = context.num_documents();
  for (int n = 0; n < context.num_levels; ++n) {
    const GistLevel& level = context.gists[n];
    check.Bounds("context.gists.segment", Ints(level.segment), documents, level.k.dims[1]);
    if (n == 0) continue;
    check.Bounds("context.gists.child", Ints(level.child), level.k.dims[1], context.gists[n - 1].k.dims[1]);
  }
  if (sinks) check.Bounds("context.segment_sink", Ints(context.segment_sink), documents, context.sink_k.dims[1]);
  return check.status();
}

Status CheckQueryPositions(std::string_view op, const Tensor& positions, const RopeTable& rope,
                           const ContextView* context) {
  UNFOLD_TRY(CheckIndices(op, "positions", positions, rope.cos.dims[0]));
  if (context == nullptr || positions.size() == 0) return Status::Ok();
  const auto* first = positions.as<std::int32_t>();
  const std::int32_t lowest = *std::min_element(first, first + positions.size());
  for (std::int64_t j = 0; j < context->num_documents(); ++j) {
    const std::int32_t offset = Ints(context->segment_offset)[j];
    if (offset < 0 || offset > lowest) {
      return Bad(op, "context.segment_offset", j, offset, "0 to the first query's position " + std::to_string(lowest));
    }
  }
  return Status::Ok();
}

namespace {

Status CheckLists(std::string_view op, std::string_view field, const ChosenGists& lists) {
  const std::int64_t gists = lists.gists.dims[2], num_lists = lists.gists.dims[0] * lists.gists.dims[1];
  for (std::int64_t list = 0; list < num_lists; ++list) {
    const std::int32_t count = lists.counts.as<std::int32_t>()[list];
    if (count < 0 || count > gists) {
      return Bad(op, std::string(field) + ".counts", list, count, "0 to " + std::to_string(gists));
    }
    const auto* chosen = lists.gists.as<std::int32_t>() + list * gists;
    for (std::int32_t i = 0; i < count; ++i) {
      if (chosen[i] < 0 || chosen[i] >= gists) {
        return Bad(op, field, list * gists + i, chosen[i], "0 to " + std::to_string(gists - 1));
      }
      if (i > 0 && chosen[i - 1] >= chosen[i]) return Bad(op, field, list * gists + i, chosen[i], "ascending gists");
    }
  }
  return Status::Ok();
}

}  // namespace

namespace {

// Entry `at` of a list that begins at `first`.
Status CheckChunk(const SparseAttentionArgs& args, std::int64_t first, std::int64_t at) {
  constexpr std::string_view kOp = "SparseAttention";
  const ChosenChunk* chunks = args.chunks.as<ChosenChunk>();
  const std::int64_t all = args.chunks.dims[2], pages = args.page_k.dims[0], page_tokens = args.page_k.dims[1],
                     documents = args.context->num_documents();
  const ChosenChunk& chunk = chunks[at];
  if (chunk.chunk < 0 || chunk.chunk >= all) {
    return Bad(kOp, "chunks", at, chunk.chunk, "0 to " + std::to_string(all - 1));
  }
  if (at > first && chunks[at - 1].chunk >= chunk.chunk) return Bad(kOp, "chunks", at, chunk.chunk, "ascending chunks");
  if (chunk.page >= pages) {
    return Bad(kOp, "chunks.page", at, chunk.page, "a page below " + std::to_string(pages));
  }
  if (chunk.tokens < 0 || chunk.tokens > page_tokens) {
    return Bad(kOp, "chunks.tokens", at, chunk.tokens, "0 to " + std::to_string(page_tokens));
  }
  if (chunk.document < 0 || chunk.document >= documents) {
    return Bad(kOp, "chunks.document", at, chunk.document, "0 to " + std::to_string(documents - 1));
  }
  return Status::Ok();
}

Status CheckChosen(const SparseAttentionArgs& args) {
  for (int level = 1; level < args.context->num_levels; ++level) {
    UNFOLD_TRY(CheckLists("SparseAttention", "chosen", args.chosen[level]));
  }
  const std::int64_t width = args.chunks.dims[2], num_lists = args.chunks.dims[0] * args.chunks.dims[1];
  for (std::int64_t list = 0; list < num_lists; ++list) {
    const std::int32_t count = Ints(args.chosen[0].counts)[list];
    if (count < 0 || count > width) {
      return Bad("SparseAttention", "chosen.counts", list, count, "0 to " + std::to_string(width));
    }
    for (std::int64_t i = 0; i < count; ++i) UNFOLD_TRY(CheckChunk(args, list * width, list * width + i));
  }
  return Status::Ok();
}

}  // namespace

Status CheckAttention(const SparseAttentionArgs& args) {
  constexpr std::string_view kOp = "SparseAttention";
  UNFOLD_TRY(CheckQueryPositions(kOp, args.positions, args.rope, args.context));
  const std::int64_t tail_end = args.tail_position + args.tail_k.dims[1];
  for (std::int64_t t = 0; t < args.positions.size(); ++t) {
    const std::int32_t position = Ints(args.positions)[t];
    if (position < args.tail_position || position >= tail_end) {
      return Bad(kOp, "positions", t, position,
                 "a row of the tail, " + std::to_string(args.tail_position) + " to " + std::to_string(tail_end - 1));
    }
  }
  const std::int64_t documents = args.context == nullptr ? 0 : args.context->num_documents();
  if (args.row_documents.rank != 0) UNFOLD_TRY(CheckIndices(kOp, "row_documents", args.row_documents, documents + 1));
  if (args.context == nullptr) return Status::Ok();
  UNFOLD_TRY(CheckContext(kOp, *args.context, true));
  const bool chooses = args.read == GistRead::kChosen && args.context->gists[0].k.dims[1] > 0;
  return chooses ? CheckChosen(args) : Status::Ok();
}

Status CheckParents(std::string_view op, const ContextView* context, int level, const ChosenGists& parents) {
  if (parents.gists.rank == 0 || context == nullptr || level + 1 >= context->num_levels) return Status::Ok();
  UNFOLD_TRY(CheckContext(op, *context, false));
  return CheckLists(op, "parents", parents);
}

namespace {

void FindBest(const GistScoreArgs& args) {
  const auto [rows, heads, gists, unused] = args.scores.dims;
  const std::int64_t kv_heads = args.context->gists[args.level].k.dims[0], bests = args.best.dims[2];
  std::vector<std::int32_t> candidates;
  for (std::int64_t row = 0; row < rows * heads; ++row) {
    CollectCandidates(*args.context, args.level, args.parents,
                      row / heads * kv_heads + row % heads / (heads / kv_heads), &candidates);
    const float* scores = args.scores.as<float>() + row * gists;
    const auto count = static_cast<std::int64_t>(candidates.size());
    for (std::int64_t first = 0; first < count; first += kScoresOfBest) {
      float best = -std::numeric_limits<float>::infinity();
      // A comparison with NaN is false.
      for (std::int64_t i = first; i < std::min(first + kScoresOfBest, count); ++i) {
        best = scores[i] > best ? scores[i] : best;
      }
      args.best.as<float>()[row * bests + first / kScoresOfBest] = best;
    }
  }
}

}  // namespace

Status HostBackend::DoGistScore(std::span<const GistScoreArgs> requests) {
  UNFOLD_TRY(ScoreGists(requests));
  for (const GistScoreArgs& args : requests) {
    if (args.best.rank != 0) FindBest(args);
  }
  return Status::Ok();
}

void CollectCandidates(const ContextView& context, int level, const ChosenGists& parents, std::int64_t list,
                       std::vector<std::int32_t>* candidates) {
  candidates->clear();
  if (parents.gists.rank == 0) {
    candidates->resize(static_cast<std::size_t>(context.gists[level].k.dims[1]));
    std::iota(candidates->begin(), candidates->end(), 0);
    return;
  }
  const std::span<const std::int32_t> child = Ints(context.gists[level + 1].child);
  const auto* chosen = parents.gists.as<std::int32_t>() + list * parents.gists.dims[2];
  for (std::int32_t i = 0; i < parents.counts.as<std::int32_t>()[list]; ++i) {
    for (std::int32_t gist = child[chosen[i]]; gist < child[chosen[i] + 1]; ++gist) candidates->push_back(gist);
  }
}

}  // namespace unfold
