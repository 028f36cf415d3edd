// SPDX-License-Identifier: Apache-2.0
// The fingerprint of a store: everything its KV depends on. A store written under another fingerprint is refused.
// Routing heads, the question's prompt, limits and compression are outside it: they may change over a store.
#ifndef UNFOLD_ENGINE_FINGERPRINT_H_
#define UNFOLD_ENGINE_FINGERPRINT_H_

#include <string>
#include <string_view>

#include "model/config.h"
#include "model/gist_config.h"
#include "unfold/base.h"

namespace unfold {

// JSON, one field per dependency.
std::string MakeFingerprint(const ModelConfig& model, const GistConfig& gist, std::string_view weights_hash,
                            std::string_view tokenizer_hash, DType kv_type, DType compute);

// The KV type that a stored fingerprint names. Corruption when it is not readable.
Result<DType> FingerprintKvType(std::string_view fingerprint);

// Ok when equal; Incompatible naming every field that differs, with both values.
Status CompareFingerprints(std::string_view stored, std::string_view current, std::string_view store_path);

}  // namespace unfold

#endif  // UNFOLD_ENGINE_FINGERPRINT_H_
