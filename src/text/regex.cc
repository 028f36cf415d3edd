// SPDX-License-Identifier: Apache-2.0
#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "text/utf8.h"

namespace unfold {
namespace {

constexpr std::size_t kMaxPatternBytes = 64 * 1024;
// Steps that one match may take: enough to go over the whole text some times, not for what grows faster.
constexpr std::uint64_t kBaseMatchLimit = 1'000'000;
constexpr std::uint64_t kMatchLimitPerByte = 16;
constexpr std::uint32_t kHeapLimitKib = 256 * 1024;  // where there is no JIT
constexpr std::size_t kJitStackStartBytes = 64 * 1024;
constexpr std::size_t kJitStackMaxBytes = 64 * 1024 * 1024;  // reserved on need, for long runs with backtracking

bool IsAsciiPunctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

// Copies a pattern from Oniguruma's dialect to PCRE2's, or says what stands in the way.
// Not thread-safe.
class PatternTranslator {
 public:
  explicit PatternTranslator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> Run() {
    while (at_ < pattern_.size()) UNFOLD_TRY(Step());
    if (in_class_) return Status::InvalidArgument("a '[' is not closed");
    return std::move(out_);
  }

 private:
  bool Sees(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  Status Refuse(std::string_view construct) const {
    std::string message("'");
    message.append(construct).append("' at byte ").append(std::to_string(at_)).append(" is not supported");
    return Status::InvalidArgument(std::move(message));
  }

  void Copy(std::size_t num_bytes) {
    out_.append(pattern_.substr(at_, num_bytes));
    at_ += num_bytes;
  }

  Status Step() {
    if (pattern_[at_] == '\\') return Escape();
    return in_class_ ? InClass() : Outside();
  }

  Status Escape() {
    if (at_ + 1 == pattern_.size()) return Refuse("\\");
    const char c = pattern_[at_ + 1];
    if (c == 's' || c == 'S') {
      out_ += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      at_ += 2;
      return Status::Ok();
    }
    if (c == 'p' || c == 'P' || c == 'x') return BracedEscape();
    if (!IsAsciiPunctuation(c) && std::string_view("nrtfdD").find(c) == std::string_view::npos) {
      return Refuse(pattern_.substr(at_, 2));
    }
    Copy(2);
    return Status::Ok();
  }

  Status BracedEscape() {
    const std::size_t close = pattern_.find('}', at_);
    if (at_ + 2 >= pattern_.size() || pattern_[at_ + 2] != '{' || close == std::string_view::npos) {
      return Refuse(pattern_.substr(at_, 2));
    }
    Copy(close + 1 - at_);
    return Status::Ok();
  }

  Status InClass() {
    if (Sees("[") || Sees("&&")) return Refuse(Sees("[") ? "[" : "&&");  // Oniguruma's set operations
    if (Sees("]")) in_class_ = false;
    Copy(1);
    return Status::Ok();
  }

  Status Outside() {
    for (const std::string_view differs : {"^", "$", "(*", "{,", "}+"}) {
      if (Sees(differs)) return Refuse(differs);
    }
    if (Sees("(?")) return Group();
    if (Sees("[")) {
      in_class_ = true;
      Copy(pattern_.substr(at_).starts_with("[^") ? 2 : 1);
      if (Sees("]")) return Refuse("]");  // a literal to one engine, an empty class to others
      return Status::Ok();
    }
    Copy(1);
    return Status::Ok();
  }

  Status Group() {
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (Sees(known)) {
        Copy(known.size());
        return Status::Ok();
      }
    }
    return Refuse(pattern_.substr(at_, 3));
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }
};

Result<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) return Status::InvalidArgument("a pattern of more than 64 KiB");
  UNFOLD_TRY_ASSIGN(const std::string translated, PatternTranslator(pattern).Run());
  return CompilePcre2(translated);
}

Result<Regex> Regex::Literal(std::string_view text) {
  if (text.empty()) return Status::InvalidArgument("an empty pattern");
  if (text.size() > kMaxPatternBytes) return Status::InvalidArgument("a pattern of more than 64 KiB");
  std::string escaped;
  for (const char c : text) {
    if (IsAsciiPunctuation(c)) escaped += '\\';
    escaped += c;
  }
  return CompilePcre2(escaped);
}

Result<Regex> Regex::CompilePcre2(std::string_view pattern) {
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (context == nullptr) return Status::ResourceExhausted("no memory for a regex");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  auto code = std::make_shared<Code>();
  int error = 0;
  PCRE2_SIZE place = 0;
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &place, context.get());
  if (code->code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return Status::InvalidArgument(std::string(reinterpret_cast<const char*>(message)) + " (byte " +
                                   std::to_string(place) + ")");
  }
  (void)pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);  // without it PCRE2 interprets: slower, the same matches
  return Regex(std::move(code));
}

bool Regex::Matches(std::string_view text) const {
  RegexMatcher matcher(*this);
  matcher.Reset(text);
  std::size_t begin = 0;
  std::size_t end = 0;
  return matcher.Next(&begin, &end);
}

struct RegexMatcher::State {
  std::shared_ptr<const Regex::Code> code;
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;

  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }

  // JIT code runs on 32 KiB of the machine stack until that is too little for a text.
  bool GrowStack() {
    if (stack != nullptr) return false;
    stack = pcre2_jit_stack_create(kJitStackStartBytes, kJitStackMaxBytes, nullptr);
    if (stack == nullptr) return false;
    pcre2_jit_stack_assign(context, nullptr, stack);
    return true;
  }
};

RegexMatcher::RegexMatcher(const Regex& regex) : state_(std::make_unique<State>()) {
  state_->code = regex.code_;
  state_->data = pcre2_match_data_create(1, nullptr);  // only the whole match is asked for
  state_->context = pcre2_match_context_create(nullptr);
  if (state_->context != nullptr) pcre2_set_heap_limit(state_->context, kHeapLimitKib);
}

RegexMatcher::~RegexMatcher() = default;

void RegexMatcher::Reset(std::string_view text) {
  text_ = text;
  next_ = 0;
  last_end_ = static_cast<std::size_t>(-1);
  const std::uint64_t limit = kBaseMatchLimit + kMatchLimitPerByte * text.size();
  if (state_->context != nullptr) {
    pcre2_set_match_limit(state_->context, static_cast<std::uint32_t>(std::min<std::uint64_t>(limit, UINT32_MAX)));
  }
}

int RegexMatcher::MatchAt(std::size_t at) {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  const auto match = [&] {
    return pcre2_match(state_->code->code, subject, text_.size(), at, PCRE2_NO_UTF_CHECK, state_->data,
                       state_->context);
  };
  const int code = match();
  return code == PCRE2_ERROR_JIT_STACKLIMIT && state_->GrowStack() ? match() : code;
}

bool RegexMatcher::Next(std::size_t* begin, std::size_t* end) {
  while (next_ <= text_.size()) {
    if (state_->data == nullptr || state_->context == nullptr || MatchAt(next_) < 0) break;
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(state_->data);
    *begin = offsets[0];
    *end = offsets[1];
    const bool empty = *begin >= *end;
    if (!empty || *end != last_end_) {
      next_ = last_end_ = *end;
      return true;
    }
    next_ += next_ < text_.size() ? DecodeUtf8(text_.substr(next_)).size : 1;
  }
  next_ = text_.size() + 1;
  return false;
}

}  // namespace unfold
