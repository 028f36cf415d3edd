// SPDX-License-Identifier: Apache-2.0
// Safetensors files that are sound, truncated, lying, sharded, or mutated.
#include "model/safetensors.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/transformer.h"
#include "tiny_model.h"

namespace unfold {
namespace {

constexpr auto kCorrupt = StatusCode::kCorruption;

void ExpectRefused(const Status& status, StatusCode code, const std::vector<std::string>& says) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  for (const std::string& text : says) {
    EXPECT_NE(status.message().find(text), std::string::npos) << "'" << text << "' is not in: " << status.message();
  }
}

// Two tensors, 16 bytes of data. Byte-aligned as a mapped file would be.
const std::string kSoundHeader =
    R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}})";

// Pads like a writer does, so that data begins on an eighth byte.
std::string File(std::string header, std::size_t data_bytes = 16) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return SafeTensorsFile(header, std::string(data_bytes, '\0'));
}

Status Parse(const std::string& file) { return ParseSafeTensors(file, "m.safetensors").status(); }

TEST(SafeTensorsHeader, SoundFileIsRead) {
  const std::string file = File(kSoundHeader);
  const auto tensors = Must(ParseSafeTensors(file, "m.safetensors"));
  ASSERT_EQ(tensors.size(), 2U);
  EXPECT_EQ(tensors.at("a").ShapeString(), "f32[2]");
  EXPECT_EQ(tensors.at("b").ShapeString(), "bf16[2, 2]");
  EXPECT_EQ(tensors.at("b").as<char>(), file.data() + file.size() - 8);
}

TEST(SafeTensorsHeader, EveryTruncationIsRefused) {
  const std::string whole = File(kSoundHeader);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    ExpectRefused(Parse(whole.substr(0, bytes)), kCorrupt, {"m.safetensors"});
  }
  ExpectRefused(Parse(""), kCorrupt, {"truncated"});
  ExpectRefused(Parse(whole.substr(0, 7)), kCorrupt, {"truncated"});
  ExpectRefused(Parse(whole.substr(0, 40)), kCorrupt, {"truncated", "the header needs"});
  ExpectRefused(Parse(whole.substr(0, whole.size() - 1)), kCorrupt, {"tensor 'b'", "truncated"});
  ExpectRefused(Parse(whole + "x"), kCorrupt, {"17 bytes of data", "16"});
}

TEST(SafeTensorsHeader, LyingLengths) {
  std::string file = File(kSoundHeader);
  const auto with_length = [&](std::uint64_t length) {
    for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i) & 0xFF);
    return Parse(file);
  };
  ExpectRefused(with_length(std::uint64_t{1} << 63), kCorrupt, {"claims 9223372036854775808 bytes", "limit"});
  ExpectRefused(with_length(~std::uint64_t{0}), kCorrupt, {"claims 18446744073709551615 bytes"});
  ExpectRefused(with_length(file.size() - 7), kCorrupt, {"truncated"});
  ExpectRefused(with_length(1 << 20), kCorrupt, {"truncated", "1048576"});
  ExpectRefused(with_length(0), kCorrupt, {"does not begin with '{'"});
}

struct HeaderCase {
  const char* name;
  const char* header;
  StatusCode code;
  std::vector<std::string> says;
};
class BadHeader : public testing::TestWithParam<HeaderCase> {};

TEST_P(BadHeader, IsRefusedByName) {
  const Status status = Parse(File(GetParam().header));
  ExpectRefused(status, GetParam().code, GetParam().says);
  ExpectRefused(status, GetParam().code, {"m.safetensors"});
}

