// SPDX-License-Identifier: Apache-2.0
// Errors as OpenAI's API has them: {"error": {"message", "type", "param", "code"}}.
#ifndef UNFOLD_APPS_HTTP_API_ERROR_H_
#define UNFOLD_APPS_HTTP_API_ERROR_H_

#include <string>

#include "apps/http/message.h"
#include "apps/json_output.h"
#include "unfold/base.h"

namespace unfold::http {

using cli::Json;

struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message{};
  std::string param{};  // the field at fault; empty: none
  std::string code{};   // empty: none
};

ApiError InvalidRequest(std::string param, std::string message);
ApiError NoSuchRoute(const Request& request);
ApiError NoSuchCollection(const std::string& name);
ApiError NoSuchDocument(const std::string& name, const std::string& collection);
ApiError CollectionExists(const std::string& name);  // 409
ApiError DiskFull();                                 // 507
ApiError NoKey();                                    // 401
ApiError NoRight(const std::string& what);           // 403
ApiError NotLocal();                                 // 403
ApiError TooMany();                                  // 429
ApiError NotReady(const std::string& why);           // 503
// Of a call of the engine. What is the server's own fault says no more than that: its text may name files.
ApiError ErrorOf(const Status& status);

Json ErrorJson(const ApiError& error);
Response ErrorResponse(const ApiError& error);

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_API_ERROR_H_
