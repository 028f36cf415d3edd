// SPDX-License-Identifier: Apache-2.0
// speed_bench: decode, dense prefill and encoding of a model through the public Engine, beside the read bandwidth of
// the machine, in rounds: one pass over a large array, one question, one batch of documents. JSON lines on stdout.
//   speed_bench [--model DIR] [--docs DIR] [--threads N] [--compute f32|bf16] [--runs N]
//
// Expected, gist-mini (N 8, M 512, F 1408, H 8, Hk 4, D 64, V 8192, tied, bf16):
//   weights read by a decoded token: 8 * 2,949,120 + 8192 * 512 + norms = 27.8 M values, 55.6 MB; at B bytes a second
//   of read bandwidth no token can take less than 55.6 MB / B. Its KV at 512 tokens (f32, 8.4 MB) comes on top.
//   products of an encoded row: 2 * (7 * 2,949,120 + 2 * 131,072 * 1) = 41.8 MFLOP: the last layer makes k and v alone;
//   a raw token brings 1 + 1/8 rows (its share of a gist) and a little for titles.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <semaphore>
#include <string_view>
#include <thread>
#include <utility>

#include "bench_common.h"
#include "model/config.h"
#include "model/cost.h"
#include "unfold/engine.h"

namespace unfold::bench {
namespace {

constexpr int kContextTokens = 512;
constexpr int kAnswerSteps = 32;
constexpr int kAtOnce = 16, kAtOnceTokens = 128;
constexpr std::uint64_t kEncodeTokens = 6000;
constexpr std::string_view kQuestion = "who became a leader of the indian national congress";

// The texts of a folder in the order of their paths, until they have about `num_tokens` tokens.
std::vector<DocumentInput> Documents(const std::string& folder, std::uint64_t num_tokens) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().extension() == ".txt") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<DocumentInput> documents;
  std::uint64_t bytes = 0;
  for (const std::string& path : paths) {
    if (bytes > 4 * num_tokens) break;
    DocumentInput document;
    document.name = path;
    document.text = Must(ReadFile(path));
    bytes += document.text.size();
    documents.push_back(std::move(document));
  }
  return documents;
}

std::unique_ptr<Engine> OpenEngine(const Flags& flags, int part_tokens) {
  EngineOptions options;
  options.model_path = flags.model;
  options.num_threads = flags.threads;
  options.compute = flags.compute_type();
  options.gist_overrides = "{\"part_tokens\": " + std::to_string(part_tokens) + "}";
  return Must(Engine::Open(options));
}

// A document that fills the context, with the question, up to kContextTokens in the middle of the answer.
void AddContext(Engine& engine, const std::string& text) {
  const auto words = [&](std::size_t bytes) { return text.substr(0, text.rfind(' ', bytes)); };
  constexpr int kWanted = kContextTokens - kAnswerSteps / 2 - 16;
  std::size_t low = 0, high = std::min<std::size_t>(text.size(), 8 * kContextTokens);
  while (high - low > 8) {
    const std::size_t middle = (low + high) / 2;
    const std::string name = "try" + std::to_string(middle);
    const auto verdict = Must(engine.AddDocument("try", {.name = name, .text = words(middle)}));
    (verdict.info.num_tokens <= kWanted ? low : high) = middle;
  }
  Must(engine.AddDocument("context", {.name = "context", .text = words(low)}));
}

class SpeedBench {
 public:
  explicit SpeedBench(const Flags& flags)
      : flags_(flags),
        cost_(CostOf(Must(LoadModelConfig(flags.model)))),
        encode_documents_(Documents(flags.docs, kEncodeTokens)),
        bandwidth_(flags.threads),
        context_engine_(OpenEngine(flags, kContextTokens)),
        second_engine_(OpenEngine(flags, kContextTokens)),
        encode_engine_(OpenEngine(flags, 176)) {
    std::string text;
    for (const DocumentInput& document : encode_documents_) text += document.text + "\n";
    AddContext(*context_engine_, text);
    AddContext(*second_engine_, text);
  }

  void Run() {
    Round();  // a warm-up
    one_ = many_ = gain_ = reads_ = bandwidth_share_ = dense_ = ssa_ = prefill_ = encode_ = sharing_ = Samples();
    for (int i = 0; i < flags_.runs; ++i) Round();
    Report();
  }

 private:
  void Round() {
    const double bandwidth = bandwidth_.BytesPerSecond();
    reads_.Add(bandwidth);
    const Answer dense = Ask(*context_engine_, AnswerMode::kDense);
    const double step = dense.timings.decode_ms * 1e-3 / kAnswerSteps;
    dense_.Add(step);
    bandwidth_share_.Add(cost_.decode_bytes / step / bandwidth);
    context_tokens_ = static_cast<double>(dense.usage.prompt_tokens) + kAnswerSteps / 2.0;
    const auto computed = static_cast<double>(dense.usage.prompt_tokens - dense.usage.cached_tokens);
    prefill_.Add((dense.timings.place_ms + dense.timings.prefill_ms) * 1e-3 / computed);
    ssa_.Add(Ask(*context_engine_, AnswerMode::kSsa).timings.decode_ms * 1e-3 / kAnswerSteps);
    const double one = AtOnce(*context_engine_, 1), many = AtOnce(*context_engine_, kAtOnce);
    one_.Add(one);
    many_.Add(many);
    gain_.Add(many / one);
    Encode();
    Share();
  }

