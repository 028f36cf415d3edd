// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "text/added_tokens.h"
#include "text/aligned_text.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer_file.h"
#include "text/tokenizer_model.h"
#include "text/vocabulary.h"

namespace unfold {
namespace {

// The parts of a tokenizer, read and checked.
struct Parts {
  std::unique_ptr<Vocabulary> vocabulary;
  Normalizer normalizer;
  Pretokenizer pretokenizer;
  TokenDecoder decoder;
  AddedTokens added;
  std::unique_ptr<Bpe> bpe;
};

// Encodes one text. Not thread-safe.
class Encoder {
 public:
  Encoder(const Parts& parts, SpecialText special, bool follows)
      : parts_(parts), special_(special), follows_(follows) {}

  std::vector<TokenSpan> Run(std::string_view text) {
    spans_.reserve(text.size() / 3 + 1);
    for (const TextSegment& segment : parts_.added.SplitRaw(text, special_)) {
      const auto begin = static_cast<std::uint32_t>(segment.begin);
      if (segment.id >= 0) {
        spans_.push_back({segment.id, begin, static_cast<std::uint32_t>(segment.end)});
      } else {
        const std::string_view stretch = text.substr(segment.begin, segment.end - segment.begin);
        EncodeNormalized(parts_.normalizer.Apply(AlignedText(stretch, begin)));
      }
    }
    return std::move(spans_);
  }

 private:
  void EncodeNormalized(const AlignedText& text);
  void EncodePieces(const AlignedText& text, std::size_t begin, std::size_t end, SourceCursor* cursor);

  const Parts& parts_;
  SpecialText special_;
  bool follows_;
  std::vector<TokenSpan> spans_;
  // Working memory.
  std::vector<Pretoken> pieces_;
  std::vector<BpeToken> tokens_;
  std::string spaced_;
  BpeScratch scratch_;
};

void Encoder::EncodeNormalized(const AlignedText& text) {
  SourceCursor cursor(text);
  for (const TextSegment& segment : parts_.added.SplitNormalized(text.text(), special_)) {
    const std::uint32_t begin = cursor.Begin(segment.begin);
    if (segment.id >= 0) {
      spans_.push_back({segment.id, begin, cursor.End(segment.end)});
    } else if (const auto& metaspace = parts_.pretokenizer.metaspace()) {
      const bool at_start = begin == 0 && !follows_;
      const AlignedText marked = MarkSpaces(*metaspace, text, segment.begin, segment.end, at_start);
      SourceCursor marked_cursor(marked);
      EncodePieces(marked, 0, marked.text().size(), &marked_cursor);
    } else {
      EncodePieces(text, segment.begin, segment.end, &cursor);
    }
  }
}

void Encoder::EncodePieces(const AlignedText& text, std::size_t begin, std::size_t end, SourceCursor* cursor) {
  pieces_.clear();
  parts_.pretokenizer.Split(text.text().substr(begin, end - begin), &pieces_);
  for (const Pretoken& piece : pieces_) {
    std::string_view bytes = text.text().substr(begin + piece.begin, piece.end - piece.begin);
    std::size_t added = 0;  // bytes of the piece that the text does not have
    if (piece.prefix_space) {
      spaced_.assign(1, ' ').append(bytes);
      bytes = spaced_;
      added = 1;
    }
    tokens_.clear();
    parts_.bpe->Encode(bytes, &scratch_, &tokens_);
    std::size_t at = begin + piece.begin;
    for (const BpeToken& token : tokens_) {
      const std::size_t token_end = at + token.size - added;
      if (token.id >= 0) {
        const std::uint32_t source_begin = cursor->Begin(at);
        spans_.push_back({token.id, source_begin, token_end == at ? source_begin : cursor->End(token_end)});
      }
      at = token_end;
      added = 0;
    }
  }
}

// Thread-safe.
class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(Parts parts) : parts_(std::move(parts)) { FillTables(); }

  std::vector<TokenSpan> Encode(std::string_view text, bool follows) const override {
    return Encoder(parts_, SpecialText::kIsText, follows).Run(text);
  }
  std::vector<TokenSpan> EncodeWithSpecials(std::string_view text) const override {
    return Encoder(parts_, SpecialText::kIsToken, false).Run(text);
  }