constexpr auto kInvalid = StatusCode::kInvalidArgument;
INSTANTIATE_TEST_SUITE_P(
    Headers, BadHeader,
    testing::Values(
        HeaderCase{"NotJson", "{\"a\":", kCorrupt, {"not valid JSON"}},
        HeaderCase{"NotAnObject", "[1, 2]", kCorrupt, {"does not begin with '{'"}},
        HeaderCase{"EntryIsText", R"({"a":"F32"})", kInvalid, {"tensor 'a'", "object"}},
        HeaderCase{"Float64",
                   R"({"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}})",
                   kInvalid,
                   {"tensor 'a'", "'dtype'", "'F64'", "F32, F16, BF16"}},
        HeaderCase{"Int8", R"({"a":{"dtype":"I8","shape":[16],"data_offsets":[0,16]}})", kInvalid, {"'I8'"}},
        HeaderCase{
            "NoType", R"({"a":{"shape":[4],"data_offsets":[0,16]}})", kInvalid, {"tensor 'a'", "'dtype'", "missing"}},
        HeaderCase{
            "NoShape", R"({"a":{"dtype":"F32","data_offsets":[0,16]}})", kCorrupt, {"tensor 'a'", "shape", "missing"}},
        HeaderCase{"NoOffsets", R"({"a":{"dtype":"F32","shape":[4]}})", kCorrupt, {"tensor 'a'", "data_offsets"}},
        HeaderCase{
            "OffsetsOverlap",
            R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
            kCorrupt,
            {"overlap", "byte 12"}},
        HeaderCase{
            "SameBytesTwice",
            R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})",
            kCorrupt,
            {"overlap"}},
        HeaderCase{
            "Hole",
            R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
            kCorrupt,
            {"hole", "byte 4"}},
        HeaderCase{"HoleAtTheFront",
                   R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
                   kCorrupt,
                   {"hole", "byte 0"}},
        HeaderCase{"HoleAtTheEnd",
                   R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                   kCorrupt,
                   {"16 bytes of data", "8"}},
        HeaderCase{"OffsetsReversed",
                   R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})",
                   kCorrupt,
                   {"data_offsets"}},
        HeaderCase{"OffsetNegative",
                   R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}})",
                   kCorrupt,
                   {"data_offsets"}},
        HeaderCase{
            "OffsetBeyond", R"({"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}})", kCorrupt, {"truncated"}},
        HeaderCase{"OffsetHuge",
                   R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551615]}})",
                   kCorrupt,
                   {"data_offsets"}},
        HeaderCase{
            "ThreeOffsets", R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8,16]}})", kCorrupt, {"data_offsets"}},
        HeaderCase{"ShapeTooSmall",
                   R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}})",
                   kCorrupt,
                   {"tensor 'a'", "16 bytes", "needs 12"}},
        HeaderCase{
            "ShapeNegative", R"({"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}})", kInvalid, {"'shape'"}},
        HeaderCase{"ShapeOverflows",
                   R"({"a":{"dtype":"F32","shape":[1099511627776,1099511627776,4],"data_offsets":[0,16]}})",
                   kInvalid,
                   {"'shape'", "larger than any file"}},
        HeaderCase{"ShapeText", R"({"a":{"dtype":"F32","shape":"4","data_offsets":[0,16]}})", kInvalid, {"'shape'"}},
        HeaderCase{"FiveDimensions",
                   R"({"a":{"dtype":"F32","shape":[1,1,1,1,4],"data_offsets":[0,16]}})",
                   kInvalid,
                   {"'shape'"}},
        HeaderCase{
            "NotAligned",
            R"({"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F32","shape":[3],"data_offsets":[2,14]},"c":{"dtype":"F16","shape":[1],"data_offsets":[14,16]}})",
            kCorrupt,
            {"tensor 'b'", "aligned"}}),
    [](const auto& info) { return info.param.name; });

