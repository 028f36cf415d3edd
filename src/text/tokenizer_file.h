// SPDX-License-Identifier: Apache-2.0
// TokenizerFile: tokenizer.json as read, before anything in it is believed. The vocabulary and the merges, which are
// nearly all of the file, go straight into flat lists; what remains is small and stays JSON.
#ifndef UNFOLD_TEXT_TOKENIZER_FILE_H_
#define UNFOLD_TEXT_TOKENIZER_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "unfold/base.h"

namespace unfold {

struct TokenizerFile {
  std::vector<std::pair<std::string, std::int64_t>> vocab;  // model.vocab, in file order
  std::vector<std::pair<std::string, std::string>> merges;  // model.merges, from "a b" or ["a", "b"]
  bool has_vocab = false;                                   // model.vocab is there, and an object
  bool has_merges = false;                                  // model.merges is there, and an array
  Json rest;                                                // the file without the two
};

// Corruption when the text is not JSON (with the byte), InvalidArgument for wrong types; both name `name`.
Result<TokenizerFile> ReadTokenizerFile(std::string_view json, const std::string& name);

}  // namespace unfold

#endif  // UNFOLD_TEXT_TOKENIZER_FILE_H_
