// SPDX-License-Identifier: Apache-2.0
#include "text/html_reader.h"

#include <libxml/HTMLparser.h>
#include <libxml/parser.h>
#include <libxml/parserInternals.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

namespace unfold {
namespace {

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr std::uint32_t kMaxSourceBytes = INT32_MAX;
constexpr std::string_view kEntityCharacters = "#0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz;";
constexpr int kLongTextBytes = 900;  // the parser gives longer texts in pieces of about 1000 bytes

std::string_view View(const xmlChar* text) {
  return text == nullptr ? std::string_view() : std::string_view(reinterpret_cast<const char*>(text));
}

// The parser passes over characters that XML does not have. With spaces in their place its texts are runs of our bytes.
std::string WithoutControls(std::string_view source) {
  std::string clean(source);
  for (char& c : clean) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 && c != '\t' && c != '\n' && c != '\r') c = ' ';
  }
  for (const std::string_view none : {"\xef\xbf\xbe", "\xef\xbf\xbf"}) {  // U+FFFE, U+FFFF
    for (std::size_t at = clean.find(none); at != std::string::npos; at = clean.find(none, at)) {
      clean.replace(at, none.size(), none.size(), ' ');
    }
  }
  return clean;
}

// Hears the events of one parse. Thread-compatible.
//
// The parser stands behind a text when it gives it; that the text is there is checked byte by byte, and what is not is
// taken for an entity. (Where it stands at a tag says less: tags that are implied come with the next text.)
class HtmlEvents {
 public:
  HtmlEvents(std::string_view source, htmlParserCtxtPtr parser)
      : source_(source), parser_(parser), builder_(source.size()) {}

  void Start(std::string_view name, const xmlChar** attributes);
  void End();
  void Text(std::string_view text);
  int Feed(char* out, int max_bytes);
  void Fail(Status why);

  Result<HtmlText> Take() {
    if (!failure_.ok()) return failure_;
    if (TooManyAttributes()) {
      return Status::InvalidArgument("a tag has more than " + std::to_string(kMaxHtmlAttributes) + " attributes");
    }
    return builder_.Take();
  }

 private:
  struct Element {
    HtmlRule rule;
    bool is_left_out = false;
  };

  std::uint32_t Here() const {
    const auto into = static_cast<std::uint64_t>(parser_->input->cur - parser_->input->base);
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(parser_->input->consumed + into, source_.size()));
  }
  bool StandsAt(std::uint32_t at, std::string_view text) const {
    return at >= done_ && source_.substr(std::min<std::size_t>(at, source_.size()), text.size()) == text;
  }
  // Whether what has been passed since the last text ends with what looks like an entity.
  bool EndsWithEntity(std::uint32_t here) const {
    const std::string_view passed = source_.substr(done_, here - std::min(done_, here));
    const std::size_t ampersand = passed.rfind('&');
    return ampersand != std::string_view::npos &&
           passed.find_first_not_of(kEntityCharacters, ampersand + 1) == std::string_view::npos;
  }
  bool IsLeftOut(HtmlRule rule, const xmlChar** attributes) const;
  // The parser keeps two places for an attribute, in an array of 22 that doubles until the longest tag has room.
  bool TooManyAttributes() const { return parser_->maxatts > 2 * kMaxHtmlAttributes + 8; }
  void Copy(std::string_view text, std::uint32_t at);
  void Entity(std::string_view text, std::uint32_t here);

  std::string_view source_;
  htmlParserCtxtPtr parser_;
  HtmlTextBuilder builder_;
  Status failure_;
  std::size_t num_fed_ = 0;
  std::uint32_t done_ = 0;  // where the last text ends
  std::vector<Element> open_;
  int num_left_out_ = 0;  // open elements that are left out
  int num_sections_ = 0;  // open elements in which headers and footers are text
};

void HtmlEvents::Fail(Status why) {
  if (failure_.ok()) failure_ = std::move(why);
  xmlStopParser(parser_);
}

int HtmlEvents::Feed(char* out, int max_bytes) {
  if (TooManyAttributes()) return -1;
  const std::size_t count = std::min(source_.size() - num_fed_, static_cast<std::size_t>(std::max(max_bytes, 0)));
  std::memcpy(out, source_.data() + num_fed_, count);
  num_fed_ += count;
  return static_cast<int>(count);
}

bool HtmlEvents::IsLeftOut(HtmlRule rule, const xmlChar** attributes) const {
  if (rule.role == HtmlRole::kLeftOut) return true;
  if (rule.role == HtmlRole::kPageArea && num_sections_ == 0) return true;
  if (rule.role == HtmlRole::kTitle && !builder_.TakesTitle()) return true;
  bool is_open = false;
  for (const xmlChar** at = attributes; at != nullptr && *at != nullptr; at += 2) {
    if (LeavesOut(View(at[0]), View(at[1]), rule.role)) return true;
    is_open = is_open || View(at[0]) == "open";
  }
  return rule.role == HtmlRole::kDialog && !is_open;
}

void HtmlEvents::Start(std::string_view name, const xmlChar** attributes) {
  if (open_.size() == kMaxHtmlDepth) {
    return Fail(Status::InvalidArgument("more than " + std::to_string(kMaxHtmlDepth) + " elements are open at byte " +
                                        std::to_string(Here())));
  }
  const HtmlRule rule = HtmlRuleOf(name);
  const bool is_left_out = num_left_out_ > 0 || IsLeftOut(rule, attributes);
  open_.push_back({rule, is_left_out});
  if (rule.role == HtmlRole::kSection) ++num_sections_;
  if (!is_left_out) return builder_.Open(rule);
  // What is left out still holds apart what stands around it.
  if (num_left_out_++ == 0) builder_.Open({HtmlRole::kPlain, rule.around});
}

