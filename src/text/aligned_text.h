// SPDX-License-Identifier: Apache-2.0
// AlignedText: a text made from a source by edits, and the way back from its bytes to the source's.
#ifndef UNFOLD_TEXT_ALIGNED_TEXT_H_
#define UNFOLD_TEXT_ALIGNED_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace unfold {

// Bytes [begin, end) of the text stand for bytes [source_begin, source_end) of the source. Either range may be empty:
// text that was put in, or source that was left out.
struct TextEdit {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::uint32_t source_begin = 0;
  std::uint32_t source_end = 0;
};

// Outside of its edits the text is the source's. Thread-compatible; made by TextEditor, or the source itself.
class AlignedText {
 public:
  // `source` as it is, which must outlive this; its first byte is byte `base` of what offsets count in.
  AlignedText(std::string_view source, std::uint32_t base) : view_(source), base_(base) {}

  std::string_view text() const { return edited_ ? std::string_view(own_) : view_; }
  bool edited() const { return edited_; }

 private:
  friend class SourceCursor;
  friend class TextEditor;

  std::string_view view_;  // when not edited
  std::string own_;
  bool edited_ = false;
  std::uint32_t base_ = 0;       // source of byte 0, where no edit says otherwise
  std::vector<TextEdit> edits_;  // in order, apart
};

// From offsets of the text to offsets of the source. An offset inside an edit is taken outward: a range that touches an
// edit stands for all of that edit's source.
// Not thread-safe. Calls of Begin come in ascending order, and so do calls of End.
class SourceCursor {
 public:
  explicit SourceCursor(const AlignedText& text) : text_(text) {}

  std::uint32_t Begin(std::size_t at);  // of a range that begins at `at`
  std::uint32_t End(std::size_t at);    // of a range that ends at `at`, and is not empty

 private:
  const AlignedText& text_;
  std::size_t next_begin_ = 0;  // edits before it begin at or before the last `at`
  std::size_t next_end_ = 0;    // edits before it begin before the last `at`
};

// Makes an AlignedText from bytes [begin, end) of another, front to back. The source stays the first text's source.
// Not thread-safe.
class TextEditor {
 public:
  TextEditor(const AlignedText& from, std::size_t begin, std::size_t end);

  void Keep(std::size_t num_bytes);
  void Replace(std::size_t num_bytes, std::string_view with);
  // Keeps what is left. Nothing may be called after it.
  AlignedText Finish();

 private:
  const AlignedText& from_;
  SourceCursor cursor_;
  std::size_t at_;             // in from_
  std::size_t end_;            // in from_
  std::size_t next_edit_ = 0;  // the first of from_'s edits that may reach beyond at_
  AlignedText to_;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_ALIGNED_TEXT_H_
