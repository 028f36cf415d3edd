// SPDX-License-Identifier: Apache-2.0
// The tokens that tokenizer_config.json names beside tokenizer.json.
#ifndef UNFOLD_TEXT_CONFIG_TOKENS_H_
#define UNFOLD_TEXT_CONFIG_TOKENS_H_

#include <string>
#include <string_view>

#include "base/json.h"
#include "unfold/base.h"

namespace unfold {

// An array of objects like those of added_tokens, in the order in which transformers adds what tokenizer.json lacks:
// added_tokens_decoder by id, then bos_token and its like, then additional_special_tokens and extra_special_tokens,
// which have no "id". `json` may be empty: no such file. Corruption when it is not JSON, InvalidArgument naming `name`
// and the field.
Result<Json> ConfigTokens(std::string_view json, const std::string& name);

}  // namespace unfold

#endif  // UNFOLD_TEXT_CONFIG_TOKENS_H_