void HtmlEvents::End() {
  if (open_.empty()) return;
  const Element element = open_.back();
  open_.pop_back();
  if (element.rule.role == HtmlRole::kSection) --num_sections_;
  if (element.is_left_out) {
    --num_left_out_;
  } else {
    builder_.Close(element.rule);
  }
}

void HtmlEvents::Text(std::string_view text) {
  const std::uint32_t here = Here();
  const auto size = static_cast<std::uint32_t>(text.size());
  if (here >= size && StandsAt(here - size, text)) return Copy(text, here - size);
  // A long text is given when the parser stands at its last character, and a lone < when it stands there (not one that
  // an entity without its semicolon gave, in front of a < of its own).
  const std::uint32_t longest = size >= kLongTextBytes ? 4 : text == "<" && !EndsWithEntity(here) ? 1 : 0;
  for (std::uint32_t ahead = 1; ahead <= longest; ++ahead) {
    if (here + ahead >= size && StandsAt(here + ahead - size, text)) return Copy(text, here + ahead - size);
  }
  Entity(text, here);
}

void HtmlEvents::Copy(std::string_view text, std::uint32_t at) {
  done_ = at + static_cast<std::uint32_t>(text.size());
  if (num_left_out_ == 0) builder_.AddCopy(text, at);
}

void HtmlEvents::Entity(std::string_view text, std::uint32_t here) {
  const std::string_view passed = source_.substr(done_, here - std::min(done_, here));
  const std::size_t ampersand = passed.rfind('&');
  const bool is_there = ampersand != std::string_view::npos;
  const std::uint32_t begin = is_there ? done_ + static_cast<std::uint32_t>(ampersand) : here;
  // The name of an entity that is not known comes as a text of its own.
  if (is_there && text == "&" && !passed.ends_with(';')) return Copy(text, begin);
  done_ = std::max(done_, here);
  if (num_left_out_ == 0) builder_.AddDecoded(text, {begin, here});
}

// The parser is C: an exception of ours must not pass through it.
template <typename Action>
void Hear(void* context, const Action& action) noexcept {
  HtmlEvents& events = *static_cast<HtmlEvents*>(static_cast<htmlParserCtxtPtr>(context)->_private);
  try {
    action(events);
  } catch (const std::bad_alloc&) {
    events.Fail(Status(StatusCode::kResourceExhausted, {}));
  }
}

void OnStart(void* context, const xmlChar* name, const xmlChar** attributes) {
  Hear(context, [&](HtmlEvents& events) { events.Start(View(name), attributes); });
}
void OnEnd(void* context, const xmlChar* /*name*/) {
  Hear(context, [](HtmlEvents& events) { events.End(); });
}
void OnText(void* context, const xmlChar* text, int size) {
  const std::string_view view(reinterpret_cast<const char*>(text), static_cast<std::size_t>(size));
  Hear(context, [&](HtmlEvents& events) { events.Text(view); });
}
int OnFeed(void* events, char* out, int max_bytes) { return static_cast<HtmlEvents*>(events)->Feed(out, max_bytes); }

struct FreeParser {
  void operator()(htmlParserCtxt* parser) const { htmlFreeParserCtxt(parser); }
};

Result<HtmlText> Parse(std::string_view source) {
  static std::once_flag initialized;
  std::call_once(initialized, xmlInitParser);
  const std::unique_ptr<htmlParserCtxt, FreeParser> parser(htmlNewParserCtxt());
  if (parser == nullptr) return Status::ResourceExhausted("no memory for the HTML parser");
  htmlSAXHandler handler{};
  handler.startElement = OnStart;
  handler.endElement = OnEnd;
  handler.characters = OnText;
  handler.ignorableWhitespace = OnText;
  *parser->sax = handler;
  HtmlEvents events(source, parser.get());
  parser->_private = &events;
  parser->userData = parser.get();
  // The charset is given, so that no declaration in the page changes it. No handler makes a tree: none is returned.
  htmlCtxtReadIO(
      parser.get(), OnFeed, nullptr, &events, nullptr, "UTF-8",
      HTML_PARSE_RECOVER | HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING | HTML_PARSE_NONET | HTML_PARSE_IGNORE_ENC);
  if (parser->lastError.code == XML_ERR_NO_MEMORY) return Status::ResourceExhausted("no memory for an HTML page");
  return events.Take();
}

}  // namespace

Result<HtmlText> ReadHtml(std::string_view source) {
  if (source.size() >= kMaxSourceBytes) {
    return Status::InvalidArgument("a page of " + std::to_string(source.size()) + " bytes; the limit is 2 GiB");
  }
  std::string clean = WithoutControls(source);
  // As spaces, which are no text in front of the first one, so that places stay those of the file.
  if (source.starts_with(kByteOrderMark)) clean.replace(0, kByteOrderMark.size(), kByteOrderMark.size(), ' ');
  return Parse(clean);
}

std::string DeclaredCharset(std::string_view source) {
  std::string head(source.substr(0, 4096));
  for (char& c : head) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  std::size_t begin = head.find("charset=");
  if (begin == std::string::npos) return "";
  begin = head.find_first_not_of("\"' ", begin + 8);
  if (begin == std::string::npos) return "";
  const std::size_t end =
      std::min(head.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_:.", begin), head.size());
  return std::string(source.substr(begin, end - begin));
}

}  // namespace unfold
