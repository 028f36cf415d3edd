// SPDX-License-Identifier: Apache-2.0
// The routes of Service that tell of the server and the store, and add and remove documents.
#include <algorithm>
#include <charconv>
#include <utility>

#include "apps/http/console.h"
#include "apps/http/field_reader.h"
#include "apps/http/service.h"
#include "apps/http/target.h"
#include "apps/http/uploads.h"

namespace unfold::http {
namespace {

using cli::Json;

Json DocumentJson(const DocumentInfo& info) {
  return {{"name", info.name},
          {"object", "document"},
          {"title", info.title.empty() ? Json(nullptr) : Json(info.title)},
          {"parts", info.num_parts},
          {"tokens", info.num_tokens},
          {"chunks", info.num_chunks},
          {"text_bytes", info.text_bytes},
          {"stored_bytes", info.stored_bytes}};
}

Json CollectionJson(const std::string& name, const std::vector<DocumentInfo>& documents) {
  DocumentInfo all;
  for (const DocumentInfo& info : documents) {
    all.num_parts += info.num_parts;
    all.num_tokens += info.num_tokens;
    all.num_chunks += info.num_chunks;
    all.text_bytes += info.text_bytes;
    all.stored_bytes += info.stored_bytes;
  }
  return {{"name", name},
          {"object", "collection"},
          {"documents", documents.size()},
          {"parts", all.num_parts},
          {"tokens", all.num_tokens},
          {"chunks", all.num_chunks},
          {"text_bytes", all.text_bytes},
          {"stored_bytes", all.stored_bytes}};
}

Json ListJson(Json data) { return {{"object", "list"}, {"data", std::move(data)}}; }

}  // namespace

// A page that loads nothing from elsewhere, and stands in no other's frame.
void Service::Console(const CallPtr& call) {
  const ConsoleFile* file = FindConsoleFile(call->request.path);
  Reply(*call,
        {.body = std::string(file->bytes),
         .content_type = std::string(file->content_type),
         .headers = {{"Cache-Control", "no-cache"},
                     {"Content-Security-Policy",
                      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
                      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
                     {"Referrer-Policy", "no-referrer"}}});
}

void Service::Live(const CallPtr& call) { ReplyJson(*call, {{"status", "ok"}}); }

void Service::Ready(const CallPtr& call) {
  if (draining_) return Fail(*call, NotReady("the server is shutting down"));
  if (engine_ == nullptr) return Fail(*call, NotReady("the model is being loaded"));
  ReplyJson(*call, {{"status", "ok"}});
}

void Service::Metrics(const CallPtr& call) {
  if (call->grant->To("*") < Right::kRead) return Fail(*call, NoRight("read metrics, which are of all collections"));
  Reply(*call, {.body = counters_.Write(static_cast<std::uint64_t>(running_.load()), connections),
                .content_type = "text/plain; version=0.0.4; charset=utf-8"});
}

void Service::ListModels(const CallPtr& call) {
  const auto names = engine_.load()->Collections();
  if (!names.ok()) return FailStatus(*call, names.status());
  Json data = Json::array();
  for (const std::string& name : *names) {
    if (call->grant->To(name) == Right::kNone) continue;
    data.push_back(
        {{"id", std::string(kModelPrefix) + name}, {"object", "model"}, {"created", started_}, {"owned_by", "unfold"}});
  }
  ReplyJson(*call, ListJson(std::move(data)));
}

void Service::GetModel(const CallPtr& call) {
  const std::string& model = call->path[0];
  const std::string name = model.starts_with(kModelPrefix) ? model.substr(kModelPrefix.size()) : "";
  if (!Admit(*call, name, Right::kRead)) return;
  ReplyJson(*call, {{"id", model}, {"object", "model"}, {"created", started_}, {"owned_by", "unfold"}});
}

void Service::ListCollections(const CallPtr& call) {
  const auto names = engine_.load()->Collections();
  if (!names.ok()) return FailStatus(*call, names.status());
  Json data = Json::array();
  for (const std::string& name : *names) {
    if (call->grant->To(name) != Right::kNone) data.push_back({{"name", name}, {"object", "collection"}});
  }
  ReplyJson(*call, ListJson(std::move(data)));
}

void Service::AddCollection(const CallPtr& call) {
  std::optional<ApiError> error;
  const Json json = ParseBody(call->request.body, error);
  FieldReader fields(json, "", error);
  const std::string name = fields.String("name").value_or("");
  if (name.empty()) fields.Refuse("name", "is missing");
  if (error) return Fail(*call, *error);
  if (!Admit(*call, name, Right::kAdmin)) return;
  const auto made = engine_.load()->CreateCollection(name);
  if (!made.ok()) return FailStatus(*call, made.status());
  if (!*made) return Fail(*call, CollectionExists(name));
  ReplyJson(*call, CollectionJson(name, {}), 201);
}

void Service::RemoveCollection(const CallPtr& call) {
  if (!Admit(*call, call->path[0], Right::kRead) || !Admit(*call, call->path[0], Right::kAdmin)) return;
  jobs_->CancelAll(call->path[0]);
  const Status removed = engine_.load()->RemoveCollection(call->path[0]);
  if (!removed.ok()) return FailStatus(*call, removed);
  ReplyJson(*call, {{"name", call->path[0]}, {"object", "collection"}, {"deleted", true}});
}

void Service::GetCollection(const CallPtr& call) {
  if (!Admit(*call, call->path[0], Right::kRead)) return;
  const auto documents = engine_.load()->List(call->path[0]);
  if (!documents.ok()) return FailStatus(*call, documents.status());
  ReplyJson(*call, CollectionJson(call->path[0], *documents));
}

// ?limit=N&after=NAME: in the order of names, those behind NAME.
void Service::ListDocuments(const CallPtr& call) {
  constexpr std::size_t kMost = 10000;
  if (!Admit(*call, call->path[0], Right::kRead)) return;
  std::size_t limit = 1000;
  if (const auto text = QueryParameter(call->request.query, "limit")) {
    const auto [end, code] = std::from_chars(text->data(), text->data() + text->size(), limit);
    if (code != std::errc() || end != text->data() + text->size() || limit < 1 || limit > kMost) {
      return Fail(*call, InvalidRequest("limit", "limit must be an integer from 1 to " + std::to_string(kMost)));
    }
  }
  auto documents = engine_.load()->List(call->path[0]);
  if (!documents.ok()) return FailStatus(*call, documents.status());
  std::sort(documents->begin(), documents->end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const std::string after = QueryParameter(call->request.query, "after").value_or("");
  Json data = Json::array();
  bool more = false;
  for (const DocumentInfo& info : *documents) {
    if (info.name <= after) continue;
    more = data.size() == limit;
    if (more) break;
    data.push_back(DocumentJson(info));
  }
  Json list = ListJson(std::move(data));
  list["has_more"] = more;
  ReplyJson(*call, list);
}

void Service::GetDocument(const CallPtr& call) {
  if (!Admit(*call, call->path[0], Right::kRead)) return;
  const auto found = engine_.load()->Find(call->path[0], call->path[1]);
  if (found.ok()) return ReplyJson(*call, DocumentJson(*found));
  FailDocument(*call, found.status());
}

// As it was given, and never as a page of this server: a document may hold scripts.
void Service::GetText(const CallPtr& call) {
  if (!Admit(*call, call->path[0], Right::kRead)) return;
  auto text = engine_.load()->ReadText(call->path[0], call->path[1]);
  if (!text.ok()) return FailDocument(*call, text.status());
  Reply(*call, {.body = *std::move(text),
                .content_type = "text/plain; charset=utf-8",
                .headers = {{"Content-Security-Policy", "sandbox; default-src 'none'"}}});
}

void Service::FailDocument(const Call& call, const Status& status) {
  if (status.code() != StatusCode::kNotFound) return FailStatus(call, status);
  Fail(call, NoSuchDocument(call.path[1], call.path[0]));
}

void Service::AddDocuments(const CallPtr& call) {
  if (!Admit(*call, call->path[0], Right::kWrite)) return;
  std::optional<ApiError> error;
  std::vector<DocumentInput> documents = ParseUpload(call->request.content_type, call->request.body, error);
  if (error) return Fail(*call, *error);
  const auto id = jobs_->Start(call->path[0], std::move(documents));
  if (id.status().code() == StatusCode::kUnavailable) return Fail(*call, TooMany());
  if (id.status().code() == StatusCode::kResourceExhausted) return Fail(*call, DiskFull());
  if (!id.ok()) return FailStatus(*call, id.status());
  Response response{.status = 202, .body = cli::DumpJson(jobs_->Describe(*id))};
  response.headers.emplace_back("Location", "/v1/jobs/" + *id);
  Reply(*call, std::move(response));
}

void Service::RemoveDocument(const CallPtr& call) {
  if (!Admit(*call, call->path[0], Right::kRead) || !Admit(*call, call->path[0], Right::kWrite)) return;
  const Status removed = engine_.load()->Remove(call->path[0], {call->path[1]});
  if (!removed.ok()) return FailStatus(*call, removed);
  ReplyJson(*call, {{"name", call->path[1]}, {"object", "document"}, {"deleted", true}});
}

void Service::GetJob(const CallPtr& call) {
  const auto collection = jobs_->CollectionOf(call->path[0]);
  if (!collection || call->grant->To(*collection) == Right::kNone) {
    return FailStatus(*call, Status::NotFound("no job '" + call->path[0] + "'"));
  }
  ReplyJson(*call, jobs_->Describe(call->path[0]));
}

void Service::CancelJob(const CallPtr& call) {
  const auto collection = jobs_->CollectionOf(call->path[0]);
  if (!collection || call->grant->To(*collection) == Right::kNone) {
    return FailStatus(*call, Status::NotFound("no job '" + call->path[0] + "'"));
  }
  if (!Admit(*call, *collection, Right::kWrite)) return;
  jobs_->Cancel(call->path[0]);
  ReplyJson(*call, jobs_->Describe(call->path[0]));
}

}  // namespace unfold::http
