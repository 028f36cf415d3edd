// SPDX-License-Identifier: Apache-2.0
// Answers over placed documents, as Generator makes them, through the same working set, query attention and model: time
// to the first token, and time a token after it, of one answer or of several in one step. The documents are random, and
// so are the tokens of question and answer; the answer goes on whatever the logits say.
#include <algorithm>

#include "engine/bench_run.h"
#include "engine/bench_store.h"
#include "model/cost.h"
#include "rag/decode_steps.h"
#include "rag/query_attention.h"
#include "rag/unfold_cache.h"

namespace unfold {
namespace {

constexpr std::int64_t kQuestionTokens = 32;
constexpr int kWarmSteps = 4;  // until steps are recorded work
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
  std::uint64_t batch() const { return static_cast<std::uint64_t>(run_.options().batch); }
  // Parts of one `source` share unfolded pages; so do those of one place in a batch.
  Status Place(std::uint64_t source);
  Status AskQuestion();
  // The steps of an answer after its question; seconds of each but the first ones.
  Status Answer(std::string_view doing, std::vector<double>& seconds);
  Status CommitPass();
  Result<double> UploadRate() const;
  double StepBytes() const;
  double ContextBytes(const WorkingSet& context, const AttentionReport& report) const;
  void Describe(BenchFigure& figure) const;

