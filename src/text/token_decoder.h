// SPDX-License-Identifier: Apache-2.0
// TokenDecoder: the decoder of tokenizer.json, which says what text a token stands for.
#ifndef UNFOLD_TEXT_TOKEN_DECODER_H_
#define UNFOLD_TEXT_TOKEN_DECODER_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/vocabulary.h"
#include "unfold/base.h"

namespace unfold {

// Immutable after Parse; thread-safe.
class TokenDecoder {
 public:
  // `value` is the field decoder, or null: ByteLevel with a byte-level vocabulary; with one of characters Metaspace, or
  // Replace of a string, ByteFallback, Fuse and Strip at the begin, in this order. InvalidArgument names what is not
  // supported.
  static Result<TokenDecoder> Parse(const Json* value, Spelling spelling, const std::string& name);

  // What a token of the vocabulary, by its bytes there, stands for inside a text.
  std::string TextOf(std::string_view token) const;
  // Bytes at the front of a whole text that it does not have: the space that encoding put in.
  std::size_t NumStripped(std::string_view text, std::size_t first_token_bytes) const;

  bool has_byte_fallback() const { return byte_fallback_; }

 private:
  enum class Stage { kReplace, kByteFallback, kFuse, kStrip };

  Status AddStep(const JsonFields& fields, const std::string& type, Stage* stage);
  Status AddReplace(const JsonFields& fields);
  Status AddStrip(const JsonFields& fields);
  Status AddMetaspace(const JsonFields& fields);

  std::vector<std::pair<std::string, std::string>> replaced_;  // pattern and text, in order
  bool byte_fallback_ = false;
  std::size_t num_stripped_ = 0;  // spaces in front of the text that are dropped at most
  bool strips_first_ = false;     // all spaces in front of the first token are dropped (Metaspace)
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_TOKEN_DECODER_H_
