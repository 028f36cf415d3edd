// SPDX-License-Identifier: Apache-2.0
#include "rag/kv_recorder.h"

#include <algorithm>
#include <iterator>
#include <thread>
#include <utility>

namespace unfold {
namespace {

constexpr std::size_t kBytesOfThread = std::size_t{1} << 21;  // of a layer: less is sealed before a thread has woken

}  // namespace

KvRecorder::KvRecorder(Backend& backend, std::span<const EncodeJob> jobs, const KvHeader& layout)
    : backend_(backend), layout_(layout), host_type_(layout.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32) {
  std::int64_t rows = 0;
  for (const EncodeJob& job : jobs) {
    PlanGist(job, rows);
    rows += static_cast<std::int64_t>(job.prepared->sequence.ids.size());
  }
  num_gist_ = static_cast<std::int64_t>(plan_.size());
  rows = 0;
  for (const EncodeJob& job : jobs) {
    PlanRaw(job, rows);
    rows += static_cast<std::int64_t>(job.prepared->sequence.ids.size());
  }
  host_bytes_ = static_cast<std::size_t>(rows) * layout.kv_heads * layout.head_dim * DTypeBytes(host_type_);
  const auto wanted = static_cast<unsigned>(2 * host_bytes_ / kBytesOfThread);
  pool_ = std::make_unique<ThreadPool>(std::clamp(wanted, 1U, std::max(1U, std::thread::hardware_concurrency())));
}

void KvRecorder::PlanGist(const EncodeJob& job, std::int64_t row_begin) {
  const GistSequence& sequence = job.prepared->sequence;
  const auto num_rows = static_cast<std::int64_t>(sequence.tokens.size());
  RecordRows planned{&job, RecordKind::kGist, 0, {}};
  for (std::int64_t i = 0; i < sequence.num_sinks; ++i) planned.rows.push_back(row_begin + i);
  for (std::int32_t level = 0; level <= sequence.mask.top_level; ++level) {
    for (std::int64_t i = 0; i < num_rows; ++i) {
      if (sequence.tokens[i].level == level) planned.rows.push_back(row_begin + i);
    }
  }
  plan_.push_back(std::move(planned));
}

void KvRecorder::PlanRaw(const EncodeJob& job, std::int64_t row_begin) {
  const GistSequence& sequence = job.prepared->sequence;
  const auto num_rows = static_cast<std::int64_t>(sequence.tokens.size());
  const auto num_chunks = static_cast<std::uint32_t>(sequence.chunk_tokens.size());
  std::int64_t i = 0;
  for (std::uint32_t block = 0; block * kChunksPerRawBlock < num_chunks; ++block) {
    const auto end_chunk = static_cast<std::int32_t>((block + 1) * kChunksPerRawBlock);
    RecordRows planned{&job, RecordKind::kRaw, block, {}};
    for (; i < num_rows && sequence.tokens[i].chunk < end_chunk; ++i) {
      if (sequence.tokens[i].level == kRawLevel && sequence.tokens[i].sink == 0) planned.rows.push_back(row_begin + i);
    }
    plan_.push_back(std::move(planned));
  }
}

HostKv KvRecorder::Place(int layer) const {
  auto* k = static_cast<std::byte*>(host_[layer % 2].data());
  return {k, k + host_bytes_, host_type_};
}

Status KvRecorder::Take(int layer, const Tensor& k, const Tensor& v) {
  SealArrived();  // the backend has the layer before this one to work on meanwhile
  UNFOLD_TRY(FinishDownloads());
  Buffer& memory = host_[layer % 2];
  if (memory.data() == nullptr) {
    UNFOLD_TRY_ASSIGN(memory, backend_.AllocateHost(2 * host_bytes_));
  }
  const HostKv place = Place(layer);
  UNFOLD_TRY(backend_.StartDownload(place.k, k, host_type_));
  UNFOLD_TRY(backend_.StartDownload(place.v, v, host_type_));
  on_the_way_ = layer;
  return Status::Ok();
}

Status KvRecorder::FinishDownloads() {
  UNFOLD_TRY(backend_.FinishDownloads());
  if (on_the_way_) arrived_.push_back(*std::exchange(on_the_way_, std::nullopt));
  return Status::Ok();
}

void KvRecorder::SealArrived() {
  for (const int layer : arrived_) SealLayer(layer);
  arrived_.clear();
}

void KvRecorder::SealLayer(int layer) {
  // Raw tokens of layer 0 are never attended (method.md section 4).
  const std::int64_t count = layer == 0 ? num_gist_ : static_cast<std::int64_t>(plan_.size());
  const std::size_t first = records_.size();
  records_.resize(first + static_cast<std::size_t>(count));
  const HostKv kv = Place(layer);
  pool_->ParallelFor(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) records_[first + i] = Seal(plan_[i], layer, kv);
  });
}

StoreRecord KvRecorder::Seal(const RecordRows& planned, int layer, const HostKv& kv) const {
  KvHeader header = layout_;
  header.level = planned.kind == RecordKind::kRaw
                     ? static_cast<std::int8_t>(kRawLevel)
                     : static_cast<std::int8_t>(planned.job->prepared->sequence.mask.top_level);
  return {{planned.kind, planned.job->document, planned.job->part, static_cast<std::uint16_t>(layer), planned.block},
          SealKvRows(planned.kind, header, kv, planned.rows)};
}

Status KvRecorder::Arrive() { return FinishDownloads(); }

void KvRecorder::Finish(std::vector<StoreRecord>& records) {
  SealArrived();
  records.insert(records.end(), std::make_move_iterator(records_.begin()), std::make_move_iterator(records_.end()));
  records_.clear();
}

}  // namespace unfold
