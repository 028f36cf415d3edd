// SPDX-License-Identifier: Apache-2.0
// Answers over placed documents, as Generator makes them, through the same working set, query attention and model: time
// to the first token, and time a token after it. The documents are random, and so are the tokens of question and
// answer; the answer goes on whatever the logits say.
#include <algorithm>

#include "engine/bench_run.h"
#include "engine/bench_store.h"
#include "model/cost.h"
#include "rag/query_attention.h"
#include "rag/unfold_cache.h"

namespace unfold {
namespace {

constexpr std::int64_t kQuestionTokens = 32;
constexpr int kWarmSteps = 2;
constexpr std::int64_t kDenseBatchTokens = 8192;

// Thread-compatible.
class AnswerBench {
 public:
  explicit AnswerBench(BenchRun& run) : run_(run) {}
  // Model, documents, pages for every chunk of every layer and head, and host memory for all raw KV.
  Status Open();
  Status Decode(std::vector<BenchFigure>& figures);
  Status Ttft(std::vector<BenchFigure>& figures);

 private:
  CancelCheck Check(std::string_view doing) const {
    return [this, doing] { return run_.Check(doing); };
  }
  double NeededBytes() const;
  std::uint64_t RawBytes() const;
  // Parts of one `source` share unfolded pages.
  Status Place(std::uint64_t source);
  Status AskQuestion();
  // The steps of an answer after its question; seconds of each but the first ones.
  Status Answer(std::string_view doing, std::vector<double>& seconds);
  double StepBytes() const;
  void Describe(BenchFigure& figure) const;

