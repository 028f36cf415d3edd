// SPDX-License-Identifier: Apache-2.0
// HTML: any bytes are refused or read, and what is read maps to the file.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "text/html_reader.h"
#include "text/readable_text.h"
#include "text/tokenizer.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

// The pieces tile the text, go forward in the source, and copy its bytes where they say so (see html_reader_test).
void CheckPieces(std::string_view source, std::string_view text, const std::vector<unfold::PieceSpan>& pieces) {
  std::uint32_t at = 0, source_at = 0;
  for (const unfold::PieceSpan& piece : pieces) {
    Require(piece.begin == at && piece.begin < piece.end);
    Require(source_at <= piece.source_begin && piece.source_begin <= piece.source_end);
    Require(piece.source_end <= source.size());
    at = piece.end;
    source_at = piece.source_end;
    const std::string_view said = text.substr(piece.begin, piece.end - piece.begin);
    const std::string_view from = source.substr(piece.source_begin, piece.source_end - piece.source_begin);
    if (from.empty()) Require(said.find_first_not_of("\n ") == std::string_view::npos);
    if (!unfold::IsByteByByte(piece)) continue;
    Require(std::equal(said.begin(), said.end(), from.begin(), [](char a, char b) {
      const bool was_space = static_cast<unsigned char>(b) <= ' ' || static_cast<unsigned char>(b) >= 0x80;
      return a == b || (a == ' ' && was_space) || (a == '\n' && b == '\r');
    }));
  }
  Require(at == text.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto read = unfold::ReadableText::Read(source, unfold::TextFormat::kHtml);
  if (!read.ok()) return 0;
  const std::string_view text = read->text();
  Require(text.size() <= source.size() + 2 * read->pieces().size());
  Require(unfold::FindInvalidUtf8(text) == std::string_view::npos);
  CheckPieces(source, text, read->pieces());
  if (read->title()) Require(read->title()->title.end <= text.size() && !read->title()->title.empty());
  const auto end = static_cast<std::uint32_t>(text.size());
  const unfold::ByteRange all = read->ToSource({0, end});
  Require(all.begin <= all.end && all.end <= source.size());
  Require(read->TextIn(all).size() <= text.size());
  return 0;
}
