// SPDX-License-Identifier: Apache-2.0
// Normalizer: the normalizer of tokenizer.json, which changes a text before it is cut into tokens.
#ifndef UNFOLD_TEXT_NORMALIZER_H_
#define UNFOLD_TEXT_NORMALIZER_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/aligned_text.h"
#include "unfold/base.h"

namespace unfold {

// Every `pattern` of `from` becomes `with`; found from the left, without overlap.
AlignedText ReplaceText(AlignedText from, std::string_view pattern, std::string_view with);
// `text` in front of what is not empty.
AlignedText PrependText(AlignedText from, std::string_view text);

// Immutable after Parse; thread-safe.
class Normalizer {
 public:
  // `value` is the field normalizer, or null: NFC, Prepend, Replace of a string, or a Sequence of them.
  // InvalidArgument names what is not supported.
  static Result<Normalizer> Parse(const Json* value, const std::string& name);

  bool empty() const { return steps_.empty(); }
  AlignedText Apply(AlignedText text) const;
  std::string Apply(std::string_view text) const;

 private:
  enum class Kind { kNfc, kPrepend, kReplace };
  struct Step {
    Kind kind = Kind::kNfc;
    std::string pattern;
    std::string text;
  };

  Status AddSteps(const Json& value, const std::string& name);

  std::vector<Step> steps_;
  std::size_t growth_ = 1;  // a text becomes at most so many times longer
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_NORMALIZER_H_
