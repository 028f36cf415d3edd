// SPDX-License-Identifier: Apache-2.0
// Sockets of the REST endpoint: HTTP/1.1 on Boost.Beast, one thread for all of them.
#ifndef UNFOLD_APPS_HTTP_SERVER_H_
#define UNFOLD_APPS_HTTP_SERVER_H_

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>

#include "apps/http/service.h"
#include "unfold/base.h"

namespace unfold::http {

struct ServerOptions {
  std::string listen = "127.0.0.1:8080";  // ADDRESS:PORT, [::1]:8080; port 0: any
  std::size_t max_connections = 10000;
  std::uint32_t max_header_bytes = 16 << 10, max_target_bytes = 8 << 10;
  // From the reply before, or the accept, to the end of a header; from there to the end of its body; of one write.
  std::chrono::seconds header_timeout{60}, body_timeout{120}, write_timeout{60};
};

class Session;

// All but its construction is of the thread that runs `io`.
class Server {
 public:
  // Unavailable when the address is taken, InvalidArgument when it is none.
  static Result<std::unique_ptr<Server>> Listen(boost::asio::io_context& io, Service& service,
                                                const ServerOptions& options);
  ~Server();

  std::string address() const;  // with the port that it got
  // Takes no more connections, ends idle ones, and the others with their reply.
  void Drain();
  // Ends all connections: whoever waits for a reply is gone.
  void CloseAll();
  std::size_t connections() const { return sessions_.size(); }

 private:
  friend class Session;
  Server(boost::asio::io_context& io, Service& service, const ServerOptions& options)
      : io_(io), service_(service), options_(options), acceptor_(io), pause_(io) {}
  void Accept();

  boost::asio::io_context& io_;
  Service& service_;
  const ServerOptions options_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer pause_;
  std::unordered_set<Session*> sessions_;
  bool draining_ = false;
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_SERVER_H_
