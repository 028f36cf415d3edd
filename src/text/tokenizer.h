// SPDX-License-Identifier: Apache-2.0
// Tokenizer: a Hugging Face tokenizer.json of BPE, equal to the `tokenizers` library: byte-level (Llama 3, Qwen,
// SmolLM) or of characters with tokens for bytes (Llama 2, as SentencePiece has it).
//
// Text is bytes. Valid UTF-8 gives the ids that `tokenizers` gives. Bytes that are not valid UTF-8 are each taken as
// one character that is neither letter, number nor space, and encoded as the byte they are: every input round-trips,
// unless the file changes it (a normalizer, add_prefix_space, a token that strips) or loses it (unk_token without
// byte_fallback, a byte that a byte-level vocabulary has no token for, a Split that is Removed). Texts are below 2 GiB.
//
// Immutable after Load; thread-safe.
#ifndef UNFOLD_TEXT_TOKENIZER_H_
#define UNFOLD_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "unfold/base.h"

namespace unfold {

// One token and the half-open range of input bytes it stands for. Ranges never go back. Those of neighbours overlap
// where a normalizer made one character of several bytes that the tokens share, and a token of nothing but an added
// space has an empty one.
struct TokenSpan {
  TokenId id = 0;
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  friend bool operator==(const TokenSpan&, const TokenSpan&) = default;
};

class Tokenizer {
 public:
  // Reads tokenizer.json. NotFound, Corruption (not JSON, half a file), InvalidArgument (a part that is not supported,
  // by its name: "tokenizer.json: normalizer 'NFKC' is not supported").
  static Result<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  // The same from memory; `name` goes into messages. `more_special` are special tokens besides those of the file; those
  // that the vocabulary does not have get the next ids, in order, as Hugging Face gives them. Before them come
  // `more_tokens`, an array of objects like those of added_tokens (TokenizerConfig), or null.
  static Result<std::unique_ptr<Tokenizer>> Parse(std::string_view json, std::string_view name,
                                                  std::span<const std::string> more_special = {},
                                                  const Json& more_tokens = {});

  virtual ~Tokenizer() = default;

  // Plain text: the text of a special token is text and never becomes its id; added tokens that are not special are
  // recognised (`tokenizers` with encode_special_tokens). No post-processor. `follows`: more text stands before this
  // one, so that what a file puts in front of a whole text only (Metaspace 'first') is not put here.
  virtual std::vector<TokenSpan> Encode(std::string_view text, bool follows = false) const = 0;
  // As Encode, but special tokens are recognised too (for comparison with `tokenizers`).
  virtual std::vector<TokenSpan> EncodeWithSpecials(std::string_view text) const = 0;

  // Bytes that one token stands for inside a text: a token that begins a word begins with its space. A special token's
  // text. Empty for an id outside the vocabulary.
  virtual std::string_view TokenBytes(TokenId id) const = 0;
  // Bytes of all, without the space that encoding puts in front; may end inside a UTF-8 character. Special tokens are
  // skipped when asked.
  virtual std::string Decode(std::span<const TokenId> ids, bool skip_special = true) const = 0;

  virtual bool IsSpecial(TokenId id) const = 0;
  // The id of a token (added or in the vocabulary) by its text, or -1.
  virtual TokenId IdOf(std::string_view text) const = 0;
  // One more than the largest id.
  virtual std::int32_t vocab_size() const = 0;
  // Texts of added tokens flagged special, longest first.
  virtual const std::vector<std::string>& special_tokens() const = 0;
  // What Parse took of `more_special` and `more_tokens`, as text that tells two cases apart; empty when nothing.
  virtual const std::string& more() const = 0;
};

// Turns a stream of token bytes into a stream of whole UTF-8 characters.
// Not thread-safe; one per answer.
class Utf8Stream {
 public:
  // What can be emitted after these bytes: never half a character. Bytes that cannot become valid UTF-8 come out as
  // U+FFFD, one per maximal invalid prefix (Unicode 3.9, "substitution of maximal subparts").
  std::string Push(std::string_view bytes);
  // What is left at the end: an unfinished character comes out as one U+FFFD.
  std::string Finish();

 private:
  std::string pending_;
};

// Replaces invalid UTF-8 as Utf8Stream does.
std::string SanitizeUtf8(std::string_view bytes);
// Offset of the first byte that is not valid UTF-8, or npos.
std::size_t FindInvalidUtf8(std::string_view bytes);

}  // namespace unfold

#endif  // UNFOLD_TEXT_TOKENIZER_H_
