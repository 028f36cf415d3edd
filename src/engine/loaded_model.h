// SPDX-License-Identifier: Apache-2.0
// Everything loaded from a model directory, and what questions share over it.
#ifndef UNFOLD_ENGINE_LOADED_MODEL_H_
#define UNFOLD_ENGINE_LOADED_MODEL_H_

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "model/gist_config.h"
#include "model/transformer.h"
#include "rag/generator.h"
#include "rag/prepared_document.h"
#include "rag/unfold_cache.h"
#include "text/tokenizer.h"
#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

// The text side is immutable and thread-safe; transformer, cache, prefix and steps belong to the engine thread.
struct LoadedModel {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Transformer> transformer;
  std::unique_ptr<Tokenizer> tokenizer;
  GistConfig gist;
  TextRules text;
  std::unique_ptr<UnfoldCache> cache;
  std::unique_ptr<Prefix> prefix;
  std::unique_ptr<DecodeSteps> steps;
  std::string tokenizer_hash;
  DType kv_type = DType::kBF16;  // of what it encodes

  GeneratorContext Context(const EngineOptions& options) const;
  // The options', or what suits the backend.
  std::int64_t EncodeBatchTokens(const EngineOptions& options) const;
};

// Loads and checks options.model_path, all but the values of the weights (see WeightsIdentity).
Result<std::unique_ptr<LoadedModel>> LoadModel(const EngineOptions& options);

}  // namespace unfold

#endif  // UNFOLD_ENGINE_LOADED_MODEL_H_
