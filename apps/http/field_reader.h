// SPDX-License-Identifier: Apache-2.0
// Typed fields of a request's JSON. The first field that is wrong is the error.
#ifndef UNFOLD_APPS_HTTP_FIELD_READER_H_
#define UNFOLD_APPS_HTTP_FIELD_READER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/http/api_error.h"

namespace unfold::http {

// A request's body, an object of at most 32 levels; else `error` is set.
Json ParseBody(std::string_view body, std::optional<ApiError>& error);

// Getters give nothing for a field that is absent, null or wrong. Thread-compatible.
class FieldReader {
 public:
  // `path` stands before the names of fields in errors, such as "unfold.". `object` and `error` must outlive this.
  FieldReader(const Json& object, std::string path, std::optional<ApiError>& error)
      : object_(object), path_(std::move(path)), error_(error) {}

  std::optional<double> Number(const char* field, double low, double high);
  std::optional<std::int64_t> Int(const char* field, std::int64_t low, std::int64_t high);
  std::optional<bool> Bool(const char* field);
  std::optional<std::string> String(const char* field);
  // One string, or an array of at most `most`.
  std::vector<std::string> Strings(const char* field, std::size_t most);
  const Json* Object(const char* field);
  const Json* Array(const char* field);
  // The field, or null.
  const Json* Find(const char* field) const;
  void Refuse(const std::string& field, const std::string& what);
  bool ok() const { return !error_.has_value(); }

 private:
  const Json& object_;
  std::string path_;
  std::optional<ApiError>& error_;
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_FIELD_READER_H_
