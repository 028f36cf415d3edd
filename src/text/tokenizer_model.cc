// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_model.h"

namespace unfold {
namespace {

Result<JsonFields> ModelFields(const JsonFields& file) {
  const Json* value = file.Find("model");
  if (value == nullptr) return file.Error("model", "is missing");
  return JsonFields::Of(*value, file.name() + ": model");
}

Status CheckProcessor(const Json& value, const std::string& name) {
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(value, name));
  UNFOLD_TRY_ASSIGN(const std::string type, fields.String("type"));
  if (type == "ByteLevel" || type == "TemplateProcessing") return Status::Ok();
  if (type != "Sequence") return Status::InvalidArgument(name + " '" + type + "' is not supported");
  const Json* list = fields.Find("processors");
  if (list == nullptr || !list->is_array()) return fields.Error("processors", "must be an array");
  for (const Json& entry : *list) UNFOLD_TRY(CheckProcessor(entry, name));
  return Status::Ok();
}

constexpr int kNumBytes = 256;

// The first byte without a token, or kNumBytes.
int FirstMissingByte(const Vocabulary& vocabulary) {
  int byte = 0;
  while (byte < kNumBytes && vocabulary.IdOfByte(static_cast<std::uint8_t>(byte)) >= 0) ++byte;
  return byte;
}

// What becomes of characters, or bytes, that have no token.
Status ReadUnknown(const JsonFields& model, const Vocabulary& vocabulary, const TokenDecoder& decoder,
                   BpeRules* rules) {
  const bool of_characters = vocabulary.spelling() == Spelling::kCharacters;
  const int missing = FirstMissingByte(vocabulary);
  if (!of_characters && missing == kNumBytes) return Status::Ok();
  UNFOLD_TRY_ASSIGN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
  if (byte_fallback) {
    if (missing < kNumBytes) {
      return model.Error("byte_fallback", "needs a token for each byte; there is none for " + std::to_string(missing));
    }
    if (!decoder.has_byte_fallback()) {
      return model.Error("byte_fallback", "is not supported without the decoder 'ByteFallback'");
    }
    return Status::Ok();
  }
  UNFOLD_TRY_ASSIGN(const std::string unknown, model.StringOr("unk_token", ""));
  if (unknown.empty()) {
    // The few bytes that a byte-level vocabulary may lack are lost, as in `tokenizers`.
    if (!of_characters) return Status::Ok();
    return model.Error("byte_fallback", "is false and there is no unk_token: characters without a token would be lost");
  }
  rules->unknown = vocabulary.IdOfSpelling(unknown);
  if (rules->unknown < 0) return model.Error("unk_token", "'" + unknown + "' is not in the vocabulary");
  UNFOLD_TRY_ASSIGN(rules->fuse_unknown, model.BoolOr("fuse_unk", false));
  return Status::Ok();
}

}  // namespace

Status CheckModel(const JsonFields& file, const TokenizerFile& parsed) {
  UNFOLD_TRY_ASSIGN(const JsonFields model, ModelFields(file));
  // Files from before 2020 do not name it; merges tell BPE from the other models.
  UNFOLD_TRY_ASSIGN(const std::string type, model.StringOr("type", parsed.has_merges ? "BPE" : ""));
  if (type.empty()) return model.Error("type", "is missing");
  if (type != "BPE") return Status::InvalidArgument(model.name() + " '" + type + "' is not supported");
  if (!parsed.has_vocab) return model.Error("vocab", "must be an object of tokens and their ids");
  if (!parsed.has_merges) return model.Error("merges", "must be an array");
  UNFOLD_TRY_ASSIGN(const double dropout, model.NumberOr("dropout", 0));
  if (dropout != 0) return model.Error("dropout", "is not supported");
  for (const std::string_view field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    UNFOLD_TRY_ASSIGN(const std::string text, model.StringOr(field, ""));
    if (!text.empty()) return model.Error(field, "'" + text + "' is not supported");
  }
  return Status::Ok();
}

Result<BpeRules> ReadBpeRules(const JsonFields& file, const Vocabulary& vocabulary, const TokenDecoder& decoder) {
  UNFOLD_TRY_ASSIGN(const JsonFields model, ModelFields(file));
  BpeRules rules;
  UNFOLD_TRY_ASSIGN(rules.ignore_merges, model.BoolOr("ignore_merges", false));
  UNFOLD_TRY(ReadUnknown(model, vocabulary, decoder, &rules));
  return rules;
}

Status CheckPostProcessor(const JsonFields& file) {
  const Json* value = file.Find("post_processor");
  return value == nullptr ? Status::Ok() : CheckProcessor(*value, file.name() + ": post_processor");
}

}  // namespace unfold
