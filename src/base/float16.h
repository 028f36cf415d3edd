// SPDX-License-Identifier: Apache-2.0
// Conversions between f32 and the 16-bit float types, scalar and exact. NaN stays NaN.
#ifndef UNFOLD_BASE_FLOAT16_H_
#define UNFOLD_BASE_FLOAT16_H_

#include <bit>
#include <cstdint>

namespace unfold {

inline float BF16ToF32(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

// Rounds to nearest, ties to even.
inline std::uint16_t F32ToBF16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // quiet NaN
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

inline float F16ToF32(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000U} << 16;
  const std::uint32_t magnitude = bits & 0x7fffU;
  if (magnitude >= 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13));
  if (magnitude >= 0x400U) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000U));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24F;
  return (bits & 0x8000U) != 0 ? -subnormal : subnormal;
}

}  // namespace unfold

#endif  // UNFOLD_BASE_FLOAT16_H_
