// SPDX-License-Identifier: Apache-2.0
// A client's end of a connection, byte by byte, so that tests can send what no HTTP library would.
#ifndef UNFOLD_TESTS_HTTP_HTTP_CLIENT_H_
#define UNFOLD_TESTS_HTTP_HTTP_CLIENT_H_

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace unfold::http {

struct Reply {
  int status = 0;                              // 0: the connection ended before
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without chunk sizes

  nlohmann::ordered_json json() const { return nlohmann::ordered_json::parse(body, nullptr, false); }
};

// Thread-compatible. Reading gives up after ten seconds.
class HttpClient {
 public:
  explicit HttpClient(const std::string& address);  // "127.0.0.1:PORT"
  ~HttpClient() { Close(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  void Send(std::string_view bytes);
  // Reads one reply to its end.
  Reply Read();
  // Reads until what was received holds `text`; false when the connection ends before.
  bool ReadUntil(std::string_view text);
  // Whether the other end has closed the connection, all it sent being read.
  bool IsClosed();
  void Close();

  Reply Call(std::string_view method, std::string_view target, std::string_view body = {},
             std::string_view headers = {}) {
    Send(Text(method, target, body, headers));
    return Read();
  }
  // A request; `headers` are lines that end with \r\n.
  static std::string Text(std::string_view method, std::string_view target, std::string_view body = {},
                          std::string_view headers = {});

 private:
  bool Receive();
  // What was received up to and with `end`, taken away.
  std::string TakeThrough(std::string_view end);
  std::string TakeBytes(std::size_t count);

  int socket_ = -1;
  std::string received_;
};

}  // namespace unfold::http

#endif  // UNFOLD_TESTS_HTTP_HTTP_CLIENT_H_
