// SPDX-License-Identifier: Apache-2.0
#include "text/html_rules.h"

#include <string>
#include <unordered_map>

namespace unfold {
namespace {

using RuleTable = std::unordered_map<std::string_view, HtmlRule>;

// Names separated by spaces.
void Add(RuleTable* table, std::string_view names, HtmlRole role, HtmlBreak around) {
  while (!names.empty()) {
    const std::size_t end = names.find(' ');
    table->emplace(names.substr(0, end), HtmlRule{role, around});
    names = end == std::string_view::npos ? std::string_view() : names.substr(end + 1);
  }
}

RuleTable MakeRules() {
  RuleTable table;
  Add(&table, "script style template noscript object canvas audio video svg button select datalist textarea",
      HtmlRole::kLeftOut, HtmlBreak::kNone);
  Add(&table, "iframe nav aside menu", HtmlRole::kLeftOut, HtmlBreak::kParagraph);
  Add(&table, "header footer", HtmlRole::kPageArea, HtmlBreak::kParagraph);
  Add(&table, "article main section", HtmlRole::kSection, HtmlBreak::kParagraph);
  Add(&table, "h1 h2 h3 h4 h5 h6", HtmlRole::kHeading, HtmlBreak::kParagraph);
  Add(&table, "title", HtmlRole::kTitle, HtmlBreak::kParagraph);
  Add(&table, "pre listing xmp plaintext", HtmlRole::kPre, HtmlBreak::kParagraph);
  Add(&table, "dialog", HtmlRole::kDialog, HtmlBreak::kParagraph);
  Add(&table, "html body", HtmlRole::kRoot, HtmlBreak::kParagraph);
  Add(&table,
      "address blockquote center details dir div dl fieldset figcaption figure form head hgroup hr legend ol p search "
      "summary table tbody tfoot thead caption ul",
      HtmlRole::kPlain, HtmlBreak::kParagraph);
  Add(&table, "br dd dt li tr option optgroup", HtmlRole::kPlain, HtmlBreak::kLine);
  Add(&table, "td th", HtmlRole::kPlain, HtmlBreak::kSpace);
  return table;
}

// ASCII in lower case without white space.
std::string Squeezed(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) continue;
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  }
  return out;
}

}  // namespace

HtmlRule HtmlRuleOf(std::string_view name) {
  static const RuleTable table = MakeRules();
  const auto it = table.find(name);
  return it == table.end() ? HtmlRule{} : it->second;
}

bool LeavesOut(std::string_view attribute, std::string_view value, HtmlRole role) {
  constexpr std::string_view kRoles =
      " banner complementary contentinfo menu menubar navigation search toolbar ";  // a space on both sides
  if (attribute == "role") {
    std::string padded(1, ' ');
    return kRoles.find(padded.append(Squeezed(value)).append(1, ' ')) != std::string_view::npos && padded.size() > 2;
  }
  if (role == HtmlRole::kRoot) return false;
  if (attribute == "hidden") return true;
  if (attribute == "aria-hidden") return Squeezed(value) == "true";
  if (attribute != "style") return false;
  const std::string style = Squeezed(value);
  return style.find("display:none") != std::string::npos || style.find("visibility:hidden") != std::string::npos;
}

}  // namespace unfold