// Header bytes flipped at random: a Status, never a crash, and never a view outside the file.
TEST(SafeTensorsHeader, TwoThousandMutations) {
  const std::string sound = SafeTensorsFile(MakeTinyWeights({}), DType::kBF16);
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<unsigned char>(sound[i]);
  std::mt19937 random(7);
  int refused = 0, accepted = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string file = sound;
    const int flips = 1 + static_cast<int>(random() % 3);
    for (int flip = 0; flip < flips; ++flip)
      file[random() % (8 + header_bytes)] ^= static_cast<char>(1U << random() % 8);
    const auto parsed = ParseSafeTensors(file, "m.safetensors");
    if (!parsed.ok()) {
      ++refused;
      EXPECT_FALSE(parsed.status().message().empty());
      continue;
    }
    ++accepted;  // a changed name, or a digit of the metadata
    for (const auto& [name, tensor] : *parsed) {
      ASSERT_GE(tensor.as<char>(), file.data() + 8) << name;
      ASSERT_LE(tensor.as<char>() + tensor.bytes(), file.data() + file.size()) << name;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(accepted, 100);
}

class Checkpoint : public testing::Test {
 protected:
  static Status Load(const TinyModel& model) { return Transformer::Load(model.dir(), *Backend()).status(); }
  static class Backend* Backend() {
    static const std::unique_ptr<class Backend> backend = MakeRefBackend();
    return backend.get();
  }
  static void Replace(const TinyModel& model, const TinyWeights& weights) {
    model.Write("model.safetensors", SafeTensorsFile(weights, DType::kF32));
  }
};

TEST_F(Checkpoint, MissingEmptyOrADirectory) {
  const TinyModel model;
  Must(Load(model));
  const std::string whole = model.Read("model.safetensors");
  model.Write("model.safetensors", "");
  ExpectRefused(Load(model), kCorrupt, {"model.safetensors", "empty file"});
  model.Write("model.safetensors", whole.substr(0, whole.size() / 2));
  ExpectRefused(Load(model), kCorrupt, {"model.safetensors", "truncated"});
  model.Remove("model.safetensors");
  ExpectRefused(Load(model), StatusCode::kNotFound, {"model.safetensors", "No such file"});
  ExpectRefused(Transformer::Load(model.dir() + "/none", *Backend()).status(), StatusCode::kNotFound, {"none"});
}

TEST_F(Checkpoint, TensorsAgainstConfig) {
  const TinyModel model;
  TinyWeights weights = MakeTinyWeights({});
  weights.erase("model.layers.1.mlp.up_proj.weight");
  Replace(model, weights);
  ExpectRefused(Load(model), StatusCode::kNotFound, {"no tensor 'model.layers.1.mlp.up_proj.weight'"});

  weights = MakeTinyWeights({});
  std::swap(weights["model.layers.0.mlp.down_proj.weight"].shape[0],
            weights["model.layers.0.mlp.down_proj.weight"].shape[1]);
  Replace(model, weights);
  ExpectRefused(Load(model), StatusCode::kInvalidArgument,
                {"'model.layers.0.mlp.down_proj.weight'", "f32[48, 32]", "f32[32, 48]"});

  weights = MakeTinyWeights({});
  weights["model.norm.weight"].shape = {1, kTinyHidden};
  Replace(model, weights);
  ExpectRefused(Load(model), StatusCode::kInvalidArgument, {"'model.norm.weight'", "f32[1, 32]", "f32[32]"});

  Replace(model, MakeTinyWeights({}));
  model.Patch("config.json", R"({"num_hidden_layers": 3})");
  ExpectRefused(Load(model), StatusCode::kNotFound, {"'model.layers.2."});
  model.Patch("config.json", R"({"num_hidden_layers": 2, "tie_word_embeddings": false})");
  ExpectRefused(Load(model), StatusCode::kNotFound, {"'lm_head.weight'"});
  model.Patch("config.json", R"({"tie_word_embeddings": true, "vocab_size": 300})");
  ExpectRefused(Load(model), StatusCode::kInvalidArgument, {"'model.embed_tokens.weight'", "f32[300, 32]"});
}

TEST_F(Checkpoint, Shards) {
  TinyModelOptions options;
  options.num_shards = 3;
  const TinyModel model(options);
  const SafeTensors sharded = Must(SafeTensors::Open(model.dir()));
  EXPECT_EQ(sharded.files().size(), 3U);
  EXPECT_EQ(sharded.tensors().size(), MakeTinyWeights(options).size());
  Must(Load(model));

  const std::string index = model.Read("model.safetensors.index.json");
  const std::string shard = model.Read("model-1.safetensors");
  model.Patch("model.safetensors.index.json", R"({"weight_map": {"model.extra.weight": "model-0.safetensors"}})");
  ExpectRefused(Load(model), kCorrupt, {"index.json", "tensor 'model.extra.weight' is in no shard"});
  model.Patch("model.safetensors.index.json", R"({"weight_map": {"model.extra.weight": "../model-0.safetensors"}})");
  ExpectRefused(Load(model), kCorrupt, {"index.json", "'model.extra.weight'", "not a file name"});
  model.Patch("model.safetensors.index.json", R"({"weight_map": {"model.extra.weight": 5}})");
  ExpectRefused(Load(model), kCorrupt, {"index.json", "not a file name"});
  model.Patch("model.safetensors.index.json", R"({"weight_map": null})");
  ExpectRefused(Load(model), kCorrupt, {"index.json", "'weight_map' is missing"});
  model.Write("model.safetensors.index.json", index.substr(0, index.size() / 2));
  ExpectRefused(Load(model), kCorrupt, {"index.json", "not valid JSON"});
  model.Write("model.safetensors.index.json", index);
  model.Write("model-1.safetensors", model.Read("model-0.safetensors"));
  ExpectRefused(Load(model), kCorrupt, {"model-1.safetensors", "is in two shards"});
  model.Write("model-1.safetensors", shard.substr(0, 100));
  ExpectRefused(Load(model), kCorrupt, {"model-1.safetensors", "truncated"});
  model.Remove("model-1.safetensors");
  ExpectRefused(Load(model), StatusCode::kNotFound, {"model-1.safetensors", "No such file"});
}

}  // namespace
}  // namespace unfold
