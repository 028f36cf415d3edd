// SPDX-License-Identifier: Apache-2.0
// Puts the text of an HTML page together: white space, breaks, the title, and where each byte comes from.
#ifndef UNFOLD_TEXT_HTML_TEXT_H_
#define UNFOLD_TEXT_HTML_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/html_rules.h"
#include "text/readable_text.h"
#include "text/text_units.h"

namespace unfold {

struct HtmlText {
  std::string text;
  std::vector<PieceSpan> pieces;  // tile `text`, in order; sources do not go back
  std::optional<TitleRange> title;
};

// Hears the elements and texts of a page in order. White space collapses outside of pre; breaks stand between texts
// only, never at the ends; a heading is one line. The title is that of <title>, which is then the first line; a first
// heading that says the same is dropped. Else it is the first heading of at most kMaxTitleBytes.
// Thread-compatible. The caller keeps what is left out away, and balances Open and Close.
class HtmlTextBuilder {
 public:
  // Texts will have at most this many bytes.
  explicit HtmlTextBuilder(std::size_t max_bytes) { out_.text.reserve(max_bytes); }

  void Open(HtmlRule rule);
  void Close(HtmlRule rule);
  // Bytes that stand in the source as they are, from `source_begin` on.
  void AddCopy(std::string_view text, std::uint32_t source_begin);
  // Text that the source's `range` stands for: an entity.
  void AddDecoded(std::string_view text, ByteRange range);
  // <title> is heard before any text.
  bool TakesTitle() const { return out_.text.empty() && !out_.title; }

  HtmlText Take() { return std::move(out_); }

 private:
  void Break(HtmlBreak kind);
  void AddSpace(ByteRange range);
  void FlushBreak(std::uint32_t source_at);
  void Append(std::string_view text, ByteRange range);
  void Put(std::string_view text, ByteRange range);
  void EndTitle(HtmlRole role);

  HtmlText out_;
  HtmlBreak break_ = HtmlBreak::kNone;  // between what stands in out_ and what comes next
  ByteRange space_;                     // the white space that made a kSpace, if it was that
  int num_pre_ = 0;                     // open elements in which white space counts
  bool at_pre_begin_ = false;           // a line's end here is not text
  int num_titles_ = 0;                  // open headings and titles
  bool heading_seen_ = false;
  // Where the open title's text begins in out_.text, and where the break before it does.
  std::optional<std::uint32_t> title_begin_;
  std::uint32_t title_break_ = 0;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_HTML_TEXT_H_
