// SPDX-License-Identifier: Apache-2.0
#include "text/readable_text.h"

#include <algorithm>
#include <utility>

#include "text/html_reader.h"
#include "text/tokenizer.h"

namespace unfold {
namespace {

bool IsOurOwn(const PieceSpan& piece) { return piece.source_begin == piece.source_end; }

Status NotUtf8(std::size_t bad, std::string_view source, TextFormat format) {
  std::string message = "not UTF-8: byte " + std::to_string(bad) + " is invalid";
  const std::string charset = format == TextFormat::kHtml ? DeclaredCharset(source) : "";
  if (!charset.empty()) message.append("; it declares charset ").append(charset).append(": convert it to UTF-8");
  return Status::InvalidArgument(std::move(message));
}

}  // namespace

ByteRange SourceOf(const std::vector<PieceSpan>& pieces, ByteRange range) {
  auto piece = std::partition_point(pieces.begin(), pieces.end(),
                                    [&](const PieceSpan& before) { return before.end <= range.begin; });
  if (piece == pieces.end()) {
    const std::uint32_t last = pieces.empty() ? 0 : pieces.back().source_end;
    return {last, last};
  }
  const std::uint32_t into = IsByteByByte(*piece) ? range.begin - piece->begin : 0;
  ByteRange source{piece->source_begin + into, piece->source_begin + into};
  bool found = false;
  for (; piece != pieces.end() && piece->begin < range.end; ++piece) {
    if (IsOurOwn(*piece)) continue;
    const bool split = IsByteByByte(*piece);
    if (!found && range.begin < piece->begin) source.begin = piece->source_begin;
    source.end = split ? piece->source_begin + (std::min(range.end, piece->end) - piece->begin) : piece->source_end;
    found = true;
  }
  return source;
}

std::string_view ReadableText::TextIn(ByteRange range) const {
  if (!is_extracted_) return source_.substr(range.begin, range.end - range.begin);
  ByteRange found;
  for (const PieceSpan& piece : pieces_) {
    if (IsOurOwn(piece) || piece.source_end <= range.begin || piece.source_begin >= range.end) continue;
    const bool split = IsByteByByte(piece);
    if (found.empty()) {
      found.begin = piece.begin + (split ? std::max(range.begin, piece.source_begin) - piece.source_begin : 0);
    }
    found.end = split ? piece.begin + (std::min(range.end, piece.source_end) - piece.source_begin) : piece.end;
  }
  return std::string_view(extracted_).substr(found.begin, found.end - found.begin);
}

Result<ReadableText> ReadableText::Read(std::string_view source, TextFormat format) {
  if (const std::size_t bad = FindInvalidUtf8(source); bad != std::string_view::npos) {
    return NotUtf8(bad, source, format);
  }
  ReadableText readable;
  readable.source_ = source;
  if (format != TextFormat::kHtml) {
    readable.title_ = FindTitle(source, format);
    return readable;
  }
  UNFOLD_TRY_ASSIGN(HtmlText html, ReadHtml(source));
  if (html.text.empty()) {
    return Status::InvalidArgument("document is empty: no text outside of navigation, scripts and hidden elements");
  }
  readable.is_extracted_ = true;
  readable.extracted_ = std::move(html.text);
  readable.pieces_ = std::move(html.pieces);
  readable.title_ = html.title;
  return readable;
}

}  // namespace unfold
