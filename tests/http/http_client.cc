// SPDX-License-Identifier: Apache-2.0
#include "tests/http/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace unfold::http {

HttpClient::HttpClient(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(std::atoi(address.c_str() + colon + 1)));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  socket_ = socket(AF_INET, SOCK_STREAM, 0);
  const timeval wait{10, 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  if (connect(socket_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) Close();
}

void HttpClient::Close() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

void HttpClient::Send(std::string_view bytes) {
  while (!bytes.empty() && socket_ >= 0) {
    const auto sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

bool HttpClient::Receive() {
  char buffer[4096];
  const auto size = socket_ < 0 ? 0 : recv(socket_, buffer, sizeof(buffer), 0);
  if (size > 0) received_.append(buffer, static_cast<std::size_t>(size));
  return size > 0;
}

bool HttpClient::ReadUntil(std::string_view text) {
  while (received_.find(text) == std::string::npos) {
    if (!Receive()) return false;
  }
  return true;
}

bool HttpClient::IsClosed() {
  char next = 0;
  return received_.empty() && (socket_ < 0 || recv(socket_, &next, 1, 0) <= 0);
}

std::string HttpClient::TakeThrough(std::string_view end) {
  if (!ReadUntil(end)) return {};
  return TakeBytes(received_.find(end) + end.size());
}

std::string HttpClient::TakeBytes(std::size_t count) {
  while (received_.size() < count && Receive()) {
  }
  std::string taken = received_.substr(0, count);
  received_.erase(0, count);
  return taken;
}

Reply HttpClient::Read() {
  Reply reply;
  const std::string line = TakeThrough("\r\n");
  if (line.size() < 12) return reply;
  reply.status = std::atoi(line.c_str() + 9);
  for (std::string header = TakeThrough("\r\n"); header.size() > 2; header = TakeThrough("\r\n")) {
    const std::size_t colon = header.find(": ");
    std::string name = header.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    reply.headers[name] = header.substr(colon + 2, header.size() - colon - 4);
  }
  if (reply.status == 100) return Read();
  if (reply.headers.contains("transfer-encoding")) {
    while (const auto size = std::strtoul(TakeThrough("\r\n").c_str(), nullptr, 16)) {
      reply.body += TakeBytes(size);
      TakeBytes(2);
    }
    TakeThrough("\r\n");
  } else if (reply.headers.contains("content-length")) {
    reply.body = TakeBytes(static_cast<std::size_t>(std::atoll(reply.headers["content-length"].c_str())));
  } else {
    while (Receive()) {
    }
    reply.body = std::exchange(received_, {});
  }
  return reply;
}

std::string HttpClient::Text(std::string_view method, std::string_view target, std::string_view body,
                             std::string_view headers) {
  std::string text = std::string(method) + " " + std::string(target) + " HTTP/1.1\r\n";
  if (headers.find("Host:") == headers.npos) text += "Host: localhost\r\n";
  text += headers;
  if (!body.empty()) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  return text + "\r\n" + std::string(body);
}

}  // namespace unfold::http
