// SPDX-License-Identifier: Apache-2.0
// Pretokenizer: the pre_tokenizer of tokenizer.json. It cuts a text into the pieces that BPE then works on one by one.
#ifndef UNFOLD_TEXT_PRETOKENIZER_H_
#define UNFOLD_TEXT_PRETOKENIZER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/regex.h"
#include "unfold/base.h"

namespace unfold {

// The bytes [begin, end) of a text.
struct Pretoken {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  bool prefix_space = false;  // a space that is not in the text stands before them (add_prefix_space)
};

// Immutable after Parse; thread-safe.
class Pretokenizer {
 public:
  // `value` is the field pre_tokenizer, or null. It must end with ByteLevel. InvalidArgument names what is not
  // supported.
  static Result<Pretokenizer> Parse(const Json* value, const std::string& name);

  // Appends the pieces of `text` to `out`, in order; they are never empty, but for a lone prefix space. Any bytes:
  // those that are not valid UTF-8 are each cut as U+FFFD would be, which is neither letter, number nor space.
  void Split(std::string_view text, std::vector<Pretoken>* out) const;

 private:
  enum class Keep { kAll, kMatches, kGaps };
  struct Step {
    std::optional<Regex> regex;  // none: only the prefix space
    Keep keep = Keep::kAll;
    bool add_prefix_space = false;
  };

  Status AddStep(const Json& value, const std::string& name, bool last);
  Status AddSplit(const JsonFields& fields);
  void SplitValid(std::string_view text, std::vector<Pretoken>* out) const;
  static void Apply(const Step& step, std::string_view text, const std::vector<Pretoken>& pieces,
                    std::vector<Pretoken>* out);

  std::vector<Step> steps_;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_PRETOKENIZER_H_
