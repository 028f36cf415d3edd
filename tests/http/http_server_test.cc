// SPDX-License-Identifier: Apache-2.0
// The server over real sockets, with an engine that answers when the test says so.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "apps/http/server.h"
#include "apps/http/service.h"
#include "tests/http/fake_engine.h"
#include "tests/http/http_client.h"
#include "tests/unit/temp_dir.h"

namespace unfold::http {
namespace {

using Question = FakeEngine::Question;

constexpr const char* kChat = "/v1/chat/completions";
const std::string kAsk = R"({"model":"unfold:notes","messages":[{"role":"user","content":"Who?"}]})";
const std::string kStream = R"({"model":"unfold:notes","stream":true,"messages":[{"role":"user","content":"Who?"}]})";
// "alpha" may read notes, "beta" everything.
constexpr const char* kKeys = R"({"keys":[
    {"name":"a","sha256":"8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8","collections":{"notes":"read"}},
    {"name":"b","sha256":"f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753","collections":{"*":"admin"}}]})";

Answer Said(const std::string& text) {
  Answer answer;
  answer.text = text;
  answer.usage.completion_tokens = 1;
  return answer;
}

class HttpServerTest : public ::testing::Test {
 protected:
  void Open(ServiceOptions options = {}, ServerOptions sockets = {}, bool ready = true) {
    options.hidden = {"/secret/store"};
    options.jobs_folder = folder_.Path("jobs");
    service_.emplace(std::move(options));
    sockets.listen = "127.0.0.1:0";
    auto server = Server::Listen(io_, *service_, sockets);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
    address_ = server_->address();
    if (ready) {
      ASSERT_TRUE(service_->Start(*engine_).ok());
    }
    thread_ = std::thread([this] { io_.run(); });
  }
  void TearDown() override {
    if (!server_) return;
    boost::asio::post(io_, [this] {
      server_->CloseAll();
      io_.stop();
    });
    thread_.join();
    service_->Stop();
    engine_.reset();
    io_.restart();
    io_.poll();
    EXPECT_EQ(server_->connections(), 0U);
    EXPECT_EQ(service_->running(), 0);
  }
  template <typename Do>
  void OnServer(Do what) {
    std::atomic<bool> done = false;
    boost::asio::post(io_, [&] {
      what();
      done = true;
      done.notify_all();
    });
    done.wait(false);
  }

  TempDir folder_;
  boost::asio::io_context io_{1};
  std::optional<Service> service_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<FakeEngine> engine_ = std::make_unique<FakeEngine>();
  std::string address_;
  std::thread thread_;
};

TEST_F(HttpServerTest, AnswersQuestionAfterQuestionOnAConnection) {
  Open();
  HttpClient client(address_);
  for (const char* text : {"one", "two"}) {
    client.Send(HttpClient::Text("POST", kChat, kAsk));
    Question question = engine_->Next();
    EXPECT_EQ(question.collection, "notes");
    EXPECT_EQ(question.text, "Who?");
    EXPECT_FALSE(question.sink);
    question.done(Said(text));
    const Reply reply = client.Read();
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.json()["choices"][0]["message"]["content"], text);
    EXPECT_TRUE(reply.headers.at("x-request-id").starts_with("req-"));
  }
}

