// SPDX-License-Identifier: Apache-2.0
#include "text/html_text.h"

#include <algorithm>

namespace unfold {
namespace {

// White space of HTML, which is ASCII; a no-break space is text.
bool IsHtmlSpace(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f'; }

bool IsTitle(HtmlRole role) { return role == HtmlRole::kTitle || role == HtmlRole::kHeading; }

}  // namespace

void HtmlTextBuilder::Break(HtmlBreak kind) {
  if (num_titles_ > 0) kind = std::min(kind, HtmlBreak::kSpace);  // a title is one line
  if (kind <= break_) return;
  break_ = kind;
  space_ = {};
}

void HtmlTextBuilder::Open(HtmlRule rule) {
  Break(rule.around);
  if (rule.role == HtmlRole::kPre) {
    ++num_pre_;
    at_pre_begin_ = true;
  }
  if (IsTitle(rule.role) && num_titles_++ == 0) title_begin_.reset();
}

void HtmlTextBuilder::Close(HtmlRule rule) {
  if (rule.role == HtmlRole::kPre) --num_pre_;
  if (IsTitle(rule.role) && --num_titles_ == 0) EndTitle(rule.role);
  Break(rule.around);
}

void HtmlTextBuilder::EndTitle(HtmlRole role) {
  if (!title_begin_) return;
  const ByteRange range{*title_begin_, static_cast<std::uint32_t>(out_.text.size())};
  const std::string_view text = std::string_view(out_.text).substr(range.begin);
  const bool is_first_heading = role == HtmlRole::kHeading && !heading_seen_;
  heading_seen_ = heading_seen_ || role == HtmlRole::kHeading;
  if (!out_.title) {
    if (text.size() <= kMaxTitleBytes) out_.title = TitleRange{range, range};
    return;
  }
  const ByteRange title = out_.title->title;
  if (!is_first_heading || out_.text.compare(title.begin, title.end - title.begin, text) != 0) return;
  out_.text.resize(title_break_);
  while (!out_.pieces.empty() && out_.pieces.back().begin >= title_break_) out_.pieces.pop_back();
}

void HtmlTextBuilder::AddCopy(std::string_view text, std::uint32_t source_begin) {
  std::uint32_t at = 0;
  const auto size = static_cast<std::uint32_t>(text.size());
  const auto range = [&](std::uint32_t begin, std::uint32_t end) {
    return ByteRange{source_begin + begin, source_begin + end};
  };
  while (at < size) {
    if (num_pre_ == 0 || num_titles_ > 0) {
      const std::uint32_t begin = at;
      while (at < size && !IsHtmlSpace(text[at])) ++at;
      if (begin < at) Append(text.substr(begin, at - begin), range(begin, at));
      if (at < size) AddSpace(range(at, at + 1));
      ++at;
      continue;
    }
    const bool is_return = text[at] == '\r';
    const bool is_line_end = is_return || text[at] == '\n';
    const std::uint32_t end = at + (is_return && text.substr(at + 1, 1) == "\n" ? 2 : 1);
    if (!is_line_end) {
      const std::size_t line_end = std::min(text.find_first_of("\r\n", at), text.size());
      Append(text.substr(at, line_end - at), range(at, static_cast<std::uint32_t>(line_end)));
      at = static_cast<std::uint32_t>(line_end);
    } else {
      if (!at_pre_begin_) Append("\n", range(at, end));
      at = end;
    }
    at_pre_begin_ = false;
  }
}

void HtmlTextBuilder::AddDecoded(std::string_view text, ByteRange range) {
  at_pre_begin_ = false;
  if (num_pre_ == 0 && text.size() == 1 && IsHtmlSpace(text[0])) return AddSpace(range);
  Append(text, range);
}

void HtmlTextBuilder::AddSpace(ByteRange range) {
  if (break_ != HtmlBreak::kNone) return;
  break_ = HtmlBreak::kSpace;
  space_ = range;
}

void HtmlTextBuilder::FlushBreak(std::uint32_t source_at) {
  const HtmlBreak kind = std::exchange(break_, HtmlBreak::kNone);
  const ByteRange space = std::exchange(space_, {});
  if (out_.text.empty() || kind == HtmlBreak::kNone) return;
  const ByteRange nowhere{source_at, source_at};
  // Those that a pre ends with count.
  const std::size_t last = out_.text.find_last_not_of('\n');
  const std::size_t num_line_ends = out_.text.size() - (last == std::string::npos ? 0 : last + 1);
  switch (kind) {
    case HtmlBreak::kNone: return;
    case HtmlBreak::kSpace: return Put(" ", space.empty() ? nowhere : space);
    case HtmlBreak::kLine: return Put(std::string_view("\n").substr(std::min<std::size_t>(num_line_ends, 1)), nowhere);
    case HtmlBreak::kParagraph:
      return Put(std::string_view("\n\n").substr(std::min<std::size_t>(num_line_ends, 2)), nowhere);
  }
}

void HtmlTextBuilder::Append(std::string_view text, ByteRange range) {
  if (text.empty()) return;
  const auto before = static_cast<std::uint32_t>(out_.text.size());
  FlushBreak(range.begin);
  if (num_titles_ > 0 && !title_begin_) {
    title_break_ = before;
    title_begin_ = static_cast<std::uint32_t>(out_.text.size());
  }
  Put(text, range);
}

// Joins what follows on in the text and in the source. (A break that stands before a title is no copy, so a title
// begins a piece of its own.)
void HtmlTextBuilder::Put(std::string_view text, ByteRange range) {
  if (text.empty()) return;
  const auto begin = static_cast<std::uint32_t>(out_.text.size());
  out_.text.append(text);
  const PieceSpan piece{begin, static_cast<std::uint32_t>(out_.text.size()), range.begin, range.end};
  PieceSpan* last = out_.pieces.empty() ? nullptr : &out_.pieces.back();
  if (last != nullptr && IsByteByByte(*last) && IsByteByByte(piece) && last->source_end == piece.source_begin) {
    last->end = piece.end;
    last->source_end = piece.source_end;
  } else {
    out_.pieces.push_back(piece);
  }
}

}  // namespace unfold