  BenchRun& run_;
  ModelConfig shape_;
  std::unique_ptr<Transformer> model_;
  std::shared_ptr<const RandomSnapshot> documents_;
  std::unique_ptr<UnfoldCache> cache_;
  CausalKv prefix_;  // of no token
  std::vector<TokenId> question_, answer_;
  std::unique_ptr<WorkingSet> working_set_;
  std::unique_ptr<QueryAttention> attention_;
  std::vector<float> logits_;
};

// Weights, gists of all layers and pages of all chunks, or with full attention a row for each token.
double AnswerBench::NeededBytes() const {
  const double row = 2.0 * shape_.kv_heads * shape_.head_dim *
                     static_cast<double>(DTypeBytes(run_.backend().WorkingType(run_.options().compute)));
  const auto tokens = static_cast<double>(run_.options().context_tokens);
  const auto chunks = static_cast<double>(documents_->num_chunks());
  const double rows = run_.options().full_attention ? tokens : chunks * (1.5 + run_.rules().max_chunk_tokens());
  return CostOf(shape_).weight_bytes + shape_.num_layers * rows * row;
}

// Of all documents, as the bench stores it, and something for what blocks leave free.
std::uint64_t AnswerBench::RawBytes() const {
  if (run_.options().full_attention) return 0;
  const auto row =
      static_cast<std::uint64_t>(2 * shape_.num_layers * shape_.kv_heads * shape_.head_dim) * DTypeBytes(DType::kBF16);
  return row * static_cast<std::uint64_t>(run_.options().context_tokens) * 5 / 4;
}

Status AnswerBench::Open() {
  const BenchOptions& options = run_.options();
  shape_ = run_.shape();
  const std::int64_t steps = options.repeats + kWarmSteps;
  const std::int64_t window = options.context_tokens + kQuestionTokens + steps;
  shape_.max_positions = std::max(shape_.max_positions, static_cast<std::int32_t>(window));
  UNFOLD_TRY(run_.Check("make documents"));
  documents_ = std::make_shared<RandomSnapshot>(run_, options.context_tokens, kBenchDocumentTokens);
  UNFOLD_TRY(run_.NeedMemory(NeededBytes()));
  UNFOLD_TRY_ASSIGN(
      model_, Transformer::Random(shape_, run_.backend(), options.compute, options.seed, Check("make the weights")));
  const int page_tokens = run_.rules().max_chunk_tokens();
  const std::uint64_t row_bytes =
      2 * DTypeBytes(model_->kv_type()) * static_cast<std::uint64_t>(shape_.kv_heads * shape_.head_dim);
  const std::uint64_t chunks = options.full_attention ? 0 : static_cast<std::uint64_t>(documents_->num_chunks());
  const std::uint64_t page_bytes = chunks * shape_.num_layers * row_bytes * page_tokens;
  // Gists are kept too: half a row more than chunks have, for levels and sinks.
  const std::uint64_t gist_bytes = chunks * shape_.num_layers * row_bytes * 3 / 2;
  UNFOLD_TRY_ASSIGN(cache_, UnfoldCache::Make(*model_, page_tokens, {page_bytes, RawBytes(), gist_bytes}));
  UNFOLD_TRY_ASSIGN(prefix_, CausalKv::Make(*model_, shape_.num_layers, 1));
  question_ = run_.RandomTokens(kQuestionTokens);
  answer_ = run_.RandomTokens(steps);
  return Status::Ok();
}

Status AnswerBench::Place(std::uint64_t source) {
  attention_.reset();
  working_set_.reset();  // its memory, before more is asked for
  std::vector<PartRef> parts = AllParts(documents_, source);
  if (run_.options().full_attention) {
    UNFOLD_TRY_ASSIGN(working_set_, WorkingSet::PlaceDense(*model_, *cache_, std::move(parts), 0, kDenseBatchTokens,
                                                           Check("encode the documents as plain text")));
  } else {
    UNFOLD_TRY_ASSIGN(working_set_, WorkingSet::Place(*model_, *cache_, run_.rules(), std::move(parts), 0));
  }
  return Status::Ok();
}

Status AnswerBench::AskQuestion() {
  SelectionBudget budget;
  budget.top_k = UnfoldTopK(run_, working_set_->num_tokens() + working_set_->num_gists(), working_set_->num_chunks());
  const auto capacity = static_cast<std::int64_t>(question_.size() + answer_.size());
  UNFOLD_TRY_ASSIGN(CausalKv tail, CausalKv::Make(*model_, shape_.num_layers, capacity));
  attention_ = std::make_unique<QueryAttention>(*model_, prefix_, 0, working_set_.get(), std::move(tail), budget,
                                                Check("read the question"));
  return RunQueryPass(*model_, *attention_, question_, /*decode=*/false, logits_);
}

Status AnswerBench::Answer(std::string_view doing, std::vector<double>& seconds) {
  for (std::size_t i = 0; i < answer_.size(); ++i) {
    UNFOLD_TRY(run_.Check(doing));
    const double begin = SecondsNow();
    UNFOLD_TRY(attention_->CommitPass());
    UNFOLD_TRY(RunQueryPass(*model_, *attention_, std::span(answer_).subspan(i, 1), /*decode=*/true, logits_));
    if (i >= kWarmSteps) seconds.push_back(SecondsNow() - begin);
  }
  return Status::Ok();
}

// The least that a step reads: weights; of each layer the sinks and the tail; gist keys of the coarsest level, and of
// those below at least the ones that were chosen; KV of the chosen. Layer 0 reads gist keys alone, and no raw tokens.
double AnswerBench::StepBytes() const {
  const double head_row = static_cast<double>(shape_.head_dim) * static_cast<double>(DTypeBytes(model_->kv_type()));
  const double heads = shape_.kv_heads, layers = shape_.num_layers;
  const double tail = static_cast<double>(question_.size()) + static_cast<double>(answer_.size()) / 2;
  const double weights = CostOf(shape_).decode_bytes;
  if (run_.options().full_attention) {
    return weights + 2 * layers * heads * head_row * (static_cast<double>(working_set_->num_tokens()) + tail);
  }
  const ContextView view = working_set_->View(0);
  const auto chunks = static_cast<double>(working_set_->num_chunks());
  const auto sinks = static_cast<double>(view.sink_k.dims[1]);
  const AttentionReport& report = attention_->report();
  const double chosen =
      chunks * report.chosen_share_sum / static_cast<double>(std::max<std::int64_t>(1, report.num_shares));
  const double raw = chosen * (static_cast<double>(working_set_->num_tokens()) - sinks) / chunks;
  const auto coarsest = static_cast<double>(view.gists[view.num_levels - 1].k.dims[1]);
  const double scored = view.num_levels > 1 ? coarsest + chosen : coarsest;
  const double first_layer = static_cast<double>(working_set_->num_gists()) + 2 * (sinks + tail);
  return weights + heads * head_row * (first_layer + (layers - 1) * (scored + 2 * (chosen + raw + sinks + tail)));
}

void AnswerBench::Describe(BenchFigure& figure) const {
  figure.counts.insert(figure.counts.end(), {{"context_tokens", static_cast<double>(working_set_->num_tokens())},
                                             {"documents", static_cast<double>(working_set_->parts().size())},
                                             {"weight_bytes", CostOf(shape_).decode_bytes}});
  if (run_.options().full_attention) return;
  const AttentionReport& report = attention_->report();
  const double shares = static_cast<double>(std::max<std::int64_t>(1, report.num_shares));
  figure.counts.insert(figure.counts.end(), {{"chunks", static_cast<double>(working_set_->num_chunks())},
                                             {"compression", Compression(run_.options())},
                                             {"chosen_share", report.chosen_share_sum / shares},
                                             {"pages_hit", static_cast<double>(working_set_->pages_hit())},
                                             {"pages_missed", static_cast<double>(working_set_->pages_missed())},
                                             {"unfolded_bytes", static_cast<double>(working_set_->unfolded_bytes())},
                                             {"passes_repeated", static_cast<double>(attention_->passes_repeated())}});
}

Status AnswerBench::Decode(std::vector<BenchFigure>& figures) {
  UNFOLD_TRY(Place(1));
  const auto measure = [&](std::string_view what) -> Status {
    std::vector<double> seconds;
    UNFOLD_TRY(AskQuestion());
    UNFOLD_TRY(Answer(what, seconds));
    UNFOLD_TRY(attention_->CommitPass());
    UNFOLD_TRY(attention_->UpdateReport());
    BenchFigure figure = run_.Figure(what, StepBytes(), std::move(seconds));
    figure.counts.emplace_back("tokens_per_s", 1e3 / figure.median_ms);
    Describe(figure);
    figures.push_back(std::move(figure));
    return Status::Ok();
  };
  // The same answer again chooses the same chunks, which are then unfolded; places are new, so that counts are its own.
  if (!run_.options().full_attention) {
    UNFOLD_TRY(measure("decode_unfolding"));
    UNFOLD_TRY(Place(1));
  }
  return measure("decode");
}

Status AnswerBench::Ttft(std::vector<BenchFigure>& figures) {
  const double weights = CostOf(shape_).decode_bytes;
  enum class From { kStore, kHost, kPages };
  // Another source each time has nothing in memory.
  const auto measure = [&](std::string_view what, From from) -> Status {
    std::vector<double> seconds, place_seconds;
    for (int i = 0; i <= run_.options().repeats; ++i) {
      UNFOLD_TRY(run_.Check(what));
      if (from == From::kHost) UNFOLD_TRY(cache_->DropPages());
      const double begin = SecondsNow();
      UNFOLD_TRY(Place(from == From::kStore ? static_cast<std::uint64_t>(i) + 2 : 1));
      const double placed = SecondsNow();
      UNFOLD_TRY(AskQuestion());
      if (i == 0) continue;  // warms up, brings what the others find
      seconds.push_back(SecondsNow() - begin);
      place_seconds.push_back(placed - begin);
    }
    UNFOLD_TRY(attention_->CommitPass());
    UNFOLD_TRY(attention_->UpdateReport());
    const double stored = static_cast<double>(working_set_->kv_bytes_read());
    BenchFigure figure = run_.Figure(what, weights + stored, std::move(seconds));
    figure.counts.emplace_back("place_ms", run_.Figure(what, 0, std::move(place_seconds)).median_ms);
    figure.counts.emplace_back("question_tokens", static_cast<double>(kQuestionTokens));
    figure.counts.emplace_back("stored_bytes_read", stored);
    Describe(figure);
    figures.push_back(std::move(figure));
    return Status::Ok();
  };
  UNFOLD_TRY(measure("ttft", From::kStore));
  if (run_.options().full_attention) return Status::Ok();
  UNFOLD_TRY(measure("ttft_pinned", From::kHost));
  return measure("ttft_unfolded", From::kPages);
}

}  // namespace

Status BenchDecode(BenchRun& run, std::vector<BenchFigure>& figures) {
  AnswerBench bench(run);
  UNFOLD_TRY(bench.Open());
  return bench.Decode(figures);
}

Status BenchTtft(BenchRun& run, std::vector<BenchFigure>& figures) {
  AnswerBench bench(run);
  UNFOLD_TRY(bench.Open());
  return bench.Ttft(figures);
}

}  // namespace unfold
