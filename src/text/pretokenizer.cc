// SPDX-License-Identifier: Apache-2.0
#include "text/pretokenizer.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace unfold {
namespace {

constexpr std::size_t kMaxSteps = 64;
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
        replaced_.push_back(copy_.size());
        copy_.append(kReplacement);
      }
      text.remove_prefix(invalid);
    }
  }

  const std::string& copy() const { return copy_; }

  // The offset in the text of `at` in the copy. Calls must come in ascending order.
  std::size_t Original(std::size_t at) {
    while (num_passed_ < replaced_.size() && replaced_[num_passed_] < at) ++num_passed_;
    return at - num_passed_ * (kReplacement.size() - 1);
  }

 private:
  std::string copy_;
  std::vector<std::size_t> replaced_;  // where the replacements begin in the copy, ascending
  std::size_t num_passed_ = 0;
};

}  // namespace

Result<Pretokenizer> Pretokenizer::Parse(const Json* value, const std::string& name) {
  Pretokenizer pretokenizer;
  if (value == nullptr) return pretokenizer;
  const std::string part = name + ": pre_tokenizer";
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(*value, part));
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("type"));
  if (type == "Metaspace") {
    UNFOLD_TRY(pretokenizer.AddMetaspaceSplit(fields));
    return pretokenizer;
  }
  if (type != "Sequence") {
    UNFOLD_TRY(pretokenizer.AddStep(*value, part, true));
    return pretokenizer;
  }
  const Json* list = fields.Find("pretokenizers");
  if (list == nullptr || !list->is_array() || list->empty() || list->size() > kMaxSteps) {
    return fields.Error("pretokenizers", "must be an array of 1 to " + std::to_string(kMaxSteps));
  }
  for (std::size_t i = 0; i < list->size(); ++i) {
    UNFOLD_TRY(pretokenizer.AddStep((*list)[i], part + "[" + std::to_string(i) + "]", i + 1 == list->size()));
  }
  return pretokenizer;
}

Status Pretokenizer::AddStep(const Json& value, const std::string& name, bool last) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(value, name));
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("type"));
  if (type == "Split") return AddSplit(fields);
  if (type == "Digits") {
    Step step;
    UNFOLD_TRY_ASSIGN(const bool individual, fields.BoolOr("individual_digits", false));
    UNFOLD_TRY_ASSIGN(step.regex, Named(Regex::Compile(individual ? "\\p{N}" : "\\p{N}+"), name));
    steps_.push_back(std::move(step));
    return Status::Ok();
  }
  if (type != "ByteLevel") return Status::InvalidArgument(name + " '" + type + "' is not supported");
  if (!last) return Status::InvalidArgument(name + " 'ByteLevel': must be the last pre_tokenizer, and only the last");
  return AddByteLevel(fields);
}

Status Pretokenizer::AddByteLevel(const JsonFields& fields) {
  byte_level_ = true;
  Step step;
  UNFOLD_TRY_ASSIGN(step.add_prefix_space, fields.BoolOr("add_prefix_space", true));
  UNFOLD_TRY_ASSIGN(const bool trim_offsets, fields.BoolOr("trim_offsets", true));
  (void)trim_offsets;  // our spans are the token's bytes, white space included
  UNFOLD_TRY_ASSIGN(const bool use_regex, fields.BoolOr("use_regex", true));
  if (use_regex) {
    UNFOLD_TRY_ASSIGN(step.regex, Named(Regex::Compile(kByteLevelPattern), fields.name()));
  }
  if (step.regex || step.add_prefix_space) steps_.push_back(std::move(step));
  return Status::Ok();
}

Status Pretokenizer::AddSplit(const JsonFields& fields) {
  constexpr std::pair<std::string_view, Behavior> kBehaviors[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous},
  };
  Step step;
  UNFOLD_TRY_ASSIGN(step.regex, ParsePattern(fields));
  UNFOLD_TRY_ASSIGN(const std::string behavior, fields.String("behavior"));
  UNFOLD_TRY_ASSIGN(step.invert, fields.BoolOr("invert", false));
  const auto known = std::find_if(std::begin(kBehaviors), std::end(kBehaviors),
                                  [&](const auto& entry) { return entry.first == behavior; });
  if (known == std::end(kBehaviors)) return fields.Error("behavior", "'" + behavior + "' is not supported");
  step.behavior = known->second;
  steps_.push_back(std::move(step));
  return Status::Ok();
}

