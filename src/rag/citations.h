// SPDX-License-Identifier: Apache-2.0
// Citations: where an answer's attention fell, as byte ranges of the documents' source texts.
#ifndef UNFOLD_RAG_CITATIONS_H_
#define UNFOLD_RAG_CITATIONS_H_

#include <vector>

#include "rag/query_attention.h"
#include "rag/working_set.h"
#include "unfold/answer.h"
#include "unfold/base.h"

namespace unfold {

inline constexpr int kMaxSourceChunks = 8;

// Source bytes of chunks [begin, end) of a part. Tokens of a title repeated in front of the body count only when there
// is nothing else: they cite the title's place, far from the body.
ByteSpan ChunkBytes(const PlacedPart& part, std::int32_t begin, std::int32_t end);

// One source for each placed part that drew attention, largest share first: the run of at most kMaxSourceChunks
// consecutive chunks with the most mass. Shares sum to 1. Reads the texts of the documents for the snippets.
Result<std::vector<Source>> CiteSources(const WorkingSet& context, const AttentionReport& report);

// The chunks that the first answer token unfolded, layer by layer.
std::vector<UnfoldedHead> ExplainFirstToken(const WorkingSet& context, const AttentionReport& report);

}  // namespace unfold

#endif  // UNFOLD_RAG_CITATIONS_H_
