// SPDX-License-Identifier: Apache-2.0
// Records of an encoding pass: each row as the layer loop made it, in the stored type, in its place; all or none. On
// the CPU and, as Cuda*, on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/float16.h"
#include "rag/encoder.h"
#include "tiny_model.h"

namespace unfold {
namespace {

constexpr std::int64_t kRowValues = kTinyKvHeads * kTinyHeadDim;

PreparedPart Part(int raw_tokens) {
  GistRules rules;
  rules.chunk_size = 4;
  rules.sink_size = 2;
  rules.word_aware = false;
  rules.gist_ids = {kTinyGist};
  std::vector<TokenId> raw(static_cast<std::size_t>(raw_tokens));
  for (std::size_t i = 0; i < raw.size(); ++i) raw[i] = kTinyFirstByte + static_cast<TokenId>(i * 31 % 250);
  PreparedPart part;
  part.sequence = BuildGistSequence(raw, rules, {});
  return part;
}

class KvRecorderTest : public testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  KvRecorderTest() {
    TinyModelOptions options;
    options.dtype = DType::kBF16;
    files_.emplace(options);
    const auto [backend, compute] = GetParam();
    backend_ = Must(MakeBackend(backend, 2));
    model_ = Must(Transformer::Load(files_->dir(), *backend_, compute));
    for (const int raw : {240, 3, 40}) parts_.push_back(Part(raw));
    for (std::uint32_t i = 0; i < parts_.size(); ++i) jobs_.push_back({DocumentId{7 + i / 2}, i, &parts_[i]});
  }

  // k and v of each layer, as the pass hands them on.
  std::vector<std::vector<float>> LayersOf() {
    std::vector<std::vector<float>> layers;
    std::vector<const GistSequence*> sequences;
    for (const PreparedPart& part : parts_) sequences.push_back(&part.sequence);
    const LayerKvSink sink = [&](int, const Tensor& k, const Tensor& v) {
      for (const Tensor& tensor : {k, v}) {
        layers.emplace_back(tensor.size());
        UNFOLD_TRY(backend_->Download(layers.back().data(), tensor));
      }
      return Status::Ok();
    };
    Must(EncodePass(*model_, sequences, sink, [] { return Status::Ok(); }));
    return layers;
  }

  // Rows of the pass that `key` names, in the order of kv_format.h.
  std::vector<std::int64_t> RowsOf(const RecordKey& key) const {
    std::int64_t begin = 0;
    for (std::uint32_t i = 0; i < key.part; ++i) begin += static_cast<std::int64_t>(parts_[i].sequence.ids.size());
    const std::vector<GistToken>& tokens = parts_[key.part].sequence.tokens;
    std::vector<std::int64_t> sinks, rows;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::int64_t row = begin + static_cast<std::int64_t>(i);
      const bool raw = tokens[i].level == kRawLevel;
      if (key.kind == RecordKind::kGist && tokens[i].sink != 0) sinks.push_back(row);
      if (key.kind == RecordKind::kGist && !raw) rows.push_back(row);
      const bool in_block = tokens[i].chunk / static_cast<int>(kChunksPerRawBlock) == static_cast<int>(key.block);
      if (key.kind == RecordKind::kRaw && raw && tokens[i].sink == 0 && in_block) rows.push_back(row);
    }
    sinks.insert(sinks.end(), rows.begin(), rows.end());
    return sinks;
  }

  std::optional<TinyModel> files_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> model_;
  std::vector<PreparedPart> parts_;
  std::vector<EncodeJob> jobs_;
};

template <typename Element>
Element At(const char* from, std::int64_t i) {
  Element value;
  std::memcpy(&value, from + i * static_cast<std::int64_t>(sizeof value), sizeof value);
  return value;
}

