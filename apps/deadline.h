// SPDX-License-Identifier: Apache-2.0
// Points in time, a number of seconds from now.
#ifndef UNFOLD_APPS_DEADLINE_H_
#define UNFOLD_APPS_DEADLINE_H_

#include <algorithm>
#include <chrono>

namespace unfold::cli {

// Thirty years at most: what is further away no clock can tell.
inline std::chrono::steady_clock::time_point DeadlineIn(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto wait = std::chrono::duration<double>(std::min(seconds, 1e9));
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(wait);
}

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_DEADLINE_H_
