// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "text/utf8.h"

namespace unfold {
namespace {

constexpr std::size_t kMaxTokenBytes = 4096;

// Whether plain text may become the token without a merge.
bool IsSymbol(TokenId id, const Vocabulary& vocabulary) {
  const std::string_view bytes = vocabulary.Bytes(id);
  if (vocabulary.spelling() == Spelling::kByteLevel) return bytes.size() == 1;
  return ByteOfSpelling(bytes) >= 0 || (!bytes.empty() && DecodeUtf8(bytes).size == bytes.size());
}

std::string_view FirstCharacter(std::string_view text) {
  return text.empty() ? text : text.substr(0, DecodeUtf8(text).size);
}

}  // namespace

Result<AddedTokens> AddedTokens::Parse(const Json* file, const Json& more_tokens,
                                       std::span<const std::string> more_special, const Vocabulary& vocabulary,
                                       const Normalizer& normalizer, const std::string& name) {
  AddedTokens added;
  added.next_id_ = vocabulary.num_tokens();
  const std::string part = name + ": added_tokens";
  if (file != nullptr) {
    if (!file->is_array()) return Status::InvalidArgument(part + " must be an array, found " + file->type_name());
    for (std::size_t i = 0; i < file->size(); ++i) {
      UNFOLD_TRY(added.Add((*file)[i], vocabulary, part + "[" + std::to_string(i) + "]"));
    }
  }
  for (const Json& token : more_tokens) UNFOLD_TRY(added.AddMore(token, vocabulary, name + ": added_tokens_decoder"));
  for (const std::string& text : more_special) {
    const Json token = {{"content", text}, {"special", true}, {"normalized", false}};
    UNFOLD_TRY(added.AddMore(token, vocabulary, name + ": special token '" + text + "'"));
  }
  UNFOLD_TRY(added.CheckDistinct(part));
  UNFOLD_TRY(added.CheckStripping(part));
  // `\w` of Rust's regex crate, which decides what single_word means.
  UNFOLD_TRY_ASSIGN(added.word_, Regex::Compile(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])"));
  UNFOLD_TRY(added.MakeIndexes(normalizer, part));
  return added;
}

// As transformers adds a token to a loaded tokenizer. What the file says of a token stays, but that it is special too.
Status AddedTokens::AddMore(const Json& token, const Vocabulary& vocabulary, const std::string& name) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(token, name));
  UNFOLD_TRY_ASSIGN(const std::string text, fields.String("content"));
  UNFOLD_TRY_ASSIGN(const bool special, fields.BoolOr("special", false));
  const auto found =
      std::find_if(tokens_.begin(), tokens_.end(), [&](const AddedToken& t) { return t.content == text; });
  if (found != tokens_.end()) {
    if (!special || found->special) return Status::Ok();
    found->special = true;
  } else if (fields.Has("id")) {
    UNFOLD_TRY(Add(token, vocabulary, name));
  } else {
    const TokenId known = vocabulary.IdOfSpelling(text);
    Json with_id = token;
    with_id["id"] = known >= 0 ? known : next_id_;
    UNFOLD_TRY(Add(with_id, vocabulary, name));
  }
  more_ += token.dump();
  return Status::Ok();
}

Status AddedTokens::CheckDistinct(const std::string& name) const {
  std::unordered_set<std::string_view> texts;
  std::unordered_set<TokenId> ids;
  for (const AddedToken& token : tokens_) {
    if (!texts.insert(token.content).second || !ids.insert(token.id).second) {
      return Status::InvalidArgument(name + ": '" + token.content + "' or its id " + std::to_string(token.id) +
                                     " occurs twice");
    }
  }
  return Status::Ok();
}

Status AddedTokens::Add(const Json& value, const Vocabulary& vocabulary, const std::string& name) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(value, name));
  AddedToken token;
  UNFOLD_TRY_ASSIGN(token.content, fields.String("content"));
  if (token.content.empty()) return fields.Error("content", "is empty");
  if (token.content.size() > kMaxTokenBytes) {
    return fields.Error("content", "of more than " + std::to_string(kMaxTokenBytes) + " bytes is not supported");
  }
  UNFOLD_TRY_ASSIGN(const std::int64_t id, fields.Int("id", 0, INT32_MAX));
  token.id = static_cast<TokenId>(id);
  UNFOLD_TRY_ASSIGN(token.special, fields.BoolOr("special", false));
  UNFOLD_TRY_ASSIGN(token.single_word, fields.BoolOr("single_word", false));
  UNFOLD_TRY_ASSIGN(token.lstrip, fields.BoolOr("lstrip", false));
  UNFOLD_TRY_ASSIGN(token.rstrip, fields.BoolOr("rstrip", false));
  UNFOLD_TRY_ASSIGN(token.normalized, fields.BoolOr("normalized", !token.special));
  const TokenId known = vocabulary.IdOfSpelling(token.content);
  const TokenId expected = known >= 0 ? known : next_id_;
  if (token.id != expected) {
    return Status::InvalidArgument(name + ": '" + token.content + "' has id " + std::to_string(id) +
                                   ", where `tokenizers` gives it " + std::to_string(expected));
  }
  if (known < 0 && vocabulary.Has(token.id)) {
    return Status::InvalidArgument(name + ": '" + token.content + "' has id " + std::to_string(id) +
                                   ", which the vocabulary uses for another token");
  }
  next_id_ = std::max(next_id_, token.id + 1);
  if (token.special && known >= 0 && IsSymbol(known, vocabulary)) {
    return Status::InvalidArgument(name + ": special token '" + token.content +
                                   "' is also the token of a byte or character, which plain text must be able to use");
  }
  tokens_.push_back(std::move(token));
  return Status::Ok();
}

