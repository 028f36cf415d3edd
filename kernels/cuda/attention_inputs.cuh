// SPDX-License-Identifier: Apache-2.0
// What a call of SparseAttention makes of its tensors for kernels of either form: inputs, and memory for splits.
#ifndef UNFOLD_KERNELS_CUDA_ATTENTION_INPUTS_CUH_
#define UNFOLD_KERNELS_CUDA_ATTENTION_INPUTS_CUH_

#include <initializer_list>

#include "kernels/cuda/sparse_attention.cuh"

namespace unfold {

template <typename Kv>
HeadRows<Kv> RowsOfHeads(const Tensor& k, const Tensor& v) {
  return {k.as<Kv>(), v.as<Kv>(), k.dims[1]};
}

// The context's part of the inputs.
template <typename Kv>
void SetContext(const SparseAttentionArgs& args, AttentionInputs<Kv>* in) {
  const ContextView& context = *args.context;
  in->row_documents = args.row_documents.as<std::int32_t>();
  in->segment_sink = context.segment_sink.as<std::int32_t>();
  in->sinks = RowsOfHeads<Kv>(context.sink_k, context.sink_v);
  in->choose = args.read == GistRead::kChosen;
  if (in->choose && context.gists[0].k.dims[1] == 0) return;
  in->num_levels = context.num_levels;
  for (int n = 0; n < context.num_levels; ++n) {
    const GistLevel& level = context.gists[n];
    in->levels[n] = {RowsOfHeads<Kv>(level.k, level.v), level.segment.as<std::int32_t>(),
                     args.chosen[n].gists.as<std::int32_t>(), args.chosen[n].counts.as<std::int32_t>()};
  }
  if (!in->choose) return;
  in->pages = {args.page_k.as<Kv>(), args.page_v.as<Kv>(), args.page_k.dims[1]};
  in->num_pages = args.page_k.dims[0];
  in->chunks = args.chunks.as<const ChosenChunk>();
}

template <typename Kv>
AttentionInputs<Kv> MakeInputs(const SparseAttentionArgs& args, const FaultSink& faults, bool vectors) {
  AttentionInputs<Kv> in;
  in.queries =
      MakeQueries(args.q, args.positions, args.rope, args.context == nullptr ? Tensor() : args.context->segment_offset,
                  faults, FaultKind::kAttentionPositions, FaultKind::kAttentionOffsets);
  in.kv_heads = args.tail_k.dims[0];
  in.scale = args.scale;
  in.vectors = vectors;
  in.prefix = args.prefix_tokens > 0 ? RowsOfHeads<Kv>(args.prefix_k, args.prefix_v) : HeadRows<Kv>{};
  in.tail = RowsOfHeads<Kv>(args.tail_k, args.tail_v);
  in.prefix_tokens = args.prefix_tokens;
  in.tail_position = args.tail_position;
  if (args.context != nullptr) SetContext(args, &in);
  return in;
}

// Whether all keys and values that a call can read can be loaded 16 bytes at a time.
inline bool AllHaveVectors(const SparseAttentionArgs& args) {
  bool vectors = args.q.dims[2] % 8 == 0;
  const auto check = [&](std::initializer_list<const Tensor*> tensors) {
    for (const Tensor* tensor : tensors) vectors = vectors && (tensor->size() == 0 || HasVectors(tensor->data));
  };
  check({&args.tail_k, &args.tail_v});
  if (args.prefix_tokens > 0) check({&args.prefix_k, &args.prefix_v});
  if (args.context == nullptr) return vectors;
  check({&args.context->sink_k, &args.context->sink_v, &args.page_k, &args.page_v});
  for (int n = 0; n < args.context->num_levels; ++n) check({&args.context->gists[n].k, &args.context->gists[n].v});
  return vectors;
}

template <typename Kv>
Index MostItems(const SparseAttentionArgs& args) {
  Index most = CeilDiv(args.prefix_tokens, kItemRows<Kv>) + CeilDiv(args.tail_k.dims[1], kItemRows<Kv>);
  if (args.context == nullptr) return most;
  most += CeilDiv(args.context->sink_k.dims[1], kSinkRows<Kv>);
  for (int n = 0; n < args.context->num_levels; ++n) {
    const Index gists = args.context->gists[n].k.dims[1];
    // A run of level 0 is a chunk; above it there are most with runs of one, or with all gists chosen.
    const Index alone = std::min(gists, kChosenOfDocument * args.context->num_documents());
    most += n == 0 ? gists : std::max(alone, CeilDiv(gists, ChosenRows<Kv>(gists, args.context->num_documents())));
  }
  return most;
}

template <typename Kv>
Partials MakePartials(CallMemory& memory, const SparseAttentionArgs& args, int usual_splits) {
  const Index rows = args.q.dims[0], heads = rows * args.q.dims[1],
              splits = SplitsOf(MostItems<Kv>(args), usual_splits);
  return {memory.Array<float2>(heads * splits), memory.Array<float>(heads * splits * args.q.dims[2]), splits,
          memory.Array<int>(rows * args.tail_k.dims[0]), usual_splits};
}

inline bool HasMass(const SparseAttentionArgs& args) { return args.chunk_mass.rank != 0 && args.chunk_mass.size() > 0; }

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_ATTENTION_INPUTS_CUH_
