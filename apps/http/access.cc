// SPDX-License-Identifier: Apache-2.0
#include "apps/http/access.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <utility>

#include "apps/http/target.h"
#include "apps/json_output.h"

namespace unfold::http {
namespace {

using cli::Json;

Access::Hash HashOf(std::string_view key) {
  Access::Hash hash{};
  unsigned size = 0;
  EVP_Digest(key.data(), key.size(), hash.data(), &size, EVP_sha256(), nullptr);
  return hash;
}

bool ParseHash(const std::string& hex, Access::Hash& hash) {
  if (hex.size() != 2 * hash.size()) return false;
  for (std::size_t i = 0; i < hash.size(); ++i) {
    const int high = HexDigit(hex[2 * i]), low = HexDigit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    hash[i] = static_cast<unsigned char>(high * 16 + low);
  }
  return true;
}

bool ParseRight(const Json& json, Right& right) {
  for (const auto& [name, value] :
       {std::pair("read", Right::kRead), {"write", Right::kWrite}, {"admin", Right::kAdmin}}) {
    if (json != name) continue;
    right = value;
    return true;
  }
  return false;
}

std::string TextOf(const Json& json, const char* field) {
  return json.is_object() && json.contains(field) && json[field].is_string() ? json[field].get<std::string>() : "";
}

}  // namespace

Right Grant::To(std::string_view collection) const {
  const auto own = collections.find(collection);
  if (own != collections.end()) return own->second;
  const auto every = collections.find("*");
  return every == collections.end() ? Right::kNone : every->second;
}

Result<Access> Access::Parse(std::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("keys") || !json["keys"].is_array()) {
    return Status::InvalidArgument("keys: not a JSON object with an array \"keys\"");
  }
  Access access;
  access.needs_key_ = true;
  for (const Json& entry : json["keys"]) {
    const std::string where = "keys[" + std::to_string(access.keys_.size()) + "]";
    Key key{{}, {TextOf(entry, "name"), {}}};
    if (!ParseHash(TextOf(entry, "sha256"), key.hash)) {
      return Status::InvalidArgument(where + ": sha256 must be 64 hex digits; printf %s KEY | sha256sum gives them");
    }
    if (!entry.contains("collections") || !entry["collections"].is_object()) {
      return Status::InvalidArgument(where + ": collections must be an object, such as {\"notes\": \"read\"}");
    }
    for (const auto& [collection, value] : entry["collections"].items()) {
      if (!ParseRight(value, key.grant.collections[collection])) {
        return Status::InvalidArgument(where + ": the right to '" + collection + "' must be read, write or admin");
      }
    }
    access.keys_.push_back(std::move(key));
  }
  return access;
}

const Grant* Access::Find(std::string_view authorization) const {
  if (!needs_key_) return &everyone_;
  constexpr std::string_view kScheme = "Bearer ";
  const bool bears = authorization.starts_with(kScheme);
  const Hash hash = HashOf(bears ? authorization.substr(kScheme.size()) : authorization);
  const Grant* found = nullptr;
  for (const Key& key : keys_) {
    if (CRYPTO_memcmp(hash.data(), key.hash.data(), hash.size()) == 0) found = &key.grant;
  }
  return bears ? found : nullptr;
}

}  // namespace unfold::http
