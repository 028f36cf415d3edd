// SPDX-License-Identifier: Apache-2.0
// WeightsIdentity: finite weights, a hash of every byte, and what is remembered of it.
#include "model/checkpoint.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>

#include "tiny_model.h"

namespace unfold {
namespace {

Result<std::string> Identity(const TinyModel& model, const std::string& cache = "") {
  UNFOLD_TRY_ASSIGN(const SafeTensors checkpoint, SafeTensors::Open(model.dir()));
  return WeightsIdentity(checkpoint, cache);
}

struct timespec ModifiedTime(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(stat(path.c_str(), &info), 0);
  return info.st_mtim;
}

void SetModifiedTime(const std::string& path, struct timespec time) {
  const struct timespec both[2] = {time, time};
  EXPECT_EQ(utimensat(AT_FDCWD, path.c_str(), both, 0), 0);
}

// Changes one byte of the last tensor without changing the file's size.
void ChangeAByte(const TinyModel& model, const std::string& file) {
  std::string bytes = model.Read(file);
  bytes.back() ^= 1;
  model.Write(file, bytes);
}

TEST(WeightsIdentity, IsTheHashOfTheBytes) {
  const TinyModel model;
  const std::string hash = Must(Identity(model));
  EXPECT_EQ(hash, HashHex(model.Read("model.safetensors")));
  EXPECT_EQ(hash.size(), 32U);
  EXPECT_EQ(HashHex(""), "99aa06d3014798d86001c324468d497f") << "XXH3-128 of nothing, as published";
  EXPECT_EQ(Must(Identity(TinyModel())), hash) << "the directory's name is no part of it";
  TinyModelOptions other;
  other.seed = 2;
  EXPECT_NE(Must(Identity(TinyModel(other))), hash);
  ChangeAByte(model, "model.safetensors");
  EXPECT_NE(Must(Identity(model)), hash);
}

TEST(WeightsIdentity, CoversEveryShard) {
  TinyModelOptions options;
  options.num_shards = 3;
  const TinyModel model(options);
  std::string last = Must(Identity(model));
  for (int shard = 0; shard < 3; ++shard) {
    ChangeAByte(model, "model-" + std::to_string(shard) + ".safetensors");
    const std::string now = Must(Identity(model));
    EXPECT_NE(now, last) << shard;
    last = now;
  }
}

class NotFinite : public testing::TestWithParam<DType> {};

TEST_P(NotFinite, NanAndInfinityAreRefusedByTensor) {
  TinyModelOptions options;
  options.dtype = GetParam();
  const TinyModel model(options);
  Must(Identity(model));
  const std::string sound = model.Read("model.safetensors");
  const SafeTensors checkpoint = Must(SafeTensors::Open(model.dir()));
  const std::string name = "model.layers.1.self_attn.k_proj.weight";
  const Tensor& tensor = checkpoint.tensors().at(name);
  const std::size_t begin = tensor.as<const char>() - checkpoint.files()[0].bytes().data();
  const std::size_t width = DTypeBytes(GetParam());
  // Little-endian patterns by their high half; F16 has its own exponent.
  const bool half = GetParam() == DType::kF16;
  struct Pattern {
    const char* what;
    std::uint16_t high;
    bool finite;
  };
  for (const Pattern& pattern : {Pattern{"infinity", static_cast<std::uint16_t>(half ? 0x7C00 : 0x7F80), false},
                                 Pattern{"-infinity", static_cast<std::uint16_t>(half ? 0xFC00 : 0xFF80), false},
                                 Pattern{"NaN", static_cast<std::uint16_t>(half ? 0x7E00 : 0x7FC0), false},
                                 Pattern{"-NaN", static_cast<std::uint16_t>(half ? 0xFC01 : 0xFF81), false},
                                 Pattern{"largest", static_cast<std::uint16_t>(half ? 0x7BFF : 0x7F7F), true},
                                 Pattern{"smallest", 0x0001, true}}) {
    for (const std::int64_t at : {std::int64_t{0}, tensor.size() / 2, tensor.size() - 1}) {
      std::string bytes = sound;
      const std::size_t byte = begin + static_cast<std::size_t>(at) * width + width - 2;
      bytes[byte] = static_cast<char>(pattern.high & 0xFF);
      bytes[byte + 1] = static_cast<char>(pattern.high >> 8);
      model.Write("model.safetensors", bytes);
      const auto identity = Identity(model);
      EXPECT_EQ(identity.ok(), pattern.finite) << pattern.what << " at " << at << ": " << identity.status().ToString();
      if (identity.ok() || pattern.finite) continue;
      EXPECT_EQ(identity.status().code(), StatusCode::kInvalidArgument);
      EXPECT_NE(identity.status().message().find("'" + name + "'"), std::string::npos) << identity.status().message();
      EXPECT_NE(identity.status().message().find("NaN"), std::string::npos);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, NotFinite, testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

TEST(WeightsIdentityCache, SameSizeAndTimeAreNotReadAgain) {
  const TinyModel model;
  const std::string cache = model.Path("weights.cache"), file = model.Path("model.safetensors");
  const std::string first = Must(Identity(model, cache));
  const struct timespec time = ModifiedTime(file);
  ChangeAByte(model, "model.safetensors");
  SetModifiedTime(file, time);
  EXPECT_EQ(Must(Identity(model, cache)), first) << "the file was read although size and time are the same";
  EXPECT_NE(Must(Identity(model)), first) << "without a cache it must be read";

  struct timespec later = time;
  later.tv_nsec = (later.tv_nsec + 1) % 1000000000;
  SetModifiedTime(file, later);
  const std::string second = Must(Identity(model, cache));
  EXPECT_EQ(second, HashHex(model.Read("model.safetensors"))) << "one nanosecond is another time";
  EXPECT_NE(second, first);
  SetModifiedTime(file, time);
  EXPECT_EQ(Must(Identity(model, cache)), first) << "both are remembered";
}

TEST(WeightsIdentityCache, AnotherSizeOrPathIsReadAgain) {
  const TinyModel model, other({.seed = 5});
  const std::string cache = model.Path("weights.cache"), file = model.Path("model.safetensors");
  const std::string first = Must(Identity(model, cache));
  const struct timespec time = ModifiedTime(file);
  SetModifiedTime(other.Path("model.safetensors"), time);
  EXPECT_EQ(Must(Identity(other, cache)), Must(Identity(other))) << "same size and time, another path";
  EXPECT_NE(Must(Identity(other, cache)), first);
  model.Write("model.safetensors", SafeTensorsFile(MakeTinyWeights({}), DType::kF16));
  SetModifiedTime(file, time);
  EXPECT_EQ(Must(Identity(model, cache)), HashHex(model.Read("model.safetensors")));
}

TEST(WeightsIdentityCache, BadOrUnwritableCacheOnlyCostsTime) {
  const TinyModel model;
  const std::string hash = Must(Identity(model));
  EXPECT_EQ(Must(Identity(model, model.Path("no/such/dir/cache"))), hash);
  std::filesystem::create_directories(model.Path("dir/full"));
  EXPECT_EQ(Must(Identity(model, model.Path("dir"))), hash) << "the cache path is a directory";
  EXPECT_TRUE(std::filesystem::exists(model.Path("dir/full")));
  for (const char* content : {"", "{", "[1, null, {}]", "{\"hash\": 3}", "[{\"files\": [], \"hash\": \"x\"}]"}) {
    model.Write("cache", content);
    EXPECT_EQ(Must(Identity(model, model.Path("cache"))), hash) << content;
    EXPECT_EQ(Must(Identity(model, model.Path("cache"))), hash) << content;
  }
  int leftovers = 0;
  for (const auto& entry : std::filesystem::directory_iterator(model.dir())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("cache.") || name.starts_with("dir.")) ++leftovers;
  }
  EXPECT_EQ(leftovers, 0);
}

}  // namespace
}  // namespace unfold
