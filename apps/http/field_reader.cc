// SPDX-License-Identifier: Apache-2.0
#include "apps/http/field_reader.h"

#include "apps/format.h"

namespace unfold::http {
namespace {

constexpr int kMostDepth = 32;

// Whether brackets outside strings nest no deeper: a parser recurses, or allocates, by level.
bool IsShallow(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMostDepth) return false;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return true;
}

}  // namespace

Json ParseBody(std::string_view body, std::optional<ApiError>& error) {
  if (!IsShallow(body)) {
    error = InvalidRequest("", "the body's JSON is nested deeper than " + std::to_string(kMostDepth) + " levels");
    return Json::object();
  }
  Json json = Json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) return json;
  error = InvalidRequest("", json.is_discarded() ? "the body is not valid JSON" : "the body is not a JSON object");
  return Json::object();
}

const Json* FieldReader::Find(const char* field) const {
  const auto it = object_.find(field);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void FieldReader::Refuse(const std::string& field, const std::string& what) {
  if (!error_) error_ = InvalidRequest(path_ + field, path_ + field + " " + what);
}

std::optional<double> FieldReader::Number(const char* field, double low, double high) {
  const Json* value = Find(field);
  if (value == nullptr) return {};
  if (value->is_number() && value->get<double>() >= low && value->get<double>() <= high) return value->get<double>();
  Refuse(field, "must be a number from " + cli::Fixed(low, 0) + " to " + cli::Fixed(high, 0));
  return {};
}

std::optional<std::int64_t> FieldReader::Int(const char* field, std::int64_t low, std::int64_t high) {
  const Json* value = Find(field);
  if (value == nullptr) return {};
  const bool fits = value->is_number_unsigned() ? value->get<std::uint64_t>() <= static_cast<std::uint64_t>(high)
                                                : value->is_number_integer() && value->get<std::int64_t>() <= high;
  if (fits && value->get<std::int64_t>() >= low) return value->get<std::int64_t>();
  Refuse(field, "must be an integer from " + std::to_string(low) + " to " + std::to_string(high));
  return {};
}

std::optional<bool> FieldReader::Bool(const char* field) {
  const Json* value = Find(field);
  if (value == nullptr) return {};
  if (value->is_boolean()) return value->get<bool>();
  Refuse(field, "must be true or false");
  return {};
}

std::optional<std::string> FieldReader::String(const char* field) {
  const Json* value = Find(field);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  Refuse(field, "must be a string");
  return {};
}

std::vector<std::string> FieldReader::Strings(const char* field, std::size_t most) {
  const Json* value = Find(field);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  std::vector<std::string> strings;
  if (!value->is_array() || value->size() > most) {
    Refuse(field, "must be a string or an array of at most " + std::to_string(most));
    return {};
  }
  for (const Json& entry : *value) {
    if (!entry.is_string()) {
      Refuse(field, "must hold strings only");
      return {};
    }
    strings.push_back(entry.get<std::string>());
  }
  return strings;
}

const Json* FieldReader::Object(const char* field) {
  const Json* value = Find(field);
  if (value == nullptr || value->is_object()) return value;
  Refuse(field, "must be an object");
  return nullptr;
}

const Json* FieldReader::Array(const char* field) {
  const Json* value = Find(field);
  if (value == nullptr || value->is_array()) return value;
  Refuse(field, "must be an array");
  return nullptr;
}

}  // namespace unfold::http
