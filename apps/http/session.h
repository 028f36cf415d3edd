// SPDX-License-Identifier: Apache-2.0
// One connection: a request after another, each with its reply.
#ifndef UNFOLD_APPS_HTTP_SESSION_H_
#define UNFOLD_APPS_HTTP_SESSION_H_

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "apps/http/api_error.h"
#include "apps/http/message.h"
#include "apps/http/server.h"

namespace unfold::http {

// Of the sockets' thread alone; it lives while an operation or a request has it.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Server& server, boost::asio::ip::tcp::socket socket);
  ~Session();
  void Start() { ReadHeader(); }
  // Ends it if it waits for a request, else with the reply.
  void Drain();
  void Close();

 private:
  class Way;
  using Error = boost::beast::error_code;

  void ReadHeader();
  void OnHeader(Error error);
  void ReadBody();
  void OnBody(Error error);
  void Handle();
  // Learns of the client's end while its request is being worked on.
  void WatchForEnd();
  // A reply to a request that was not read to its end: the connection ends with it.
  void Refuse(const ApiError& error);
  void Send(Response response);
  void Discard();
  void Begin(Response head);
  void Push(const std::string& piece, bool last);
  void WriteNext();
  void EndReply(Error error);
  template <typename Message>
  void SetHead(Message& message, const Response& response) const;

  Server& server_;
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  boost::beast::http::response<boost::beast::http::string_body> reply_;
  boost::beast::http::response<boost::beast::http::empty_body> head_;
  std::optional<boost::beast::http::response_serializer<boost::beast::http::empty_body>> head_serializer_;

  std::stop_source gone_;
  std::uint64_t number_ = 0;  // of the request at hand
  std::string origin_;        // of the request at hand, as its header has it
  bool busy_ = false;         // with a request
  bool keeps_ = false;        // the connection, after the reply
  bool draining_ = false, closed_ = false, refused_ = false;
  bool is_head_ = false;
  // Of a stream: what is still to be written, and whether it ends with that.
  std::string unsent_;
  bool chunked_ = false, writing_ = false, last_ = false;
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_SESSION_H_
