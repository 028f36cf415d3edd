// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_file.h"

namespace unfold {
namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxFields = 4096;  // of an object outside the vocabulary: ordered objects are searched linearly

// Receives the events of nlohmann's parser. Returning false ends the parse; `status()` then says why.
// Not thread-safe.
class FileBuilder {
 public:
  FileBuilder(const std::string& name, TokenizerFile* file) : name_(name), file_(file) {}

  const Status& status() const { return status_; }

  bool null() { return Value(nullptr, "null"); }
  bool boolean(bool value) { return Value(value, "a boolean"); }
  bool number_integer(std::int64_t value) { return place_ == kVocab ? Token(value) : Value(value, "a number"); }
  bool number_unsigned(std::uint64_t value) {
    if (place_ != kVocab) return Value(value, "a number");
    return Token(value > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(value));
  }
  bool number_float(double value, const std::string& /*text*/) { return Value(value, "a fraction"); }
  bool string(std::string& value) {
    if (place_ == kMerges) return MergeLine(value);
    if (place_ == kMergePair) return MergePart(value);
    return Value(std::move(value), "a string");
  }
  bool binary(Json::binary_t& /*value*/) { return Fail("binary data"); }

  bool start_object(std::size_t /*size*/) {
    if (place_ != kRest) return Unexpected("an object");
    if (AtModel("vocab")) {
      place_ = kVocab;
      file_->has_vocab = true;
      return true;
    }
    return Open(Json::object());
  }

  bool key(std::string& text) {
    if (place_ == kRest && stack_.back()->size() >= kMaxFields) {
      return Fail("an object of more than " + std::to_string(kMaxFields) + " fields");
    }
    key_ = std::move(text);
    return true;
  }

  bool end_object() {
    if (place_ == kVocab) {
      place_ = kRest;
    } else {
      stack_.pop_back();
    }
    return true;
  }

  bool start_array(std::size_t /*size*/) {
    if (place_ == kMerges) {
      place_ = kMergePair;
      pair_.clear();
      return true;
    }
    if (place_ != kRest) return Unexpected("an array");
    if (AtModel("merges")) {
      place_ = kMerges;
      file_->has_merges = true;
      return true;
    }
    return Open(Json::array());
  }

  bool end_array() {
    if (place_ == kMergePair) {
      place_ = kMerges;
      if (pair_.size() != 2) return BadMerge();
      file_->merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
    } else if (place_ == kMerges) {
      place_ = kRest;
    } else {
      stack_.pop_back();
    }
    return true;
  }

  bool parse_error(std::size_t /*byte*/, const std::string& /*token*/, const nlohmann::json::exception& error) {
    status_ = Status::Corruption(name_ + ": not valid JSON: " + error.what());
    return false;
  }

 private:
  enum Place { kRest, kVocab, kMerges, kMergePair };

  bool Fail(const std::string& what) {
    status_ = Status::InvalidArgument(name_ + ": " + what);
    return false;
  }

  bool BadMerge() {
    return Fail("merge " + std::to_string(file_->merges.size()) + " must be \"a b\" or [\"a\", \"b\"]");
  }

  bool Unexpected(const std::string& found) {
    if (place_ == kVocab) return Fail("vocab: the id of '" + key_ + "' must be an integer, found " + found);
    return BadMerge();
  }

  // Whether the value that comes is model.<field>.
  bool AtModel(std::string_view field) const {
    return stack_.size() == 2 && key_ == field && file_->rest.is_object() && file_->rest.contains("model") &&
           stack_.back() == &file_->rest["model"];
  }

  bool Token(std::int64_t id) {
    file_->vocab.emplace_back(std::move(key_), id);
    key_.clear();
    return true;
  }

  bool MergeLine(const std::string& line) {
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) return BadMerge();
    file_->merges.emplace_back(line.substr(0, space), line.substr(space + 1));
    return true;
  }

  bool MergePart(std::string& text) {
    if (pair_.size() == 2) return BadMerge();
    pair_.push_back(std::move(text));
    return true;
  }

  bool Value(Json value, const char* what) {
    if (place_ != kRest) return Unexpected(what);
    Put(std::move(value));
    return true;
  }

  bool Open(Json container) {
    if (stack_.size() >= kMaxDepth) return Fail("nested deeper than " + std::to_string(kMaxDepth) + " levels");
    stack_.push_back(Put(std::move(container)));
    return true;
  }

  Json* Put(Json value) {
    if (stack_.empty()) return &(file_->rest = std::move(value));
    Json& parent = *stack_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }

  const std::string& name_;
  TokenizerFile* file_;
  Status status_;
  Place place_ = kRest;
  std::vector<Json*> stack_;  // open containers of `rest`; the last one is being filled, so the others do not move
  std::string key_;
  std::vector<std::string> pair_;
};

}  // namespace

Result<TokenizerFile> ReadTokenizerFile(std::string_view json, const std::string& name) {
  TokenizerFile file;
  FileBuilder builder(name, &file);
  if (!Json::sax_parse(json.begin(), json.end(), &builder)) {
    if (builder.status().ok()) return Status::Corruption(name + ": not valid JSON");
    return builder.status();
  }
  return file;
}

}  // namespace unfold
