// SPDX-License-Identifier: Apache-2.0
#include "text/metaspace.h"

#include <algorithm>

#include "text/utf8.h"

namespace unfold {

Result<MetaspaceRules> ParseMetaspace(const JsonFields& fields) {
  MetaspaceRules rules;
  UNFOLD_TRY_ASSIGN(rules.mark, fields.String("replacement"));
  if (rules.mark.empty() || DecodeUtf8(rules.mark).size != rules.mark.size()) {
    return fields.Error("replacement", "must be one character");
  }
  UNFOLD_TRY_ASSIGN(const std::string scheme, fields.StringOr("prepend_scheme", "always"));
  UNFOLD_TRY_ASSIGN(const bool add_prefix_space, fields.BoolOr("add_prefix_space", true));
  UNFOLD_TRY_ASSIGN(rules.split, fields.BoolOr("split", true));
  if (scheme == "first") {
    rules.prepend = MetaspacePrepend::kFirst;
  } else if (scheme == "never") {
    rules.prepend = MetaspacePrepend::kNever;
  } else if (scheme != "always") {
    return fields.Error("prepend_scheme", "must be 'first', 'always' or 'never', found '" + scheme + "'");
  }
  // `tokenizers` refuses this too: older files that mean it must say "never".
  if (!add_prefix_space && rules.prepend != MetaspacePrepend::kNever) {
    return fields.Error("add_prefix_space", "is false, so prepend_scheme must be 'never'");
  }
  return rules;
}

AlignedText MarkSpaces(const MetaspaceRules& rules, const AlignedText& from, std::size_t begin, std::size_t end,
                       bool at_start) {
  const std::string_view text = from.text().substr(0, end);
  TextEditor editor(from, begin, end);
  const std::string_view rest = text.substr(begin);
  const bool marked = rest.starts_with(' ') || rest.starts_with(rules.mark);
  const bool prepends =
      rules.prepend == MetaspacePrepend::kAlways || (rules.prepend == MetaspacePrepend::kFirst && at_start);
  if (prepends && !marked) editor.Replace(0, rules.mark);
  std::size_t done = begin;
  for (std::size_t found = text.find(' ', begin); found != std::string_view::npos; found = text.find(' ', done)) {
    editor.Keep(found - done);
    editor.Replace(1, rules.mark);
    done = found + 1;
  }
  return editor.Finish();
}

}  // namespace unfold
