// SPDX-License-Identifier: Apache-2.0
#include "engine/loaded_model.h"

#include <filesystem>

#include "base/json.h"
#include "model/checkpoint.h"
#include "text/tokenizer_config.h"

namespace unfold {
namespace {

// Embedding matrices are rounded up to a size that computes well; more rows than this are another tokenizer's.
constexpr std::int32_t kMostPaddingRows = 1024;

Status CheckVocabulary(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& path) {
  const std::int32_t padding = config.vocab_size - tokenizer.vocab_size();
  if (padding >= 0 && padding <= kMostPaddingRows) return Status::Ok();
  return Status::InvalidArgument(path + ": has " + std::to_string(tokenizer.vocab_size()) +
                                 " tokens, config.json says vocab_size " + std::to_string(config.vocab_size) +
                                 ": tokenizer and model do not belong together");
}

// Special tokens that only tokenizer_config.json names, as far as the model has rows for them.
std::vector<std::string> MissingSpecialTokens(const TokenizerConfig& beside, const Tokenizer& tokenizer,
                                              const ModelConfig& config) {
  std::vector<std::string> missing;
  std::int32_t rows = config.vocab_size - tokenizer.vocab_size();
  for (const std::string& token : beside.special_tokens) {
    const TokenId id = tokenizer.IdOf(token);
    if (id >= 0 && tokenizer.IsSpecial(id)) continue;
    if (id < 0 && rows-- <= 0) break;
    missing.push_back(token);
  }
  return missing;
}

Status LoadText(const EngineOptions& options, LoadedModel& loaded) {
  const std::string path = options.model_path + "/tokenizer.json";
  const ModelConfig& config = loaded.transformer->config();
  UNFOLD_TRY_ASSIGN(const std::string bytes, ReadFile(path));
  UNFOLD_TRY_ASSIGN(const TokenizerConfig beside, ReadTokenizerConfig(options.model_path));
  UNFOLD_TRY_ASSIGN(loaded.tokenizer, Tokenizer::Parse(bytes, path, {}, beside.added_tokens));
  const std::vector<std::string> missing = MissingSpecialTokens(beside, *loaded.tokenizer, config);
  if (!missing.empty()) {
    UNFOLD_TRY_ASSIGN(loaded.tokenizer, Tokenizer::Parse(bytes, path, missing, beside.added_tokens));
  }
  loaded.tokenizer_hash = HashHex(bytes + loaded.tokenizer->more());
  UNFOLD_TRY(CheckVocabulary(*loaded.tokenizer, config, path));
  UNFOLD_TRY_ASSIGN(loaded.gist, LoadGistConfig(options.model_path, options.gist_overrides, config, *loaded.tokenizer));
  loaded.text.tokenizer = loaded.tokenizer.get();
  loaded.text.config = &loaded.gist;
  loaded.text.word_starts = WordStarts(*loaded.tokenizer, config.vocab_size);
  return Status::Ok();
}

}  // namespace

GeneratorContext LoadedModel::Context(const EngineOptions& options) const {
  return {transformer.get(), &gist,       tokenizer.get(),           cache.get(),
          prefix.get(),      steps.get(), EncodeBatchTokens(options)};
}

std::int64_t LoadedModel::EncodeBatchTokens(const EngineOptions& options) const {
  return options.encode_batch_tokens > 0 ? options.encode_batch_tokens : backend->EncodeTokens();
}

Result<std::unique_ptr<LoadedModel>> LoadModel(const EngineOptions& options) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(options.model_path, ignored)) {
    return Status::NotFound(options.model_path + ": no such model directory");
  }
  auto loaded = std::make_unique<LoadedModel>();
  UNFOLD_TRY_ASSIGN(loaded->backend, MakeBackend(options.backend, options.num_threads));
  UNFOLD_TRY_ASSIGN(loaded->transformer, Transformer::Load(options.model_path, *loaded->backend, options.compute));
  UNFOLD_TRY(LoadText(options, *loaded));
  UNFOLD_TRY_ASSIGN(loaded->cache,
                    UnfoldCache::Make(*loaded->transformer, loaded->gist.rules.max_chunk_tokens(),
                                      {options.unfold_cache_bytes, options.block_cache_bytes, options.gist_cache_bytes,
                                       UnfoldCache::StageBytes(*loaded->backend)}));
  UNFOLD_TRY_ASSIGN(loaded->prefix, ComputePrefix(*loaded->transformer, loaded->gist, *loaded->tokenizer));
  loaded->steps = std::make_unique<DecodeSteps>(*loaded->transformer);
  return loaded;
}

}  // namespace unfold
