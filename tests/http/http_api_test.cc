// SPDX-License-Identifier: Apache-2.0
// The API as functions: what a request's body asks, and what replies say.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "apps/http/access.h"
#include "apps/http/ask_request.h"
#include "apps/http/chat_reply.h"
#include "apps/http/counters.h"
#include "apps/http/target.h"
#include "apps/http/uploads.h"

namespace unfold::http {
namespace {

std::string Chat(const std::string& more, const std::string& messages = R"([{"role":"user","content":"Who?"}])") {
  return R"({"model":"unfold:notes","messages":)" + messages + more + "}";
}

AskRequest Parsed(const std::string& body) {
  AskRequest request;
  const auto error = ParseChat(body, request);
  EXPECT_FALSE(error.has_value()) << body << ": " << error->message;
  return request;
}

// What is refused, as "param: message".
std::string Refusal(const std::string& body) {
  AskRequest request;
  const auto error = ParseChat(body, request);
  if (!error) return "taken";
  EXPECT_EQ(error->status, 400);
  return error->param + ": " + error->message;
}

TEST(ChatRequest, FieldsBecomeOptions) {
  const AskRequest request = Parsed(
      Chat(R"(,"temperature":0.5,"top_p":0.9,"seed":-1,"max_tokens":7,"stop":["a","b"],"stream":true,)"
           R"("stream_options":{"include_usage":true},"user":"x","store":true,"tool_choice":"none","tools":[],"n":1,)"
           R"("response_format":{"type":"text"},"unfold":{"documents":["d"],"compression":16,"unfold_top_k":9,)"
           R"("explain":true,"timeout_seconds":2.5,"max_documents":3,"max_context_tokens":99})"));
  EXPECT_EQ(request.collection, "notes");
  EXPECT_EQ(request.question, "Who?");
  EXPECT_TRUE(request.streams && request.stream_usage && request.options.explain);
  EXPECT_FLOAT_EQ(request.options.sampling.temperature, 0.5F);
  EXPECT_FLOAT_EQ(request.options.sampling.top_p, 0.9F);
  EXPECT_EQ(request.options.sampling.seed, ~std::uint64_t{0});
  EXPECT_EQ(request.options.max_answer_tokens, 7);
  EXPECT_EQ(request.options.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request.options.working_set.documents, std::vector<std::string>{"d"});
  EXPECT_EQ(request.options.working_set.max_documents, 3);
  EXPECT_EQ(request.options.working_set.max_context_tokens, 99);
  EXPECT_EQ(request.options.compression, 16);
  EXPECT_EQ(request.options.unfold_top_k, 9);
  EXPECT_EQ(request.timeout_seconds, 2.5);
  EXPECT_EQ(Parsed(Chat(R"(,"max_completion_tokens":8,"stop":"x","temperature":null)")).options.max_answer_tokens, 8);
}

TEST(ChatRequest, TurnsBeforeTheQuestionAreItsHistory) {
  const AskRequest request =
      Parsed(Chat("", R"([{"role":"user","content":"one"},{"role":"developer","content":"Be brief."},
      {"role":"assistant","content":"two"},{"role":"system","content":"Be kind."},
      {"role":"user","content":[{"type":"text","text":"thr"},{"type":"text","text":"ee"}]}])"));
  EXPECT_EQ(request.question, "three");
  std::string history;
  for (const Turn& turn : request.options.history) {
    history += (turn.role == TurnRole::kUser ? "user:" : "assistant:") + turn.text + ";";
  }
  EXPECT_EQ(history, "user:Be brief.\nBe kind.;user:one;assistant:two;");
}

TEST(ChatRequest, WhatCannotBeFollowedIsRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "the body is not valid JSON"},
      {"[]", "not a JSON object"},
      {R"({"model":"unfold:notes"})", "messages is missing"},
      {R"({"model":"gpt-4","messages":[]})", "model must be 'unfold:COLLECTION'"},
      {R"({"model":"unfold:","messages":[]})", "model must be"},
      {Chat("", "[]"), "the last of messages"},
      {Chat("", R"([{"role":"assistant","content":"x"}])"), "the last of messages"},
      {Chat("", R"([{"role":"user","content":"x"},{"role":"system","content":"y"}])"), "the last of messages"},
      {Chat("", R"([{"role":"user","content":" "}])"), "the last of messages"},
      {Chat("", R"([{"role":"tool","content":"x"}])"), "messages[0].role must be"},
      {Chat("", R"([7])"), "messages[0] must be an object"},
      {Chat("", R"([{"role":"user","content":7}])"), "messages[0].content must be a string"},
      {Chat("", R"([{"role":"user","content":[{"type":"image_url"}]}])"), "parts of type text only"},
      {Chat(R"(,"temperature":3)"), "temperature must be a number from 0 to 2"},
      {Chat(R"(,"temperature":"hot")"), "temperature must be a number"},
      {Chat(R"(,"max_tokens":0)"), "max_tokens must be an integer from 1"},
      {Chat(R"(,"max_tokens":1.5)"), "max_tokens must be an integer"},
      {Chat(R"(,"max_tokens":99999999999999999999)"), "max_tokens must be an integer"},
      {Chat(R"(,"stop":["1","2","3","4","5"])"), "stop must be a string or an array of at most 4"},
      {Chat(R"(,"stop":[""])"), "stop must not be empty"},
      {Chat(R"(,"stream":"yes")"), "stream must be true or false"},
      {Chat(R"(,"stream_options":{})"), "stream_options is for streams"},
      {Chat(R"(,"n":2)"), "n must be 1"},
      {Chat(R"(,"logprobs":true)"), "logprobs is not supported"},
      {Chat(R"(,"presence_penalty":0.5)"), "presence_penalty is not supported"},
      {Chat(R"(,"tools":[{"type":"function"}])"), "tools is not supported"},
      {Chat(R"(,"response_format":{"type":"json_object"})"), "response_format must be text"},
      {Chat(R"(,"unfold":7)"), "unfold must be an object"},
      {Chat(R"(,"unfold":{"compression":0})"), "unfold.compression must be a number"},
      {Chat("", std::string(40, '[')), "nested deeper than 32 levels"},
  };
  for (const auto& [body, want] : cases) EXPECT_NE(Refusal(body).find(want), std::string::npos) << Refusal(body);
}

