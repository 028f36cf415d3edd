// SPDX-License-Identifier: Apache-2.0
// Document parts: a document cut into texts that the model encodes one by one, each mapped back to what it was cut
// from.
#ifndef UNFOLD_TEXT_DOCUMENT_PARTS_H_
#define UNFOLD_TEXT_DOCUMENT_PARTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/readable_text.h"
#include "text/text_units.h"
#include "text/tokenizer.h"
#include "unfold/base.h"

namespace unfold {

struct PartText {
  std::string text;                       // what is tokenized, as one plain text
  std::vector<PieceSpan> pieces;          // tile `text`, in order; a template's literals stand at the body's begin
  ByteRange body;                         // of the source; where the title's line lies inside, it is not in the text
  bool has_title = false;                 // `text` repeats the title
  std::uint32_t title_bytes_in_text = 0;  // the title ends here in `text`; 0 without one
};

struct DocumentParts {
  std::string title;  // empty: none
  std::vector<PartText> parts;
};

// Cuts a document's readable text, here the source, into parts of at most `part_tokens` tokens each. `title` is a range
// of it.
//
// White space at both ends is dropped. What then fits is one part, its text as it stands. A longer document is cut
// without overlap: a part takes whole paragraphs while they fit, of a paragraph that would not fit any part whole
// sentences, of such a sentence whole words, of such a word whole tokens. Its text is `document_template` with {title}
// and {text} filled in, or the text alone when there is no title or the title would leave less than half of the tokens.
// The title's line is in no body.
//
// InvalidArgument: an empty document, a bad template, part_tokens below 8, a source of 2 GiB or more.
Result<DocumentParts> SplitDocument(std::string_view source, const std::optional<TitleRange>& title,
                                    const Tokenizer& tokenizer, int part_tokens, std::string_view document_template);

}  // namespace unfold

#endif  // UNFOLD_TEXT_DOCUMENT_PARTS_H_
