// SPDX-License-Identifier: Apache-2.0
// Pretokenizer: the pre_tokenizer of tokenizer.json. It cuts a text into the pieces that BPE then works on one by one.
#ifndef UNFOLD_TEXT_PRETOKENIZER_H_
#define UNFOLD_TEXT_PRETOKENIZER_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/metaspace.h"
#include "text/regex.h"
#include "text/vocabulary.h"
#include "unfold/base.h"

namespace unfold {

// The bytes [begin, end) of a text.
struct Pretoken {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool prefix_space = false;  // a space that is not in the text stands before them (add_prefix_space)
};

// Immutable after Parse; thread-safe.
class Pretokenizer {
 public:
  // `value` is the field pre_tokenizer, or null: Metaspace alone, or Split and Digits with or without ByteLevel at the
  // end. InvalidArgument names what is not supported.
  static Result<Pretokenizer> Parse(const Json* value, const std::string& name);

  Spelling spelling() const { return byte_level_ ? Spelling::kByteLevel : Spelling::kCharacters; }
  // Set when spaces are to be marked before the text is split.
  const std::optional<MetaspaceRules>& metaspace() const { return metaspace_; }

  // Appends the pieces of `text` to `out`, in order; they are never empty, but for a lone prefix space. Any bytes:
  // those that are not valid UTF-8 are each cut as U+FFFD would be, which is neither letter, number nor space.
  void Split(std::string_view text, std::vector<Pretoken>* out) const;

 private:
  // What becomes of the matches of a Split's pattern.
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    std::optional<Regex> regex;  // none: only the prefix space
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;  // what stands between matches is taken for them
    bool add_prefix_space = false;
  };
  struct Stretch {
    std::size_t begin = 0;
    std::size_t end = 0;
    bool is_match = false;
  };

  Status AddStep(const Json& value, const std::string& name, bool last);
  Status AddByteLevel(const JsonFields& fields);
  Status AddSplit(const JsonFields& fields);
  Status AddMetaspaceSplit(const JsonFields& fields);
  void SplitValid(std::string_view text, std::vector<Pretoken>* out) const;
  static void Apply(const Step& step, std::string_view text, const std::vector<Pretoken>& pieces,
                    std::vector<Pretoken>* out);
  static void Merge(Behavior behavior, std::vector<Stretch>* stretches);

  std::vector<Step> steps_;
  std::optional<MetaspaceRules> metaspace_;
  bool byte_level_ = false;
};

}  // namespace unfold

#endif  // UNFOLD_TEXT_PRETOKENIZER_H_
