// SPDX-License-Identifier: Apache-2.0
#include "text/normalizer.h"

#include <algorithm>
#include <utility>

#include "text/nfc.h"

namespace unfold {
namespace {

constexpr std::size_t kMaxSteps = 64;
constexpr std::size_t kMaxTextBytes = 16;  // of what is put in
constexpr std::size_t kMaxGrowth = 64;     // how many times longer a text may become

Result<std::string> ShortText(const JsonFields& fields, std::string_view field) {
  UNFOLD_TRY_ASSIGN(std::string text, fields.String(field));
  if (text.size() <= kMaxTextBytes) return text;
  return fields.Error(field, "of more than " + std::to_string(kMaxTextBytes) + " bytes is not supported");
}

Result<std::string> ParsePattern(const JsonFields& fields) {
  const Json* pattern = fields.Find("pattern");
  if (pattern == nullptr) return fields.Error("pattern", "is missing");
  UNFOLD_TRY_ASSIGN(const JsonFields kind, JsonFields::Of(*pattern, fields.name() + ".pattern"));
  if (kind.Has("Regex")) return kind.Error("Regex", "is not supported in a normalizer");
  UNFOLD_TRY_ASSIGN(std::string text, kind.String("String"));
  if (text.empty()) return kind.Error("String", "is empty");
  return text;
}

}  // namespace

AlignedText ReplaceText(AlignedText from, std::string_view pattern, std::string_view with) {
  const std::string_view text = from.text();
  std::size_t found = text.find(pattern);
  if (found == std::string_view::npos) return from;
  TextEditor editor(from, 0, text.size());
  for (std::size_t done = 0; found != std::string_view::npos; found = text.find(pattern, done)) {
    editor.Keep(found - done);
    editor.Replace(pattern.size(), with);
    done = found + pattern.size();
  }
  return editor.Finish();
}

AlignedText PrependText(AlignedText from, std::string_view text) {
  if (from.text().empty() || text.empty()) return from;
  TextEditor editor(from, 0, from.text().size());
  editor.Replace(0, text);
  return editor.Finish();
}

Result<Normalizer> Normalizer::Parse(const Json* value, const std::string& name) {
  Normalizer normalizer;
  if (value != nullptr) UNFOLD_TRY(normalizer.AddSteps(*value, name + ": normalizer"));
  return normalizer;
}

Status Normalizer::AddSteps(const Json& value, const std::string& name) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(value, name));
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("type"));
  if (type == "Sequence") {
    const Json* list = fields.Find("normalizers");
    if (list == nullptr || !list->is_array()) return fields.Error("normalizers", "must be an array");
    for (std::size_t i = 0; i < list->size(); ++i) {
      UNFOLD_TRY(AddSteps((*list)[i], name + "[" + std::to_string(i) + "]"));
    }
    return Status::Ok();
  }
  Step step;
  if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    UNFOLD_TRY_ASSIGN(step.text, ShortText(fields, "prepend"));
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    UNFOLD_TRY_ASSIGN(step.pattern, ParsePattern(fields));
    UNFOLD_TRY_ASSIGN(step.text, ShortText(fields, "content"));
    growth_ *= std::max<std::size_t>(1, (step.text.size() + step.pattern.size() - 1) / step.pattern.size());
    if (growth_ > kMaxGrowth) return fields.Error("content", "makes texts too long");
  } else if (type != "NFC") {
    return Status::InvalidArgument(name + " '" + type + "' is not supported");
  }
  steps_.push_back(std::move(step));
  if (steps_.size() <= kMaxSteps) return Status::Ok();
  return Status::InvalidArgument(name + ": more than " + std::to_string(kMaxSteps) + " normalizers");
}

AlignedText Normalizer::Apply(AlignedText text) const {
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kNfc: text = ToNfc(std::move(text)); break;
      case Kind::kPrepend: text = PrependText(std::move(text), step.text); break;
      case Kind::kReplace: text = ReplaceText(std::move(text), step.pattern, step.text); break;
    }
  }
  return text;
}

std::string Normalizer::Apply(std::string_view text) const { return std::string(Apply(AlignedText(text, 0)).text()); }

}  // namespace unfold
