// SPDX-License-Identifier: Apache-2.0
#include "engine/fingerprint.h"

#include "base/json.h"
#include "store/kv_format.h"

namespace unfold {

std::string MakeFingerprint(const ModelConfig& model, const GistConfig& gist, std::string_view weights_hash,
                            std::string_view tokenizer_hash, DType kv_type, DType compute) {
  const GistRules& rules = gist.rules;
  Json json;
  json["store_format"] = kStoreFormatVersion;
  json["weights"] = weights_hash;
  json["tokenizer"] = tokenizer_hash;
  json["architecture"] = FamilyName(model.family);
  json["layers"] = model.num_layers;
  json["heads"] = model.heads;
  json["kv_heads"] = model.kv_heads;
  json["head_dim"] = model.head_dim;
  json["norm_epsilon"] = model.norm_epsilon;
  json["rope_theta"] = model.rope.theta;
  if (model.rope.type != RopeType::kDefault) json["rope"] = RopeJson(model.rope);
  json["gist_ids"] = rules.gist_ids;
  json["chunk_size"] = rules.chunk_size;
  json["section_size"] = rules.section_size;
  json["sink_size"] = rules.sink_size;
  json["previous_chunks"] = rules.previous_chunks;
  json["word_aware"] = rules.word_aware;
  json["document_template"] = gist.document_template;
  json["part_tokens"] = gist.part_tokens;
  json["kv_type"] = DTypeName(kv_type);
  json["compute_type"] = DTypeName(compute);
  return json.dump();
}

Result<DType> FingerprintKvType(std::string_view fingerprint) {
  UNFOLD_TRY_ASSIGN(const Json json, ParseJson(fingerprint, "store fingerprint"));
  UNFOLD_TRY_ASSIGN(const JsonFields fields, JsonFields::Of(json, "store fingerprint"));
  UNFOLD_TRY_ASSIGN(const std::string name, fields.String("kv_type"));
  for (const DType type : {DType::kF32, DType::kBF16, DType::kInt8}) {
    if (name == DTypeName(type)) return type;
  }
  return Status::Incompatible("store fingerprint: kv_type '" + name + "' is not known to this build");
}

Status CompareFingerprints(std::string_view stored, std::string_view current, std::string_view store_path) {
  if (stored == current) return Status::Ok();
  UNFOLD_TRY_ASSIGN(const Json before, ParseJson(stored, "store fingerprint"));
  UNFOLD_TRY_ASSIGN(const Json now, ParseJson(current, "fingerprint"));
  if (!before.is_object()) return Status::Corruption("store fingerprint: not an object");
  std::string differences;
  const auto note = [&](const std::string& field, const std::string& was, const std::string& is) {
    differences += (differences.empty() ? "" : ", ") + field + " (stored " + was + ", now " + is + ")";
  };
  for (const auto& [field, value] : now.items()) {
    if (!before.contains(field)) {
      note(field, "nothing", value.dump());
    } else if (before.at(field) != value) {
      note(field, before.at(field).dump(), value.dump());
    }
  }
  for (const auto& [field, value] : before.items()) {
    if (!now.contains(field)) note(field, value.dump(), "nothing");
  }
  if (differences.empty()) return Status::Ok();  // the same fields in another order
  return Status::Incompatible("store " + std::string(store_path) +
                              " was written with another model or other settings: " + differences +
                              ". Open it with those, or ingest into a new store");
}

}  // namespace unfold
