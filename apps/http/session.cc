// SPDX-License-Identifier: Apache-2.0
#include "apps/http/session.h"

#include <sys/socket.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <cstdint>
#include <string_view>
#include <utility>

#include "apps/http/target.h"

namespace unfold::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = boost::beast::http;

constexpr unsigned kHttp11 = 11;
constexpr std::chrono::seconds kLinger(2);  // of a connection whose request was not read to its end
constexpr std::size_t kDiscardBytes = 64 << 10;

std::string_view View(boost::string_view text) { return {text.data(), text.size()}; }

}  // namespace

// Brings replies from any thread to the sockets' one. It lets go of the session there too.
class Session::Way : public Exchange {
 public:
  explicit Way(std::shared_ptr<Session> session)
      : io_(session->server_.io_),
        number_(session->number_),
        gone_(session->gone_.get_token()),
        session_(std::move(session)) {}
  ~Way() override {
    asio::post(io_, [session = std::move(session_)] {});
  }
  void Send(Response response) override {
    Post([response = std::move(response)](Session& session) mutable { session.Send(std::move(response)); });
  }
  void Begin(Response head) override {
    Post([head = std::move(head)](Session& session) mutable { session.Begin(std::move(head)); });
  }
  void Write(std::string piece) override {
    Post([piece = std::move(piece)](Session& session) { session.Push(piece, false); });
  }
  void End() override {
    Post([](Session& session) { session.Push({}, true); });
  }
  std::stop_token gone() const override { return gone_; }

 private:
  template <typename Do>
  void Post(Do what) {
    asio::post(io_, [session = session_, number = number_, what = std::move(what)]() mutable {
      if (session->number_ == number && session->busy_ && !session->closed_) what(*session);
    });
  }

  asio::io_context& io_;
  const std::uint64_t number_;
  const std::stop_token gone_;
  std::shared_ptr<Session> session_;
};

Session::Session(Server& server, asio::ip::tcp::socket socket) : server_(server), stream_(std::move(socket)) {
  server_.sessions_.insert(this);
  server_.service_.connections = server_.sessions_.size();
}

Session::~Session() {
  server_.sessions_.erase(this);
  server_.service_.connections = server_.sessions_.size();
}

void Session::Drain() {
  draining_ = true;
  if (!busy_) Close();
}

void Session::Close() {
  if (std::exchange(closed_, true)) return;
  gone_.request_stop();
  Error ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream_.close();
}

// ---- requests

void Session::ReadHeader() {
  if (draining_) return Close();
  busy_ = false;
  origin_.clear();
  unsent_.clear();
  parser_.emplace();
  parser_->header_limit(server_.options_.max_header_bytes);
  parser_->body_limit(UINT64_MAX);  // its own is set once the header tells the route
  stream_.expires_after(server_.options_.header_timeout);
  bhttp::async_read_header(stream_, buffer_, *parser_,
                           [self = shared_from_this()](Error error, std::size_t) { self->OnHeader(error); });
}

void Session::OnHeader(Error error) {
  if (closed_) return;
  if (error == bhttp::error::header_limit)
    return Refuse({.status = 431, .message = "the request's header is too large"});
  if (error && error.category() == make_error_code(bhttp::error::bad_method).category() &&
      error != bhttp::error::end_of_stream && error != bhttp::error::partial_message) {
    return Refuse({.status = 400, .message = "the request is not valid HTTP"});
  }
  if (error) return Close();
  const auto& head = parser_->get();
  origin_ = std::string(head[bhttp::field::origin]);
  if (head.target().size() > server_.options_.max_target_bytes)
    return Refuse({.status = 414, .message = "the request's target is too long"});
  if (head.target().empty() || head.target()[0] != '/')
    return Refuse({.status = 400, .message = "the request's target is no path"});
  // Nothing is read for whom nothing is done.
  const bool has_body = parser_->chunked() || parser_->content_length().value_or(0) > 0;
  if (has_body && !server_.service_.IsKnown(std::string(head[bhttp::field::authorization]))) {
    return Refuse(NoKey());
  }
  const std::string_view target = View(head.target());
  const std::uint64_t limit =
      server_.service_.BodyLimit(std::string(head.method_string()), std::string(target.substr(0, target.find('?'))));
  if (parser_->content_length().value_or(0) > limit)
    return Refuse({.status = 413, .message = "the body is larger than the server takes"});
  parser_->body_limit(limit);
  stream_.expires_after(server_.options_.body_timeout);
  if (has_body && beast::iequals(head[bhttp::field::expect], "100-continue")) {
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    asio::async_write(stream_, asio::buffer(kContinue.data(), kContinue.size()),
                      [self = shared_from_this()](Error failed, std::size_t) {
                        if (failed) return self->Close();
                        self->ReadBody();
                      });
    return;
  }
  ReadBody();
}

void Session::ReadBody() {
  bhttp::async_read(stream_, buffer_, *parser_,
                    [self = shared_from_this()](Error error, std::size_t) { self->OnBody(error); });
}

void Session::OnBody(Error error) {
  if (closed_) return;
  if (error == bhttp::error::body_limit)
    return Refuse({.status = 413, .message = "the body is larger than the server takes"});
  if (error == beast::error::timeout) return Close();
  if (error) return Refuse({.status = 400, .message = "the request's body is not valid HTTP"});
  Handle();
}

