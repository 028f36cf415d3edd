// SPDX-License-Identifier: Apache-2.0
// CRC-32 (as zlib's) of texts and of token ids, four bytes each, lowest first: what golden files keep of long lists.
#ifndef UNFOLD_TESTS_UNIT_TOKEN_CRC_H_
#define UNFOLD_TESTS_UNIT_TOKEN_CRC_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace unfold {

class TokenCrc {
 public:
  void Add(std::string_view bytes) {
    for (const char c : bytes) {
      state_ ^= static_cast<std::uint8_t>(c);
      for (int bit = 0; bit < 8; ++bit) state_ = (state_ >> 1) ^ ((state_ & 1U) != 0 ? 0xedb88320U : 0U);
    }
  }
  void Add(std::int32_t value) {
    for (int shift = 0; shift < 32; shift += 8) Add(std::string(1, static_cast<char>(value >> shift)));
  }
  void AddIds(const std::vector<TokenSpan>& spans) {
    for (const TokenSpan& span : spans) Add(span.id);
  }
  std::uint32_t value() const { return ~state_; }

 private:
  std::uint32_t state_ = ~0U;
};

inline std::uint32_t CrcOfIds(const std::vector<TokenSpan>& spans) {
  TokenCrc crc;
  crc.AddIds(spans);
  return crc.value();
}

}  // namespace unfold

#endif  // UNFOLD_TESTS_UNIT_TOKEN_CRC_H_
