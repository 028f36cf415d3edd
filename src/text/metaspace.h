// SPDX-License-Identifier: Apache-2.0
// Metaspace: the part of tokenizer.json, as pre_tokenizer and as decoder, that writes spaces as a visible mark.
#ifndef UNFOLD_TEXT_METASPACE_H_
#define UNFOLD_TEXT_METASPACE_H_

#include <string>

#include "base/json.h"
#include "text/aligned_text.h"
#include "unfold/base.h"

namespace unfold {

enum class MetaspacePrepend { kFirst, kAlways, kNever };  // where a mark is put in front

struct MetaspaceRules {
  std::string mark;  // one character, U+2581 as a rule
  MetaspacePrepend prepend = MetaspacePrepend::kAlways;
  bool split = true;  // before each mark
};

// Its fields, old ones (add_prefix_space) included. InvalidArgument names the field.
Result<MetaspaceRules> ParseMetaspace(const JsonFields& fields);

// Bytes [begin, end) of `from` with marks. `at_start`: nothing of the whole text stands before them.
AlignedText MarkSpaces(const MetaspaceRules& rules, const AlignedText& from, std::size_t begin, std::size_t end,
                       bool at_start);

}  // namespace unfold

#endif  // UNFOLD_TEXT_METASPACE_H_
