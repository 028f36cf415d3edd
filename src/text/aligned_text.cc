// SPDX-License-Identifier: Apache-2.0
#include "text/aligned_text.h"

#include <algorithm>
#include <utility>

namespace unfold {

std::uint32_t SourceCursor::Begin(std::size_t at) {
  const auto& edits = text_.edits_;
  while (next_begin_ < edits.size() && edits[next_begin_].begin <= at) ++next_begin_;
  if (next_begin_ == 0) return text_.base_ + static_cast<std::uint32_t>(at);
  const TextEdit& edit = edits[next_begin_ - 1];
  return at < edit.end ? edit.source_begin : edit.source_end + static_cast<std::uint32_t>(at - edit.end);
}

std::uint32_t SourceCursor::End(std::size_t at) {
  const auto& edits = text_.edits_;
  while (next_end_ < edits.size() && edits[next_end_].begin < at) ++next_end_;
  if (next_end_ == 0) return text_.base_ + static_cast<std::uint32_t>(at);
  const TextEdit& edit = edits[next_end_ - 1];
  return at <= edit.end ? edit.source_end : edit.source_end + static_cast<std::uint32_t>(at - edit.end);
}

TextEditor::TextEditor(const AlignedText& from, std::size_t begin, std::size_t end)
    : from_(from), cursor_(from), at_(begin), end_(end), to_({}, cursor_.Begin(begin)) {
  to_.edited_ = true;
  to_.own_.reserve(end - begin);
}

void TextEditor::Keep(std::size_t num_bytes) {
  if (num_bytes == 0) return;
  const std::size_t stop = at_ + num_bytes;
  const std::size_t moved = to_.own_.size();
  const auto& edits = from_.edits_;
  while (next_edit_ < edits.size() && edits[next_edit_].begin < stop) {
    TextEdit edit = edits[next_edit_];
    const bool reached = edit.end > at_ || edit.begin >= at_;
    edit.begin = std::max(edit.begin, at_) - at_ + moved;
    edit.end = std::max(std::min(edit.end, stop), at_) - at_ + moved;
    if (reached) to_.edits_.push_back(edit);
    if (edits[next_edit_].end > stop) break;  // its rest comes next
    ++next_edit_;
  }
  to_.own_.append(from_.text(), at_, num_bytes);
  at_ = stop;
}

void TextEditor::Replace(std::size_t num_bytes, std::string_view with) {
  const std::size_t stop = at_ + num_bytes;
  TextEdit edit;
  edit.begin = to_.own_.size();
  edit.end = edit.begin + with.size();
  edit.source_begin = cursor_.Begin(at_);
  edit.source_end = num_bytes == 0 ? edit.source_begin : std::max(edit.source_begin, cursor_.End(stop));
  to_.edits_.push_back(edit);
  to_.own_.append(with);
  while (next_edit_ < from_.edits_.size() && from_.edits_[next_edit_].end < stop) ++next_edit_;
  at_ = stop;
}

AlignedText TextEditor::Finish() {
  Keep(end_ - at_);
  return std::move(to_);
}

}  // namespace unfold
