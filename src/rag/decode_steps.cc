// SPDX-License-Identifier: Apache-2.0
#include "rag/decode_steps.h"

#include <utility>

#include "rag/unfold_cache.h"

namespace unfold {
namespace {

constexpr Transformer::PassOptions kOptions{.num_layers = 0, .keys_only = false, .query = true};
// Steps of the same answers before theirs is recorded: the first ask for memory, and recording costs as much as two.
constexpr int kStepsBefore = 2;

// Attention of a pass in which every answer has a row.
class AttentionOfMany : public LayerAttention {
 public:
  explicit AttentionOfMany(std::span<QueryAttention* const> answers) : answers_(answers) {}
  Status Attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    return QueryAttention::Attend(answers_, layer, q, k, v, out);
  }

 private:
  std::span<QueryAttention* const> answers_;
};

}  // namespace

Result<std::span<const float>> DecodeSteps::Run(std::span<QueryAttention* const> answers,
                                                std::span<const TokenId> ids) {
  Backend& backend = model_.backend();
  std::vector<std::int32_t> next;
  for (const QueryAttention* answer : answers) next.push_back(answer->NextPosition());
  UNFOLD_TRY_ASSIGN(const Tensor positions, positions_.Upload(backend, next));
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    UNFOLD_TRY(answers[i]->BeginStep(positions.Rows(row, row + 1), backend.RunsBehind()));
  }
  UNFOLD_TRY(model_.TakeTokens(ids));
  UNFOLD_TRY(backend.RunsBehind() ? RunAhead(answers) : Pass(answers));
  UNFOLD_TRY_ASSIGN(const std::span<const float> logits, model_.FetchLogits(static_cast<std::int64_t>(ids.size())));
  UNFOLD_TRY(FinishSteps(answers, ids));
  return logits;
}

Status DecodeSteps::Pass(std::span<QueryAttention* const> answers) {
  AttentionOfMany attention(answers);
  const auto count = static_cast<std::int64_t>(answers.size());
  UNFOLD_TRY(model_.RunTaken(count, attention, kOptions));
  return model_.ComputeLogits(0, count);
}

Result<DecodeSteps::Circumstances> DecodeSteps::Find(std::span<QueryAttention* const> answers) const {
  Circumstances found{{}, model_.moves() + positions_.moves()};
  for (QueryAttention* answer : answers) {
    UNFOLD_TRY_ASSIGN(const std::uint64_t moves, answer->UpdatePool());
    found.answers.push_back(answer->id());
    found.moves += moves;  // counts that only grow: none makes up for another
  }
  return found;
}

Status DecodeSteps::RunAhead(std::span<QueryAttention* const> answers) {
  UNFOLD_TRY_ASSIGN(Circumstances now, Find(answers));
  if (now != last_) {
    last_ = std::move(now);
    times_ = 0;
    recording_.reset();
  }
  if (times_++ < kStepsBefore) return Pass(answers);
  if (recording_ == nullptr) {
    UNFOLD_TRY_ASSIGN(recording_, model_.backend().Record([&] { return Pass(answers); }));
  }
  return recording_->Run();
}

// Counts what was found, and does those steps again that lacked raw KV.
Status DecodeSteps::FinishSteps(std::span<QueryAttention* const> answers, std::span<const TokenId> ids) {
  const UnfoldCache* cache = nullptr;
  std::vector<PagesFound> found;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    QueryAttention& answer = *answers[i];
    if (!answer.failure().ok()) continue;
    if (answer.cache() != cache && answer.cache() != nullptr) {
      cache = answer.cache();
      UNFOLD_TRY_ASSIGN(found, cache->Found());
    }
    if (answer.EndStep(found)) continue;
    UNFOLD_TRY(answer.BeginAgain());
    const Status status = model_.Run(ids.subspan(i, 1), answer, kOptions);
    if (!answer.failure().ok()) continue;
    UNFOLD_TRY(status);
    UNFOLD_TRY(model_.Logits(0, 1, static_cast<std::int64_t>(i)).status());
  }
  return Status::Ok();
}

}  // namespace unfold
