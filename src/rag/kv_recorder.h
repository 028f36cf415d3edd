// SPDX-License-Identifier: Apache-2.0
// KvRecorder: the KV of a packed pass, layer by layer, into sealed records. While the backend works on a layer, the
// rows of the layer before travel to the host and those before them are sealed. What is left after the last layer can
// be sealed while the backend works on the next pass.
#ifndef UNFOLD_RAG_KV_RECORDER_H_
#define UNFOLD_RAG_KV_RECORDER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "rag/kv_rows.h"
#include "rag/prepared_document.h"
#include "store/store.h"
#include "unfold/base.h"

namespace unfold {

// One part to encode, and the document it belongs to.
struct EncodeJob {
  DocumentId document;
  std::uint32_t part = 0;
  const PreparedPart* prepared = nullptr;
};

// Thread-compatible; one pass. `backend` and `jobs` must outlive it. After Arrive it may go to another thread.
class KvRecorder {
 public:
  // `layout` gives type, heads and dimension of what is stored.
  KvRecorder(Backend& backend, std::span<const EncodeJob> jobs, const KvHeader& layout);

  // Keys (not rotated) and values of one layer, f32 [T, Hk, D], rows in the order of the jobs. They may be overwritten
  // when this returns.
  Status Take(int layer, const Tensor& k, const Tensor& v);
  // After the last layer: waits until its rows are on the host. The backend is not used any more.
  Status Arrive();
  // After that: appends all records.
  void Finish(std::vector<StoreRecord>& records);

 private:
  // Rows of the pass that make one record of a layer: the same for every layer.
  struct RecordRows {
    const EncodeJob* job;
    RecordKind kind;
    std::uint32_t block;
    std::vector<std::int64_t> rows;
  };
  void PlanGist(const EncodeJob& job, std::int64_t row_begin);
  void PlanRaw(const EncodeJob& job, std::int64_t row_begin);
  StoreRecord Seal(const RecordRows& planned, int layer, const HostKv& kv) const;
  void SealArrived();
  void SealLayer(int layer);
  Status FinishDownloads();
  HostKv Place(int layer) const;

  Backend& backend_;
  KvHeader layout_;
  DType host_type_;               // of rows on the host: what is stored, but f32 for int8
  std::vector<RecordRows> plan_;  // gist records before raw ones
  std::int64_t num_gist_ = 0;
  std::array<Buffer, 2> host_;     // k, then v, of layers in turn
  std::size_t host_bytes_ = 0;     // of k, or of v
  std::optional<int> on_the_way_;  // the layer whose download was started
  std::vector<int> arrived_;       // layers that are on the host and not yet sealed: two at the end
  std::unique_ptr<ThreadPool> pool_;
  std::vector<StoreRecord> records_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_KV_RECORDER_H_
