// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <sys/stat.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace unfold {
namespace {

constexpr int kMaxDepth = 64;

// The depth is checked before parsing, on brackets outside strings, so that no hostile nesting reaches the parser.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

Result<Json> ParseJson(std::string_view text, std::string_view name) {
  if (TooDeep(text)) {
    return Status::Corruption(std::string(name) + ": nested deeper than " + std::to_string(kMaxDepth) + " levels");
  }
  try {  // the exception carries the byte of the error; it goes no further than this function
    return Json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& e) {
    return Status::Corruption(std::string(name) + ": not valid JSON: " + e.what());
  }
}

Result<std::string> ReadFile(const std::string& path, std::uint64_t max_bytes) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    const int error = errno;
    std::string message = path + ": " + std::strerror(error);
    return error == ENOENT || error == ENOTDIR ? Status::NotFound(message) : Status::Io(message);
  }
  if (!S_ISREG(info.st_mode)) return Status::InvalidArgument(path + ": not a regular file");
  if (static_cast<std::uint64_t>(info.st_size) > max_bytes) {
    return Status::ResourceExhausted(path + ": " + std::to_string(info.st_size) + " bytes, more than the limit of " +
                                     std::to_string(max_bytes));
  }
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return Status::Io(path + ": " + std::strerror(errno));
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  const std::size_t got = std::fread(bytes.data(), 1, bytes.size(), file);
  const bool failed = std::ferror(file) != 0;
  std::fclose(file);
  if (failed || got != bytes.size()) return Status::Io(path + ": could not be read whole");
  return bytes;
}

Result<Json> ReadJsonFile(const std::string& path) {
  UNFOLD_TRY_ASSIGN(std::string text, ReadFile(path));
  return ParseJson(text, path);
}

Result<JsonFields> JsonFields::Of(const Json& object, std::string name) {
  if (!object.is_object()) return Status::InvalidArgument(name + ": expected an object, found " + object.type_name());
  return JsonFields(object, std::move(name));
}

const Json* JsonFields::Find(std::string_view field) const {
  const auto it = object_->find(field);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool JsonFields::Has(std::string_view field) const { return Find(field) != nullptr; }

Status JsonFields::Error(std::string_view field, std::string_view what) const {
  return Status::InvalidArgument(name_ + ": '" + std::string(field) + "' " + std::string(what));
}

Result<std::int64_t> JsonFields::Int(std::string_view field, std::int64_t low, std::int64_t high) const {
  const Json* value = Find(field);
  if (value == nullptr) return Error(field, "is missing");
  const std::string range = "must be an integer from " + std::to_string(low) + " to " + std::to_string(high);
  std::int64_t number = 0;
  if (value->is_number_unsigned()) {
    const auto large = value->get<std::uint64_t>();
    if (large > static_cast<std::uint64_t>(INT64_MAX)) return Error(field, range);
    number = static_cast<std::int64_t>(large);
  } else if (value->is_number_integer()) {
    number = value->get<std::int64_t>();
  } else if (value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>() &&
             std::abs(value->get<double>()) < 1e15) {
    number = static_cast<std::int64_t>(value->get<double>());
  } else {
    return Error(field, range + ", found " + value->type_name());
  }
  if (number < low || number > high) return Error(field, range + ", found " + std::to_string(number));
  return number;
}

Result<std::int64_t> JsonFields::IntOr(std::string_view field, std::int64_t fallback, std::int64_t low,
                                       std::int64_t high) const {
  if (!Has(field)) return fallback;
  return Int(field, low, high);
}

Result<double> JsonFields::NumberOr(std::string_view field, double fallback) const {
  const Json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_number()) return Error(field, std::string("must be a number, found ") + value->type_name());
  return value->get<double>();
}

Result<bool> JsonFields::BoolOr(std::string_view field, bool fallback) const {
  const Json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return Error(field, std::string("must be true or false, found ") + value->type_name());
  return value->get<bool>();
}

Result<std::string> JsonFields::String(std::string_view field) const {
  const Json* value = Find(field);
  if (value == nullptr) return Error(field, "is missing");
  if (!value->is_string()) return Error(field, std::string("must be a string, found ") + value->type_name());
  return value->get<std::string>();
}

Result<std::string> JsonFields::StringOr(std::string_view field, std::string fallback) const {
  if (!Has(field)) return fallback;
  return String(field);
}

Result<std::vector<std::int64_t>> JsonFields::IntsOr(std::string_view field, std::vector<std::int64_t> fallback) const {
  const Json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_array()) return Error(field, std::string("must be an array of integers, found ") + value->type_name());
  std::vector<std::int64_t> numbers;
  for (const Json& entry : *value) {
    if (!entry.is_number_integer()) return Error(field, "must hold integers only");
    numbers.push_back(entry.get<std::int64_t>());
  }
  return numbers;
}

Result<std::vector<std::string>> JsonFields::StringsOr(std::string_view field,
                                                       std::vector<std::string> fallback) const {
  const Json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_array()) return Error(field, std::string("must be an array of strings, found ") + value->type_name());
  std::vector<std::string> texts;
  for (const Json& entry : *value) {
    if (!entry.is_string()) return Error(field, "must hold strings only");
    texts.push_back(entry.get<std::string>());
  }
  return texts;
}

}  // namespace unfold