  // Two engines, each with all its threads, at once on the same cores, against one after the other.
  void Share() {
    const auto ask = [](Engine& engine) { (void)Ask(engine, AnswerMode::kDense); };
    const double begin = SecondsNow();
    ask(*context_engine_);
    ask(*second_engine_);
    const double middle = SecondsNow();
    std::thread other(ask, std::ref(*second_engine_));
    ask(*context_engine_);
    other.join();
    sharing_.Add((middle - begin) / (SecondsNow() - middle));
  }

  // Tokens a second of `count` questions at once, of kAtOnceTokens each, once all of them have their first. Each token
  // is a piece of text or nearly: what the pieces show of the time is taken for the tokens.
  static double AtOnce(Engine& engine, int count) {
    AskOptions options;
    options.working_set.documents = {"context"};
    options.max_answer_tokens = kAtOnceTokens;
    options.ignore_end_token = true;
    int pieces = 0, begun = 0, pieces_before = 0;  // of the engine's thread
    double begin = 0;
    std::counting_semaphore<> ended(0);
    for (int i = 0; i < count; ++i) {
      const auto sink = [&, first = true](std::string_view) mutable {
        ++pieces;
        if (!std::exchange(first, false) || ++begun < count) return true;
        begin = SecondsNow();
        pieces_before = pieces;
        return true;
      };
      Require(engine.Submit("context", kQuestion, options, sink, [&](const Result<Answer>& answer) {
        Require(answer.status());
        ended.release();
      }));
    }
    for (int i = 0; i < count; ++i) ended.acquire();
    const double seconds = SecondsNow() - begin;
    return count * kAtOnceTokens * (1 - static_cast<double>(pieces_before) / pieces) / seconds;
  }

  static Answer Ask(Engine& engine, AnswerMode mode) {
    AskOptions options;
    options.mode = mode;
    options.working_set.documents = {"context"};
    options.max_answer_tokens = kAnswerSteps + 1;
    options.ignore_end_token = true;
    return Must(engine.Ask("context", kQuestion, options));
  }

  void Encode() {
    std::vector<std::string> names;
    std::uint64_t chunks = 0;
    std::size_t next = 0;
    const DocumentSource source = [&]() -> std::optional<DocumentInput> {
      if (next == encode_documents_.size()) return std::nullopt;
      return encode_documents_[next++];
    };
    IngestSink sink;
    sink.on_verdict = [&](const DocumentVerdict& verdict) {
      Require(verdict.status);
      names.push_back(verdict.name);
      chunks += verdict.info.num_chunks;
    };
    const IngestProgress progress = Must(encode_engine_->Ingest("bench", source, {}, sink));
    Require(encode_engine_->Remove("bench", names));
    rows_per_token_ = static_cast<double>(progress.num_tokens + chunks) / static_cast<double>(progress.num_tokens);
    encode_.Add(progress.encode_seconds / static_cast<double>(progress.num_tokens));
  }

  void Report() const {
    Json read = BeginLine("read_bandwidth", flags_);
    reads_.Write("gb_s", 1e-9, read);
    Print(read);

    Json decode = BeginLine("decode", flags_);
    decode["mode"] = "dense";
    decode["context_tokens"] = context_tokens_;
    decode["weight_bytes_a_token"] = cost_.decode_bytes;
    decode["floor_ms_a_token"] = cost_.decode_bytes / reads_.Median() * 1e3;
    dense_.Write("ms_a_token", 1e3, decode);
    bandwidth_share_.Write("share_of_read_bandwidth", 1, decode);
    decode["tokens_s"] = 1 / dense_.Median();
    Print(decode);

    Json ssa = BeginLine("decode", flags_);
    ssa["mode"] = "ssa";
    ssa["context_tokens"] = context_tokens_;
    ssa_.Write("ms_a_token", 1e3, ssa);
    ssa["tokens_s"] = 1 / ssa_.Median();
    Print(ssa);

    Json at_once = BeginLine("at_once", flags_);
    at_once["what"] = "questions at once, answers of 128 tokens: tokens a second of one, of all together, their ratio";
    at_once["questions"] = kAtOnce;
    one_.Write("one_tokens_s", 1, at_once);
    many_.Write("tokens_s", 1, at_once);
    gain_.Write("speed", 1, at_once);
    Print(at_once);

    Json sharing = BeginLine("two_engines", flags_);
    sharing["what"] = "a question to each of two engines: seconds one after the other over seconds at once";
    sharing_.Write("speed", 1, sharing);
    Print(sharing);

    Json prefill = BeginLine("prefill", flags_);
    prefill["mode"] = "dense";
    prefill_.Write("us_a_token", 1e6, prefill);
    prefill["tokens_s"] = 1 / prefill_.Median();
    Print(prefill);

    Json encode = BeginLine("encode", flags_);
    const double flops = cost_.encode_row_flops * rows_per_token_;
    encode["formula"] = "2 * weights of all products a row passes * rows (raw tokens and gists) / encode seconds";
    encode["flops_a_raw_token"] = flops;
    encode_.Write("us_a_token", 1e6, encode);
    encode["tokens_s"] = 1 / encode_.Median();
    encode["gflop_s"] = flops / encode_.Median() * 1e-9;
    Print(encode);
  }

  Flags flags_;
  ModelCost cost_;
  std::vector<DocumentInput> encode_documents_;
  ReadBandwidth bandwidth_;
  std::unique_ptr<Engine> context_engine_, second_engine_, encode_engine_;
  double context_tokens_ = 0, rows_per_token_ = 0;
  Samples one_, many_, gain_, reads_, bandwidth_share_, dense_, ssa_, prefill_, encode_, sharing_;
};

}  // namespace
}  // namespace unfold::bench

int main(int argc, char** argv) { unfold::bench::SpeedBench(unfold::bench::ParseFlags(argc, argv)).Run(); }
