// SPDX-License-Identifier: Apache-2.0
#include "apps/http/service.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "apps/answer_stream.h"
#include "apps/deadline.h"
#include "apps/http/chat_reply.h"
#include "apps/http/target.h"

namespace unfold::http {
namespace {

using cli::Json;

constexpr std::uint64_t kMostQuestionBytes = std::uint64_t{1} << 20;

std::int64_t NowMicroseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

std::int64_t SecondsSince1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

const char* NameOf(Right right) {
  switch (right) {
    case Right::kRead: return "read";
    case Right::kWrite: return "write to";
    default: return "administer";
  }
}

}  // namespace

Service::Service(ServiceOptions options) : options_(std::move(options)), started_(SecondsSince1970()) {}

Service::~Service() { Stop(); }

Status Service::Start(Engine& engine) {
  UNFOLD_TRY_ASSIGN(jobs_, Jobs::Open(engine, counters_, options_.jobs_folder));
  engine_ = &engine;
  return Status::Ok();
}

void Service::Stop() {
  draining_ = true;
  workers_.join();
  jobs_.reset();
}

const std::vector<Service::Route>& Service::Routes() {
  constexpr bool kBlocks = true, kOpen = true;
  static const std::vector<Route> routes = {
      {"GET", "/", &Service::Console, false, kOpen},
      {"GET", "/console.css", &Service::Console, false, kOpen},
      {"GET", "/console.js", &Service::Console, false, kOpen},
      {"GET", "/openapi.json", &Service::Console, false, kOpen},
      {"GET", "/healthz", &Service::Live, false, kOpen},
      {"GET", "/readyz", &Service::Ready, false, kOpen},
      {"GET", "/health", &Service::Ready, false, kOpen},
      {"GET", "/metrics", &Service::Metrics},
      {"POST", "/v1/chat/completions", &Service::Chat},
      {"POST", "/v1/query", &Service::Query},
      {"GET", "/v1/models", &Service::ListModels, kBlocks},
      {"GET", "/v1/models/{}", &Service::GetModel, kBlocks},
      {"GET", "/v1/collections", &Service::ListCollections, kBlocks},
      {"POST", "/v1/collections", &Service::AddCollection, kBlocks},
      {"GET", "/v1/collections/{}", &Service::GetCollection, kBlocks},
      {"DELETE", "/v1/collections/{}", &Service::RemoveCollection, kBlocks},
      {"GET", "/v1/collections/{}/documents", &Service::ListDocuments, kBlocks},
      {"POST", "/v1/collections/{}/documents", &Service::AddDocuments, kBlocks},
      {"GET", "/v1/collections/{}/documents/{}", &Service::GetDocument, kBlocks},
      {"DELETE", "/v1/collections/{}/documents/{}", &Service::RemoveDocument, kBlocks},
      {"GET", "/v1/collections/{}/documents/{}/text", &Service::GetText, kBlocks},
      {"GET", "/v1/jobs/{}", &Service::GetJob, kBlocks},
      {"DELETE", "/v1/jobs/{}", &Service::CancelJob, kBlocks},
  };
  return routes;
}

std::vector<std::string> Service::RouteNames() {
  std::vector<std::string> names;
  for (const Route& route : Routes()) names.push_back(std::string(route.method) + " " + route.pattern);
  return names;
}

std::uint64_t Service::BodyLimit(const std::string& method, const std::string& path) const {
  const bool documents = method == "POST" && MatchPath("/v1/collections/{}/documents", path).has_value();
  return documents ? options_.max_body_bytes : kMostQuestionBytes;
}

bool Service::AllowsOrigin(const std::string& origin) const {
  return !origin.empty() &&
         std::find(options_.origins.begin(), options_.origins.end(), origin) != options_.origins.end();
}

// Any page in a browser can send requests to this machine, in another site's name even with replies that it may read.
bool Service::IsFromHere(const Request& request) const {
  const std::string& origin = request.origin;
  return IsLoopbackHost(request.host) && (origin.empty() || IsLoopbackHost(origin) || AllowsOrigin(origin));
}

void Service::Handle(Request request, std::shared_ptr<Exchange> exchange) {
  auto call = std::make_shared<Call>();
  call->exchange = std::move(exchange);
  call->request = std::move(request);
  call->begun = NowMicroseconds();
  call->route = "none";
  if (call->request.method == "OPTIONS" && AllowsOrigin(call->request.origin)) {  // a browser asks before it calls
    return Reply(*call, {.status = 204,
                         .headers = {{"Access-Control-Allow-Methods", "GET, POST, DELETE"},
                                     {"Access-Control-Allow-Headers", "Authorization, Content-Type"},
                                     {"Access-Control-Max-Age", "600"}}});
  }
  std::string allowed;
  const Route* found = nullptr;
  for (const Route& route : Routes()) {
    auto path = MatchPath(route.pattern, call->request.path);
    if (!path) continue;
    allowed += (allowed.empty() ? "" : ", ") + std::string(route.method);
    if (route.method != call->request.method) continue;
    found = &route;
    call->path = *std::move(path);
    call->route = route.method + std::string(" ") + route.pattern;
    break;
  }
  if (found == nullptr && !allowed.empty()) {
    Response response = ErrorResponse({.status = 405, .message = "this route takes " + allowed});
    response.headers.emplace_back("Allow", allowed);
    return Reply(*call, std::move(response));
  }
  if (!options_.access.needs_key() && !IsFromHere(call->request)) return Fail(*call, NotLocal());
  if (found == nullptr || !found->is_open) {
    call->grant = options_.access.Find(call->request.authorization);
    if (call->grant == nullptr) return Fail(*call, NoKey());
    if (found == nullptr) return Fail(*call, NoSuchRoute(call->request));
    if (draining_) return Fail(*call, NotReady("the server is shutting down"));
    if (engine_ == nullptr) return Fail(*call, NotReady("the model is being loaded"));
  }
  if (!found->blocks) return (this->*found->handler)(call);
  boost::asio::post(workers_, [this, found, call] { (this->*found->handler)(call); });
}

// ---- replies

void Service::Note(const Call& call, int status) {
  counters_.CountReply(call.route, status);
  if (!options_.log) return;
  options_.log({{"id", call.request.id},
                {"route", call.route},
                {"key", call.grant == nullptr ? "" : call.grant->name},
                {"status", status},
                {"ms", static_cast<double>(NowMicroseconds() - call.begun) / 1000}});
}

void Service::Reply(const Call& call, Response response) {
  Note(call, response.status);
  response.headers.emplace_back("X-Request-Id", call.request.id);
  call.exchange->Send(std::move(response));
}

void Service::ReplyJson(const Call& call, const Json& json, int status) {
  Reply(call, {.status = status, .body = cli::DumpJson(json)});
}

void Service::Fail(const Call& call, const ApiError& error) { Reply(call, ErrorResponse(error)); }

ApiError Service::ErrorFor(const Call& call, const Status& status) const {
  ApiError error = ErrorOf(status);
  if (error.status >= 500 && options_.log) {
    options_.log({{"id", call.request.id}, {"route", call.route}, {"error", status.ToString()}});
  }
  for (const std::string& hidden : options_.hidden) {
    for (std::size_t at = 0; !hidden.empty() && (at = error.message.find(hidden, at)) != std::string::npos;) {
      error.message.replace(at, hidden.size(), "(a path)");
    }
  }
  return error;
}

void Service::FailStatus(const Call& call, const Status& status) { Fail(call, ErrorFor(call, status)); }

bool Service::Exists(const std::string& collection) const {
  const auto has = engine_.load()->HasCollection(collection);
  return has.ok() && *has;
}

// A collection that the key may not read does not exist for it: the reply is that of one that is not there, and the
// store is not asked for either.
bool Service::Admit(const Call& call, const std::string& collection, Right right) {
  const Right own = call.grant->To(collection);
  if (own == Right::kNone || (right == Right::kRead && !Exists(collection))) {
    Fail(call, NoSuchCollection(collection));
    return false;
  }
  if (own < right) {
    Fail(call, NoRight(NameOf(right) + std::string(" '") + collection + "'"));
    return false;
  }
  return true;
}

// ---- questions

// A question from its submission to its reply. Called on the engine's thread.
class Service::Asking {
 public:
  Asking(Service& service, CallPtr call, const AskRequest& asked, bool is_chat)
      : service_(service),
        call_(std::move(call)),
        is_chat_(is_chat),
        streams_(asked.streams),
        explain_(asked.options.explain),
        answers_(asked.answers),
        head_{.id = RandomId("chatcmpl-"),
              .created = SecondsSince1970(),
              .model = std::string(kModelPrefix) + asked.collection,
              .stream_usage = asked.stream_usage} {
    ++service_.running_;
  }
  ~Asking() { --service_.running_; }
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