TEST_F(HttpServerTest, StreamsTextAsItComes) {
  Open();
  HttpClient client(address_);
  client.Send(HttpClient::Text("POST", kChat, kStream));
  Question question = engine_->Next();
  EXPECT_TRUE(question.sink(" Forty"));
  EXPECT_TRUE(client.ReadUntil("\"content\":\"Forty\"")) << "text waited for the end";
  EXPECT_TRUE(question.sink(" two "));
  question.done(Said("Forty two"));
  const Reply reply = client.Read();
  EXPECT_EQ(reply.headers.at("content-type"), "text/event-stream");
  std::string text;
  int chunks = 0;
  std::size_t at = 0;
  for (std::size_t end; (end = reply.body.find("\n\n", at)) != std::string::npos; at = end + 2) {
    const auto chunk = nlohmann::json::parse(reply.body.substr(at + 6, end - at - 6), nullptr, false);
    if (chunk.is_discarded()) continue;
    ++chunks;
    text += chunk["choices"][0]["delta"].value("content", "");
    EXPECT_FALSE(chunk.contains("usage"));
  }
  EXPECT_EQ(chunks, 4);
  EXPECT_EQ(text, "Forty two");
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
  client.Send(HttpClient::Text("GET", "/healthz"));  // the connection goes on
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(HttpServerTest, ErrorsBeforeTheFirstTextHaveTheirStatusAndLaterOnesAreInTheStream) {
  Open();
  HttpClient client(address_);
  client.Send(HttpClient::Text("POST", kChat, kStream));
  engine_->Next().done(Status::InvalidArgument("too long"));
  const Reply refused = client.Read();
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.json()["error"]["message"], "too long");
  client.Send(HttpClient::Text("POST", kChat, kStream));
  Question question = engine_->Next();
  question.sink("begun");
  question.done(Status::Io("/secret/store failed"));
  const Reply broken = client.Read();
  EXPECT_EQ(broken.status, 200);
  EXPECT_NE(broken.body.find("data: {\"error\":{"), std::string::npos);
  EXPECT_EQ(broken.body.find("secret"), std::string::npos);
  EXPECT_EQ(broken.body.find("[DONE]"), std::string::npos);
}

TEST_F(HttpServerTest, AClientThatGoesEndsItsQuestion) {
  Open();
  for (const std::string& body : {kAsk, kStream}) {
    HttpClient client(address_);
    client.Send(HttpClient::Text("POST", kChat, body));
    Question question = engine_->Next();
    if (question.sink) {
      question.sink("begun");
      EXPECT_TRUE(client.ReadUntil("begun"));
    }
    EXPECT_FALSE(question.IsGone());
    client.Close();
    EXPECT_TRUE(question.WaitUntilGone());
    if (question.sink) question.sink("more");  // dropped
    question.done(Status::Cancelled("gone"));
  }
  EXPECT_NE(HttpClient(address_).Call("GET", "/metrics").body.find("unfold_answers_cancelled_total 2\n"),
            std::string::npos);
}

TEST_F(HttpServerTest, ANextRequestThatIsThereAlreadyWaitsForItsTurn) {
  Open();
  HttpClient client(address_);
  client.Send(HttpClient::Text("POST", kChat, kAsk) + HttpClient::Text("GET", "/healthz"));
  Question question = engine_->Next();
  EXPECT_FALSE(question.IsGone());
  question.done(Said("one"));
  EXPECT_EQ(client.Read().json()["choices"][0]["message"]["content"], "one");
  EXPECT_EQ(client.Read().body, "{\"status\":\"ok\"}");
}

TEST_F(HttpServerTest, MoreThanItTakesIsRefused) {
  Open({.max_requests = 2});
  HttpClient first(address_), second(address_), third(address_);
  first.Send(HttpClient::Text("POST", kChat, kAsk));
  second.Send(HttpClient::Text("POST", kChat, kAsk));
  Question one = engine_->Next(), two = engine_->Next();
  const Reply refused = third.Call("POST", kChat, kAsk);
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_EQ(refused.json()["error"]["type"], "rate_limit_error");
  one.done(Said("1"));
  EXPECT_EQ(first.Read().status, 200);
  one = {};  // the last that holds the question's place
  third.Send(HttpClient::Text("POST", kChat, kAsk));
  engine_->Next().done(Said("3"));
  EXPECT_EQ(third.Read().status, 200);
  two.done(Said("2"));
  EXPECT_EQ(second.Read().status, 200);
}

TEST_F(HttpServerTest, DeadlinesReachTheEngine) {
  Open({.timeout_seconds = 50});
  HttpClient client(address_);
  const auto in = [&](const std::string& body) {
    client.Send(HttpClient::Text("POST", kChat, body));
    Question question = engine_->Next();
    question.done(Status::Cancelled("deadline"));
    EXPECT_EQ(client.Read().status, 504);
    return std::chrono::duration<double>(*question.options.deadline - std::chrono::steady_clock::now()).count();
  };
  EXPECT_NEAR(in(kAsk), 50, 2);
  EXPECT_NEAR(in(R"({"unfold":{"timeout_seconds":9},)" + kAsk.substr(1)), 9, 2);
}

