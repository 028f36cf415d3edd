// SPDX-License-Identifier: Apache-2.0
// An engine that answers when a test says so.
#ifndef UNFOLD_TESTS_HTTP_FAKE_ENGINE_H_
#define UNFOLD_TESTS_HTTP_FAKE_ENGINE_H_

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "unfold/engine.h"

namespace unfold::http {

// Questions wait until Next() takes one. Collections "notes" and "other"; documents are kept as they come.
class FakeEngine : public Engine {
 public:
  struct Question {
    std::string collection, text;
    AskOptions options;
    TextSink sink;
    AnswerCallback done;

    bool IsGone() const { return options.stop_token.stop_requested(); }
    // Waits until the client has gone; false when it has not after ten seconds.
    bool WaitUntilGone() const {
      for (int i = 0; i < 1000 && !IsGone(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      return IsGone();
    }
  };

  // Called with each document of an ingest before it is stored.
  std::function<void(const DocumentInput& document, const std::stop_token& stop)> on_document{};

  ~FakeEngine() override {
    for (Question& question : questions_) question.done(Status::Unavailable("closing"));
  }

  // The question that came first, within ten seconds.
  Question Next() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [this] { return !questions_.empty(); });
    if (questions_.empty()) return {};
    Question question = std::move(questions_.front());
    questions_.pop_front();
    return question;
  }

  Status Submit(std::string_view collection, std::string_view question, const AskOptions& options, TextSink sink,
                AnswerCallback done) override {
    {
      const std::lock_guard lock(mutex_);
      questions_.push_back({std::string(collection), std::string(question), options, std::move(sink), std::move(done)});
    }
    changed_.notify_all();
    return Status::Ok();
  }
  Result<IngestProgress> Ingest(std::string_view collection, const DocumentSource& source, const IngestOptions& options,
                                const IngestSink& sink) override {
    IngestProgress progress;
    while (!options.stop_token.stop_requested()) {
      const auto document = source();
      if (!document) break;
      if (on_document) on_document(*document, options.stop_token);
      const bool fails = document->text == "fails";
      if (!fails) {
        const std::lock_guard lock(mutex_);
        documents_[std::string(collection)][document->name] = document->text;
      }
      ++progress.num_documents;
      DocumentVerdict verdict;
      verdict.name = document->name;
      verdict.outcome = fails ? IngestOutcome::kFailed : IngestOutcome::kAdded;
      if (fails) verdict.status = Status::InvalidArgument("no");
      sink.on_verdict(verdict);
    }
    return progress;
  }
  Result<bool> CreateCollection(std::string_view name) override {
    const std::lock_guard lock(mutex_);
    return documents_.try_emplace(std::string(name)).second;
  }
  Status RemoveCollection(std::string_view name) override {
    const std::lock_guard lock(mutex_);
    return documents_.erase(std::string(name)) > 0 ? Status::Ok() : Status::NotFound("no collection");
  }
  Status Remove(std::string_view collection, const std::vector<std::string>& names) override {
    const std::lock_guard lock(mutex_);
    for (const std::string& name : names) {
      if (documents_[std::string(collection)].erase(name) == 0) {
        return Status::NotFound("no document '" + name + "' in /secret/store");
      }
    }
    return Status::Ok();
  }
  Result<std::vector<std::string>> Collections() const override {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> names;
    for (const auto& [name, documents] : documents_) names.push_back(name);
    return names;
  }
  Result<bool> HasCollection(std::string_view name) const override {
    const std::lock_guard lock(mutex_);
    return documents_.contains(std::string(name));
  }
  Result<DocumentInfo> Find(std::string_view collection, std::string_view document) const override {
    UNFOLD_TRY_ASSIGN(const std::string text, ReadText(collection, document));
    DocumentInfo info;
    info.name = document;
    info.text_bytes = text.size();
    return info;
  }
  Result<std::string> ReadText(std::string_view collection, std::string_view document) const override {
    const std::lock_guard lock(mutex_);
    const auto documents = documents_.find(std::string(collection));
    if (documents == documents_.end()) return Status::NotFound("no collection");
    const auto found = documents->second.find(std::string(document));
    return found == documents->second.end() ? Result<std::string>(Status::NotFound("no document")) : found->second;
  }
  Result<std::vector<DocumentInfo>> List(std::string_view collection) const override {
    const std::lock_guard lock(mutex_);
    std::vector<DocumentInfo> infos;
    for (const auto& [name, text] : documents_.at(std::string(collection))) {
      DocumentInfo& info = infos.emplace_back();
      info.name = name;
      info.text_bytes = text.size();
    }
    return infos;
  }

  Result<DocumentVerdict> AddDocument(std::string_view, const DocumentInput&, const IngestOptions&) override {
    return Status::Internal("not asked for");
  }
  Result<EncodingCost> EstimateCost() const override { return Status::Internal("not asked for"); }
  Result<Answer> Ask(std::string_view, std::string_view, const AskOptions&, const TextSink&) override {
    return Status::Internal("not asked for");
  }
  Result<RouteResult> Route(std::string_view, std::string_view, const AskOptions&) override {
    return Status::Internal("not asked for");
  }
  Result<StoreInspection> Inspect() const override { return Status::Internal("not asked for"); }
  Result<VerifySummary> Verify(const std::function<bool(std::uint64_t)>&) const override {
    return Status::Internal("not asked for");
  }
  std::string_view backend_name() const override { return "fake"; }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Question> questions_;
  std::map<std::string, std::map<std::string, std::string>> documents_{{"notes", {{"a.txt", "text"}}}, {"other", {}}};
};

}  // namespace unfold::http

#endif  // UNFOLD_TESTS_HTTP_FAKE_ENGINE_H_