  BenchRun& run_;
  ModelConfig shape_;
  std::unique_ptr<Transformer> model_;
  std::shared_ptr<const RandomSnapshot> documents_;
  std::unique_ptr<UnfoldCache> cache_;
  CausalKv prefix_;  // of no token
  std::vector<TokenId> question_, answer_;
  std::vector<std::unique_ptr<WorkingSet>> working_sets_;  // of each answer of a batch
  std::vector<std::unique_ptr<QueryAttention>> attentions_;
  std::unique_ptr<DecodeSteps> steps_;
  std::vector<float> logits_;
};

// Weights, gists of all layers and pages of all chunks, or with full attention a row for each token.
double AnswerBench::NeededBytes() const {
  const double row = 2.0 * shape_.kv_heads * shape_.head_dim *
                     static_cast<double>(DTypeBytes(run_.backend().WorkingType(run_.options().compute)));
  const auto tokens = static_cast<double>(run_.options().context_tokens);
  const auto chunks = static_cast<double>(documents_->num_chunks());
  const double rows = run_.options().full_attention ? tokens : chunks * (1.5 + run_.rules().max_chunk_tokens());
  return CostOf(shape_).weight_bytes + static_cast<double>(batch()) * shape_.num_layers * rows * row;
}

// Of all documents, as the bench stores it, and something for what blocks leave free.
std::uint64_t AnswerBench::RawBytes() const {
  if (run_.options().full_attention) return 0;
  const auto row =
      static_cast<std::uint64_t>(2 * shape_.num_layers * shape_.kv_heads * shape_.head_dim) * DTypeBytes(DType::kBF16);
  return row * batch() * static_cast<std::uint64_t>(run_.options().context_tokens) * 5 / 4;
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
  const std::uint64_t chunks =
      options.full_attention ? 0 : batch() * static_cast<std::uint64_t>(documents_->num_chunks());
  const std::uint64_t page_bytes = chunks * shape_.num_layers * row_bytes * page_tokens;
  // Gists are kept too: half a row more than chunks have, for levels and sinks.
  const std::uint64_t gist_bytes = chunks * shape_.num_layers * row_bytes * 3 / 2;
  UNFOLD_TRY_ASSIGN(cache_,
                    UnfoldCache::Make(*model_, page_tokens,
                                      {page_bytes, RawBytes(), gist_bytes, UnfoldCache::StageBytes(run_.backend())}));
  steps_ = std::make_unique<DecodeSteps>(*model_);
  UNFOLD_TRY_ASSIGN(prefix_, CausalKv::Make(*model_, shape_.num_layers, 1));
  question_ = run_.RandomTokens(kQuestionTokens);
  answer_ = run_.RandomTokens(steps);
  return Status::Ok();
}

Status AnswerBench::Place(std::uint64_t source) {
  attentions_.clear();
  working_sets_.clear();  // their memory, before more is asked for
  for (std::uint64_t i = 0; i < batch(); ++i) {
    std::vector<PartRef> parts = AllParts(documents_, source * batch() + i);
    std::unique_ptr<WorkingSet>& placed = working_sets_.emplace_back();
    if (run_.options().full_attention) {
      UNFOLD_TRY_ASSIGN(placed, WorkingSet::PlaceDense(*model_, *cache_, std::move(parts), 0, kDenseBatchTokens,
                                                       Check("encode the documents as plain text")));
    } else {
      UNFOLD_TRY_ASSIGN(placed, WorkingSet::Place(*model_, *cache_, run_.rules(), std::move(parts), 0));
    }
  }
  return Status::Ok();
}

Status AnswerBench::AskQuestion() {
  attentions_.clear();
  const auto capacity = static_cast<std::int64_t>(question_.size() + answer_.size());
  for (const std::unique_ptr<WorkingSet>& context : working_sets_) {
    SelectionBudget budget;
    budget.top_k = UnfoldTopK(run_, context->num_tokens() + context->num_gists(), context->num_chunks());
    UNFOLD_TRY_ASSIGN(CausalKv tail, CausalKv::Make(*model_, shape_.num_layers, capacity));
    attentions_.push_back(std::make_unique<QueryAttention>(*model_, prefix_, 0, context.get(), std::move(tail), budget,
                                                           Check("read the question")));
    UNFOLD_TRY(RunQueryPass(*model_, *attentions_.back(), question_, logits_));
  }
  return Status::Ok();
}

Status AnswerBench::CommitPass() {
  for (const auto& attention : attentions_) UNFOLD_TRY(attention->CommitPass());
  return Status::Ok();
}

Status AnswerBench::Answer(std::string_view doing, std::vector<double>& seconds) {
  std::vector<QueryAttention*> attentions;
  for (const auto& attention : attentions_) attentions.push_back(attention.get());
  for (std::size_t i = 0; i < answer_.size(); ++i) {
    UNFOLD_TRY(run_.Check(doing));
    const std::vector<TokenId> tokens(attentions.size(), answer_[i]);
    const double begin = SecondsNow();
    UNFOLD_TRY(CommitPass());
    UNFOLD_TRY(steps_->Run(attentions, tokens).status());
    for (const QueryAttention* attention : attentions) UNFOLD_TRY(attention->failure());
    if (i >= kWarmSteps) seconds.push_back(SecondsNow() - begin);
  }
  return Status::Ok();
}

// The least that a step reads: weights, and of each answer its context.
double AnswerBench::StepBytes() const {
  double bytes = CostOf(shape_).decode_bytes;
  for (std::size_t i = 0; i < attentions_.size(); ++i) {
    bytes += ContextBytes(*working_sets_[i], attentions_[i]->report());
  }
  return bytes;
}

// Of each layer the sinks and the tail; gist keys of the coarsest level, and of those below at least the ones that were
// chosen; KV of the chosen. Layer 0 reads gist keys alone, and no raw tokens.
double AnswerBench::ContextBytes(const WorkingSet& context, const AttentionReport& report) const {
  const double head_row = static_cast<double>(shape_.head_dim) * static_cast<double>(DTypeBytes(model_->kv_type()));
  const double heads = shape_.kv_heads, layers = shape_.num_layers;
  const double tail = static_cast<double>(question_.size()) + static_cast<double>(answer_.size()) / 2;
  if (run_.options().full_attention) {
    return 2 * layers * heads * head_row * (static_cast<double>(context.num_tokens()) + tail);
  }
  const ContextView view = context.View(0);
  const auto chunks = static_cast<double>(context.num_chunks());
  const auto sinks = static_cast<double>(view.sink_k.dims[1]);
  const double chosen =
      chunks * report.chosen_share_sum / static_cast<double>(std::max<std::int64_t>(1, report.num_shares));
  const double raw = chosen * (static_cast<double>(context.num_tokens()) - sinks) / chunks;
  const auto coarsest = static_cast<double>(view.gists[view.num_levels - 1].k.dims[1]);
  const double scored = view.num_levels > 1 ? coarsest + chosen : coarsest;
  const double first_layer = static_cast<double>(context.num_gists()) + 2 * (sinks + tail);
  return heads * head_row * (first_layer + (layers - 1) * (scored + 2 * (chosen + raw + sinks + tail)));
}

// Counts are sums over a batch, but for those of one answer's context.
void AnswerBench::Describe(BenchFigure& figure) const {
  const WorkingSet& first = *working_sets_.front();
  figure.counts.insert(figure.counts.end(), {{"context_tokens", static_cast<double>(first.num_tokens())},
                                             {"documents", static_cast<double>(first.parts().size())},
                                             {"weight_bytes", CostOf(shape_).decode_bytes}});
  if (run_.options().full_attention) return;
  double share = 0, shares = 0, hit = 0, missed = 0, bytes = 0, repeated = 0;
  for (std::size_t i = 0; i < attentions_.size(); ++i) {
    share += attentions_[i]->report().chosen_share_sum;
    shares += static_cast<double>(attentions_[i]->report().num_shares);
    hit += static_cast<double>(working_sets_[i]->pages_hit());
    missed += static_cast<double>(working_sets_[i]->pages_missed());
    bytes += static_cast<double>(working_sets_[i]->unfolded_bytes());
    repeated += static_cast<double>(attentions_[i]->passes_repeated());
  }
  figure.counts.insert(figure.counts.end(), {{"chunks", static_cast<double>(first.num_chunks())},
                                             {"compression", Compression(run_.options())},
                                             {"chosen_share", share / std::max(1.0, shares)},
                                             {"pages_hit", hit},
                                             {"pages_missed", missed},
                                             {"unfolded_bytes", bytes},
                                             {"passes_repeated", repeated}});
}

Status AnswerBench::Decode(std::vector<BenchFigure>& figures) {
  UNFOLD_TRY(Place(1));
  const auto measure = [&](std::string_view what) -> Status {
    std::vector<double> seconds;
    UNFOLD_TRY(AskQuestion());
    UNFOLD_TRY(Answer(what, seconds));
    UNFOLD_TRY(CommitPass());
    for (const auto& attention : attentions_) UNFOLD_TRY(attention->UpdateReport());
    BenchFigure figure = run_.Figure(what, StepBytes(), std::move(seconds));
    figure.counts.emplace_back("tokens_per_s", 1e3 * static_cast<double>(batch()) / figure.median_ms);
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

// What the bus brings from host memory that the backend has made, in pieces as large as blocks of raw KV; the best of
// some times. 0 where uploads do not run beside other work.
Result<double> AnswerBench::UploadRate() const {
  constexpr std::size_t kPiece = std::size_t{1} << 20, kPieces = 256;
  constexpr int kTimes = 5;
  Backend& backend = run_.backend();
  if (!backend.UploadsAhead()) return 0.0;
  UNFOLD_TRY_ASSIGN(const Buffer host, backend.AllocateHost(kPiece * kPieces));
  UNFOLD_TRY_ASSIGN(const Buffer device, backend.Allocate(host.bytes()));
  const Tensor to = device.View(DType::kInt8, {static_cast<std::int64_t>(host.bytes())});
  std::vector<HostPiece> pieces;
  for (std::size_t at = 0; at < host.bytes(); at += kPiece) {
    pieces.push_back({static_cast<const std::byte*>(host.data()) + at, kPiece, at});
  }
  double best = 0;
  for (int i = 0; i < kTimes; ++i) {
    std::int8_t last = 0;
    const double begin = SecondsNow();
    UNFOLD_TRY_ASSIGN(const std::uint64_t upload, backend.StartUpload(to, pieces));
    UNFOLD_TRY(backend.AwaitUpload(upload));
    UNFOLD_TRY(backend.Download(&last, to.Rows(to.size() - 1, to.size())));
    best = std::max(best, static_cast<double>(host.bytes()) / (SecondsNow() - begin));
  }
  return best;
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
    UNFOLD_TRY(CommitPass());
    for (const auto& attention : attentions_) UNFOLD_TRY(attention->UpdateReport());
    const double stored = static_cast<double>(working_sets_.front()->kv_bytes_read());
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
  UNFOLD_TRY_ASSIGN(const double upload_rate, UploadRate());
  figures.back().counts.emplace_back("host_to_device_bytes_per_s", upload_rate);
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
