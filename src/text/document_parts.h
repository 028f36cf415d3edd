// SPDX-License-Identifier: Apache-2.0
// Document parts: a document cut into texts that the model encodes one by one, each mapped back to the file's bytes.
#ifndef UNFOLD_TEXT_DOCUMENT_PARTS_H_
#define UNFOLD_TEXT_DOCUMENT_PARTS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/text_units.h"
#include "text/tokenizer.h"
#include "unfold/base.h"

namespace unfold {

// Bytes [begin, end) of a part's text are bytes [source_begin, source_end) of the source. Both are equally long, or the
// source range is empty: a template's literal, which stands at the body's begin.
struct PieceSpan {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  std::uint32_t source_begin = 0;
  std::uint32_t source_end = 0;
};

struct PartText {
  std::string text;               // what is tokenized, as one plain text
  std::vector<PieceSpan> pieces;  // tile `text`, in order
  ByteRange body;                 // of the source; where a Markdown title lies inside, its line is not in the text
  bool has_title = false;         // `text` repeats the title
  std::uint32_t title_bytes_in_text = 0;  // the title ends here in `text`; 0 without one
};

struct DocumentParts {
  std::string title;  // empty: none
  std::vector<PartText> parts;
};

// Cuts a document into parts of at most `part_tokens` tokens each.
//
// White space at both ends is dropped. What then fits is one part, its text as it stands. A longer document is cut
// without overlap: a part takes whole paragraphs while they fit, of a paragraph that would not fit any part whole
// sentences, of such a sentence whole words, of such a word whole tokens. Its text is `document_template` with {title}
// and {text} filled in, or the text alone when there is no title or the title would leave less than half of the tokens.
// The title's line is in no body.
//
// InvalidArgument: an empty document, a bad template, part_tokens below 8, a source of 2 GiB or more.
Result<DocumentParts> SplitDocument(std::string_view source, DocumentFormat format, const Tokenizer& tokenizer,
                                    int part_tokens, std::string_view document_template);

}  // namespace unfold

#endif  // UNFOLD_TEXT_DOCUMENT_PARTS_H_