  std::string_view TokenBytes(TokenId id) const override {
    return id >= 0 && id < vocab_size() ? std::string_view(tokens_[static_cast<std::size_t>(id)]) : std::string_view();
  }
  std::string Decode(std::span<const TokenId> ids, bool skip_special) const override;
  bool IsSpecial(TokenId id) const override {
    return id >= 0 && id < vocab_size() && special_[static_cast<std::size_t>(id)];
  }
  TokenId IdOf(std::string_view text) const override {
    for (const AddedToken& token : parts_.added.tokens()) {
      if (token.content == text) return token.id;
    }
    return parts_.vocabulary->IdOfBytes(text);
  }
  std::int32_t vocab_size() const override { return static_cast<std::int32_t>(tokens_.size()); }
  const std::vector<std::string>& special_tokens() const override { return special_texts_; }
  const std::string& more() const override { return parts_.added.more(); }

 private:
  void FillTables();
  std::string PlainText(const AddedToken& token) const;

  Parts parts_;
  std::vector<std::string> tokens_;  // by id; an added token's text wins
  std::vector<bool> special_;        // by id
  std::vector<std::string> special_texts_;
};

// What an added token that is not special stands for, as any token of the vocabulary.
std::string BpeTokenizer::PlainText(const AddedToken& token) const {
  return parts_.decoder.TextOf(token.normalized ? parts_.normalizer.Apply(token.content) : token.content);
}

void BpeTokenizer::FillTables() {
  const Vocabulary& vocabulary = *parts_.vocabulary;
  const auto& added = parts_.added.tokens();
  auto size = static_cast<std::size_t>(vocabulary.size());
  for (const AddedToken& token : added) size = std::max(size, static_cast<std::size_t>(token.id) + 1);
  tokens_.resize(size);
  special_.resize(size);
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    tokens_[static_cast<std::size_t>(id)] = parts_.decoder.TextOf(vocabulary.Bytes(id));
  }
  for (const AddedToken& token : added) {
    const auto id = static_cast<std::size_t>(token.id);
    tokens_[id] = token.special ? token.content : PlainText(token);
    special_[id] = token.special;
    if (token.special) special_texts_.push_back(token.content);
  }
  std::stable_sort(special_texts_.begin(), special_texts_.end(),
                   [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
}

std::string BpeTokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  std::size_t first_token_bytes = 0;
  bool is_first = true;
  for (const TokenId id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    text.append(TokenBytes(id));
    if (is_first) first_token_bytes = text.size();
    is_first = false;
  }
  text.erase(0, parts_.decoder.NumStripped(text, first_token_bytes));
  return text;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  UNFOLD_TRY_ASSIGN(const std::string json, ReadFile(path));
  return Parse(json, path);
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::Parse(std::string_view json, std::string_view name,
                                                    std::span<const std::string> more_special,
                                                    const Json& more_tokens) {
  const std::string file_name(name);
  UNFOLD_TRY_ASSIGN(const TokenizerFile parsed, ReadTokenizerFile(json, file_name));
  UNFOLD_TRY_ASSIGN(const JsonFields file, JsonFields::Of(parsed.rest, file_name));
  UNFOLD_TRY(CheckModel(file, parsed));
  UNFOLD_TRY(CheckPostProcessor(file));
  Parts parts;
  UNFOLD_TRY_ASSIGN(parts.normalizer, Normalizer::Parse(file.Find("normalizer"), file_name));
  UNFOLD_TRY_ASSIGN(parts.pretokenizer, Pretokenizer::Parse(file.Find("pre_tokenizer"), file_name));
  const Spelling spelling = parts.pretokenizer.spelling();
  UNFOLD_TRY_ASSIGN(parts.decoder, TokenDecoder::Parse(file.Find("decoder"), spelling, file_name));
  UNFOLD_TRY_ASSIGN(parts.vocabulary, Vocabulary::Create(parsed.vocab, spelling, file_name));
  UNFOLD_TRY_ASSIGN(parts.added, AddedTokens::Parse(file.Find("added_tokens"), more_tokens, more_special,
                                                    *parts.vocabulary, parts.normalizer, file_name));
  UNFOLD_TRY_ASSIGN(BpeRules rules, ReadBpeRules(file, *parts.vocabulary, parts.decoder));
  for (const AddedToken& token : parts.added.tokens()) {
    if (token.special) rules.never.push_back(token.id);
  }
  UNFOLD_TRY_ASSIGN(parts.bpe, Bpe::Create(*parts.vocabulary, parsed.merges, rules, file_name));
  return std::unique_ptr<Tokenizer>(std::make_unique<BpeTokenizer>(std::move(parts)));
}

}  // namespace unfold
