// SPDX-License-Identifier: Apache-2.0
// A tiny Llama checkpoint with seeded weights, written into a directory that goes away: two layers, grouped heads,
// byte-level tokenizer with a few merges, gist tokens. Weights are multiples of 1/64 below 2, so F32, F16 and BF16 hold
// the same values.
#ifndef UNFOLD_TESTS_UNIT_TINY_MODEL_H_
#define UNFOLD_TESTS_UNIT_TINY_MODEL_H_

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "unfold/base.h"

namespace unfold {

struct TinyModelOptions {
  DType dtype = DType::kF32;
  bool tied = true;
  int num_shards = 1;  // more than one: with an index
  std::uint32_t seed = 1;
};

struct TinyTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};
using TinyWeights = std::map<std::string, TinyTensor>;

inline constexpr int kTinyLayers = 2, kTinyHidden = 32, kTinyFfn = 48, kTinyHeads = 4, kTinyKvHeads = 2,
                     kTinyHeadDim = 16, kTinyPositions = 256;
inline constexpr TokenId kTinyEnd = 0, kTinyBos = 1, kTinyGist = 2, kTinyMetaGist = 3, kTinyFirstByte = 4;

Json TinyTokenizerJson();
int TinyVocabSize();
Json TinyConfigJson(bool tied);
Json TinyGistConfigJson();
// With lm_head.weight equal to the embedding when not tied.
TinyWeights MakeTinyWeights(const TinyModelOptions& options);

// A safetensors file: header as given, or made for `weights`; then the data.
std::string SafeTensorsFile(const std::string& header, const std::string& data);
std::string SafeTensorsFile(const TinyWeights& weights, DType dtype);

// Owns the directory. Not thread-safe.
class TinyModel {
 public:
  explicit TinyModel(const TinyModelOptions& options = {});
  ~TinyModel();
  TinyModel(const TinyModel&) = delete;
  TinyModel& operator=(const TinyModel&) = delete;

  const std::string& dir() const { return dir_; }
  std::string Path(std::string_view file) const { return dir_ + "/" + std::string(file); }
  std::string Read(std::string_view file) const;
  void Write(std::string_view file, std::string_view bytes) const;
  void Remove(std::string_view file) const;
  // Merges `patch` over a JSON file (RFC 7396: null removes a field).
  void Patch(std::string_view file, std::string_view patch) const;

 private:
  std::string dir_;
};

// The value, or a failed test: gtest reports the exception.
template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return *std::move(result);
}
inline void Must(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

}  // namespace unfold

#endif  // UNFOLD_TESTS_UNIT_TINY_MODEL_H_
