// SPDX-License-Identifier: Apache-2.0
#include "text/document_parts.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace unfold {
namespace {

constexpr std::string_view kTitleMark = "{title}";
constexpr std::string_view kTextMark = "{text}";
constexpr int kMinPartTokens = 8;  // any character fits beside a title that takes half
constexpr std::size_t kMaxSourceBytes = INT32_MAX;

// A document template taken apart: before {title} between {text} after.
struct Template {
  std::string before;
  std::string between;
  std::string after;
  bool has_title = false;
};

Status BadTemplate(std::string_view text, const std::string& what) {
  std::string message("document template '");
  message.append(text).append("': ").append(what);
  return Status::InvalidArgument(std::move(message));
}

Result<Template> ParseTemplate(std::string_view text, const Tokenizer& tokenizer) {
  const std::size_t body = text.find(kTextMark);
  if (body == std::string_view::npos || text.find(kTextMark, body + 1) != std::string_view::npos) {
    return BadTemplate(text, "must hold {text} exactly once");
  }
  const std::size_t title = text.find(kTitleMark);
  const bool has_title = title != std::string_view::npos;
  if (has_title && (title > body || text.find(kTitleMark, title + 1) != std::string_view::npos)) {
    return BadTemplate(text, "may hold {title} once, before {text}");
  }
  for (const std::string& special : tokenizer.special_tokens()) {
    if (text.find(special) != std::string_view::npos) {
      return BadTemplate(text, "special token '" + special + "' is not supported: a part is plain text");
    }
  }
  Template parsed;
  parsed.has_title = has_title;
  const std::size_t title_end = has_title ? title + kTitleMark.size() : 0;
  if (has_title) parsed.before = text.substr(0, title);
  parsed.between = text.substr(title_end, body - title_end);
  parsed.after = text.substr(body + kTextMark.size());
  return parsed;
}

// Makes the text of a part piece by piece.
class PartBuilder {
 public:
  explicit PartBuilder(std::string_view source) : source_(source) {}

  void AddSource(ByteRange range) {
    if (!range.empty()) Add(source_.substr(range.begin, range.end - range.begin), range);
  }
  void AddLiteral(std::string_view text, std::uint32_t at) {
    if (!text.empty()) Add(text, {at, at});
  }
  PartText& part() { return part_; }

 private:
  void Add(std::string_view text, ByteRange range) {
    const auto begin = static_cast<std::uint32_t>(part_.text.size());
    part_.text.append(text);
    part_.pieces.push_back({begin, static_cast<std::uint32_t>(part_.text.size()), range.begin, range.end});
  }

  std::string_view source_;
  PartText part_;
};

// Fills parts from the front of one document to its end.
// Not thread-safe; one per document.
class Splitter {
 public:
  Splitter(std::string_view source, const std::optional<TitleRange>& title, const Tokenizer& tokenizer, int part_tokens,
           Template filled)
      : source_(source),
        tokenizer_(tokenizer),
        limit_(static_cast<std::size_t>(part_tokens)),
        template_(std::move(filled)),
        title_(title) {}

  Result<DocumentParts> Run() {
    const ByteRange all = TrimWhiteSpace(source_, {0, static_cast<std::uint32_t>(source_.size())});
    if (all.empty()) return Status::InvalidArgument("document is empty");
    DocumentParts result;
    tokens_ = tokenizer_.Encode(source_);
    const bool may_fit = TokensIn(all) <= 2 * limit_ + kSlackTokens;
    if (may_fit && CountTokens(source_.substr(all.begin, all.end - all.begin)) <= limit_) {
      if (title_) result.title = Text(title_->title);
      PartBuilder builder(source_);
      builder.AddSource(all);
      builder.part().body = all;
      result.parts.push_back(std::move(builder.part()));
      return result;
    }
    if (title_ && !TitleIsUsable(all)) title_.reset();
    if (title_) {
      result.title = Text(title_->title);
      UNFOLD_TRY(Add(UnitLevel::kParagraph, {all.begin, std::max(all.begin, title_->line.begin)}));
      UNFOLD_TRY(Add(UnitLevel::kParagraph, {std::min(all.end, title_->line.end), all.end}));
    } else {
      UNFOLD_TRY(Add(UnitLevel::kParagraph, all));
    }
    Close();
    result.parts = std::move(parts_);
    return result;
  }

 private:
  // A text's token count can differ from that of the same bytes inside the document, since it is cut out at its ends.
  // Texts whose estimate is beyond this slack (and twice the limit) are not tokenized again, so that a document's cost
  // stays in proportion to its length.
  static constexpr std::size_t kSlackTokens = 64;

  std::string_view Text(ByteRange range) const { return source_.substr(range.begin, range.end - range.begin); }
  std::size_t CountTokens(std::string_view text) const { return tokenizer_.Encode(text).size(); }

