// SPDX-License-Identifier: Apache-2.0
#include "apps/http/server.h"

#include <boost/asio/ip/address.hpp>
#include <charconv>
#include <utility>

#include "apps/http/session.h"

namespace unfold::http {
namespace {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;
using Error = boost::system::error_code;

Result<tcp::endpoint> ParseEndpoint(const std::string& text) {
  const auto wrong = [&] {
    return Status::InvalidArgument("--listen: '" + text + "' is no ADDRESS:PORT, such as 127.0.0.1:8080 or [::1]:8080");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return wrong();
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host == "localhost") host = "127.0.0.1";
  Error error;
  const asio::ip::address address = asio::ip::make_address(host, error);
  std::uint16_t port = 0;
  const auto [end, code] = std::from_chars(text.data() + colon + 1, text.data() + text.size(), port);
  if (error || code != std::errc() || end != text.data() + text.size()) return wrong();
  return tcp::endpoint(address, port);
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Listen(asio::io_context& io, Service& service, const ServerOptions& options) {
  UNFOLD_TRY_ASSIGN(const tcp::endpoint endpoint, ParseEndpoint(options.listen));
  std::unique_ptr<Server> server(new Server(io, service, options));
  Error error;
  tcp::acceptor& acceptor = server->acceptor_;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return Status::Unavailable("cannot listen on " + options.listen + ": " + error.message());
  server->Accept();
  return server;
}

Server::~Server() { CloseAll(); }

std::string Server::address() const {
  Error error;
  const tcp::endpoint endpoint = acceptor_.local_endpoint(error);
  const std::string host = endpoint.address().to_string();
  return (endpoint.address().is_v6() ? "[" + host + "]" : host) + ":" + std::to_string(endpoint.port());
}

void Server::Accept() {
  acceptor_.async_accept([this](Error error, tcp::socket socket) {
    if (draining_ || error == asio::error::operation_aborted) return;
    if (error) {  // out of descriptors, as a rule: others will be given back
      pause_.expires_after(std::chrono::milliseconds(100));
      pause_.async_wait([this](Error aborted) {
        if (!aborted) Accept();
      });
      return;
    }
    if (sessions_.size() < options_.max_connections) {
      Error ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      std::make_shared<Session>(*this, std::move(socket))->Start();
    }
    Accept();
  });
}

void Server::Drain() {
  draining_ = true;
  Error ignored;
  acceptor_.close(ignored);
  pause_.cancel();
  const auto sessions = sessions_;  // ends of sessions change it
  for (Session* session : sessions) session->Drain();
}

void Server::CloseAll() {
  draining_ = true;
  Error ignored;
  acceptor_.close(ignored);
  pause_.cancel();
  const auto sessions = sessions_;
  for (Session* session : sessions) session->Close();
}

}  // namespace unfold::http