TEST(QueryRequest, TakesItsOwnFieldsAlone) {
  AskRequest request;
  EXPECT_FALSE(ParseQuery(R"({"collection":"c","question":"q","answer":false,"history":[{"role":"user","content":"u"},
      {"role":"assistant","content":"a"}]})",
                          request));
  EXPECT_FALSE(request.answers);
  EXPECT_EQ(request.options.history.size(), 2U);
  for (const auto& [body, param] : {std::pair(R"({"collection":"c"})", "question"),
                                    {R"({"question":"q"})", "collection"},
                                    {R"({"collection":"c","question":"q","topk":1})", "topk"}}) {
    AskRequest refused;
    const auto error = ParseQuery(body, refused);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->param, param);
  }
}

TEST(Uploads, FormsAreReadAsBrowsersAndCurlSendThem) {
  const std::string type = "multipart/form-data; boundary=\"--x y\"";
  const std::string form =
      "preamble\r\n"
      "----x y\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a \\\"b\\\".md\"\r\n"
      "Content-Type: application/octet-stream\r\n\r\n# T\r\n--x\r\n"
      "\r\n----x y\r\ncontent-disposition: form-data; filename=\"%22c%22.TXT\"\r\nContent-Type: text/html; "
      "charset=utf-8\r\n"
      "\r\n"
      "\r\n----x y  \r\nContent-Disposition: form-data; filename=d.htm\r\n\r\n\xff\r\n----x y--\r\nepilogue";
  std::optional<ApiError> error;
  const std::vector<DocumentInput> documents = ParseUpload(type, form, error);
  ASSERT_FALSE(error) << error->message;
  ASSERT_EQ(documents.size(), 3U);
  EXPECT_EQ(documents[0].name, "a \"b\".md");
  EXPECT_EQ(documents[0].text, "# T\r\n--x\r\n");
  EXPECT_EQ(documents[0].format, TextFormat::kMarkdown);
  EXPECT_EQ(documents[1].name, "\"c\".TXT");
  EXPECT_EQ(documents[1].text, "");
  EXPECT_EQ(documents[1].format, TextFormat::kHtml);
  EXPECT_EQ(documents[2].text, "\xff");
  EXPECT_EQ(documents[2].format, TextFormat::kHtml);
}

