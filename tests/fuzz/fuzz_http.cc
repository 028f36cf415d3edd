// SPDX-License-Identifier: Apache-2.0
// Whatever comes over a connection: HTTP, and what the API reads of it.
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "apps/http/access.h"
#include "apps/http/ask_request.h"
#include "apps/http/field_reader.h"
#include "apps/http/target.h"
#include "apps/http/uploads.h"

namespace unfold::http {
namespace {

namespace bhttp = boost::beast::http;

void ReadBodies(std::string_view body) {
  AskRequest chat, query;
  if (!ParseChat(body, chat) && (chat.question.empty() || chat.collection.empty())) std::abort();
  if (!ParseQuery(body, query) && (query.question.empty() || query.collection.empty())) std::abort();
  std::optional<ApiError> error;
  if (!ParseBody(body, error).is_object()) std::abort();
  for (const char* type : {"multipart/form-data; boundary=B", "application/json"}) {
    error.reset();
    const bool any = !ParseUpload(type, body, error).empty();
    if (!error && !any) std::abort();
  }
  const auto access = Access::Parse(body);
  if (access.ok() && !access->needs_key()) std::abort();
}

void ReadTarget(std::string_view target) {
  for (const char* pattern : {"/v1/collections/{}/documents/{}", "/v1/jobs/{}", "/{}"}) {
    const auto path = MatchPath(pattern, target);
    for (const std::string& segment : path.value_or(std::vector<std::string>())) {
      if (segment.empty() || segment.find('\0') != std::string::npos) std::abort();
    }
  }
  (void)QueryParameter(target, "after");
}

}  // namespace
}  // namespace unfold::http

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace unfold::http;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  ReadBodies(text);
  ReadTarget(text);
  bhttp::request_parser<bhttp::string_body> parser;
  parser.header_limit(4096);
  parser.body_limit(8192);
  boost::beast::error_code error;
  boost::asio::const_buffer left(data, size);
  while (!error && left.size() > 0 && !parser.is_done()) left += parser.put(left, error);
  if (!parser.is_done()) return 0;
  const auto request = parser.release();
  ReadTarget({request.target().data(), request.target().size()});
  ReadBodies(request.body());
  return 0;
}
