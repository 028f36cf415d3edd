// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_file.h"
#include "text/vocabulary.h"

namespace unfold {
namespace {

// The parts of a tokenizer put together. Thread-safe.
class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(std::unique_ptr<Vocabulary> vocabulary, AddedTokens added, Pretokenizer pretokenizer,
               std::unique_ptr<Bpe> bpe)
      : vocabulary_(std::move(vocabulary)),
        added_(std::move(added)),
        pretokenizer_(std::move(pretokenizer)),
        bpe_(std::move(bpe)) {
    FillTables();
  }

  std::vector<TokenSpan> Encode(std::string_view text) const override {
    std::vector<TokenSpan> spans;
    spans.reserve(text.size() / 3 + 1);
    Encoding encoding;
    EncodePlain(text, 0, &encoding, &spans);
    return spans;
  }

  std::vector<TokenSpan> EncodeWithSpecials(std::string_view text) const override {
    std::vector<TokenSpan> spans;
    Encoding encoding;
    for (const TextSegment& segment : added_.Split(text)) {
      const auto begin = static_cast<std::uint32_t>(segment.begin);
      if (segment.id >= 0) {
        spans.push_back({segment.id, begin, static_cast<std::uint32_t>(segment.end)});
      } else {
        EncodePlain(text.substr(segment.begin, segment.end - segment.begin), begin, &encoding, &spans);
      }
    }
    return spans;
  }

  std::string_view TokenBytes(TokenId id) const override {
    return id >= 0 && id < vocab_size() ? tokens_[static_cast<std::size_t>(id)] : std::string_view();
  }
  bool IsSpecial(TokenId id) const override {
    return id >= 0 && id < vocab_size() && special_[static_cast<std::size_t>(id)];
  }
  TokenId IdOf(std::string_view text) const override {
    for (const AddedToken& token : added_.tokens()) {
      if (token.content == text) return token.id;
    }
    return vocabulary_->IdOfBytes(text);
  }
  std::int32_t vocab_size() const override { return static_cast<std::int32_t>(tokens_.size()); }
  const std::vector<std::string>& special_tokens() const override { return special_texts_; }

 private:
  // Working memory of one call.
  struct Encoding {
    std::vector<Pretoken> pieces;
    std::vector<TokenId> ids;
    std::string spaced;
    BpeScratch scratch;
  };

  void FillTables();
  void EncodePlain(std::string_view text, std::uint32_t base, Encoding* encoding, std::vector<TokenSpan>* spans) const;

  std::unique_ptr<Vocabulary> vocabulary_;
  AddedTokens added_;
  Pretokenizer pretokenizer_;
  std::unique_ptr<Bpe> bpe_;
  std::vector<std::string_view> tokens_;  // by id; an added token's text wins
  std::vector<bool> special_;             // by id
  std::vector<std::string> special_texts_;
};

void BpeTokenizer::FillTables() {
  std::size_t size = static_cast<std::size_t>(vocabulary_->size());
  for (const AddedToken& token : added_.tokens()) size = std::max(size, static_cast<std::size_t>(token.id) + 1);
  tokens_.resize(size);
  special_.resize(size);
  for (TokenId id = 0; id < vocabulary_->size(); ++id) tokens_[static_cast<std::size_t>(id)] = vocabulary_->Bytes(id);
  for (const AddedToken& token : added_.tokens()) {
    tokens_[static_cast<std::size_t>(token.id)] = token.content;
    special_[static_cast<std::size_t>(token.id)] = token.special;
    if (token.special) special_texts_.push_back(token.content);
  }
  std::stable_sort(special_texts_.begin(), special_texts_.end(),
                   [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
}

void BpeTokenizer::EncodePlain(std::string_view text, std::uint32_t base, Encoding* encoding,
                               std::vector<TokenSpan>* spans) const {
  encoding->pieces.clear();
  pretokenizer_.Split(text, &encoding->pieces);
  for (const Pretoken& piece : encoding->pieces) {
    std::string_view bytes = text.substr(piece.begin, piece.end - piece.begin);
    std::uint32_t added = 0;  // bytes of the piece that the text does not have
    if (piece.prefix_space) {
      encoding->spaced.assign(1, ' ').append(bytes);
      bytes = encoding->spaced;
      added = 1;
    }
    encoding->ids.clear();
    bpe_->Encode(bytes, &encoding->scratch, &encoding->ids);
    std::uint32_t begin = base + piece.begin;
    for (const TokenId id : encoding->ids) {
      const auto size = static_cast<std::uint32_t>(vocabulary_->Bytes(id).size());
      const std::uint32_t end = begin + size - added;
      spans->push_back({id, begin, end});
      begin = end;
      added = 0;
    }
  }
}

// The name of a part given by its "type", or "" when the part is null.
Result<std::string> PartType(const JsonFields& file, std::string_view part) {
  const Json* value = file.Find(part);
  if (value == nullptr) return std::string();
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(*value, file.name() + ": " + std::string(part)));
  return fields.String("type");
}

Status NotSupported(const JsonFields& file, std::string_view part, const std::string& type) {
  return Status::InvalidArgument(file.name() + ": " + std::string(part) + " '" + type + "' is not supported");
}

// A post-processor adds tokens around a text. Encode never applies it (templates name BOS themselves), but one that
// we do not know may do more than that.
Status CheckPostProcessor(const Json& value, const std::string& name) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(value, name));
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("type"));
  if (type == "ByteLevel" || type == "TemplateProcessing") return Status::Ok();
  if (type != "Sequence") return Status::InvalidArgument(name + " '" + type + "' is not supported");
  const Json* list = fields.Find("processors");
  if (list == nullptr || !list->is_array()) return fields.Error("processors", "must be an array");
  for (const Json& entry : *list) UNFOLD_TRY(CheckPostProcessor(entry, name));
  return Status::Ok();
}