void Session::Handle() {
  busy_ = true;
  ++number_;
  gone_ = {};
  auto message = parser_->release();
  parser_.reset();
  keeps_ = message.keep_alive() && !draining_;
  is_head_ = message.method() == bhttp::verb::head;
  chunked_ = message.version() >= kHttp11;
  const std::string_view target = View(message.target());
  const std::size_t end = std::min(target.find('?'), target.size());
  Request request{.method = std::string(message.method_string()),
                  .path = std::string(target.substr(0, end)),
                  .query = std::string(target.substr(std::min(end + 1, target.size()))),
                  .authorization = std::string(message[bhttp::field::authorization]),
                  .host = std::string(message[bhttp::field::host]),
                  .origin = origin_,
                  .content_type = std::string(message[bhttp::field::content_type]),
                  .body = std::move(message.body()),
                  .id = RandomId("req-")};
  stream_.expires_never();
  WatchForEnd();
  server_.service_.Handle(std::move(request), std::make_shared<Way>(shared_from_this()));
}

void Session::WatchForEnd() {
  stream_.socket().async_wait(
      asio::ip::tcp::socket::wait_read, [self = shared_from_this(), number = number_](Error error) {
        if (error || self->closed_ || !self->busy_ || self->number_ != number) return;
        char next = 0;
        const auto size = recv(self->stream_.socket().native_handle(), &next, 1, MSG_PEEK | MSG_DONTWAIT);
        // A next request may be there already: it is read after this one's reply.
        const bool is_open = size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR));
        if (!is_open) self->Close();
      });
}

// ---- replies

template <typename Message>
void Session::SetHead(Message& message, const Response& response) const {
  message.version(kHttp11);
  message.result(static_cast<unsigned>(response.status));
  message.set(bhttp::field::server, "unfold");
  message.set(bhttp::field::content_type, response.content_type);
  message.set("X-Content-Type-Options", "nosniff");
  for (const auto& [name, value] : response.headers) message.set(name, value);
  if (!server_.service_.AllowsOrigin(origin_)) return;
  message.set(bhttp::field::access_control_allow_origin, origin_);
  message.set(bhttp::field::access_control_expose_headers, "Location, Retry-After, X-Request-Id");
  message.set(bhttp::field::vary, "Origin");
}

void Session::Refuse(const ApiError& error) {
  busy_ = refused_ = true;
  keeps_ = false;
  Send(ErrorResponse(error));
}

void Session::Send(Response response) {
  reply_ = {};
  SetHead(reply_, response);
  if (!is_head_) reply_.body() = std::move(response.body);
  reply_.keep_alive(keeps_ && !draining_);
  reply_.prepare_payload();
  stream_.expires_after(server_.options_.write_timeout);
  bhttp::async_write(stream_, reply_, [self = shared_from_this()](Error error, std::size_t) {
    if (error || !self->refused_) return self->EndReply(error);
    Error ignored;
    self->stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    self->stream_.expires_after(kLinger);
    self->Discard();
  });
}

// Reads what the client still sends, so that it reads the reply: a connection that ends with bytes unread is reset.
void Session::Discard() {
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(kDiscardBytes), [self = shared_from_this()](Error error, std::size_t) {
    if (error || self->closed_) return self->Close();
    self->Discard();
  });
}

void Session::Begin(Response head) {
  head_ = {};
  SetHead(head_, head);
  keeps_ = keeps_ && chunked_;  // otherwise the end of the connection is that of the reply
  head_.keep_alive(keeps_ && !draining_);
  if (chunked_) head_.chunked(true);
  writing_ = true;
  last_ = false;
  head_serializer_.emplace(head_);
  stream_.expires_after(server_.options_.write_timeout);
  bhttp::async_write_header(stream_, *head_serializer_, [self = shared_from_this()](Error error, std::size_t) {
    if (error) return self->Close();
    self->writing_ = false;
    self->WriteNext();
  });
}

void Session::Push(const std::string& piece, bool last) {
  unsent_ += piece;
  last_ = last;
  if (!writing_) WriteNext();
}

// All that waits, as one chunk.
void Session::WriteNext() {
  if (closed_) return;
  stream_.expires_after(server_.options_.write_timeout);
  if (unsent_.empty()) {
    if (!last_) return stream_.expires_never();
    if (!chunked_) return EndReply({});
    writing_ = true;
    asio::async_write(stream_, bhttp::make_chunk_last(),
                      [self = shared_from_this()](Error error, std::size_t) { self->EndReply(error); });
    return;
  }
  writing_ = true;
  const auto text = std::make_shared<std::string>(std::exchange(unsent_, {}));
  const auto next = [self = shared_from_this(), text](Error error, std::size_t) {
    if (error) return self->Close();
    self->writing_ = false;
    self->WriteNext();
  };
  if (chunked_) {
    asio::async_write(stream_, bhttp::make_chunk(asio::const_buffer(text->data(), text->size())), next);
  } else {
    asio::async_write(stream_, asio::const_buffer(text->data(), text->size()), next);
  }
}

void Session::EndReply(Error error) {
  writing_ = false;
  if (error || !keeps_ || draining_) return Close();
  ReadHeader();
}

}  // namespace unfold::http
