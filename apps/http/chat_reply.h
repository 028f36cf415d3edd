// SPDX-License-Identifier: Apache-2.0
// Replies to chat completions, field for field as OpenAI's, with an object `unfold` beside: sources, routing, what was
// unfolded, times.
#ifndef UNFOLD_APPS_HTTP_CHAT_REPLY_H_
#define UNFOLD_APPS_HTTP_CHAT_REPLY_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "apps/http/api_error.h"
#include "unfold/answer.h"

namespace unfold::http {

// What all of one answer's replies have in common.
struct ChatHead {
  std::string id;            // "chatcmpl-..."
  std::int64_t created = 0;  // seconds since 1970
  std::string model;
  bool stream_usage = false;
};

Json ChatCompletion(const ChatHead& head, const Answer& answer, bool explain);

// Chunks of a stream, as server-sent events: the first, with the role; text; the last, with finish_reason and `unfold`;
// with stream_usage one more, with usage alone; the end.
std::string FirstChunk(const ChatHead& head);
std::string TextChunk(const ChatHead& head, std::string_view text);
std::string LastChunks(const ChatHead& head, const Answer& answer, bool explain);
std::string ErrorChunk(const ApiError& error);

// The answer of POST /v1/query.
Json QueryReply(const Answer& answer, bool explain, bool answers);

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_CHAT_REPLY_H_
