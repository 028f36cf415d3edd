// SPDX-License-Identifier: Apache-2.0
// Reading JSON that others wrote: nlohmann/json without exceptions, with a depth limit and errors that name the field.
#ifndef UNFOLD_BASE_JSON_H_
#define UNFOLD_BASE_JSON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unfold/base.h"

namespace unfold {

using Json = nlohmann::ordered_json;

// Corruption with `name` and the byte where it breaks; also for nesting deeper than 64 levels.
Result<Json> ParseJson(std::string_view text, std::string_view name);
// A whole file. NotFound, Io, or ResourceExhausted when larger than `max_bytes`.
Result<std::string> ReadFile(const std::string& path, std::uint64_t max_bytes = std::uint64_t{1} << 30);
Result<Json> ReadJsonFile(const std::string& path);

// Typed access to the fields of one object. Each getter gives InvalidArgument naming file, field and what was found.
class JsonFields {
 public:
  // `object` must outlive this. InvalidArgument when it is not an object.
  static Result<JsonFields> Of(const Json& object, std::string name);

  bool Has(std::string_view field) const;          // present and not null
  const Json* Find(std::string_view field) const;  // nullptr when absent or null
  const std::string& name() const { return name_; }

  Result<std::int64_t> Int(std::string_view field, std::int64_t low, std::int64_t high) const;
  Result<std::int64_t> IntOr(std::string_view field, std::int64_t fallback, std::int64_t low, std::int64_t high) const;
  Result<double> NumberOr(std::string_view field, double fallback) const;
  Result<bool> BoolOr(std::string_view field, bool fallback) const;
  Result<std::string> String(std::string_view field) const;
  Result<std::string> StringOr(std::string_view field, std::string fallback) const;
  Result<std::vector<std::int64_t>> IntsOr(std::string_view field, std::vector<std::int64_t> fallback) const;
  Result<std::vector<std::string>> StringsOr(std::string_view field, std::vector<std::string> fallback) const;

  Status Error(std::string_view field, std::string_view what) const;

 private:
  JsonFields(const Json& object, std::string name) : object_(&object), name_(std::move(name)) {}
  const Json* object_;
  std::string name_;
};

}  // namespace unfold

#endif  // UNFOLD_BASE_JSON_H_
