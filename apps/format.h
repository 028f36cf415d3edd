// SPDX-License-Identifier: Apache-2.0
// How numbers and foreign text are shown to people.
#ifndef UNFOLD_APPS_FORMAT_H_
#define UNFOLD_APPS_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "unfold/engine.h"

namespace unfold::cli {

std::string Fixed(double value, int num_decimals);
std::string HumanBytes(double num_bytes);                        // "512 B", "1.5 kB", "55.6 MB": powers of 1000
std::string HumanDuration(double seconds);                       // "0:07", "2:13", "1:02:03"
std::string Plural(std::uint64_t count, std::string_view noun);  // "1 document", "2 documents"
const char* OutcomeName(IngestOutcome outcome);                  // "added"
double Ratio(double numerator, double denominator);              // 0 when the denominator is 0

// `text` on one line that cannot steer a terminal: control characters become spaces, runs of white space one space,
// bytes that are not UTF-8 a question mark.
std::string OneLine(std::string_view text);
// The same, cut at a character to at most `max_bytes` with an ellipsis counted in.
std::string OneLine(std::string_view text, std::size_t max_bytes);

// Bytes of the character at `text[at]`: 1 to 4, or 0 where it is not UTF-8.
std::size_t Utf8Length(std::string_view text, std::size_t at);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_FORMAT_H_
