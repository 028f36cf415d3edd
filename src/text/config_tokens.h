// SPDX-License-Identifier: Apache-2.0
// Tokens that tokenizer_config.json gives ids to, and that tokenizer.json may lack.
#ifndef UNFOLD_TEXT_CONFIG_TOKENS_H_
#define UNFOLD_TEXT_CONFIG_TOKENS_H_

#include <string>

#include "base/json.h"
#include "unfold/base.h"

namespace unfold {

// The field added_tokens_decoder of tokenizer_config.json in `model_dir`, as an array of objects like those of
// added_tokens, by id. Empty when there is no such file or field. Corruption and InvalidArgument name file and field.
Result<Json> ReadConfigTokens(const std::string& model_dir);

}  // namespace unfold

#endif  // UNFOLD_TEXT_CONFIG_TOKENS_H_
