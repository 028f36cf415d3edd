// SPDX-License-Identifier: Apache-2.0
#include "text/pretokenizer.h"

#include <utility>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace unfold {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// The pattern that ByteLevel applies when use_regex is set (GPT-2's).
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Adds the part's name to what the regex engine said.
Result<Regex> Named(Result<Regex> regex, const std::string& name) {
  if (regex.ok()) return regex;
  return Status::InvalidArgument(name + ": pattern: " + regex.status().message());
}

Result<Regex> ParsePattern(const JsonFields& fields) {
  const Json* pattern = fields.Find("pattern");
  if (pattern == nullptr) return fields.Error("pattern", "is missing");
  UNFOLD_TRY_ASSIGN(const JsonFields kind, JsonFields::Of(*pattern, fields.name() + ".pattern"));
  if (kind.Has("Regex")) {
    UNFOLD_TRY_ASSIGN(const std::string text, kind.String("Regex"));
    return Named(Regex::Compile(text), fields.name());
  }
  UNFOLD_TRY_ASSIGN(const std::string text, kind.String("String"));
  return Named(Regex::Literal(text), fields.name());
}

// A copy of a text in which every byte that is not valid UTF-8 is U+FFFD, and the way back to the text's own offsets.
// Not thread-safe.
class ValidCopy {
 public:
  explicit ValidCopy(std::string_view text) {
    while (!text.empty()) {
      const std::size_t valid = std::min(FindInvalidUtf8(text), text.size());
      copy_.append(text.substr(0, valid));
      text.remove_prefix(valid);
      if (text.empty()) break;
      const std::uint32_t invalid = DecodeUtf8(text).size;
      for (std::uint32_t i = 0; i < invalid; ++i) {
        replaced_.push_back(static_cast<std::uint32_t>(copy_.size()));
        copy_.append(kReplacement);
      }
      text.remove_prefix(invalid);
    }
  }

  const std::string& copy() const { return copy_; }

  // The offset in the text of `at` in the copy. Calls must come in ascending order.
  std::uint32_t Original(std::uint32_t at) {
    while (num_passed_ < replaced_.size() && replaced_[num_passed_] < at) ++num_passed_;
    return at - static_cast<std::uint32_t>(num_passed_ * (kReplacement.size() - 1));
  }

 private:
  std::string copy_;
  std::vector<std::uint32_t> replaced_;  // where the replacements begin in the copy, ascending
  std::size_t num_passed_ = 0;
};

}  // namespace

Result<Pretokenizer> Pretokenizer::Parse(const Json* value, const std::string& name) {
  Pretokenizer pretokenizer;
  const std::string part = name + ": pre_tokenizer";
  if (value == nullptr) return Status::InvalidArgument(part + " null is not supported; it must end with ByteLevel");
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(*value, part));
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("type"));
  if (type != "Sequence") {
    UNFOLD_TRY(pretokenizer.AddStep(*value, part, true));
    return pretokenizer;
  }
  const Json* list = fields.Find("pretokenizers");
  if (list == nullptr || !list->is_array() || list->empty()) {
    return fields.Error("pretokenizers", "must be an array that is not empty");
  }
  for (std::size_t i = 0; i < list->size(); ++i) {
    UNFOLD_TRY(pretokenizer.AddStep((*list)[i], part + "[" + std::to_string(i) + "]", i + 1 == list->size()));
  }
  return pretokenizer;
}

