// SPDX-License-Identifier: Apache-2.0
// API keys: who may read, write or administer which collection.
#ifndef UNFOLD_APPS_HTTP_ACCESS_H_
#define UNFOLD_APPS_HTTP_ACCESS_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "unfold/base.h"

namespace unfold::http {

// Each includes those before it.
enum class Right : std::uint8_t { kNone, kRead, kWrite, kAdmin };

// What one key may do.
struct Grant {
  std::string name;
  std::map<std::string, Right, std::less<>> collections;  // "*": every other one

  Right To(std::string_view collection) const;
};

// Keys as their SHA-256, so that neither a file nor memory has a key in the clear. Immutable.
class Access {
 public:
  using Hash = std::array<unsigned char, 32>;

  // Everyone may do everything.
  Access() = default;
  // {"keys": [{"name": "...", "sha256": "64 hex digits", "collections": {"notes": "read", "*": "admin"}}]}.
  // InvalidArgument names the key at fault. Without keys nobody may do anything.
  static Result<Access> Parse(std::string_view json);

  bool needs_key() const { return needs_key_; }
  // Of the Authorization header "Bearer KEY"; null for none, and for an unknown key. Takes as long whichever key it is.
  const Grant* Find(std::string_view authorization) const;

 private:
  struct Key {
    Hash hash;
    Grant grant;
  };
  bool needs_key_ = false;
  std::vector<Key> keys_;
  Grant everyone_{"", {{"*", Right::kAdmin}}};
};

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_ACCESS_H_
