// SPDX-License-Identifier: Apache-2.0
// DecodeSteps: steps of several answers, a token each, in one pass of the model.
#ifndef UNFOLD_RAG_DECODE_STEPS_H_
#define UNFOLD_RAG_DECODE_STEPS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/transformer.h"
#include "rag/query_attention.h"
#include "unfold/base.h"

namespace unfold {

// Where the backend queues work, answers that go on together have their step recorded (Backend::Record), since what
// calls of a step cost the host grows with the answers: a step is then two uploads, the recorded work and a download.
// It is recorded anew when others join or leave, or memory that it uses has moved.
//
// Thread-compatible. The model must outlive it.
class DecodeSteps {
 public:
  static constexpr std::size_t kMostAnswers = 64;  // of a step

  explicit DecodeSteps(Transformer& model) : model_(model) {}

  // ids[i] is the next token of answers[i]. Logits of the tokens after them, V each, in host memory, valid until the
  // model's next pass; none for those whose failure() says why.
  Result<std::span<const float>> Run(std::span<QueryAttention* const> answers, std::span<const TokenId> ids);

 private:
  // What a recorded step depends on.
  struct Circumstances {
    std::vector<std::uint64_t> answers;
    std::uint64_t moves = 0;
    bool operator==(const Circumstances&) const = default;
  };
  Result<Circumstances> Find(std::span<QueryAttention* const> answers) const;
  Status RunAhead(std::span<QueryAttention* const> answers);
  Status Pass(std::span<QueryAttention* const> answers);
  Status FinishSteps(std::span<QueryAttention* const> answers, std::span<const TokenId> ids);

  Transformer& model_;
  ScratchBuffer positions_;
  Circumstances last_;
  int times_ = 0;  // that they have been so
  std::unique_ptr<Recording> recording_;
};

}  // namespace unfold

#endif  // UNFOLD_RAG_DECODE_STEPS_H_
