// SPDX-License-Identifier: Apache-2.0
// Status, Result, element types and strong ids: what every layer of Unfold shares.
//
// No function of Unfold throws. A call that can fail returns Status or Result<T>; both are [[nodiscard]].
// Aborting is kept for a broken invariant of our own, never for bad input.
#ifndef UNFOLD_BASE_H_
#define UNFOLD_BASE_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

// Marks what the shared library exports; everything else stays inside it.
#if defined(_WIN32)
#define UNFOLD_API
#else
#define UNFOLD_API __attribute__((visibility("default")))
#endif

namespace unfold {

enum class StatusCode : std::uint8_t {
  kOk = 0,
  kInvalidArgument,    // the caller's input is wrong: a flag, a file's content, a shape
  kNotFound,           // a collection, document, file or record does not exist
  kCorruption,         // stored or loaded bytes contradict their checksum or format
  kIncompatible,       // bytes are sound, but made by another model, setting or format version
  kUnavailable,        // cannot be done now: store locked by another writer, engine closing
  kResourceExhausted,  // a limit was reached: queue, budget of tokens or bytes, disk
  kCancelled,          // the caller's stop token, sink or deadline ended it
  kIo,                 // the operating system refused a read or write
  kDevice,             // the accelerator failed
  kInternal,           // a bug of ours
};

// The code's name as it is printed, such as "invalid argument".
UNFOLD_API std::string_view StatusCodeName(StatusCode code);

// Outcome of a call: Ok, or a code with a message that names the thing and, where there is one, the fix.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status Ok() { return {}; }
  static Status InvalidArgument(std::string m) { return {StatusCode::kInvalidArgument, std::move(m)}; }
  static Status NotFound(std::string m) { return {StatusCode::kNotFound, std::move(m)}; }
  static Status Corruption(std::string m) { return {StatusCode::kCorruption, std::move(m)}; }
  static Status Incompatible(std::string m) { return {StatusCode::kIncompatible, std::move(m)}; }
  static Status Unavailable(std::string m) { return {StatusCode::kUnavailable, std::move(m)}; }
  static Status ResourceExhausted(std::string m) { return {StatusCode::kResourceExhausted, std::move(m)}; }
  static Status Cancelled(std::string m) { return {StatusCode::kCancelled, std::move(m)}; }
  static Status Io(std::string m) { return {StatusCode::kIo, std::move(m)}; }
  static Status Device(std::string m) { return {StatusCode::kDevice, std::move(m)}; }
  static Status Internal(std::string m) { return {StatusCode::kInternal, std::move(m)}; }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  UNFOLD_API std::string ToString() const;  // "not found: collection 'x' ..."

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// A value or the Status that says why there is none. Reading the value of a failed Result aborts.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    if (status_.ok()) status_ = Status::Internal("Result made from an Ok status without a value");
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& operator*() & { return value_.value(); }
  const T& operator*() const& { return value_.value(); }
  T&& operator*() && { return std::move(value_).value(); }
  T* operator->() { return &value_.value(); }
  const T* operator->() const { return &value_.value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

#define UNFOLD_CONCAT_INNER(a, b) a##b
#define UNFOLD_CONCAT(a, b) UNFOLD_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` (a Status) is not Ok.
#define UNFOLD_TRY(expr)                                   \
  do {                                                     \
    ::unfold::Status unfold_try_status = (expr);           \
    if (!unfold_try_status.ok()) return unfold_try_status; \
  } while (false)

// Evaluates `expr` (a Result<T>); on failure returns its Status, else moves the value into `declaration`.
#define UNFOLD_TRY_ASSIGN(declaration, expr) \
  UNFOLD_TRY_ASSIGN_INNER(UNFOLD_CONCAT(unfold_result_, __LINE__), declaration, expr)
#define UNFOLD_TRY_ASSIGN_INNER(result, declaration, expr) \
  auto result = (expr);                                    \
  if (!result.ok()) return result.status();                \
  declaration = *std::move(result)

// Element types of weights, KV and activations.
enum class DType : std::uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2, kInt8 = 3, kInt32 = 4 };

// Bytes of one element.
constexpr std::size_t DTypeBytes(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kInt32: return 4;
    case DType::kF16:
    case DType::kBF16: return 2;
    case DType::kInt8: return 1;
  }
  return 0;
}

// "f32", "f16", "bf16", "int8", "int32".
UNFOLD_API std::string_view DTypeName(DType type);

// An integer that cannot be mixed up with another kind of integer.
template <typename Tag, typename Rep>
struct StrongId {
  Rep value{};
  friend auto operator<=>(const StrongId&, const StrongId&) = default;
};

using TokenId = std::int32_t;  // an index into the vocabulary; arrays of them go to kernels
using CollectionId = StrongId<struct CollectionTag, std::uint32_t>;
using DocumentId = StrongId<struct DocumentTag, std::uint64_t>;  // unique in a store, never reused

}  // namespace unfold

template <typename Tag, typename Rep>
struct std::hash<unfold::StrongId<Tag, Rep>> {
  std::size_t operator()(const unfold::StrongId<Tag, Rep>& id) const noexcept { return std::hash<Rep>{}(id.value); }
};

#endif  // UNFOLD_BASE_H_