// Where rstrip takes white space that another token begins with, `tokenizers` emits the same bytes twice.
Status AddedTokens::CheckStripping(const std::string& name) const {
  const auto strips = std::find_if(tokens_.begin(), tokens_.end(), [](const AddedToken& t) { return t.rstrip; });
  const auto white = std::find_if(tokens_.begin(), tokens_.end(),
                                  [](const AddedToken& t) { return LeadingWhiteSpace(t.content) > 0; });
  if (strips == tokens_.end() || white == tokens_.end()) return Status::Ok();
  return Status::InvalidArgument(name + ": '" + strips->content + "' with rstrip is not supported beside '" +
                                 white->content + "', which begins with white space");
}

// Of two tokens that are the same text when normalised the special one is found, then the earlier.
Status AddedTokens::MakeIndexes(const Normalizer& normalizer, const std::string& name) {
  for (const bool special : {true, false}) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const AddedToken& token = tokens_[i];
      if (token.special != special) continue;
      Index& index = token.normalized ? normalized_ : raw_;
      index.patterns.push_back({token.normalized ? normalizer.Apply(token.content) : token.content, i});
      index.has_plain = index.has_plain || !special;
      if (!index.patterns.back().text.empty()) continue;
      return Status::InvalidArgument(name + ": '" + token.content + "' is empty when normalised");
    }
  }
  SortIndex(&raw_);
  SortIndex(&normalized_);
  return Status::Ok();
}

void AddedTokens::SortIndex(Index* index) {
  auto& patterns = index->patterns;
  std::stable_sort(patterns.begin(), patterns.end(),
                   [](const Pattern& a, const Pattern& b) { return a.text < b.text; });
  const auto same = [](const Pattern& a, const Pattern& b) { return a.text == b.text; };
  patterns.erase(std::unique(patterns.begin(), patterns.end(), same), patterns.end());
  for (const Pattern& pattern : patterns) ++index->first[static_cast<std::uint8_t>(pattern.text[0]) + 1U];
  for (std::size_t byte = 0; byte < 256; ++byte) index->first[byte + 1] += index->first[byte];
}

// The longest pattern that `text` begins with, or null. Each byte of the text narrows the range of patterns that agree
// with it so far; one that ends there is the first of the range.
const AddedTokens::Pattern* AddedTokens::LongestAt(const Index& index, std::string_view text) const {
  const auto byte = static_cast<std::uint8_t>(text[0]);
  auto begin = index.patterns.begin() + index.first[byte];
  auto end = index.patterns.begin() + index.first[byte + 1U];
  const Pattern* longest = nullptr;
  for (std::size_t depth = 1; begin != end; ++depth) {
    if (begin->text.size() == depth) longest = &*begin++;
    if (depth == text.size()) break;
    const auto next = static_cast<std::uint8_t>(text[depth]);
    const auto at_depth = [depth](const Pattern& p) { return static_cast<std::uint8_t>(p.text[depth]); };
    begin = std::lower_bound(begin, end, next, [&](const Pattern& p, std::uint8_t b) { return at_depth(p) < b; });
    end = std::upper_bound(begin, end, next, [&](std::uint8_t b, const Pattern& p) { return b < at_depth(p); });
  }
  return longest;
}

bool AddedTokens::BreaksWord(const AddedToken& token, std::string_view before, std::string_view after) const {
  if (!token.single_word) return false;
  for (const std::string_view neighbour : {LastCharacter(before), FirstCharacter(after)}) {
    const bool whole = !neighbour.empty() && DecodeUtf8(neighbour).kind == Utf8Kind::kValid;
    if (whole && word_->Matches(neighbour)) return true;
  }
  return false;
}

std::vector<TextSegment> AddedTokens::Split(const Index& index, std::string_view text, SpecialText special) const {
  std::vector<TextSegment> segments;
  const bool may_find = special == SpecialText::kIsToken ? !index.patterns.empty() : index.has_plain;
  std::size_t done = 0;  // everything before it has been put out
  for (std::size_t at = 0; may_find && at < text.size();) {
    const auto byte = static_cast<std::uint8_t>(text[at]);
    const bool may_begin = index.first[byte] != index.first[byte + 1U];
    const Pattern* pattern = may_begin ? LongestAt(index, text.substr(at)) : nullptr;
    if (pattern == nullptr) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[pattern->token];
    std::size_t begin = at;
    std::size_t end = at += pattern->text.size();
    if (token.special && special == SpecialText::kIsText) continue;
    if (BreaksWord(token, text.substr(0, begin), text.substr(end))) continue;
    if (token.lstrip) begin -= TrailingWhiteSpace(text.substr(done, begin - done));
    if (token.rstrip) end += LeadingWhiteSpace(text.substr(end));
    if (done < begin) segments.push_back({done, begin, -1});
    segments.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) segments.push_back({done, text.size(), -1});
  return segments;
}

}  // namespace unfold
