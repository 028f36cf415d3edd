// SPDX-License-Identifier: Apache-2.0
// A request and its reply, apart from sockets.
#ifndef UNFOLD_APPS_HTTP_MESSAGE_H_
#define UNFOLD_APPS_HTTP_MESSAGE_H_

#include <stop_token>
#include <string>
#include <utility>
#include <vector>

namespace unfold::http {

struct Request {
  std::string method;         // "GET"
  std::string path;           // of the target, percent-encoded
  std::string query;          // what stands behind "?", percent-encoded
  std::string authorization;  // the header's value, empty without one
  std::string host{}, origin{}, content_type{};
  std::string body{};
  std::string id{};  // for the log and the reply's X-Request-Id
};

struct Response {
  int status = 200;
  std::string body{};
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers{};
};

// One request's way back to its client. Either Send once, or Begin, any number of Write, and End. Thread-safe, none
// blocks; what is sent after the client has gone is dropped.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void Send(Response response) = 0;
  virtual void Begin(Response head) = 0;  // its body is not looked at
  virtual void Write(std::string piece) = 0;
  virtual void End() = 0;
  // Stopped when the client has gone, or the server gives up.
  virtual std::stop_token gone() const = 0;
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_MESSAGE_H_