Status Pretokenizer::AddStep(const Json& value, const std::string& name, bool last) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(value, name));
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("type"));
  const bool byte_level = type == "ByteLevel";
  if (!byte_level && type != "Split" && type != "Digits") {
    return Status::InvalidArgument(name + " '" + type + "' is not supported");
  }
  if (byte_level != last) {
    return Status::InvalidArgument(name + " '" + type +
                                   "': ByteLevel must be the last pre_tokenizer, and only the last");
  }
  if (type == "Split") return AddSplit(fields);
  Step step;
  if (type == "Digits") {
    UNFOLD_TRY_ASSIGN(const bool individual, fields.BoolOr("individual_digits", false));
    UNFOLD_TRY_ASSIGN(step.regex, Named(Regex::Compile(individual ? "\\p{N}" : "\\p{N}+"), name));
  } else {
    UNFOLD_TRY_ASSIGN(step.add_prefix_space, fields.BoolOr("add_prefix_space", true));
    UNFOLD_TRY_ASSIGN(const bool trim_offsets, fields.BoolOr("trim_offsets", true));
    (void)trim_offsets;  // our spans are the token's bytes, white space included
    UNFOLD_TRY_ASSIGN(const bool use_regex, fields.BoolOr("use_regex", true));
    if (use_regex) {
      UNFOLD_TRY_ASSIGN(step.regex, Named(Regex::Compile(kByteLevelPattern), name));
    }
  }
  if (step.regex || step.add_prefix_space) steps_.push_back(std::move(step));
  return Status::Ok();
}

Status Pretokenizer::AddSplit(const JsonFields& fields) {
  Step step;
  UNFOLD_TRY_ASSIGN(step.regex, ParsePattern(fields));
  UNFOLD_TRY_ASSIGN(const std::string behavior, fields.String("behavior"));
  UNFOLD_TRY_ASSIGN(const bool invert, fields.BoolOr("invert", false));
  if (behavior == "Removed") {
    step.keep = invert ? Keep::kMatches : Keep::kGaps;
  } else if (behavior != "Isolated") {
    return fields.Error("behavior", "'" + behavior + "' is not supported");
  }
  steps_.push_back(std::move(step));
  return Status::Ok();
}

void Pretokenizer::Split(std::string_view text, std::vector<Pretoken>* out) const {
  if (FindInvalidUtf8(text) == std::string_view::npos) return SplitValid(text, out);
  ValidCopy valid(text);
  const std::size_t first = out->size();
  SplitValid(valid.copy(), out);
  for (std::size_t i = first; i < out->size(); ++i) {
    (*out)[i].begin = valid.Original((*out)[i].begin);
    (*out)[i].end = valid.Original((*out)[i].end);
  }
}

void Pretokenizer::SplitValid(std::string_view text, std::vector<Pretoken>* out) const {
  if (text.empty()) return;
  std::vector<Pretoken> pieces{{0, static_cast<std::uint32_t>(text.size()), false}};
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    if (i + 1 == steps_.size()) return Apply(steps_[i], text, pieces, out);
    std::vector<Pretoken> cut;
    Apply(steps_[i], text, pieces, &cut);
    pieces.swap(cut);
  }
  out->insert(out->end(), pieces.begin(), pieces.end());
}

void Pretokenizer::Apply(const Step& step, std::string_view text, const std::vector<Pretoken>& pieces,
                         std::vector<Pretoken>* out) {
  std::optional<RegexMatcher> matcher;
  if (step.regex) matcher.emplace(*step.regex);
  std::string spaced;
  for (const Pretoken& piece : pieces) {
    std::string_view view = text.substr(piece.begin, piece.end - piece.begin);
    const std::size_t added = step.add_prefix_space && !view.starts_with(' ') ? 1 : 0;
    if (added != 0) {
      spaced.assign(1, ' ').append(view);
      view = spaced;
    }
    // From offsets of the view, where an added space is byte 0, to offsets of the text.
    const auto put = [&](std::size_t begin, std::size_t end, bool is_match) {
      if (begin == end || (step.keep != Keep::kAll && is_match != (step.keep == Keep::kMatches))) return;
      const std::size_t skip = begin == 0 ? added : 0;
      out->push_back({static_cast<std::uint32_t>(piece.begin + begin + skip - added),
                      static_cast<std::uint32_t>(piece.begin + end - added), skip != 0});
    };
    std::size_t done = 0;
    std::size_t begin = 0;
    std::size_t end = 0;
    if (matcher) matcher->Reset(view);
    while (matcher && matcher->Next(&begin, &end)) {
      put(done, begin, false);
      put(begin, end, true);
      done = end;
    }
    put(done, view.size(), false);
  }
}

}  // namespace unfold
