// SPDX-License-Identifier: Apache-2.0
// unfold serve: the REST endpoint.
#include <sys/resource.h>

#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "apps/cli.h"
#include "apps/deadline.h"
#include "apps/http/server.h"
#include "apps/http/service.h"
#include "apps/json_output.h"
#include "apps/settings.h"
#include "apps/text_file.h"

namespace unfold::cli {
namespace {

struct ServeFlags {
  StoreFlags store;
  ModelFlags model;
  http::ServerOptions server;
  std::string keys;  // a file, or JSON; empty: none
  std::string jobs;  // a folder; empty: in the store's
  std::vector<std::string> origins;
  int max_requests = 64;
  double timeout_seconds = 0;
  double drain_seconds = 30;
  bool prints_config = false;
  std::uint64_t max_upload_bytes = http::ServiceOptions().max_body_bytes;
};

void Log(const Json& json) {
  const std::string line = DumpJson(json) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

// As many descriptors as the system lets us have: each connection takes one.
void RaiseOpenFiles() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

bool IsLoopback(const std::string& listen) {
  return listen.starts_with("127.") || listen.starts_with("[::1]") || listen.starts_with("localhost:");
}

// Waits for a signal, then for the answers under way: the sockets' thread runs it all.
class Drainer {
 public:
  Drainer(boost::asio::io_context& io, http::Server& server, http::Service& service, double seconds)
      : io_(io), server_(server), service_(service), seconds_(seconds), signals_(io, SIGINT, SIGTERM), timer_(io) {
    signals_.async_wait([this](const boost::system::error_code& error, int) {
      if (!error) Begin();
    });
  }

 private:
  void Begin() {
    Log({{"event", "draining"}, {"running", service_.running()}});
    service_.Drain();
    server_.Drain();
    end_ = DeadlineIn(seconds_);
    signals_.async_wait([this](const boost::system::error_code& error, int) {  // a second signal: at once
      if (!error) End();
    });
    Wait();
  }
  void Wait() {
    if (server_.connections() == 0 || std::chrono::steady_clock::now() >= end_) return End();
    timer_.expires_after(std::chrono::milliseconds(20));
    timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) Wait();
    });
  }
  void End() {
    server_.CloseAll();
    io_.stop();
  }

  boost::asio::io_context& io_;
  http::Server& server_;
  http::Service& service_;
  const double seconds_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer timer_;
  std::chrono::steady_clock::time_point end_;
};

// Of a file, or of the JSON itself, as UNFOLD_KEYS can have it.
Result<http::Access> ReadAccess(const std::string& keys) {
  if (keys.empty()) return http::Access();
  if (keys.starts_with('{')) return http::Access::Parse(keys);
  UNFOLD_TRY_ASSIGN(const std::string text, ReadTextFile(keys));
  auto access = http::Access::Parse(text);
  return access.ok() ? std::move(access)
                     : Result<http::Access>(Status::InvalidArgument(keys + ": " + access.status().message()));
}

int Run(const ServeFlags& flags) {
  auto options = MakeEngineOptions(flags.store, flags.model, StoreAccessMode::kReadWrite);
  if (!options.ok()) return FailUsage(options.status().message());
  options->max_queued_requests = flags.max_requests;
  auto access = ReadAccess(flags.keys);
  if (!access.ok()) return Fail(access.status());
  if (!access->needs_key() && !IsLoopback(flags.server.listen)) {
    return FailUsage("--listen " + flags.server.listen +
                     " is open to other machines: give --keys FILE, or listen on 127.0.0.1");
  }
  RaiseOpenFiles();
  const std::string jobs = flags.jobs.empty() ? flags.store.store + "/jobs" : flags.jobs;
  boost::asio::io_context io(1);
  http::Service service({.access = *std::move(access),
                         .max_requests = flags.max_requests,
                         .timeout_seconds = flags.timeout_seconds,
                         .max_body_bytes = flags.max_upload_bytes,
                         .jobs_folder = jobs,
                         .origins = flags.origins,
                         .hidden = {jobs, flags.store.store, flags.model.model},
                         .log = Log});
  auto server = http::Server::Listen(io, service, flags.server);
  if (!server.ok()) return Fail(server.status());
  std::printf("listening on http://%s\n", (*server)->address().c_str());  // with the port that it got
  std::fflush(stdout);
  Drainer drainer(io, **server, service, flags.drain_seconds);
  // It answers while the model is being loaded, that it is.
  Status failed;
  std::unique_ptr<Engine> engine;
  std::thread loader([&] {
    auto opened = Engine::Open(*options);
    failed = opened.status();
    if (failed.ok()) {
      engine = *std::move(opened);
      failed = service.Start(*engine);
    }
    if (!failed.ok()) return io.stop();
    Log({{"event", "ready"}, {"backend", engine->backend_name()}});
  });
  io.run();
  loader.join();
  service.Stop();
  engine.reset();  // its last callbacks come to the service, and from there to `io`
  (*server)->CloseAll();
  io.restart();
  io.poll();
  return failed.ok() ? kExitOk : Fail(failed);
}

}  // namespace

CommandRun AddServe(CLI::App& command) {
  auto flags = std::make_shared<ServeFlags>();
  AddConfigFlag(command);
  command.add_flag("--print-config", flags->prints_config,
                   "print what --config, environment and flags amount to, and end");
  AddStoreFlag(command, flags->store);
  const auto add = [&](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->capture_default_str();
  };
  add("--listen", flags->server.listen, "address and port; port 0: any free one")->type_name("ADDRESS:PORT");
  command
      .add_option("--keys", flags->keys,
                  "API keys, as SHA-256, and what each may do: a file or its JSON; without: everyone, everything")
      ->type_name("FILE.json");
  command
      .add_option("--jobs", flags->jobs,
                  "where documents that were sent wait to be encoded; default: jobs in the store")
      ->type_name("DIR");
  command
      .add_option("--allow-origin", flags->origins,
                  "a site whose pages may call from a browser (CORS), such as https://app.example; may be repeated")
      ->type_name("ORIGIN");
  add("--max-requests", flags->max_requests, "questions that wait or run at once; more get 429")
      ->check(CLI::Range(1, 100000))
      ->type_name("N");
  add("--request-timeout", flags->timeout_seconds, "gives up a question after this long; 0: never")
      ->check(CheckNotNegative)
      ->type_name("SECONDS");
  add("--drain-timeout", flags->drain_seconds, "that SIGTERM waits for answers under way")
      ->check(CheckNotNegative)
      ->type_name("SECONDS");
  add("--max-upload-bytes", flags->max_upload_bytes, "of one request's documents, such as 64MiB")
      ->transform(ByteSize())
      ->type_name("N");
  add("--max-connections", flags->server.max_connections, "open at once")->type_name("N");
  AddModelFlags(command, flags->model);
  command.footer(
      "Examples:\n"
      "  unfold serve --store kb --model gist-mini\n"
      "  curl localhost:8080/v1/chat/completions -d '{\"model\": \"unfold:notes\", \"messages\": "
      "[{\"role\": \"user\", \"content\": \"Who signed it?\"}]}'");
  AddEnvironment(command);
  return [flags, &command] {
    // It is among the settings by now; to the library it would win over --backend.
    unsetenv("UNFOLD_BACKEND");
    if (!flags->prints_config) return Run(*flags);
    PrintJsonLine(SettingsJson(command));
    return kExitOk;
  };
}

}  // namespace unfold::cli
