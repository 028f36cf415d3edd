// SPDX-License-Identifier: Apache-2.0
// Encoder: documents, each alone, to per-layer gist and raw KV (method.md sections 3 and 6). Parts of many documents
// are packed into one pass; a part's KV does not depend on what it was packed with.
#ifndef UNFOLD_RAG_ENCODER_H_
#define UNFOLD_RAG_ENCODER_H_

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/transformer.h"
#include "rag/kv_recorder.h"
#include "rag/prepared_document.h"
#include "store/store.h"
#include "unfold/base.h"

namespace unfold {

// Ok to go on, Cancelled to end the work at hand. Called between layers and between tokens.
using CancelCheck = std::function<Status()>;

// Gets the keys (not rotated) and values of one layer, f32 [T, Hk, D] each, rows in the order of the packed sequences.
using LayerKvSink = std::function<Status(int layer, const Tensor& k, const Tensor& v)>;

// One packed pass over sequences of one kind: all with gists, or all plain.
Status EncodePass(Transformer& model, std::span<const GistSequence* const> sequences, const LayerKvSink& sink,
                  const CancelCheck& check);

// Encodes `jobs` in one pass. What is returned has their KV on the host, and only has to finish.
Result<std::unique_ptr<KvRecorder>> EncodeJobs(Transformer& model, DType kv_type, std::span<const EncodeJob> jobs,
                                               const CancelCheck& check);

// The same, finished: appends the sealed gist and raw records to `records`, all, or none when it fails.
Status EncodeParts(Transformer& model, DType kv_type, std::span<const EncodeJob> jobs, const CancelCheck& check,
                   std::vector<StoreRecord>& records);

}  // namespace unfold

#endif  // UNFOLD_RAG_ENCODER_H_
