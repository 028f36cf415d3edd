// SPDX-License-Identifier: Apache-2.0
// What stands beside tokenizer.json: special tokens that it may lack, and whether there is a chat template.
#ifndef UNFOLD_TEXT_TOKENIZER_CONFIG_H_
#define UNFOLD_TEXT_TOKENIZER_CONFIG_H_

#include <string>
#include <vector>

#include "base/json.h"
#include "unfold/base.h"

namespace unfold {

struct TokenizerConfig {
  // bos, eos, unk, sep, pad, cls and mask, then additional_special_tokens: in this order Hugging Face gives the next
  // ids to those that the tokenizer does not have. Each once.
  std::vector<std::string> special_tokens;
  // added_tokens_decoder as an array of objects like those of added_tokens in tokenizer.json, by id.
  Json added_tokens = Json::array();
  bool has_chat_template = false;  // a Jinja program, in any of the places where it may stand
};

// Reads tokenizer_config.json of `model_dir`, and special_tokens_map.json where that names no additional tokens. All of
// them may be missing. Corruption and InvalidArgument name file and field.
Result<TokenizerConfig> ReadTokenizerConfig(const std::string& model_dir);

}  // namespace unfold

#endif  // UNFOLD_TEXT_TOKENIZER_CONFIG_H_