// One of k and v of a record: `rows` of `layer` are stored at `stored` and, for int8, have these scales.
void ExpectStored(DType type, const char* stored, const char* scales, const std::vector<float>& layer,
                  const std::vector<std::int64_t>& rows) {
  for (std::int64_t e = 0; e < kRowValues; ++e) {
    float largest = 0;
    for (const std::int64_t row : rows) largest = std::max(largest, std::abs(layer[row * kRowValues + e]));
    const float scale = type == DType::kInt8 ? BF16ToF32(At<std::uint16_t>(scales, e)) : 0;
    if (type == DType::kInt8) {
      ASSERT_GE(scale, largest / 127);
      ASSERT_LE(scale, largest / 127 * (1 + 0x1p-7F));
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float value = layer[rows[i] * kRowValues + e];
      const std::int64_t at = static_cast<std::int64_t>(i) * kRowValues + e;
      switch (type) {
        case DType::kF32: ASSERT_EQ(At<float>(stored, at), value); break;
        case DType::kBF16: ASSERT_EQ(At<std::uint16_t>(stored, at), F32ToBF16(value)); break;
        default: ASSERT_EQ(At<std::int8_t>(stored, at), scale > 0 ? std::nearbyint(value / scale) : 0) << value;
      }
    }
  }
}

TEST_P(KvRecorderTest, RecordsHoldWhatTheLayersMade) {
  const std::vector<std::vector<float>> layers = LayersOf();
  ASSERT_EQ(layers.size(), 2U * kTinyLayers);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kInt8}) {
    std::vector<StoreRecord> records;
    Must(EncodeParts(
        *model_, type, jobs_, [] { return Status::Ok(); }, records));
    // Gists of three parts in both layers; raw blocks of 32 chunks of 4 tokens in the second: 2, 1 and 1.
    ASSERT_EQ(records.size(), 2U * 3U + 2U + 1U + 1U);
    for (const StoreRecord& record : records) {
      const RecordKey& key = record.key;
      const KvView view = Must(OpenKv(key.kind, record.value, key.ToString()));
      const std::vector<std::int64_t> rows = RowsOf(key);
      EXPECT_EQ(key.document.value, jobs_[key.part].document.value);
      EXPECT_EQ(view.header.dtype, type);
      EXPECT_EQ(view.header.level, key.kind == RecordKind::kRaw ? kRawLevel : 0);
      ASSERT_EQ(view.header.num_rows, rows.size()) << key.ToString();
      ExpectStored(type, view.k_row(0), view.k_scale(), layers[2 * key.layer], rows);
      ExpectStored(type, view.v_row(0), view.v_scale(), layers[2 * key.layer + 1], rows);
      if (HasFatalFailure()) FAIL() << key.ToString() << ", " << DTypeName(type);
    }
  }
}

TEST_P(KvRecorderTest, APassThatIsCancelledLeavesNothing) {
  for (int layer = 0; layer < kTinyLayers; ++layer) {
    std::vector<StoreRecord> records(1);
    int calls = 0;
    const CancelCheck check = [&] { return calls++ == layer ? Status::Cancelled("enough") : Status::Ok(); };
    EXPECT_EQ(EncodeParts(*model_, DType::kBF16, jobs_, check, records).code(), StatusCode::kCancelled);
    EXPECT_EQ(records.size(), 1U);
  }
}

std::string Name(const testing::TestParamInfo<std::tuple<const char*, DType>>& info) {
  return std::string(std::get<0>(info.param)) + "_" + std::string(DTypeName(std::get<1>(info.param)));
}
const auto kComputes = testing::Values(DType::kF32, DType::kBF16);
INSTANTIATE_TEST_SUITE_P(Cpu, KvRecorderTest, testing::Combine(testing::Values("ref", "cpu"), kComputes), Name);
#if defined(UNFOLD_WITH_CUDA)
INSTANTIATE_TEST_SUITE_P(Cuda, KvRecorderTest, testing::Combine(testing::Values("cuda"), kComputes), Name);
#endif

}  // namespace
}  // namespace unfold
