// SPDX-License-Identifier: Apache-2.0
// Reads an HTML page with libxml2 (2.9: its HTML parser as a stream of events, no tree).
#ifndef UNFOLD_TEXT_HTML_READER_H_
#define UNFOLD_TEXT_HTML_READER_H_

#include <string>
#include <string_view>

#include "text/html_text.h"
#include "unfold/base.h"

namespace unfold {

// So that time stays in proportion to length, whatever the bytes: the parser looks through the elements that are open,
// and through the attributes of a tag, one by one.
inline constexpr int kMaxHtmlDepth = 1024;
inline constexpr int kMaxHtmlAttributes = 700;  // in one tag

// The text of a page, by the rules of html_rules.h. `source` is UTF-8 whatever it declares; a byte order mark at its
// begin is none of the text. Broken markup is read as browsers do, about; InvalidArgument when it is beyond the limits
// above, or of 2 GiB or more. The text is empty when there is none. Thread-safe.
Result<HtmlText> ReadHtml(std::string_view source);

// The charset that a page's first 4 KiB declare, as they spell it; empty when there is none.
std::string DeclaredCharset(std::string_view source);

}  // namespace unfold

#endif  // UNFOLD_TEXT_HTML_READER_H_
