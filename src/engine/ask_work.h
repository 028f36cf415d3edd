// SPDX-License-Identifier: Apache-2.0
// AskWork: one question as the scheduler runs it: choose documents, place and prefill, then a token a step.
#ifndef UNFOLD_ENGINE_ASK_WORK_H_
#define UNFOLD_ENGINE_ASK_WORK_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "engine/scheduler.h"
#include "rag/router.h"
#include "store/store.h"
#include "unfold/base.h"
#include "unfold/engine.h"

namespace unfold {

// What questions find in the engine. Used on the engine thread only, except `snapshot`, which is thread-safe.
struct AskEnvironment {
  const EngineOptions* options = nullptr;
  LoadedModel* model = nullptr;
  std::function<std::shared_ptr<const StoreSnapshot>()> snapshot;
  // Routing index of each collection, as of the last question to it.
  std::map<std::string, std::shared_ptr<const RoutingIndex>, std::less<>> indexes;
  std::uint64_t next_source = 1;  // PageKey::source of documents given with a question
  std::vector<Generator*> taken;  // answers that took a token in this round

  // Runs the tokens that were taken through the model, all as one step. At the end of each round.
  void Advance();
};

struct AskRequest {
  std::string collection;
  std::string question;
  AskOptions options;
  std::chrono::steady_clock::time_point received = std::chrono::steady_clock::now();
};

// What choosing documents found.
struct ChosenDocuments {
  std::vector<PartRef> parts;          // in placement order
  std::vector<RoutedDocument> routed;  // the ten best; empty when nothing was routed
  bool question_truncated = false;
  double route_ms = 0;
};

// Named documents as they are, else routing over the collection.
Result<ChosenDocuments> ChooseDocuments(AskEnvironment& environment, const AskRequest& request,
                                        const PreparedQuestion& question, const CancelCheck& check);

// A store of one question's own, for parts that are encoded while it waits.
struct QuestionStore {
  std::unique_ptr<Store> store;
  CollectionId collection;
  std::uint64_t source = 0;  // see PageKey
  std::vector<Publication> publications;

  static Result<QuestionStore> Make(std::uint64_t source);
  Status Add(DocumentId id, std::span<const StoreRecord> records, DocumentRecord record);
  // Publishes what was added; `parts`, of these documents, are from now on read from here.
  Status Publish(std::span<PartRef> parts);
};

class AskWork : public Work {
 public:
  AskWork(AskEnvironment& environment, AskRequest request, TextSink sink, AnswerCallback done)
      : environment_(environment), request_(std::move(request)), sink_(std::move(sink)), done_(std::move(done)) {}

  Status Check() const override;
  bool Step() override;
  void Abort(const Status& why) override { done_(why); }

 private:
  enum class Phase { kChoose, kStart, kDecode };
  Result<bool> StepPhase();
  Status Choose();
  Status EncodeInline();
  Status EncodeFresh();
  Result<bool> Decode();
  Status Deliver();

  AskEnvironment& environment_;
  AskRequest request_;
  TextSink sink_;
  AnswerCallback done_;
  Phase phase_ = Phase::kChoose;
  PreparedQuestion question_;
  ChosenDocuments chosen_;
  QuestionStore inline_, fresh_;
  std::unique_ptr<Generator> generator_;
  std::chrono::steady_clock::time_point started_;
};

// Routing alone, in one step.
class RouteWork : public Work {
 public:
  using Callback = std::function<void(Result<RouteResult>)>;
  RouteWork(AskEnvironment& environment, AskRequest request, Callback done)
      : environment_(environment), request_(std::move(request)), done_(std::move(done)) {}
  Status Check() const override;
  bool Step() override;
  void Abort(const Status& why) override { done_(why); }

 private:
  Result<RouteResult> Run();
  AskEnvironment& environment_;
  AskRequest request_;
  Callback done_;
};

}  // namespace unfold

#endif  // UNFOLD_ENGINE_ASK_WORK_H_
