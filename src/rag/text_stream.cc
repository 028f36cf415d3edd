// SPDX-License-Identifier: Apache-2.0
#include "rag/text_stream.h"

#include <algorithm>

namespace unfold {
namespace {

constexpr std::string_view kWhiteSpace = " \t\n\r\f\v";

// Length of the longest end of `text` that is a true beginning of `stop`.
std::size_t PartialMatch(std::string_view text, std::string_view stop) {
  for (std::size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.ends_with(stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

std::string TextStream::Push(std::string_view token_bytes) {
  if (stopped_) return {};
  pending_ += utf8_.Push(token_bytes);
  return Release(false);
}

std::string TextStream::Finish() {
  if (!stopped_) pending_ += utf8_.Finish();
  return Release(true);
}

std::string TextStream::Release(bool at_end) {
  std::size_t found = std::string::npos;
  for (const std::string& stop : stop_) {
    if (!stop.empty()) found = std::min(found, pending_.find(stop));
  }
  if (found != std::string::npos) {
    pending_.resize(found);
    stopped_ = true;
  }
  std::size_t held = 0;  // bytes that may still become part of a stop text
  if (!stopped_ && !at_end) {
    for (const std::string& stop : stop_) {
      if (!stop.empty()) held = std::max(held, PartialMatch(pending_, stop));
    }
  }
  // White space in front is dropped, but not while a stop text may begin with it.
  if (text_.empty()) {
    pending_.erase(0, std::min(pending_.find_first_not_of(kWhiteSpace), pending_.size() - held));
  }
  std::string_view certain = std::string_view(pending_).substr(0, pending_.size() - held);
  certain = certain.substr(0, certain.find_last_not_of(kWhiteSpace) + 1);
  std::string out(certain);
  if (stopped_ || at_end) {
    pending_.clear();
  } else {
    pending_.erase(0, out.size());
  }
  text_ += out;
  return out;
}

}  // namespace unfold
