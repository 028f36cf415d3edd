// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "text/utf8.h"

namespace unfold {
namespace {

// The last character of `text`, or nothing when it is empty or does not end with a whole character.
std::string_view LastCharacter(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0 && text.size() - begin < 4) {
    if (IsUtf8Boundary(text, --begin)) break;
  }
  return text.substr(begin);
}

std::string_view FirstCharacter(std::string_view text) {
  return text.empty() ? text : text.substr(0, DecodeUtf8(text).size);
}

}  // namespace

Result<AddedTokens> AddedTokens::Parse(const Json* value, std::span<const std::string> more_special,
                                       const Vocabulary& vocabulary, const std::string& name) {
  AddedTokens added;
  added.next_id_ = vocabulary.num_tokens();
  const Json none = Json::array();
  if (value == nullptr) value = &none;
  const std::string part = name + ": added_tokens";
  if (!value->is_array()) return Status::InvalidArgument(part + " must be an array, found " + value->type_name());
  std::unordered_set<std::string> texts;
  std::unordered_set<TokenId> ids;
  for (std::size_t i = 0; i < value->size(); ++i) {
    UNFOLD_TRY(added.Add((*value)[i], vocabulary, part + "[" + std::to_string(i) + "]"));
    const AddedToken& token = added.tokens_.back();
    if (!texts.insert(token.content).second || !ids.insert(token.id).second) {
      return Status::InvalidArgument(part + ": '" + token.content + "' or its id " + std::to_string(token.id) +
                                     " occurs twice");
    }
  }
  for (const std::string& text : more_special) UNFOLD_TRY(added.AddSpecial(text, vocabulary, name));
  UNFOLD_TRY(added.CheckStripping(part));
  // `\w` of Rust's regex crate, which decides what single_word means.
  UNFOLD_TRY_ASSIGN(added.word_, Regex::Compile(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])"));
  added.IndexByFirstByte();
  return added;
}

Status AddedTokens::Add(const Json& value, const Vocabulary& vocabulary, const std::string& name) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(value, name));
  AddedToken token;
  UNFOLD_TRY_ASSIGN(token.content, fields.String("content"));
  if (token.content.empty()) return fields.Error("content", "is empty");
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
  if (token.special && known >= 0 && vocabulary.Bytes(known).size() == 1) {
    return Status::InvalidArgument(name + ": special token '" + token.content +
                                   "' is also the token of a byte, which plain text must be able to use");
  }
  tokens_.push_back(std::move(token));
  return Status::Ok();
}

// As `tokenizers` adds a special token to a loaded tokenizer.
Status AddedTokens::AddSpecial(const std::string& text, const Vocabulary& vocabulary, const std::string& name) {
  const auto same = [&](const AddedToken& token) { return token.content == text; };
  const auto found = std::find_if(tokens_.begin(), tokens_.end(), same);
  if (found != tokens_.end()) {
    found->special = true;
    return Status::Ok();
  }
  const TokenId known = vocabulary.IdOfSpelling(text);
  const TokenId id = known >= 0 ? known : next_id_;
  return Add({{"content", text}, {"id", id}, {"special", true}}, vocabulary, name + ": special token '" + text + "'");
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

void AddedTokens::IndexByFirstByte() {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    auto& index = tokens_[i].normalized ? normalized_ : raw_;
    index[static_cast<std::uint8_t>(tokens_[i].content[0])].push_back(i);
  }
  const auto longer = [this](std::size_t a, std::size_t b) {
    return tokens_[a].content.size() > tokens_[b].content.size();
  };
  for (auto* index : {&raw_, &normalized_}) {
    for (auto& bucket : *index) std::stable_sort(bucket.begin(), bucket.end(), longer);
  }
}

const AddedToken* AddedTokens::FindAt(const ByFirstByte& index, std::string_view text) const {
  for (const std::size_t i : index[static_cast<std::uint8_t>(text[0])]) {
    if (text.starts_with(tokens_[i].content)) return &tokens_[i];
  }
  return nullptr;
}

std::vector<TextSegment> AddedTokens::Split(std::string_view text) const {
  std::vector<TextSegment> first;
  SplitPass(raw_, text, 0, &first);
  std::vector<TextSegment> segments;
  for (const TextSegment& segment : first) {
    if (segment.id >= 0) {
      segments.push_back(segment);
    } else {
      SplitPass(normalized_, text.substr(segment.begin, segment.end - segment.begin), segment.begin, &segments);
    }
  }
  return segments;
}

bool AddedTokens::BreaksWord(const AddedToken& token, std::string_view before, std::string_view after) const {
  if (!token.single_word) return false;
  for (const std::string_view neighbour : {LastCharacter(before), FirstCharacter(after)}) {
    const bool whole = !neighbour.empty() && DecodeUtf8(neighbour).kind == Utf8Kind::kValid;
    if (whole && word_->Matches(neighbour)) return true;
  }
  return false;
}

void AddedTokens::SplitPass(const ByFirstByte& index, std::string_view text, std::size_t base,
                            std::vector<TextSegment>* out) const {
  std::size_t done = 0;  // everything before it has been put out
  std::size_t at = 0;
  while (at < text.size()) {
    const AddedToken* token = FindAt(index, text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at += token->content.size();
    if (BreaksWord(*token, text.substr(0, begin), text.substr(end))) continue;
    if (token->lstrip) begin -= TrailingWhiteSpace(text.substr(done, begin - done));
    if (token->rstrip) end += LeadingWhiteSpace(text.substr(end));
    if (done < begin) out->push_back({base + done, base + begin, -1});
    out->push_back({base + begin, base + end, token->id});
    done = end;
  }
  if (done < text.size()) out->push_back({base + done, base + text.size(), -1});
}

}  // namespace unfold
