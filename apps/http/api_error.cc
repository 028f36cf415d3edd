// SPDX-License-Identifier: Apache-2.0
#include "apps/http/api_error.h"

#include <utility>

namespace unfold::http {

ApiError InvalidRequest(std::string param, std::string message) {
  return {.message = std::move(message), .param = std::move(param)};
}

ApiError NoSuchRoute(const Request& request) {
  return {.status = 404,
          .type = "not_found_error",
          .message = "no such route: " + request.method + " " + request.path,
          .code = "unknown_route"};
}

ApiError NoSuchCollection(const std::string& name) {
  return {.status = 404,
          .type = "not_found_error",
          .message = "the collection '" + name + "' does not exist, or the key has no right to it",
          .code = "collection_not_found"};
}

ApiError NoSuchDocument(const std::string& name, const std::string& collection) {
  return {.status = 404,
          .type = "not_found_error",
          .message = "no document '" + name + "' in collection '" + collection + "'",
          .code = "document_not_found"};
}

ApiError CollectionExists(const std::string& name) {
  return {.status = 409, .message = "there is a collection '" + name + "'", .code = "collection_exists"};
}

ApiError DiskFull() {
  return {.status = 507,
          .type = "server_error",
          .message = "the server's disk is full: nothing of the documents was taken",
          .code = "disk_full"};
}

ApiError NoKey() {
  return {.status = 401,
          .type = "authentication_error",
          .message = "a valid API key is needed: send it as 'Authorization: Bearer KEY'",
          .code = "invalid_api_key"};
}

ApiError NoRight(const std::string& what) {
  return {.status = 403, .type = "permission_error", .message = "the key has no right to " + what};
}

ApiError NotLocal() {
  return {.status = 403,
          .type = "permission_error",
          .message =
              "without API keys the server is for programs of its own machine: call it as localhost or 127.0.0.1, "
              "and not from another site's page"};
}

ApiError TooMany() {
  return {.status = 429,
          .type = "rate_limit_error",
          .message = "as many requests are waiting as the server takes; try again later",
          .code = "queue_full"};
}

ApiError NotReady(const std::string& why) {
  return {.status = 503, .type = "unavailable_error", .message = why, .code = "not_ready"};
}

ApiError ErrorOf(const Status& status) {
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kResourceExhausted: return {.message = status.message()};
    case StatusCode::kNotFound: return {.status = 404, .type = "not_found_error", .message = status.message()};
    case StatusCode::kUnavailable: return NotReady("the server cannot do this now; try again later");
    case StatusCode::kCancelled:
      return {.status = 504,
              .type = "timeout_error",
              .message = "no complete answer before the request's deadline",
              .code = "deadline_exceeded"};
    default:
      return {.status = 500,
              .type = "server_error",
              .message = "the server failed at this request; its log has the reason under the reply's X-Request-Id"};
  }
}

Json ErrorJson(const ApiError& error) {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
  return {{"error",
           {{"message", error.message},
            {"type", error.type},
            {"param", or_null(error.param)},
            {"code", or_null(error.code)}}}};
}

Response ErrorResponse(const ApiError& error) {
  Response response{.status = error.status, .body = cli::DumpJson(ErrorJson(error))};
  if (error.status == 429 || error.status == 503) response.headers.emplace_back("Retry-After", "1");
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace unfold::http
