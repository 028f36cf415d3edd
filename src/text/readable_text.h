// SPDX-License-Identifier: Apache-2.0
// What a document says: its text without markup, and where each byte of it stands in the document's file.
#ifndef UNFOLD_TEXT_READABLE_TEXT_H_
#define UNFOLD_TEXT_READABLE_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/text_units.h"
#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

// Bytes [begin, end) of a text come from bytes [source_begin, source_end) of its source. Where both are equally long
// they are mapped byte by byte. Otherwise they belong together as wholes (a character and the entity that names it), or
// the source range is empty: text of our own that stands at that place.
struct PieceSpan {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  std::uint32_t source_begin = 0;
  std::uint32_t source_end = 0;
  friend bool operator==(const PieceSpan&, const PieceSpan&) = default;
};

inline bool IsByteByByte(const PieceSpan& piece) {
  return piece.end - piece.begin == piece.source_end - piece.source_begin;
}

// Where bytes [begin, end) of the text that `pieces` tile, in order, come from. Bytes of our own count only when there
// is nothing else: they cite the empty range of their place, and so does an empty range.
ByteRange SourceOf(const std::vector<PieceSpan>& pieces, ByteRange range);

// A change of the rules by which HTML is read takes a new number: documents are read again by the next ingest.
inline constexpr std::uint64_t kHtmlRulesVersion = 1;

// Immutable; thread-safe. Plain text and Markdown are their own text and are not copied.
class ReadableText {
 public:
  // `source` must outlive this. InvalidArgument for what is not UTF-8 (with the byte), and for HTML that is nested too
  // deep, has a tag with too many attributes, or holds no text.
  static Result<ReadableText> Read(std::string_view source, TextFormat format);

  std::string_view text() const { return is_extracted_ ? extracted_ : source_; }
  // Its range is one of text(). HTML: <title>, which is then the first line of the text, else the first heading.
  const std::optional<TitleRange>& title() const { return title_; }
  const std::vector<PieceSpan>& pieces() const { return pieces_; }  // tile text(); empty when it is the source

  ByteRange ToSource(ByteRange range) const { return is_extracted_ ? SourceOf(pieces_, range) : range; }
  // What the source says in these bytes.
  std::string_view TextIn(ByteRange source_range) const;

 private:
  ReadableText() = default;

  std::string_view source_;
  bool is_extracted_ = false;
  std::string extracted_;
  std::vector<PieceSpan> pieces_;
  std::optional<TitleRange> title_;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_READABLE_TEXT_H_
