// SPDX-License-Identifier: Apache-2.0
// Which parts of an HTML page are its text, and how they stand apart.
//
// Left out, with all that is in them:
//   what shows no text of the page: script, style, template, noscript, iframe, object, canvas, audio, video, svg, and
//     form controls (button, select, datalist, textarea)
//   navigation: nav, aside, menu; header and footer unless they stand inside article, main or section; and the roles
//     banner, complementary, contentinfo, menu, menubar, navigation, search and toolbar
//   what is hidden: the attribute `hidden`, aria-hidden="true", or a style attribute with display:none or
//     visibility:hidden (html and body excepted: scripts show those), and dialog without `open`
#ifndef UNFOLD_TEXT_HTML_RULES_H_
#define UNFOLD_TEXT_HTML_RULES_H_

#include <cstdint>
#include <string_view>

namespace unfold {

// What stands between an element and the text around it; the greatest one at a place counts.
enum class HtmlBreak : std::uint8_t {
  kNone,
  kSpace,      // cells of a table
  kLine,       // items of a list, rows of a table, <br>
  kParagraph,  // a blank line
};

enum class HtmlRole : std::uint8_t {
  kPlain,
  kLeftOut,
  kPageArea,  // header, footer
  kSection,   // article, main, section
  kHeading,
  kTitle,
  kPre,     // white space counts
  kDialog,  // left out unless open
  kRoot,    // html, body
};

struct HtmlRule {
  HtmlRole role = HtmlRole::kPlain;
  HtmlBreak around = HtmlBreak::kNone;
};

// By an element's name in lower case. Unknown elements are plain.
HtmlRule HtmlRuleOf(std::string_view name);

// Whether one attribute, its name in lower case, hides its element or makes it navigation.
bool LeavesOut(std::string_view attribute, std::string_view value, HtmlRole role);

}  // namespace unfold

#endif  // UNFOLD_TEXT_HTML_RULES_H_