  bool TakeText(std::string_view piece) {
    const std::string text = stream_.Push(piece);
    if (text.empty()) return true;
    Begin();
    call_->exchange->Write(TextChunk(head_, text));
    return true;
  }

  void Finish(const Result<Answer>& answer) {
    if (!answer.ok()) return Fail(answer.status());
    service_.counters_.CountAnswer(*answer);
    if (!streams_) {
      return service_.ReplyJson(
          *call_, is_chat_ ? ChatCompletion(head_, *answer, explain_) : QueryReply(*answer, explain_, answers_));
    }
    Begin();
    call_->exchange->Write(LastChunks(head_, *answer, explain_));
    call_->exchange->End();
    service_.Note(*call_, 200);
  }

 private:
  // With the first text, or the end: what fails before has a status of its own.
  void Begin() {
    if (std::exchange(begun_, true)) return;
    call_->exchange->Begin({.content_type = "text/event-stream",
                            .headers = {{"Cache-Control", "no-cache"}, {"X-Request-Id", call_->request.id}}});
    call_->exchange->Write(FirstChunk(head_));
  }

  void Fail(const Status& status) {
    if (status.code() == StatusCode::kCancelled) service_.counters_.CountCancelled();
    if (!begun_) return service_.FailStatus(*call_, status);
    const ApiError error = service_.ErrorFor(*call_, status);
    call_->exchange->Write(ErrorChunk(error));
    call_->exchange->End();
    service_.Note(*call_, error.status);
  }

