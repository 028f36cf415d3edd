// SPDX-License-Identifier: Apache-2.0
// Rows of KV on their way into stored records and out of them.
#ifndef UNFOLD_RAG_KV_ROWS_H_
#define UNFOLD_RAG_KV_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "store/kv_format.h"
#include "unfold/base.h"

namespace unfold {

// One layer's k and v on the host, [T, Hk, D] each.
struct HostKv {
  std::byte* k;
  std::byte* v;
  DType type;  // as stored; f32 for int8
};

// The sealed record of `rows` of one layer. `layout` gives type, level, heads and dimension. Thread-safe.
//
// int8: the scale of a head and channel is the largest magnitude of its rows in the record / 127, rounded up to bf16,
// so that no value is clipped; an element is the nearest multiple of it. A row's error is at most half a scale.
std::string SealKvRows(RecordKind kind, const KvHeader& layout, const HostKv& kv, std::span<const std::int64_t> rows);

// Brings rows of a stored record to the backend and unfolds them: keys rotated, in the model's kv_type, into attention
// layout. Thread-compatible.
class KvLoader {
 public:
  // Row `row_begin` + i of `record` goes to position positions[i] and row `out_begin` + i of out_k and out_v,
  // [Hk, rows, D]. The record has the model's heads and dimension.
  Status Load(Transformer& model, const KvView& record, std::int64_t row_begin, std::span<const std::int32_t> positions,
              std::int64_t out_begin, const Tensor& out_k, const Tensor& out_v);

 private:
  Result<Tensor> Stage(Backend& backend, ScratchBuffer& buffer, DType type, std::initializer_list<std::int64_t> shape,
                       const char* bytes);
  ScratchBuffer k_, v_, k_scale_, v_scale_, positions_;
};

// Writes row `row` and head `head` of the keys of `record`, un-rotated, as D values of f32 or bf16 (int8 becomes bf16).
// `type` is KeyType(record type).
void CopyKey(const KvView& record, std::int64_t row, int head, char* out);
// What CopyKey writes for stored keys of `type`.
constexpr DType KeyType(DType type) { return type == DType::kInt8 ? DType::kBF16 : type; }

}  // namespace unfold

#endif  // UNFOLD_RAG_KV_ROWS_H_