TEST_F(HttpServerTest, SaysWhenItIsNotReady) {
  Open({}, {}, /*ready=*/false);
  HttpClient client(address_);
  EXPECT_EQ(client.Call("GET", "/healthz").status, 200);
  EXPECT_EQ(client.Call("GET", "/readyz").status, 503);
  const Reply refused = client.Call("POST", kChat, kAsk);
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  ASSERT_TRUE(service_->Start(*engine_).ok());
  EXPECT_EQ(client.Call("GET", "/readyz").status, 200);
}

TEST_F(HttpServerTest, DrainsWhatRuns) {
  Open();
  HttpClient busy(address_), idle(address_);
  EXPECT_EQ(idle.Call("GET", "/healthz").status, 200);
  busy.Send(HttpClient::Text("POST", kChat, kStream));
  Question question = engine_->Next();
  service_->Drain();
  OnServer([&] { server_->Drain(); });
  EXPECT_TRUE(idle.IsClosed());
  EXPECT_FALSE(question.IsGone());
  question.sink("to the end");
  question.done(Said("to the end"));
  EXPECT_NE(busy.Read().body.find("[DONE]"), std::string::npos);
  EXPECT_TRUE(busy.IsClosed());
  EXPECT_EQ(HttpClient(address_).Call("GET", "/healthz").status, 0);
}