TEST(Uploads, WrongFormsAreRefused) {
  const std::string type = "multipart/form-data; boundary=B", file = "Content-Disposition: form-data; filename=a\r\n";
  const std::pair<std::string, std::string> wrong[] = {
      {"multipart/form-data", "--B\r\n" + file + "\r\nx\r\n--B--"},
      {type, ""},
      {type, "no boundary"},
      {type, "--B--"},
      {type, "--B\r\n" + file + "\r\nx"},
      {type, "--B\r\n" + file + "\r\nx\r\n--B"},
      {type, "--B\r\n" + file + "x\r\n--B--"},
      {type, "--B\r\n\r\nx\r\n--B--"},
      {type, "--B\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--B--"},
      {type, "--B\r\nno header\r\n\r\nx\r\n--B--"},
      {type, "--B\r\n" + std::string(9000, 'x') + ": y\r\n\r\nx\r\n--B--"},
      {type, "--B\r\nContent-Disposition: form-data; filename=" + std::string(1025, 'x') + "\r\n\r\nx\r\n--B--"},
  };
  for (const auto& [content_type, body] : wrong) {
    std::optional<ApiError> error;
    EXPECT_TRUE(ParseUpload(content_type, body, error).empty()) << body;
    ASSERT_TRUE(error.has_value()) << body;
    EXPECT_EQ(error->status, 400);
  }
}

TEST(Replies, FollowTheFormat) {
  Answer answer;
  answer.text = "forty\xff two";  // a reply is UTF-8 whatever an answer is
  answer.finish = FinishReason::kLength;
  answer.usage.prompt_tokens = 10, answer.usage.cached_tokens = 8, answer.usage.completion_tokens = 3;
  const ChatHead head{.id = "chatcmpl-1", .created = 5, .model = "unfold:notes", .stream_usage = true};
  const Json whole = ChatCompletion(head, answer, false);
  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_EQ(whole["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["usage"]["total_tokens"], 13);
  EXPECT_EQ(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 8);
  EXPECT_TRUE(whole["unfold"].contains("sources") && !whole["unfold"].contains("unfolded"));
  EXPECT_NE(cli::DumpJson(whole).find("forty\xEF\xBF\xBD two"), std::string::npos);

  const std::string last = LastChunks(head, answer, true);
  std::vector<Json> chunks;
  std::size_t at = 0;
  for (std::size_t end; (end = last.find("\n\n", at)) != std::string::npos; at = end + 2) {
    ASSERT_EQ(last.substr(at, 6), "data: ");
    chunks.push_back(Json::parse(last.substr(at + 6, end - at - 6), nullptr, false));
  }
  ASSERT_EQ(chunks.size(), 3U);
  EXPECT_EQ(chunks[0]["object"], "chat.completion.chunk");
  EXPECT_TRUE(chunks[0]["usage"].is_null() && chunks[0]["unfold"].contains("unfolded"));
  EXPECT_EQ(chunks[1]["choices"], Json::array());
  EXPECT_EQ(chunks[1]["usage"]["completion_tokens"], 3);
  EXPECT_TRUE(chunks[2].is_discarded());  // [DONE]
  EXPECT_TRUE(last.ends_with("data: [DONE]\n\n"));
  EXPECT_NE(FirstChunk(head).find("\"role\":\"assistant\""), std::string::npos);
}

TEST(Errors, SayNoMoreThanTheyShould) {
  EXPECT_EQ(ErrorOf(Status::InvalidArgument("x")).status, 400);
  EXPECT_EQ(ErrorOf(Status::NotFound("x")).status, 404);
  EXPECT_EQ(ErrorOf(Status::Cancelled("x")).status, 504);
  const ApiError internal = ErrorOf(Status::Io("/home/me/store: no space"));
  EXPECT_EQ(internal.status, 500);
  EXPECT_EQ(internal.message.find("/home"), std::string::npos);
  const Json json = ErrorJson(InvalidRequest("field", "why"));
  EXPECT_EQ(json.dump(), R"({"error":{"message":"why","type":"invalid_request_error","param":"field","code":null}})");
}

TEST(Access, KeysHaveRights) {
  // sha256 of "alpha" and "beta".
  const auto access = Access::Parse(R"({"keys":[
      {"name":"a","sha256":"8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8","collections":{"notes":"read"}},
      {"name":"b","sha256":"F44E64E75F3948E9F73F8DFA94721C4CE8CBB4F265C4790C702B2D41CFBF2753",
       "collections":{"*":"admin","notes":"write"}}]})");
  ASSERT_TRUE(access.ok()) << access.status().ToString();
  const Grant* alpha = access->Find("Bearer alpha");
  const Grant* beta = access->Find("Bearer beta");
  ASSERT_TRUE(alpha != nullptr && beta != nullptr);
  EXPECT_EQ(alpha->name, "a");
  EXPECT_EQ(alpha->To("notes"), Right::kRead);
  EXPECT_EQ(alpha->To("other"), Right::kNone);
  EXPECT_EQ(beta->To("notes"), Right::kWrite);
  EXPECT_EQ(beta->To("other"), Right::kAdmin);
  for (const char* wrong : {"", "alpha", "Bearer", "Bearer ", "Bearer alphA", "Basic alpha", "bearer alpha"}) {
    EXPECT_EQ(access->Find(wrong), nullptr) << wrong;
  }
  EXPECT_EQ(Access().Find("")->To("any"), Right::kAdmin);
  EXPECT_EQ(Access::Parse(R"({"keys":[]})")->Find("Bearer alpha"), nullptr);
  for (const char* wrong : {"", "[]", R"({"keys":[7]})", R"({"keys":[{"sha256":"12"}]})",
                            R"({"keys":[{"sha256":"8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8",
                                "collections":{"a":"all"}}]})"}) {
    EXPECT_FALSE(Access::Parse(wrong).ok()) << wrong;
  }
}