// The parts around the model. Truncation and padding are left to callers.
Status CheckParts(const JsonFields& file) {
  UNFOLD_TRY_ASSIGN(const std::string normalizer, PartType(file, "normalizer"));
  if (!normalizer.empty()) return NotSupported(file, "normalizer", normalizer);
  UNFOLD_TRY_ASSIGN(const std::string decoder, PartType(file, "decoder"));
  if (decoder != "ByteLevel") return NotSupported(file, "decoder", decoder.empty() ? "null" : decoder);
  const Json* post_processor = file.Find("post_processor");
  return post_processor == nullptr ? Status::Ok()
                                   : CheckPostProcessor(*post_processor, file.name() + ": post_processor");
}

// Refuses every setting of the model that changes ids in a way that we do not follow.
Result<bool> CheckModel(const JsonFields& file, const TokenizerFile& parsed) {
  const Json* value = file.Find("model");
  if (value == nullptr) return file.Error("model", "is missing");
  UNFOLD_TRY_ASSIGN(const JsonFields model, JsonFields::Of(*value, file.name() + ": model"));
  UNFOLD_TRY_ASSIGN(const std::string type, model.String("type"));
  if (type != "BPE") return NotSupported(file, "model", type);
  if (!parsed.has_vocab) return model.Error("vocab", "must be an object of tokens and their ids");
  if (!parsed.has_merges) return model.Error("merges", "must be an array");
  UNFOLD_TRY_ASSIGN(const double dropout, model.NumberOr("dropout", 0));
  if (dropout != 0) return model.Error("dropout", "is not supported");
  UNFOLD_TRY_ASSIGN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
  if (byte_fallback) return model.Error("byte_fallback", "is not supported");
  for (const std::string_view field : {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    UNFOLD_TRY_ASSIGN(const std::string text, model.StringOr(field, ""));
    if (!text.empty()) return model.Error(field, "'" + text + "' is not supported");
  }
  return model.BoolOr("ignore_merges", false);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  UNFOLD_TRY_ASSIGN(const std::string json, ReadFile(path));
  return Parse(json, path);
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::Parse(std::string_view json, std::string_view name,
                                                    std::span<const std::string> more_special) {
  const std::string file_name(name);
  UNFOLD_TRY_ASSIGN(const TokenizerFile parsed, ReadTokenizerFile(json, file_name));
  UNFOLD_TRY_ASSIGN(const JsonFields file, JsonFields::Of(parsed.rest, file_name));
  UNFOLD_TRY_ASSIGN(const bool ignore_merges, CheckModel(file, parsed));
  UNFOLD_TRY(CheckParts(file));
  UNFOLD_TRY_ASSIGN(Pretokenizer pretokenizer, Pretokenizer::Parse(file.Find("pre_tokenizer"), file_name));
  UNFOLD_TRY_ASSIGN(std::unique_ptr<Vocabulary> vocabulary, Vocabulary::Create(parsed.vocab, file_name));
  UNFOLD_TRY_ASSIGN(AddedTokens added,
                    AddedTokens::Parse(file.Find("added_tokens"), more_special, *vocabulary, file_name));
  std::vector<TokenId> never;
  for (const AddedToken& token : added.tokens()) {
    if (token.special) never.push_back(token.id);
  }
  UNFOLD_TRY_ASSIGN(std::unique_ptr<Bpe> bpe, Bpe::Create(*vocabulary, parsed.merges, ignore_merges, never, file_name));
  return std::unique_ptr<Tokenizer>(
      std::make_unique<BpeTokenizer>(std::move(vocabulary), std::move(added), std::move(pretokenizer), std::move(bpe)));
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  for (const TokenId id : ids) {
    if (!skip_special || !IsSpecial(id)) text.append(TokenBytes(id));
  }
  return text;
}

}  // namespace unfold
