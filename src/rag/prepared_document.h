// SPDX-License-Identifier: Apache-2.0
// From a document's text to what is encoded: parts, raw tokens with their source bytes, gist sequences.
#ifndef UNFOLD_RAG_PREPARED_DOCUMENT_H_
#define UNFOLD_RAG_PREPARED_DOCUMENT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/gist_config.h"
#include "store/store.h"
#include "text/gist_sequence.h"
#include "text/tokenizer.h"
#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

struct PreparedPart {
  PartSummary summary;
  ChunkTable table;
  GistSequence sequence;
};

struct PreparedDocument {
  DocumentRecord record;  // stored_bytes of KV are added while it is encoded
  std::vector<PreparedPart> parts;
};

// Everything about text that encoding depends on. Immutable; thread-safe.
struct TextRules {
  const Tokenizer* tokenizer = nullptr;
  const GistConfig* config = nullptr;
  std::vector<bool> word_starts;  // by token id
};

// What tells an unchanged document: its text and format.
void HashContent(const DocumentInput& input, std::uint64_t hash[2]);

// InvalidArgument for an empty text, and for one that ReadableText refuses.
Result<PreparedDocument> PrepareDocument(const DocumentInput& input, const TextRules& rules);

// The records of `prepared` that hold no KV: its text, and a chunk table for each part.
std::vector<StoreRecord> TextRecords(DocumentId id, std::string_view text, const PreparedDocument& prepared);

}  // namespace unfold

#endif  // UNFOLD_RAG_PREPARED_DOCUMENT_H_
