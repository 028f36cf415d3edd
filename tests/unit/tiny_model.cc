// SPDX-License-Identifier: Apache-2.0
#include "tiny_model.h"

#include <bit>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

namespace unfold {
namespace {

// How a byte is written in the vocabulary of a byte-level tokenizer: printable Latin-1 as it is, the others from
// U+0100 on, in order.
std::string ByteSymbol(int byte) {
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b != 173); };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

const std::vector<std::pair<std::string, std::string>>& Merges() {
  static const std::string space = ByteSymbol(' ');
  static const std::vector<std::pair<std::string, std::string>> merges = {
      {"t", "h"}, {"th", "e"}, {space, "t"}, {space, "the"}, {"i", "n"}, {"in", "g"}, {space, "a"}, {"e", "r"}};
  return merges;
}

std::string LittleEndian(std::uint64_t value, int width) {
  std::string bytes;
  for (int i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xFF);
  return bytes;
}

// Exact for the values that MakeTinyWeights draws.
std::string Encode(float value, DType dtype) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (dtype == DType::kF32) return LittleEndian(bits, 4);
  if (dtype == DType::kBF16) return LittleEndian(bits >> 16, 2);
  if (value == 0) return LittleEndian(0, 2);
  const std::uint32_t exponent = (bits >> 23 & 0xFF) - 127 + 15;
  return LittleEndian((bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 0x3FF), 2);
}

std::string_view TypeName(DType dtype) { return dtype == DType::kF32 ? "F32" : dtype == DType::kF16 ? "F16" : "BF16"; }

void WriteShards(const TinyModel& model, const TinyWeights& weights, const TinyModelOptions& options) {
  std::vector<TinyWeights> shards(options.num_shards);
  Json map = Json::object();
  int next = 0;
  for (const auto& [name, tensor] : weights) {
    const int shard = next++ % options.num_shards;
    shards[shard][name] = tensor;
    map[name] = "model-" + std::to_string(shard) + ".safetensors";
  }
  for (int shard = 0; shard < options.num_shards; ++shard) {
    model.Write("model-" + std::to_string(shard) + ".safetensors", SafeTensorsFile(shards[shard], options.dtype));
  }
  model.Write("model.safetensors.index.json", Json{{"metadata", Json::object()}, {"weight_map", map}}.dump());
}

}  // namespace

Json TinyTokenizerJson() {
  Json vocab = {{"<|end|>", kTinyEnd}, {"<|bos|>", kTinyBos}, {"<gist>", kTinyGist}, {"<Gist>", kTinyMetaGist}};
  Json added = Json::array();
  for (const auto& [text, id] : vocab.items()) {
    added.push_back({{"id", id},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  for (int byte = 0; byte < 256; ++byte) vocab[ByteSymbol(byte)] = kTinyFirstByte + byte;
  Json merges = Json::array();
  for (const auto& [left, right] : Merges()) {
    merges.push_back({left, right});
    vocab[left + right] = static_cast<int>(vocab.size());
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"vocab", vocab}, {"merges", merges}}}};
}

int TinyVocabSize() { return kTinyFirstByte + 256 + static_cast<int>(Merges().size()); }

Json TinyConfigJson(bool tied) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", TinyVocabSize()},
          {"hidden_size", kTinyHidden},
          {"intermediate_size", kTinyFfn},
          {"num_hidden_layers", kTinyLayers},
          {"num_attention_heads", kTinyHeads},
          {"num_key_value_heads", kTinyKvHeads},
          {"head_dim", kTinyHeadDim},
          {"hidden_act", "silu"},
          {"max_position_embeddings", kTinyPositions},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", tied},
          {"bos_token_id", kTinyBos},
          {"eos_token_id", kTinyEnd}};
}

Json TinyGistConfigJson() {
  return {
      {"format_version", 1},
      {"gist_tokens", {"<gist>"}},
      {"link_tokens", Json::array()},
      {"chunk_size", 4},
      {"section_size", 0},
      {"sink_size", 2},
      {"previous_chunks", 1},
      {"word_aware", true},
      {"compression", 4},
      {"part_tokens", 64},
      {"max_question_tokens", 32},
      {"max_answer_tokens", 16},
      {"suppressed_tokens", {kTinyBos, kTinyGist, kTinyMetaGist}},
      {"working_set", {{"max_documents", 3}}},
      {"prompt", {{"prefix", "<|bos|>"}, {"document", "{title}\n{text}"}, {"question", "\nQ: {question}\nA:"}}},
      {"routing", {{"score", "maxsim"}, {"heads", Json::array({Json::array({1, 0, 1.0}), Json::array({1, 3, 0.5})})}}}};
}

