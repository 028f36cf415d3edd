// SPDX-License-Identifier: Apache-2.0
// The settings of tokenizer.json's model and what surrounds it, checked: what would change ids in a way that we do not
// follow is refused by name.
#ifndef UNFOLD_TEXT_TOKENIZER_MODEL_H_
#define UNFOLD_TEXT_TOKENIZER_MODEL_H_

#include <string>

#include "base/json.h"
#include "text/bpe.h"
#include "text/token_decoder.h"
#include "text/tokenizer_file.h"
#include "text/vocabulary.h"
#include "unfold/base.h"

namespace unfold {

// InvalidArgument unless the model is BPE with a vocabulary and merges.
Status CheckModel(const JsonFields& file, const TokenizerFile& parsed);

// The rules of a sound model, all but `never`.
Result<BpeRules> ReadBpeRules(const JsonFields& file, const Vocabulary& vocabulary, const TokenDecoder& decoder);

// A post-processor adds tokens around a text. Encode never applies it (templates name BOS themselves), but one that we
// do not know may do more than that.
Status CheckPostProcessor(const JsonFields& file);

}  // namespace unfold

#endif  // UNFOLD_TEXT_TOKENIZER_MODEL_H_