  Service& service_;
  const CallPtr call_;
  const bool is_chat_, streams_, explain_, answers_;
  const ChatHead head_;
  cli::AnswerStream stream_;
  bool begun_ = false;
};

void Service::Chat(const CallPtr& call) {
  AskRequest asked;
  if (const auto error = ParseChat(call->request.body, asked)) return Fail(*call, *error);
  Ask(call, std::move(asked), true);
}

void Service::Query(const CallPtr& call) {
  AskRequest asked;
  if (const auto error = ParseQuery(call->request.body, asked)) return Fail(*call, *error);
  if (!asked.answers) {  // the first token alone, for what is unfolded to find it
    asked.options.max_answer_tokens = 1;
    asked.options.explain = true;
  }
  Ask(call, std::move(asked), false);
}

void Service::Ask(const CallPtr& call, AskRequest asked, bool is_chat) {
  if (!Admit(*call, asked.collection, Right::kRead)) return;
  if (running_ >= options_.max_requests) return Fail(*call, TooMany());
  asked.options.stop_token = call->exchange->gone();
  const double timeout = asked.timeout_seconds.value_or(options_.timeout_seconds);
  if (timeout > 0) asked.options.deadline = cli::DeadlineIn(timeout);
  const auto asking = std::make_shared<Asking>(*this, call, asked, is_chat);
  TextSink sink;
  if (asked.streams) sink = [asking](std::string_view text) { return asking->TakeText(text); };
  const Status submitted = engine_.load()->Submit(asked.collection, asked.question, asked.options, std::move(sink),
                                                  [asking](Result<Answer> answer) { asking->Finish(answer); });
  if (!submitted.ok()) FailStatus(*call, submitted);
}

}  // namespace unfold::http