  // Tokens of the whole document that begin inside `range`.
  std::size_t TokensIn(ByteRange range) const {
    const auto before = [this](std::uint32_t at) {
      return std::lower_bound(tokens_.begin(), tokens_.end(), at,
                              [](const TokenSpan& token, std::uint32_t place) { return token.begin < place; });
    };
    return static_cast<std::size_t>(before(range.end) - before(range.begin));
  }
  std::size_t Estimate(ByteRange body) const { return num_header_tokens_ + TokensIn(body); }

  // A title is used when it leaves at least half of the tokens, and something to put under it.
  bool TitleIsUsable(ByteRange all) {
    if (!template_.has_title) return false;
    const ByteRange line = title_->line;
    const bool something_else = !TrimWhiteSpace(source_, {all.begin, std::max(all.begin, line.begin)}).empty() ||
                                !TrimWhiteSpace(source_, {std::min(all.end, line.end), all.end}).empty();
    num_header_tokens_ = CountTokens(Render({line.end, line.end}).text);
    if (something_else && 2 * num_header_tokens_ <= limit_) return true;
    num_header_tokens_ = 0;
    return false;
  }

  PartText Render(ByteRange body) const {
    PartBuilder builder(source_);
    PartText& part = builder.part();
    part.body = body;
    part.has_title = title_.has_value();
    if (!title_) {
      builder.AddSource(body);
      return std::move(part);
    }
    builder.AddLiteral(template_.before, body.begin);
    builder.AddSource(title_->title);
    part.title_bytes_in_text = static_cast<std::uint32_t>(part.text.size());
    builder.AddLiteral(template_.between, body.begin);
    const ByteRange line = title_->line;
    if (body.begin < line.begin && line.end < body.end) {  // a heading inside: the text goes on behind it
      builder.AddSource({body.begin, line.begin});
      builder.AddSource(TrimWhiteSpace(source_, {line.end, body.end}));
    } else {
      builder.AddSource(body);
    }
    builder.AddLiteral(template_.after, body.begin);
    return std::move(part);
  }

  bool Fits(ByteRange body) const {
    return Estimate(body) <= 2 * limit_ + kSlackTokens && CountTokens(Render(body).text) <= limit_;
  }

  // How many of `units` from `first` on the open part can take. The estimate is the start; the tokens of the final text
  // decide.
  std::size_t NumThatFit(const std::vector<ByteRange>& units, std::size_t first) const {
    const std::uint32_t begin = open_.empty() ? units[first].begin : open_.begin;
    const auto start = units.begin() + static_cast<std::ptrdiff_t>(first);
    const auto estimated = std::partition_point(start, units.end(), [&](const ByteRange& unit) {
      return Estimate({begin, unit.end}) <= limit_;
    });
    auto count = static_cast<std::size_t>(estimated - start);
    const auto fits = [&](std::size_t n) { return Fits({begin, units[first + n - 1].end}); };
    if (count > 0 && !fits(count)) {
      do --count;
      while (count > 0 && !fits(count));
      return count;
    }
    while (first + count < units.size() && fits(count + 1)) ++count;
    return count;
  }

  Status Add(UnitLevel level, ByteRange range) {
    const std::vector<ByteRange> units = CutUnits(source_, range, level, tokens_);
    for (std::size_t next = 0; next < units.size();) {
      const std::size_t count = NumThatFit(units, next);
      if (count > 0) {
        if (open_.empty()) open_.begin = units[next].begin;
        next += count;
        open_.end = units[next - 1].end;
        if (next == units.size()) break;
      }
      const bool is_last_level = level == UnitLevel::kCharacter;
      if (!open_.empty() && (is_last_level || Fits(units[next]))) {
        Close();
      } else if (is_last_level) {
        return Status::InvalidArgument("a character does not fit a part of " + std::to_string(limit_) + " tokens");
      } else {
        UNFOLD_TRY(Add(static_cast<UnitLevel>(static_cast<int>(level) + 1), units[next++]));
      }
    }
    return Status::Ok();
  }

  void Close() {
    if (!open_.empty()) parts_.push_back(Render(open_));
    open_ = {};
  }

  std::string_view source_;
  const Tokenizer& tokenizer_;
  std::size_t limit_;
  Template template_;
  std::optional<TitleRange> title_;
  std::size_t num_header_tokens_ = 0;
  std::vector<TokenSpan> tokens_;  // of the whole source
  ByteRange open_;                 // body of the part being filled
  std::vector<PartText> parts_;
};

}  // namespace

Result<DocumentParts> SplitDocument(std::string_view source, const std::optional<TitleRange>& title,
                                    const Tokenizer& tokenizer, int part_tokens, std::string_view document_template) {
  UNFOLD_TRY_ASSIGN(Template parsed, ParseTemplate(document_template, tokenizer));
  if (part_tokens < kMinPartTokens) {
    return Status::InvalidArgument("part_tokens must be at least " + std::to_string(kMinPartTokens) + ", found " +
                                   std::to_string(part_tokens));
  }
  if (source.size() >= kMaxSourceBytes) {
    return Status::InvalidArgument("a document of " + std::to_string(source.size()) + " bytes; the limit is 2 GiB");
  }
  return Splitter(source, title, tokenizer, part_tokens, std::move(parsed)).Run();
}

}  // namespace unfold
