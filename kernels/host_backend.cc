// SPDX-License-Identifier: Apache-2.0
#include "kernels/host_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

namespace unfold {
namespace {

constexpr std::size_t kAlignment = 64;                    // a cache line, and the widest vector
constexpr std::size_t kMostBytes = std::size_t{1} << 46;  // no machine has more; keeps the rounding from wrapping

Status Bad(std::string_view op, std::string_view field, std::int64_t index, std::int64_t value, std::string_view want) {
  return Status::InvalidArgument(std::string(op) + ": " + std::string(field) + '[' + std::to_string(index) + "] is " +
                                 std::to_string(value) + ", expected " + std::string(want));
}

}  // namespace

Result<Buffer> HostBackend::Allocate(std::size_t bytes) {
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = bytes > kMostBytes ? nullptr : std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) {
    return Status::ResourceExhausted(std::string(name()) + ": no memory for " + std::to_string(bytes) + " bytes");
  }
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

Result<Tensor> HostBackend::ImportWeights(const Tensor& host) { return host; }

Status CheckIndices(std::string_view op, std::string_view field, const Tensor& indices, std::int64_t limit) {
  const auto* values = indices.as<std::int32_t>();
  for (std::int64_t i = 0; i < indices.size(); ++i) {
    if (values[i] < 0 || values[i] >= limit) return Bad(op, field, i, values[i], "0 to " + std::to_string(limit - 1));
  }
  return Status::Ok();
}

Status CheckQueryPositions(std::string_view op, const Tensor& positions, const RopeTable& rope,
                           const ContextView* context) {
  UNFOLD_TRY(CheckIndices(op, "positions", positions, rope.cos.dims[0]));
  if (context == nullptr || positions.size() == 0) return Status::Ok();
  const auto* first = positions.as<std::int32_t>();
  const std::int32_t lowest = *std::min_element(first, first + positions.size());
  for (std::size_t j = 0; j < context->segment_offset.size(); ++j) {
    const std::int32_t offset = context->segment_offset[j];
    if (offset < 0 || offset > lowest) {
      return Bad(op, "context.segment_offset", static_cast<std::int64_t>(j), offset,
                 "0 to the first query's position " + std::to_string(lowest));
    }
  }
  return Status::Ok();
}

Status CheckChosen(const SparseAttentionArgs& args) {
  const std::int64_t chunks = args.chosen.dims[2], lists = args.chosen.dims[0] * args.chosen.dims[1];
  for (std::int64_t list = 0; list < lists; ++list) {
    const std::int32_t count = args.counts.as<std::int32_t>()[list];
    if (count < 0 || count > chunks) {
      return Bad("SparseAttention", "counts", list, count, "0 to " + std::to_string(chunks));
    }
    const auto* chosen = args.chosen.as<std::int32_t>() + list * chunks;
    for (std::int32_t i = 0; i < count; ++i) {
      const std::int64_t index = list * chunks + i;
      if (chosen[i] < 0 || chosen[i] >= chunks) {
        return Bad("SparseAttention", "chosen", index, chosen[i], "0 to " + std::to_string(chunks - 1));
      }
      if (i > 0 && chosen[i - 1] >= chosen[i]) {
        return Bad("SparseAttention", "chosen", index, chosen[i], "ascending chunks");
      }
      if (args.context->chunk_page[chosen[i]] < 0) {
        return Bad("SparseAttention", "chosen", index, chosen[i], "an unfolded chunk (context.chunk_page is below 0)");
      }
    }
  }
  return Status::Ok();
}

}  // namespace unfold