TEST(Targets, AreDecoded) {
  EXPECT_EQ(PercentDecoded("a%2Fb%20c"), "a/b c");
  for (const char* wrong : {"%", "%4", "%zz", "a%00b", "%ff"}) EXPECT_FALSE(PercentDecoded(wrong)) << wrong;
  const auto path = MatchPath("/v1/{}/d/{}", "/v1/n%C3%B6/d/a%2Fb");
  ASSERT_TRUE(path);
  EXPECT_EQ(*path, (std::vector<std::string>{"n\xC3\xB6", "a/b"}));
  for (const char* wrong : {"", "/", "/v1", "/v1/n/d", "/v1/n/d/", "/v1/n/d/a/b", "/v1//d/a", "v1/n/d/a"}) {
    EXPECT_FALSE(MatchPath("/v1/{}/d/{}", wrong)) << wrong;
  }
  EXPECT_EQ(QueryParameter("limit=5&after=x%26y", "after"), "x&y");
  EXPECT_EQ(QueryParameter("limit=5&flag", "flag"), "");
  EXPECT_FALSE(QueryParameter("limit=5", "lim"));
  EXPECT_NE(RandomId("x-"), RandomId("x-"));
}

TEST(Metrics, HistogramsAreCumulative) {
  Counters counters;
  Answer answer;
  answer.timings.unfold_ms = 2, answer.timings.ttft_ms = 3, answer.timings.decode_ms = 20;
  answer.tokens = {1, 2, 3};
  counters.CountAnswer(answer);
  answer.timings.ttft_ms = 70000;
  counters.CountAnswer(answer);
  counters.CountReply("POST /v1/query", 200);
  const std::string text = counters.Write(2, 3);
  const std::string name = "unfold_time_to_first_token_seconds";
  for (const std::string& line :
       {name + "_bucket{le=\"0.0025\"} 0", name + "_bucket{le=\"0.005\"} 1", name + "_bucket{le=\"60\"} 1",
        name + "_bucket{le=\"+Inf\"} 2", name + "_count 2", name + "_sum 70.003",
        std::string("unfold_time_per_output_token_seconds_bucket{le=\"0.01\"} 2"),
        std::string("unfold_unfolding_seconds_sum 0.004"),
        std::string("unfold_http_replies_total{route=\"POST /v1/query\",status=\"200\"} 1"),
        std::string("unfold_requests_running 2")}) {
    EXPECT_NE(text.find(line + "\n"), std::string::npos) << line;
  }
}

}  // namespace
}  // namespace unfold::http