Status Pretokenizer::AddMetaspaceSplit(const JsonFields& fields) {
  UNFOLD_TRY_ASSIGN(metaspace_, ParseMetaspace(fields));
  if (!metaspace_->split) return Status::Ok();
  Step step;
  step.behavior = Behavior::kMergedWithNext;
  UNFOLD_TRY_ASSIGN(step.regex, Named(Regex::Literal(metaspace_->mark), fields.name()));
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
  std::vector<Pretoken> pieces{{0, text.size(), false}};
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    if (i + 1 == steps_.size()) return Apply(steps_[i], text, pieces, out);
    std::vector<Pretoken> cut;
    Apply(steps_[i], text, pieces, &cut);
    pieces.swap(cut);
  }
  out->insert(out->end(), pieces.begin(), pieces.end());
}

// Joins matches to what stands beside them. Stretches cover the text, and may be empty matches.
void Pretokenizer::Merge(Behavior behavior, std::vector<Stretch>* stretches) {
  const bool backward = behavior == Behavior::kMergedWithNext;
  if (backward) std::reverse(stretches->begin(), stretches->end());
  std::vector<Stretch> merged;
  bool after_match = false;
  for (const Stretch& stretch : *stretches) {
    const bool joins =
        behavior == Behavior::kContiguous ? stretch.is_match == after_match : stretch.is_match && !after_match;
    after_match = stretch.is_match;
    if (!joins || merged.empty()) {
      merged.push_back(stretch);
    } else if (backward) {
      merged.back().begin = stretch.begin;
    } else {
      merged.back().end = stretch.end;
    }
  }
  if (backward) std::reverse(merged.begin(), merged.end());
  stretches->swap(merged);
}

void Pretokenizer::Apply(const Step& step, std::string_view text, const std::vector<Pretoken>& pieces,
                         std::vector<Pretoken>* out) {
  std::optional<RegexMatcher> matcher;
  if (step.regex) matcher.emplace(*step.regex);
  std::string spaced;
  std::vector<Stretch> stretches;
  for (const Pretoken& piece : pieces) {
    std::string_view view = text.substr(piece.begin, piece.end - piece.begin);
    const std::size_t added = step.add_prefix_space && !view.starts_with(' ') ? 1 : 0;
    if (added != 0) {
      spaced.assign(1, ' ').append(view);
      view = spaced;
    }
    // From offsets of the view, where an added space is byte 0, to offsets of the text.
    const auto put = [&](const Stretch& stretch) {
      if (stretch.begin == stretch.end || (step.behavior == Behavior::kRemoved && stretch.is_match)) return;
      const std::size_t skip = stretch.begin == 0 ? added : 0;
      out->push_back({piece.begin + stretch.begin + skip - added, piece.begin + stretch.end - added, skip != 0});
    };
    const bool merges = step.behavior != Behavior::kIsolated && step.behavior != Behavior::kRemoved;
    const auto take = [&](std::size_t begin, std::size_t end, bool is_match) {
      const Stretch stretch{begin, end, is_match != step.invert};
      if (merges) {
        stretches.push_back(stretch);
      } else {
        put(stretch);
      }
    };
    std::size_t done = 0;
    std::size_t begin = 0;
    std::size_t end = 0;
    if (matcher) matcher->Reset(view);
    while (matcher && matcher->Next(&begin, &end)) {
      if (done != begin) take(done, begin, false);
      take(begin, end, true);
      done = end;
    }
    if (done != view.size()) take(done, view.size(), false);
    if (!merges) continue;
    Merge(step.behavior, &stretches);
    for (const Stretch& stretch : stretches) put(stretch);
    stretches.clear();
  }
}

}  // namespace unfold
