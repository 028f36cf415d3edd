// SPDX-License-Identifier: Apache-2.0
// Any bytes as tokenizer.json: they are refused with a message, or make a tokenizer that keeps its promises.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace {

using namespace std::string_view_literals;

using unfold::TokenId;
using unfold::Tokenizer;
using unfold::TokenSpan;

constexpr std::string_view kTexts[] = {
    ""sv,
    "The quick brown fox's 12,345 jumps.  \n\n\tdef f(x): return x\r\n"sv,
    " caf\xc3\xa9 e\xcc\x81 s\xcc\x87\xcc\xa3 \xea\xb0\x80\xe1\x86\xa8 \xe6\x97\xa5\xe6\x9c\xac "
    "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80 "sv,
    "\xe2\x96\x81<s></s><unk><0x0A><|im_start|> word word"sv,
    "\xff\xc3\x28\xed\xa0\x80 \x00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"sv,
};

void Require(bool holds) {
  if (!holds) std::abort();
}

// Spans lie in the text and never go back; ids lie in the vocabulary.
void CheckSpans(const Tokenizer& tokenizer, std::string_view text, const std::vector<TokenSpan>& spans) {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  for (const TokenSpan& span : spans) {
    Require(span.id >= 0 && span.id < tokenizer.vocab_size());
    Require(span.begin >= begin && span.end >= end && span.begin <= span.end && span.end <= text.size());
    begin = span.begin;
    end = span.end;
  }
}

void CheckText(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<TokenId> ids;
  for (const bool follows : {false, true}) {
    const std::vector<TokenSpan> spans = tokenizer.Encode(text, follows);
    CheckSpans(tokenizer, text, spans);
    for (const TokenSpan& span : spans) ids.push_back(span.id);
  }
  CheckSpans(tokenizer, text, tokenizer.EncodeWithSpecials(text));
  unfold::Utf8Stream stream;
  std::string streamed;
  for (const TokenId id : ids) streamed += stream.Push(tokenizer.TokenBytes(id));
  streamed += stream.Finish();
  Require(unfold::FindInvalidUtf8(streamed) == std::string::npos);
  Require(tokenizer.Decode(ids).size() <= tokenizer.Decode(ids, false).size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = Tokenizer::Parse(json, "tokenizer.json");
  if (!tokenizer.ok()) return 0;
  for (const std::string_view text : kTexts) CheckText(**tokenizer, text);
  CheckText(**tokenizer, json.substr(0, 256));
  return 0;
}