TinyWeights MakeTinyWeights(const TinyModelOptions& options) {
  std::mt19937 random(options.seed);
  const auto draw = [&](std::vector<std::int64_t> shape, int center) {
    TinyTensor tensor{std::move(shape), {}};
    std::int64_t size = 1;
    for (const std::int64_t extent : tensor.shape) size *= extent;
    // [-31, 31] / 64 around the center: seven significant bits at most.
    for (std::int64_t i = 0; i < size; ++i) {
      tensor.values.push_back(static_cast<float>(center + static_cast<int>(random() % 63) - 31) / 64);
    }
    return tensor;
  };
  constexpr int kQuery = kTinyHeads * kTinyHeadDim, kKv = kTinyKvHeads * kTinyHeadDim;
  TinyWeights weights;
  weights["model.embed_tokens.weight"] = draw({TinyVocabSize(), kTinyHidden}, 0);
  for (int layer = 0; layer < kTinyLayers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    weights[prefix + "input_layernorm.weight"] = draw({kTinyHidden}, 64);
    weights[prefix + "self_attn.q_proj.weight"] = draw({kQuery, kTinyHidden}, 0);
    weights[prefix + "self_attn.k_proj.weight"] = draw({kKv, kTinyHidden}, 0);
    weights[prefix + "self_attn.v_proj.weight"] = draw({kKv, kTinyHidden}, 0);
    weights[prefix + "self_attn.o_proj.weight"] = draw({kTinyHidden, kQuery}, 0);
    weights[prefix + "post_attention_layernorm.weight"] = draw({kTinyHidden}, 64);
    weights[prefix + "mlp.gate_proj.weight"] = draw({kTinyFfn, kTinyHidden}, 0);
    weights[prefix + "mlp.up_proj.weight"] = draw({kTinyFfn, kTinyHidden}, 0);
    weights[prefix + "mlp.down_proj.weight"] = draw({kTinyHidden, kTinyFfn}, 0);
  }
  weights["model.norm.weight"] = draw({kTinyHidden}, 64);
  if (!options.tied) weights["lm_head.weight"] = weights["model.embed_tokens.weight"];
  return weights;
}

std::string SafeTensorsFile(const std::string& header, const std::string& data) {
  return LittleEndian(header.size(), 8) + header + data;
}

std::string SafeTensorsFile(const TinyWeights& weights, DType dtype) {
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : weights) {
    const std::size_t begin = data.size();
    for (const float value : tensor.values) data += Encode(value, dtype);
    header[name] = {{"dtype", TypeName(dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return SafeTensorsFile(text, data);
}

TinyModel::TinyModel(const TinyModelOptions& options) {
  std::string pattern = (std::filesystem::temp_directory_path() / "unfold-model-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary directory");
  dir_ = pattern;
  Write("config.json", TinyConfigJson(options.tied).dump(2));
  Write("generation_config.json", Json{{"eos_token_id", kTinyEnd}}.dump());
  Write("tokenizer.json", TinyTokenizerJson().dump());
  Write("gist_config.json", TinyGistConfigJson().dump(2));
  const TinyWeights weights = MakeTinyWeights(options);
  if (options.num_shards > 1) {
    WriteShards(*this, weights, options);
  } else {
    Write("model.safetensors", SafeTensorsFile(weights, options.dtype));
  }
}

TinyModel::~TinyModel() {
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

std::string TinyModel::Read(std::string_view file) const {
  std::ifstream in(Path(file), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void TinyModel::Write(std::string_view file, std::string_view bytes) const {
  std::ofstream out(Path(file), std::ios::binary | std::ios::trunc);
  out << bytes;
  out.close();
  if (!out) throw std::runtime_error("cannot write " + Path(file));
}

void TinyModel::Remove(std::string_view file) const { std::filesystem::remove(Path(file)); }

void TinyModel::Patch(std::string_view file, std::string_view patch) const {
  Json json = Json::parse(Read(file));
  json.merge_patch(Json::parse(patch));
  Write(file, json.dump(2));
}

}  // namespace unfold
