// SPDX-License-Identifier: Apache-2.0
// What a client asks: the bodies of POST /v1/chat/completions and POST /v1/query.
#ifndef UNFOLD_APPS_HTTP_ASK_REQUEST_H_
#define UNFOLD_APPS_HTTP_ASK_REQUEST_H_

#include <optional>
#include <string>
#include <string_view>

#include "apps/http/api_error.h"
#include "unfold/options.h"

namespace unfold::http {

// Stands before a collection's name in `model`.
constexpr std::string_view kModelPrefix = "unfold:";

struct AskRequest {
  std::string collection;
  std::string question;
  AskOptions options;
  std::optional<double> timeout_seconds;
  bool answers = true;  // false: routing and unfolding alone
  bool streams = false;
  bool stream_usage = false;
};

// Chat completions. The last message is the question, a user's. Those before are its history; what system and developer
// messages say stands before it as a user's turn, since the engine's own prompt, stored with the documents, cannot
// change. Routing scores the tokens of the last message alone, read after the whole history. Fields that the server
// cannot follow (tools, n > 1, logprobs, penalties, a response_format other than text) are refused, others ignored. The
// object `unfold` has the options of /v1/query. Without `temperature` the likeliest token is taken.
std::optional<ApiError> ParseChat(std::string_view body, AskRequest& request);

// {question, collection, documents, max_documents, max_context_tokens, compression, unfold_top_k, unfold_top_p,
// explain, answer, history, max_tokens, stop, seed, temperature, top_p, timeout_seconds}.
std::optional<ApiError> ParseQuery(std::string_view body, AskRequest& request);

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_ASK_REQUEST_H_