TEST_F(HttpServerTest, HttpThatIsWrongOrTooLarge) {
  Open({.max_body_bytes = 2 << 20}, {.max_header_bytes = 4096, .max_target_bytes = 1024});
  const auto status = [&](const std::string& bytes) {
    HttpClient client(address_);
    client.Send(bytes);
    const int found = client.Read().status;
    EXPECT_TRUE(client.IsClosed()) << found;
    return found;
  };
  const std::string large((1 << 20) + 1, 'x'), documents = "/v1/collections/notes/documents";
  EXPECT_EQ(status("hello\r\n\r\n"), 400);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nbroken header\r\n\r\n"), 400);
  EXPECT_EQ(status("POST /v1/query HTTP/1.1\r\nContent-Length: -5\r\n\r\n"), 400);
  EXPECT_EQ(status("POST /v1/query HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), 400);
  EXPECT_EQ(status("GET http://elsewhere/ HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(status(HttpClient::Text("GET", "/" + std::string(2000, 'a'))), 414);
  EXPECT_EQ(status(HttpClient::Text("GET", "/", "", "X: " + std::string(9000, 'a') + "\r\n")), 431);
  EXPECT_EQ(status("POST /v1/query HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n"), 413);  // before it is sent
  EXPECT_EQ(status("POST /v1/query HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n" + large + "\r\n0\r\n\r\n"),
            413);
  EXPECT_EQ(status("POST " + documents + " HTTP/1.1\r\nContent-Length: 9000000\r\n\r\n"), 413);
  HttpClient client(address_);
  EXPECT_EQ(client.Call("POST", documents, large).status, 400);  // large enough, but no JSON
  EXPECT_EQ(client.Call("POST", "/v1/query", std::string(1000, '[')).status, 400);
  EXPECT_EQ(client.Call("GET", "/nowhere").status, 404);
  const Reply other = client.Call("PUT", "/v1/query", "{}");
  EXPECT_EQ(other.status, 405);
  EXPECT_EQ(other.headers.at("allow"), "POST");
  client.Send("POST /v1/query HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_TRUE(client.ReadUntil("100 Continue"));
  client.Send("{}");
  EXPECT_EQ(client.Read().status, 400);
}

TEST_F(HttpServerTest, SlowClientsAreLeft) {
  Open({}, {.header_timeout = std::chrono::seconds(1), .body_timeout = std::chrono::seconds(1)});
  HttpClient header(address_), body(address_), silent(address_);
  header.Send("GET /healthz HTTP/1.1\r\nX: ");
  body.Send("POST /v1/query HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
  for (int i = 0; i < 20; ++i) {  // a byte now and then does not help
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    header.Send("x");
  }
  EXPECT_TRUE(header.IsClosed() && body.IsClosed() && silent.IsClosed());
}

TEST_F(HttpServerTest, OldClientsGetWholeReplies) {
  Open();
  HttpClient client(address_);
  client.Send("POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: " +
              std::to_string(kStream.size()) + "\r\n\r\n" + kStream);
  Question question = engine_->Next();
  question.sink("old");
  question.done(Said("old"));
  const Reply reply = client.Read();
  EXPECT_FALSE(reply.headers.contains("transfer-encoding"));
  EXPECT_NE(reply.body.find("\"content\":\"old\""), std::string::npos);
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(HttpServerTest, DocumentsComeAndGo) {
  Open();
  HttpClient client(address_);
  const Reply accepted = client.Call("POST", "/v1/collections/new/documents",
                                     R"({"documents":[{"name":"x/y.md","text":"# T","format":"markdown"},
                                        {"name":"bad","text":"fails"}]})");
  ASSERT_EQ(accepted.status, 202);
  const std::string job = accepted.headers.at("location");
  auto state = accepted.json();
  for (int i = 0; i < 1000 && state.value("state", "") != "done"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    state = client.Call("GET", job).json();
  }
  EXPECT_EQ(state["documents"][0]["outcome"], "added");
  EXPECT_EQ(state["documents"][1]["outcome"], "failed");
  EXPECT_EQ(state["documents"][1]["error"], "no");
  EXPECT_EQ(client.Call("GET", "/v1/collections/new").json()["documents"], 1);
  EXPECT_EQ(client.Call("GET", "/v1/collections/new/documents").json()["data"][0]["name"], "x/y.md");
  EXPECT_EQ(client.Call("GET", "/v1/collections/new/documents/x%2Fy.md").json()["text_bytes"], 3);
  EXPECT_EQ(client.Call("DELETE", "/v1/collections/new/documents/x%2Fy.md").json()["deleted"], true);
  const Reply gone = client.Call("DELETE", "/v1/collections/new/documents/x%2Fy.md");
  EXPECT_EQ(gone.status, 404);
  EXPECT_EQ(gone.body.find("secret"), std::string::npos);
  for (const char* body : {R"({"documents":[]})", R"({"documents":[{"name":"a"}]})", R"({"documents":[{"text":"a"}]})",
                           R"({"documents":[{"name":"a","text":"b","format":"pdf"}]})", R"({"documents":[7]})"}) {
    EXPECT_EQ(client.Call("POST", "/v1/collections/new/documents", body).status, 400) << body;
  }
  EXPECT_EQ(client.Call("GET", "/v1/jobs/job-0").status, 404);
}

TEST_F(HttpServerTest, FilesOfAFormBecomeDocuments) {
  Open();
  HttpClient client(address_);
  const std::string form =
      "--XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x/y.md\"\r\n\r\n# T\r\n--XX--\r\n";
  const Reply accepted =
      client.Call("POST", "/v1/collections/new/documents", form, "Content-Type: multipart/form-data; boundary=XX\r\n");
  ASSERT_EQ(accepted.status, 202) << accepted.body;
  auto state = accepted.json();
  for (int i = 0; i < 1000 && state["state"] != "done"; ++i) {
    state = client.Call("GET", accepted.headers.at("location")).json();
  }
  const Reply text = client.Call("GET", "/v1/collections/new/documents/x%2Fy.md/text");
  EXPECT_EQ(text.body, "# T");
  EXPECT_EQ(text.headers.at("content-type"), "text/plain; charset=utf-8");
  EXPECT_NE(text.headers.at("content-security-policy").find("sandbox"), std::string::npos);
  const Reply none = client.Call("GET", "/v1/collections/new/documents/none/text");
  EXPECT_EQ(none.json()["error"]["code"], "document_not_found");
}

TEST_F(HttpServerTest, CollectionsAreMadeAndDeleted) {
  Open({.access = *Access::Parse(kKeys)});
  HttpClient client(address_);
  const std::string alpha = "Authorization: Bearer alpha\r\n", beta = "Authorization: Bearer beta\r\n";
  const Reply made = client.Call("POST", "/v1/collections", R"({"name":"new"})", beta);
  EXPECT_EQ(made.status, 201);
  EXPECT_EQ(made.json()["documents"], 0);
  EXPECT_EQ(client.Call("GET", "/v1/collections/new", "", beta).status, 200);
  EXPECT_EQ(client.Call("POST", "/v1/collections", R"({"name":"new"})", beta).json()["error"]["code"],
            "collection_exists");
  EXPECT_EQ(client.Call("POST", "/v1/collections", R"({"name":"notes"})", alpha).status, 403);
  EXPECT_EQ(client.Call("DELETE", "/v1/collections/notes", "", alpha).status, 403);
  for (const char* body : {"{}", R"({"name":""})", R"({"name":7})", "x"}) {
    EXPECT_EQ(client.Call("POST", "/v1/collections", body, beta).status, 400) << body;
  }
  EXPECT_EQ(client.Call("DELETE", "/v1/collections/new", "", beta).json()["deleted"], true);
  EXPECT_EQ(client.Call("DELETE", "/v1/collections/new", "", beta).status, 404);
}

TEST_F(HttpServerTest, PagesOfNamedSitesMayCall) {
  Open({.access = *Access::Parse(kKeys), .origins = {"https://app.example"}});
  HttpClient client(address_);
  const std::string site = "Origin: https://app.example\r\n", other = "Origin: https://evil.example\r\n";
  const Reply asked = client.Call("OPTIONS", kChat, "", site + "Access-Control-Request-Method: POST\r\n");
  EXPECT_EQ(asked.status, 204);
  EXPECT_EQ(asked.headers.at("access-control-allow-origin"), "https://app.example");
  EXPECT_NE(asked.headers.at("access-control-allow-headers").find("Authorization"), std::string::npos);
  for (const std::string& target : {std::string("/v1/models"), std::string("/none")}) {  // of errors too
    EXPECT_EQ(client.Call("GET", target, "", site).headers.at("vary"), "Origin");
    EXPECT_FALSE(client.Call("GET", target, "", other).headers.contains("access-control-allow-origin"));
  }
  EXPECT_FALSE(client.Call("GET", "/v1/models").headers.contains("access-control-allow-origin"));
  EXPECT_EQ(client.Call("OPTIONS", kChat, "", other).status, 405);
}

TEST_F(HttpServerTest, DocumentsAreListedInPages) {
  Open();
  HttpClient client(address_);
  EXPECT_EQ(client
                .Call("POST", "/v1/collections/many/documents",
                      R"({"documents":[{"name":"a","text":"1"},{"name":"b","text":"2"},{"name":"c","text":"3"}]})")
                .status,
            202);
  for (int i = 0; i < 1000 && client.Call("GET", "/v1/collections/many").json().value("documents", 0) < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const auto first = client.Call("GET", "/v1/collections/many/documents?limit=2").json();
  EXPECT_EQ(first["data"].size(), 2U);
  EXPECT_EQ(first["has_more"], true);
  const auto rest = client.Call("GET", "/v1/collections/many/documents?limit=2&after=b").json();
  EXPECT_EQ(rest["data"][0]["name"], "c");
  EXPECT_EQ(rest["has_more"], false);
  EXPECT_EQ(client.Call("GET", "/v1/collections/many/documents?limit=no").status, 400);
}

TEST_F(HttpServerTest, AKeySeesItsCollectionsAlone) {
  Open({.access = *Access::Parse(kKeys)});
  HttpClient client(address_);
  const std::string alpha = "Authorization: Bearer alpha\r\n", beta = "Authorization: Bearer beta\r\n";
  EXPECT_EQ(client.Call("GET", "/healthz").status, 200);
  const Reply no_key = client.Call("GET", "/v1/models");
  EXPECT_EQ(no_key.status, 401);
  EXPECT_EQ(no_key.headers.at("www-authenticate"), "Bearer");
  EXPECT_EQ(client.Call("GET", "/nowhere").status, 401);
  EXPECT_EQ(client.Call("GET", "/v1/models", "", alpha).json()["data"].size(), 1U);
  EXPECT_EQ(client.Call("GET", "/v1/collections", "", beta).json()["data"].size(), 2U);
  // What exists for another key and what does not exist at all look alike, but for the name that was asked for.
  const auto same = [&](const std::string& method, const std::string& target, const std::string& body) {
    const auto with = [&](const std::string& name) {
      const auto put = [&](std::string text) {
        for (std::size_t at; (at = text.find('@')) != std::string::npos;) text.replace(at, 1, name);
        return text;
      };
      Reply reply = client.Call(method, put(target), put(body), alpha);
      for (std::size_t at; (at = reply.body.find(name)) != std::string::npos;) reply.body.replace(at, name.size(), "@");
      reply.headers.erase("x-request-id");
      return std::tuple(reply.status, reply.body, reply.headers);
    };
    EXPECT_EQ(with("other"), with("absen")) << method << " " << target;
    EXPECT_EQ(std::get<0>(with("other")), 404) << method << " " << target;
  };
  same("GET", "/v1/models/unfold:@", "");
  same("GET", "/v1/collections/@", "");
  same("GET", "/v1/collections/@/documents", "");
  same("GET", "/v1/collections/@/documents/a", "");
  same("GET", "/v1/collections/@/documents/a/text", "");
  same("DELETE", "/v1/collections/@/documents/a", "");
  same("DELETE", "/v1/collections/@", "");
  same("POST", "/v1/collections", R"({"name":"@"})");
  same("POST", "/v1/collections/@/documents", R"({"documents":[{"name":"a","text":"b"}]})");
  same("POST", "/v1/query", R"({"collection":"@","question":"q"})");
  same("POST", kChat, R"({"model":"unfold:@","messages":[{"role":"user","content":"q"}]})");
  EXPECT_EQ(client.Call("DELETE", "/v1/collections/notes/documents/a.txt", "", alpha).status, 403);
  EXPECT_EQ(client.Call("GET", "/metrics", "", alpha).status, 403);
  EXPECT_EQ(client.Call("GET", "/metrics", "", beta).status, 200);
  const Reply accepted =
      client.Call("POST", "/v1/collections/other/documents", R"({"documents":[{"name":"b","text":"c"}]})", beta);
  EXPECT_EQ(accepted.status, 202);
  EXPECT_EQ(client.Call("GET", accepted.headers.at("location"), "", alpha).status, 404);
  // Without a key nothing is read of a body.
  HttpClient stranger(address_);
  stranger.Send("POST /v1/query HTTP/1.1\r\nContent-Length: 1000\r\n\r\n");
  EXPECT_EQ(stranger.Read().status, 401);
  EXPECT_TRUE(stranger.IsClosed());
}

TEST_F(HttpServerTest, WithoutKeysOtherSitesGetNothing) {
  Open();
  HttpClient client(address_);
  for (const char* headers : {"Host: evil.example\r\n", "Origin: https://evil.example\r\n", "Origin: null\r\n",
                              "Host: localhost.evil.example:80\r\n", "Host: \r\n"}) {
    EXPECT_EQ(client.Call("GET", "/v1/models", "", headers).status, 403) << headers;
  }
  for (const char* headers : {"Host: 127.0.0.1:8080\r\n", "Host: [::1]:8080\r\n", "Host: localhost\r\n",
                              "Origin: http://localhost:8080\r\n"}) {
    EXPECT_EQ(client.Call("GET", "/v1/models", "", headers).status, 200) << headers;
  }
}

TEST_F(HttpServerTest, AReplyToWhatIsNotReadArrives) {
  Open({.max_body_bytes = 1 << 20});
  HttpClient client(address_);
  client.Send("POST /v1/collections/notes/documents HTTP/1.1\r\nContent-Length: 33554432\r\n\r\n");
  client.Send(std::string(8 << 20, 'x'));
  EXPECT_EQ(client.Read().status, 413);
}

TEST_F(HttpServerTest, TheDescriptionHasEveryRoute) {
  Open();
  std::set<std::string> described, routes;
  const auto description = HttpClient(address_).Call("GET", "/openapi.json").json();
  for (const auto& [path, operations] : description["paths"].items()) {
    for (const auto& [method, operation] : operations.items()) {
      std::string name = method;
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
      std::string pattern = path;
      for (std::size_t at = 0; (at = pattern.find('{', at)) != std::string::npos; ++at) {
        pattern.replace(at, pattern.find('}', at) + 1 - at, "{}");
      }
      described.insert(name + " " + pattern);
    }
  }
  for (const std::string& route : Service::RouteNames()) {
    const bool page = route == "GET /" || route.starts_with("GET /console.");
    if (!page) routes.insert(route);
  }
  EXPECT_EQ(described, routes);
}

TEST_F(HttpServerTest, AddressesAreChecked) {
  Open();
  for (const char* wrong : {"", "8080", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "nowhere:80"}) {
    const auto server = Server::Listen(io_, *service_, {.listen = wrong});
    EXPECT_EQ(server.status().code(), StatusCode::kInvalidArgument) << wrong;
  }
  EXPECT_EQ(Server::Listen(io_, *service_, {.listen = address_}).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace unfold::http
