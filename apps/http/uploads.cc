// SPDX-License-Identifier: Apache-2.0
#include "apps/http/uploads.h"

#include <algorithm>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <utility>

#include "apps/file_walker.h"
#include "apps/http/field_reader.h"

namespace unfold::http {
namespace {

namespace beast = boost::beast;
namespace bhttp = boost::beast::http;

constexpr std::size_t kMostNames = 1024;       // bytes of a document's name
constexpr std::size_t kMostPartHeader = 8192;  // bytes

bool IsName(std::string_view name) { return !name.empty() && name.size() <= kMostNames; }

std::vector<DocumentInput> ParseJson(std::string_view body, std::optional<ApiError>& error) {
  const Json json = ParseBody(body, error);
  FieldReader fields(json, "", error);
  std::vector<DocumentInput> documents;
  const Json* list = fields.Array("documents");
  if (list == nullptr || list->empty()) fields.Refuse("documents", "must be an array of documents");
  for (std::size_t i = 0; fields.ok() && i < list->size(); ++i) {
    const std::string path = "documents[" + std::to_string(i) + "]";
    const Json& entry = (*list)[i];
    if (!entry.is_object()) {
      error = InvalidRequest(path, path + " must be an object");
      break;
    }
    FieldReader document(entry, path + ".", error);
    DocumentInput input{.name = document.String("name").value_or(""), .text = document.String("text").value_or("")};
    if (!IsName(input.name)) document.Refuse("name", "must have 1 to 1024 bytes");
    if (document.Find("text") == nullptr) document.Refuse("text", "is missing");
    const std::string format = document.String("format").value_or("text");
    if (format == "markdown") {
      input.format = TextFormat::kMarkdown;
    } else if (format == "html") {
      input.format = TextFormat::kHtml;
    } else if (format != "text") {
      document.Refuse("format", "must be text, markdown or html");
    }
    documents.push_back(std::move(input));
  }
  return documents;
}

// The value of a parameter such as boundary, of a header's value "type; name=value".
std::string Parameter(std::string_view value, std::string_view name) {
  const std::size_t semicolon = std::min(value.find(';'), value.size());
  const std::string text(value.substr(semicolon));  // what param_list gives views into
  for (const auto& [key, content] : bhttp::param_list(text)) {
    if (beast::iequals(key, beast::string_view(name.data(), name.size()))) return std::string(content);
  }
  return {};
}

bool IsType(std::string_view value, std::string_view type) {
  const std::string_view own = value.substr(0, std::min(value.find_first_of("; \t"), value.size()));
  return beast::iequals(beast::string_view(own.data(), own.size()), beast::string_view(type.data(), type.size()));
}

// Browsers send a name's quotes and line ends as %22, %0D and %0A, and nothing else so.
std::string FileName(std::string name) {
  for (const auto& [code, character] : {std::pair{"%22", '"'}, {"%0D", '\r'}, {"%0A", '\n'}}) {
    for (std::size_t at = 0; (at = name.find(code, at)) != std::string::npos; ++at) name.replace(at, 3, 1, character);
  }
  return name;
}

TextFormat FormatOf(std::string_view name, std::string_view type) {
  if (IsType(type, "text/html")) return TextFormat::kHtml;
  if (IsType(type, "text/markdown")) return TextFormat::kMarkdown;
  return cli::FormatOfName(name).value_or(TextFormat::kPlain);
}

// One part, from behind its delimiter's line to before the next delimiter. Returns what is wrong, or nothing.
const char* ReadPart(std::string_view part, std::vector<DocumentInput>& documents) {
  const std::size_t end = part.find("\r\n\r\n");
  if (end == part.npos || end > kMostPartHeader) return "has a part without a header of at most 8 KiB";
  bhttp::request_parser<bhttp::empty_body> parser;  // a part's header is that of a message but for the first line
  const std::string head = "POST / HTTP/1.1\r\n" + std::string(part.substr(0, end + 4));
  beast::error_code error;
  parser.skip(true);
  parser.eager(false);
  parser.put(boost::asio::buffer(head), error);
  if (error || !parser.is_header_done()) return "has a part whose header is malformed";
  const auto field = [&](bhttp::field name) { return std::string(parser.get()[name]); };
  DocumentInput input{.name = FileName(Parameter(field(bhttp::field::content_disposition), "filename"))};
  if (!IsName(input.name)) return "must have files alone, each part with a filename of 1 to 1024 bytes";
  input.text = part.substr(end + 4);
  input.format = FormatOf(input.name, field(bhttp::field::content_type));
  documents.push_back(std::move(input));
  return nullptr;
}

std::vector<DocumentInput> ParseForm(std::string_view boundary, std::string_view body, std::optional<ApiError>& error) {
  std::vector<DocumentInput> documents;
  const auto refuse = [&](const char* what) {
    error = InvalidRequest("body", std::string("the form ") + what);
    return std::vector<DocumentInput>();
  };
  if (boundary.empty() || boundary.size() > 70) return refuse("has no boundary of 1 to 70 characters");
  // The first delimiter may begin the body; all others begin with the line end before them.
  const std::string delimiter = "\r\n--" + std::string(boundary);
  std::size_t at =
      body.starts_with(std::string_view(delimiter).substr(2)) ? delimiter.size() - 2 : body.find(delimiter);
  if (at == body.npos) return refuse("does not have its boundary");
  if (at != delimiter.size() - 2) at += delimiter.size();
  while (!body.substr(at).starts_with("--")) {
    const std::size_t line = body.find("\r\n", at);
    const std::size_t next = line == body.npos ? line : body.find(delimiter, line);
    if (next == body.npos) return refuse("ends before its last boundary");
    // A part without a header begins with the empty line.
    if (const char* wrong = ReadPart(body.substr(line + 2, next - line - 2), documents)) return refuse(wrong);
    at = next + delimiter.size();
  }
  if (documents.empty()) return refuse("has no file");
  return documents;
}

}  // namespace

std::vector<DocumentInput> ParseUpload(std::string_view content_type, std::string_view body,
                                       std::optional<ApiError>& error) {
  if (!IsType(content_type, "multipart/form-data")) return ParseJson(body, error);
  return ParseForm(Parameter(content_type, "boundary"), body, error);
}

}  // namespace unfold::http
