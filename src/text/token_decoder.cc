// SPDX-License-Identifier: Apache-2.0
#include "text/token_decoder.h"

#include <algorithm>

#include "text/metaspace.h"
#include "text/normalizer.h"

namespace unfold {
namespace {

constexpr std::size_t kMaxReplacements = 16;
constexpr std::size_t kMaxReplacementBytes = 16;

Status NotSupported(const std::string& name, const std::string& type) {
  return Status::InvalidArgument(name + " '" + type + "' is not supported");
}

}  // namespace

Result<TokenDecoder> TokenDecoder::Parse(const Json* value, Spelling spelling, const std::string& name) {
  TokenDecoder decoder;
  const std::string part = name + ": decoder";
  if (value == nullptr) return NotSupported(part, "null");
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(*value, part));
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("type"));
  if ((type == "ByteLevel") != (spelling == Spelling::kByteLevel)) {
    return Status::InvalidArgument(part + " '" + type + "' is not supported with a pre_tokenizer that " +
                                   (spelling == Spelling::kByteLevel ? "is" : "is not") + " ByteLevel");
  }
  Stage stage = Stage::kReplace;
  if (type == "ByteLevel") return decoder;
  if (type == "Metaspace") {
    UNFOLD_TRY(decoder.AddMetaspace(fields));
    return decoder;
  }
  if (type != "Sequence") {
    UNFOLD_TRY(decoder.AddStep(fields, type, &stage));
    return decoder;
  }
  const Json* list = fields.Find("decoders");
  if (list == nullptr || !list->is_array()) return fields.Error("decoders", "must be an array");
  for (std::size_t i = 0; i < list->size(); ++i) {
    const std::string step_name = part + "[" + std::to_string(i) + "]";
    UNFOLD_TRY_ASSIGN(const JsonFields step, JsonFields::Of((*list)[i], step_name));
    UNFOLD_TRY_ASSIGN(const std::string step_type, step.String("type"));
    UNFOLD_TRY(decoder.AddStep(step, step_type, &stage));
  }
  return decoder;
}

// A token's text does not depend on its neighbours only as long as the steps keep this order.
Status TokenDecoder::AddStep(const JsonFields& fields, const std::string& type, Stage* stage) {
  Stage next = Stage::kReplace;
  if (type == "ByteFallback") {
    next = Stage::kByteFallback;
    byte_fallback_ = true;
  } else if (type == "Fuse") {
    next = Stage::kFuse;
  } else if (type == "Strip") {
    next = Stage::kStrip;
    if (*stage != Stage::kFuse) return fields.Error("type", "'Strip' is supported only once, after Fuse");
    UNFOLD_TRY(AddStrip(fields));
  } else if (type == "Replace") {
    UNFOLD_TRY(AddReplace(fields));
  } else {
    return NotSupported(fields.name(), type);
  }
  if (next < *stage) return fields.Error("type", "'" + type + "' is not supported after the steps before it");
  *stage = next;
  return Status::Ok();
}

Status TokenDecoder::AddReplace(const JsonFields& fields) {
  const Json* pattern = fields.Find("pattern");
  if (pattern == nullptr) return fields.Error("pattern", "is missing");
  UNFOLD_TRY_ASSIGN(const JsonFields kind, JsonFields::Of(*pattern, fields.name() + ".pattern"));
  if (kind.Has("Regex")) return kind.Error("Regex", "is not supported in a decoder");
  UNFOLD_TRY_ASSIGN(const std::string text, kind.String("String"));
  UNFOLD_TRY_ASSIGN(const std::string with, fields.String("content"));
  if (text.empty()) return kind.Error("String", "is empty");
  if (with.size() > kMaxReplacementBytes || with.size() > text.size()) {
    return fields.Error("content", "is not supported when longer than the pattern");
  }
  if (replaced_.size() == kMaxReplacements) return fields.Error("type", "'Replace' occurs too often");
  replaced_.emplace_back(text, with);
  return Status::Ok();
}

Status TokenDecoder::AddStrip(const JsonFields& fields) {
  UNFOLD_TRY_ASSIGN(const std::string content, fields.String("content"));
  if (content != " ") return fields.Error("content", "other than ' ' is not supported");
  UNFOLD_TRY_ASSIGN(const std::int64_t start, fields.Int("start", 0, 1024));
  UNFOLD_TRY_ASSIGN(const std::int64_t stop, fields.Int("stop", 0, INT32_MAX));
  if (stop != 0) return fields.Error("stop", "other than 0 is not supported");
  num_stripped_ = static_cast<std::size_t>(start);
  return Status::Ok();
}

Status TokenDecoder::AddMetaspace(const JsonFields& fields) {
  UNFOLD_TRY_ASSIGN(const MetaspaceRules rules, ParseMetaspace(fields));
  replaced_.emplace_back(rules.mark, " ");
  strips_first_ = rules.prepend != MetaspacePrepend::kNever;
  return Status::Ok();
}

std::string TokenDecoder::TextOf(std::string_view token) const {
  std::string text(token);
  for (const auto& [pattern, with] : replaced_) {
    text = std::string(ReplaceText(AlignedText(text, 0), pattern, with).text());
  }
  const int byte = byte_fallback_ ? ByteOfSpelling(text) : -1;
  return byte < 0 ? text : std::string(1, static_cast<char>(byte));
}

std::size_t TokenDecoder::NumStripped(std::string_view text, std::size_t first_token_bytes) const {
  const std::size_t limit = strips_first_ ? first_token_bytes : num_stripped_;
  return std::min(std::min(text.find_first_not_of(' '), text.size()), limit);
}

}  // namespace unfold
