// SPDX-License-Identifier: Apache-2.0
// The REST API: from requests to calls of the engine, and back. It knows no sockets.
#ifndef UNFOLD_APPS_HTTP_SERVICE_H_
#define UNFOLD_APPS_HTTP_SERVICE_H_

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "apps/http/access.h"
#include "apps/http/ask_request.h"
#include "apps/http/counters.h"
#include "apps/http/jobs.h"
#include "apps/http/message.h"

namespace unfold::http {

struct ServiceOptions {
  Access access{};
  int max_requests = 64;                                   // questions that wait or run; more are 429
  double timeout_seconds = 0;                              // of a question that names none; 0: none
  std::uint64_t max_body_bytes = std::uint64_t{64} << 20;  // of documents; other bodies may have 1 MiB
  std::string jobs_folder{};                               // where ingest jobs are kept (see Jobs)
  std::vector<std::string> origins{};                      // of other sites' pages that may call, "https://a.example"
  std::vector<std::string> hidden{};                       // paths that no reply may have
  std::function<void(const cli::Json&)> log{};             // a line for each reply
};

// Thread-safe.
class Service {
 public:
  // "POST /v1/query", with {} for what a path names.
  static std::vector<std::string> RouteNames();

  explicit Service(ServiceOptions options);
  // After the engine's end: until then its callbacks come here.
  ~Service();

  // Until then questions get 503. `engine` must outlive the calls, and Stop() come before its end.
  // Fails when the jobs cannot be read.
  Status Start(Engine& engine);
  // No more is taken: 503.
  void Drain() { draining_ = true; }
  // Ends jobs and what runs beside requests.
  void Stop();
  // Questions that wait or are being answered.
  int running() const { return running_; }

  void Handle(Request request, std::shared_ptr<Exchange> exchange);
  // The most bytes that the request's body may have.
  std::uint64_t BodyLimit(const std::string& method, const std::string& path) const;
  // Whether the header alone shows that the request is refused, before its body is read.
  bool IsKnown(const std::string& authorization) const { return options_.access.Find(authorization) != nullptr; }
  // Whether the page of `origin` may read replies.
  bool AllowsOrigin(const std::string& origin) const;
  // Told by the server, for /metrics.
  std::atomic<std::uint64_t> connections{0};

 private:
  // One request on its way.
  struct Call {
    Request request;
    std::shared_ptr<Exchange> exchange;
    const Grant* grant = nullptr;
    std::string route;                // "POST /v1/query"
    std::vector<std::string> path{};  // what stands for {} in it
    std::int64_t begun = 0;           // microseconds
  };
  using CallPtr = std::shared_ptr<Call>;
  using Handler = void (Service::*)(const CallPtr& call);
  struct Route {
    const char* method;
    const char* pattern;
    Handler handler;
    bool blocks = false;   // reads or writes the store: run beside the sockets' thread
    bool is_open = false;  // needs neither key nor engine
  };
  class Asking;

  static const std::vector<Route>& Routes();
  void Reply(const Call& call, Response response);
  void ReplyJson(const Call& call, const cli::Json& json, int status = 200);
  void Fail(const Call& call, const ApiError& error);
  void FailStatus(const Call& call, const Status& status);
  void FailDocument(const Call& call, const Status& status);  // of the call's path
  ApiError ErrorFor(const Call& call, const Status& status) const;
  void Note(const Call& call, int status);
  // Whether the call may have `right` to the collection; else it is answered. Reading wants it to exist.
  bool Admit(const Call& call, const std::string& collection, Right right);
  bool Exists(const std::string& collection) const;
  bool IsFromHere(const Request& request) const;

  void Console(const CallPtr& call);
  void Live(const CallPtr& call);
  void Ready(const CallPtr& call);
  void Metrics(const CallPtr& call);
  void Chat(const CallPtr& call);
  void Query(const CallPtr& call);
  void Ask(const CallPtr& call, AskRequest asked, bool is_chat);
  void ListModels(const CallPtr& call);
  void GetModel(const CallPtr& call);
  void ListCollections(const CallPtr& call);
  void AddCollection(const CallPtr& call);
  void GetCollection(const CallPtr& call);
  void RemoveCollection(const CallPtr& call);
  void ListDocuments(const CallPtr& call);
  void GetDocument(const CallPtr& call);
  void GetText(const CallPtr& call);
  void AddDocuments(const CallPtr& call);
  void RemoveDocument(const CallPtr& call);
  void GetJob(const CallPtr& call);
  void CancelJob(const CallPtr& call);

  const ServiceOptions options_;
  const std::int64_t started_;  // seconds since 1970
  Counters counters_;
  std::atomic<Engine*> engine_ = nullptr;
  std::atomic<bool> draining_ = false;
  std::atomic<int> running_ = 0;
  std::unique_ptr<Jobs> jobs_;
  boost::asio::thread_pool workers_{2};
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_SERVICE_H_
