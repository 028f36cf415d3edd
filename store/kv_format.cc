// SPDX-License-Identifier: Apache-2.0
#include "store/kv_format.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace unfold {
namespace {

constexpr std::string_view kMagic = "UNFR";
constexpr std::size_t kHeaderBytes = 20;    // magic 4, version 2, kind 1, zero 1, crc 4, body length 8
constexpr std::size_t kKvFieldsBytes = 12;  // dtype 1, level 1, kv_heads 2, head_dim 2, zero 2, rows 4
constexpr std::size_t kRecordKeyBytes = 18;
constexpr std::int8_t kTopLevel = 2;  // <MGist>, the highest level that a gist sequence has

// Kinds that are no bulk records follow those of RecordKind in the same byte.
constexpr std::uint8_t kDocumentKind = 5;
constexpr std::uint8_t kPublicationKind = 6;
constexpr std::uint8_t kMetaKind = 7;

constexpr std::uint8_t Byte(RecordKind kind) { return static_cast<std::uint8_t>(kind); }

Status Corrupt(std::string_view name, std::string_view what) {
  return Status::Corruption(std::string(name) + ": " + std::string(what));
}

// A record that cannot be encoded is a bug of the caller: nothing that was read leads here.
void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "unfold: store record: %s\n", what);
  std::abort();
}

std::string Seal(std::uint8_t kind, std::string_view body, std::string_view rest = {}) {
  std::string out;
  out.reserve(kHeaderBytes + body.size() + rest.size());
  out.append(kMagic);
  PutLittle(&out, kStoreFormatVersion, 2);
  PutLittle(&out, kind, 1);
  PutLittle(&out, 0, 1);
  PutLittle(&out, Crc32c(rest, Crc32c(body)), 4);
  PutLittle(&out, body.size() + rest.size(), 8);
  out.append(body);
  out.append(rest);
  return out;
}

// The body of a sealed record, after every check that the header allows.
Result<std::string_view> Unseal(std::uint8_t kind, std::string_view sealed, std::string_view name) {
  if (sealed.size() < kHeaderBytes) return Corrupt(name, "shorter than a record header");
  if (sealed.substr(0, kMagic.size()) != kMagic) return Corrupt(name, "not a record (bad magic)");
  const std::uint64_t version = GetLittle(sealed.substr(4), 2);
  if (version != kStoreFormatVersion) {
    return Status::Incompatible(std::string(name) + ": format version " + std::to_string(version) +
                                "; this program reads version " + std::to_string(kStoreFormatVersion));
  }
  const std::uint64_t found_kind = GetLittle(sealed.substr(6), 1);
  if (found_kind != kind) {
    return Corrupt(name,
                   "record of kind " + std::to_string(found_kind) + " where kind " + std::to_string(kind) + " belongs");
  }
  if (sealed[7] != 0) return Corrupt(name, "reserved byte of the header is not zero");
  const std::string_view body = sealed.substr(kHeaderBytes);
  if (GetLittle(sealed.substr(12), 8) != body.size()) return Corrupt(name, "length differs from what its header says");
  if (GetLittle(sealed.substr(8), 4) != Crc32c(body)) return Corrupt(name, "CRC32C mismatch");
  return body;
}

// Reads fields off the front of a body; after the first field that does not fit, ok() is false and all reads give 0.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : rest_(bytes) {}

  std::uint64_t Int(int width) {
    const std::string_view field = Bytes(static_cast<std::uint64_t>(width));
    return field.empty() ? 0 : GetLittle(field, width);
  }
  std::uint32_t U32() { return static_cast<std::uint32_t>(Int(4)); }
  std::string_view Bytes(std::uint64_t count) {
    if (!ok_ || count > rest_.size()) {
      ok_ = false;
      return {};
    }
    const std::string_view field = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return field;
  }
  std::string_view Sized() { return Bytes(U32()); }
  bool ok() const { return ok_; }
  bool AtEnd() const { return ok_ && rest_.empty(); }
  std::size_t remaining() const { return rest_.size(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

void PutSized(std::string* out, std::string_view bytes) {
  Require(bytes.size() <= UINT32_MAX, "a string of 4 GiB or more");
  PutLittle(out, bytes.size(), 4);
  out->append(bytes);
}

void PutSpan(std::string* out, const ByteSpan& span) {
  PutLittle(out, span.begin, 4);
  PutLittle(out, span.end, 4);
}

ByteSpan ReadSpan(FieldReader& fields) {
  const std::uint32_t begin = fields.U32();
  return {begin, fields.U32()};
}

// What must hold between the fields of a table, or nullptr.
const char* TableFault(const ChunkTable& table) {
  std::uint64_t in_chunks = 0;
  for (std::uint16_t tokens : table.chunk_tokens) in_chunks += tokens;
  if (table.token_ids.size() != table.token_spans.size()) return "token ids and spans differ in number";
  if (in_chunks + table.num_sinks != table.token_ids.size())
    return "chunk lengths and sinks do not add up to its tokens";
  if (table.num_title_tokens > table.token_ids.size()) return "more title tokens than tokens";
  const auto turned = [](const ByteSpan& span) { return span.begin > span.end; };
  if (std::any_of(table.token_spans.begin(), table.token_spans.end(), turned))
    return "a token span ends before it begins";
  const auto negative = [](std::int32_t id) { return id < 0; };
  if (std::any_of(table.token_ids.begin(), table.token_ids.end(), negative)) return "a negative token id";
  return nullptr;
}

bool LevelFits(RecordKind kind, std::int8_t level) {
  return kind == RecordKind::kRaw ? level == -1 : level >= 0 && level <= kTopLevel;
}

}  // namespace

void PutLittle(std::string* out, std::uint64_t value, int width) {
  for (int i = 0; i < width; ++i) out->push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

std::uint64_t GetLittle(std::string_view bytes, int width) {
  std::uint64_t value = 0;
  for (int i = width - 1; i >= 0; --i) value = (value << 8) | static_cast<unsigned char>(bytes[i]);
  return value;
}

void PutBig(std::string* out, std::uint64_t value, int width) {
  for (int i = width - 1; i >= 0; --i) out->push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

std::uint64_t GetBig(std::string_view bytes, int width) {
  std::uint64_t value = 0;
  for (int i = 0; i < width; ++i) value = (value << 8) | static_cast<unsigned char>(bytes[i]);
  return value;
}

std::uint32_t Crc32c(std::string_view bytes, std::uint32_t seed) {
  constexpr std::size_t kMaxStep = std::size_t{1} << 30;  // the library takes an int
  std::uint32_t crc = ~seed;                              // it neither starts from ones nor inverts at the end
  while (!bytes.empty()) {
    const std::size_t step = std::min(bytes.size(), kMaxStep);
    // The library's parameter is not const, but it only reads.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    crc = crc32_iscsi(data, static_cast<int>(step), crc);
    bytes.remove_prefix(step);
  }
  return ~crc;
}

std::string RecordKey::Encode() const {
  std::string out;
  out.reserve(kRecordKeyBytes);
  PutBig(&out, document.value, 8);
  PutBig(&out, part, 4);
  PutBig(&out, layer, 2);
  PutBig(&out, block, 4);
  return out;
}

std::string RecordKey::ToString() const {
  const std::string of_document = " of document " + std::to_string(document.value);
  const std::string of_part = of_document + ", part " + std::to_string(part);
  const std::string of_layer = of_part + ", layer " + std::to_string(layer);
  switch (kind) {
    case RecordKind::kText: return "text" + of_document;
    case RecordKind::kChunks: return "chunk table" + of_part;
    case RecordKind::kGist: return "gist KV" + of_layer;
    case RecordKind::kRaw: return "raw KV" + of_layer + ", block " + std::to_string(block);
  }
  return "record of unknown kind" + of_layer;
}

Result<RecordKey> DecodeRecordKey(RecordKind kind, std::string_view bytes) {
  if (bytes.size() != kRecordKeyBytes) {
    return Status::Corruption("a bulk key of " + std::to_string(bytes.size()) + " bytes; keys have " +
                              std::to_string(kRecordKeyBytes));
  }
  RecordKey key;
  key.kind = kind;
  key.document.value = GetBig(bytes, 8);
  key.part = static_cast<std::uint32_t>(GetBig(bytes.substr(8), 4));
  key.layer = static_cast<std::uint16_t>(GetBig(bytes.substr(12), 2));
  key.block = static_cast<std::uint32_t>(GetBig(bytes.substr(14), 4));
  return key;
}

std::string FirstKeyOf(DocumentId document) { return RecordKey{.document = document}.Encode(); }

std::string EncodeDocumentKey(CollectionId collection, std::string_view name) {
  std::string out;
  PutBig(&out, collection.value, 4);
  out.append(name);
  return out;
}

Result<std::pair<CollectionId, std::string>> DecodeDocumentKey(std::string_view bytes) {
  if (bytes.size() < 4) return Status::Corruption("a document key shorter than a collection id");
  const CollectionId collection{static_cast<std::uint32_t>(GetBig(bytes, 4))};
  return std::pair(collection, std::string(bytes.substr(4)));
}

std::string SealText(std::string_view text) { return Seal(Byte(RecordKind::kText), text); }

std::string SealChunks(const ChunkTable& table) {
  const char* fault = TableFault(table);
  Require(fault == nullptr, fault);
  std::string body;
  body.reserve(16 + table.token_ids.size() * 12 + table.chunk_tokens.size() * 2);
  PutLittle(&body, table.token_ids.size(), 4);
  PutLittle(&body, table.num_sinks, 4);
  PutLittle(&body, table.num_title_tokens, 4);
  PutLittle(&body, table.chunk_tokens.size(), 4);
  for (std::int32_t id : table.token_ids) PutLittle(&body, static_cast<std::uint32_t>(id), 4);
  for (const ByteSpan& span : table.token_spans) PutSpan(&body, span);
  for (std::uint16_t tokens : table.chunk_tokens) PutLittle(&body, tokens, 2);
  return Seal(Byte(RecordKind::kChunks), body);
}

std::string SealKv(RecordKind kind, const KvHeader& header, std::string_view payload) {
  Require(kind == RecordKind::kGist || kind == RecordKind::kRaw, "KV of a kind that holds none");
  Require(IsKvType(header.dtype), "KV of a type that is not stored");
  Require(LevelFits(kind, header.level), "KV of a level that does not belong to its kind");
  Require(header.kv_heads > 0 && header.head_dim > 0, "KV without heads or head dimension");
  Require(payload.size() == header.PayloadBytes(), "KV payload of another size than its header says");
  std::string fields;
  PutLittle(&fields, static_cast<std::uint8_t>(header.dtype), 1);
  PutLittle(&fields, static_cast<std::uint8_t>(header.level), 1);
  PutLittle(&fields, header.kv_heads, 2);
  PutLittle(&fields, header.head_dim, 2);
  PutLittle(&fields, 0, 2);
  PutLittle(&fields, header.num_rows, 4);
  return Seal(Byte(kind), fields, payload);
}

std::string SealDocument(const DocumentRecord& record) {
  std::string body;
  PutSized(&body, record.name);
  PutSized(&body, record.title);
  for (std::uint64_t half : record.content_hash) PutLittle(&body, half, 8);
  PutLittle(&body, record.text_bytes, 8);
  PutLittle(&body, static_cast<std::uint8_t>(record.format), 8);
  for (int kind = 1; kind < 5; ++kind) PutLittle(&body, record.stored_bytes[kind], 8);
  PutLittle(&body, record.parts.size(), 4);
  for (const PartSummary& part : record.parts) {
    PutLittle(&body, part.num_tokens, 4);
    PutLittle(&body, part.num_sinks, 4);
    PutLittle(&body, part.num_chunks, 4);
    PutLittle(&body, part.num_gists, 4);
    PutSpan(&body, part.body);
  }
  return Seal(kDocumentKind, body);
}

std::string SealPublication(DocumentId document, const DocumentRecord& record) {
  std::string id;
  PutLittle(&id, document.value, 8);
  return Seal(kPublicationKind, id, SealDocument(record));
}

std::string SealMeta(std::string_view body) { return Seal(kMetaKind, body); }

Status CheckSealed(RecordKind kind, std::string_view sealed, std::string_view name) {
  return Unseal(Byte(kind), sealed, name).status();
}

Result<std::string_view> OpenText(std::string_view sealed, std::string_view name) {
  return Unseal(Byte(RecordKind::kText), sealed, name);
}

Result<ChunkTable> OpenChunks(std::string_view sealed, std::string_view name) {
  UNFOLD_TRY_ASSIGN(const std::string_view body, Unseal(Byte(RecordKind::kChunks), sealed, name));
  FieldReader fields(body);
  const std::uint64_t num_tokens = fields.U32();
  ChunkTable table;
  table.num_sinks = fields.U32();
  table.num_title_tokens = fields.U32();
  const std::uint64_t num_chunks = fields.U32();
  // Checked before anything is allocated, so that counts cannot ask for more memory than the record has bytes.
  if (!fields.ok() || fields.remaining() != num_tokens * 12 + num_chunks * 2) {
    return Corrupt(name, "counts do not fit its length");
  }
  table.token_ids.reserve(num_tokens);
  table.token_spans.reserve(num_tokens);
  table.chunk_tokens.reserve(num_chunks);
  for (std::uint64_t i = 0; i < num_tokens; ++i) table.token_ids.push_back(static_cast<std::int32_t>(fields.U32()));
  for (std::uint64_t i = 0; i < num_tokens; ++i) table.token_spans.push_back(ReadSpan(fields));
  for (std::uint64_t i = 0; i < num_chunks; ++i)
    table.chunk_tokens.push_back(static_cast<std::uint16_t>(fields.Int(2)));
  if (const char* fault = TableFault(table); fault != nullptr) return Corrupt(name, fault);
  return table;
}

Result<KvView> OpenKv(RecordKind kind, std::string_view sealed, std::string_view name) {
  if (kind != RecordKind::kGist && kind != RecordKind::kRaw) {
    return Status::InvalidArgument(std::string(name) + ": records of this kind hold no KV");
  }
  UNFOLD_TRY_ASSIGN(const std::string_view body, Unseal(Byte(kind), sealed, name));
  if (body.size() < kKvFieldsBytes) return Corrupt(name, "shorter than its KV fields");
  FieldReader fields(body);
  KvView view;
  view.header.dtype = static_cast<DType>(fields.Int(1));
  view.header.level = static_cast<std::int8_t>(fields.Int(1));
  view.header.kv_heads = static_cast<std::uint16_t>(fields.Int(2));
  view.header.head_dim = static_cast<std::uint16_t>(fields.Int(2));
  if (fields.Int(2) != 0) return Corrupt(name, "reserved bytes of the KV fields are not zero");
  view.header.num_rows = fields.U32();
  view.payload = body.substr(kKvFieldsBytes);
  if (!IsKvType(view.header.dtype)) {
    return Status::Incompatible(std::string(name) + ": KV of type " +
                                std::to_string(static_cast<int>(view.header.dtype)) + ", not known to this program");
  }
  if (!LevelFits(kind, view.header.level)) {
    return Corrupt(name, "level " + std::to_string(view.header.level) + " does not belong to its kind");
  }
  // Divided rather than multiplied: rows * heads * dim may not fit 64 bits.
  const std::uint64_t row_bytes = 2 * view.header.row_bytes(), scale_bytes = 2 * view.header.scale_bytes();
  if (row_bytes == 0) return Corrupt(name, "no heads or no head dimension");
  const std::uint64_t rows_bytes = view.payload.size() - scale_bytes;
  if (view.payload.size() < scale_bytes || rows_bytes % row_bytes != 0 ||
      rows_bytes / row_bytes != view.header.num_rows) {
    return Corrupt(name, "payload of another size than its fields say");
  }
  return view;
}

Result<DocumentRecord> OpenDocument(std::string_view sealed, std::string_view name) {
  UNFOLD_TRY_ASSIGN(const std::string_view body, Unseal(kDocumentKind, sealed, name));
  FieldReader fields(body);
  DocumentRecord record;
  record.name = fields.Sized();
  record.title = fields.Sized();
  for (std::uint64_t& half : record.content_hash) half = fields.Int(8);
  record.text_bytes = fields.Int(8);
  const std::uint64_t format = fields.Int(8);
  if (format > static_cast<std::uint64_t>(TextFormat::kHtml)) {
    return Status::Incompatible(std::string(name) + ": text of format " + std::to_string(format) +
                                ", not known to this program");
  }
  record.format = static_cast<TextFormat>(format);
  for (int kind = 1; kind < 5; ++kind) record.stored_bytes[kind] = fields.Int(8);
  const std::uint64_t num_parts = fields.U32();
  if (!fields.ok() || fields.remaining() != num_parts * 24) return Corrupt(name, "counts do not fit its length");
  record.parts.resize(num_parts);
  for (PartSummary& part : record.parts) {
    part.num_tokens = fields.U32();
    part.num_sinks = fields.U32();
    part.num_chunks = fields.U32();
    part.num_gists = fields.U32();
    part.body = ReadSpan(fields);
    if (part.body.begin > part.body.end) return Corrupt(name, "a part's body ends before it begins");
  }
  return record;
}

Result<std::pair<DocumentId, DocumentRecord>> OpenPublication(std::string_view sealed, std::string_view name) {
  UNFOLD_TRY_ASSIGN(const std::string_view body, Unseal(kPublicationKind, sealed, name));
  if (body.size() < 8) return Corrupt(name, "shorter than a document id");
  UNFOLD_TRY_ASSIGN(DocumentRecord record, OpenDocument(body.substr(8), name));
  return std::pair(DocumentId{GetLittle(body, 8)}, std::move(record));
}

Result<std::string_view> OpenMeta(std::string_view sealed, std::string_view name) {
  return Unseal(kMetaKind, sealed, name);
}

Status CheckRecord(const RecordKey& key, std::string_view sealed) {
  switch (key.kind) {
    case RecordKind::kText: return OpenText(sealed, key.ToString()).status();
    case RecordKind::kChunks: return OpenChunks(sealed, key.ToString()).status();
    case RecordKind::kGist:
    case RecordKind::kRaw: return OpenKv(key.kind, sealed, key.ToString()).status();
  }
  return Status::Internal("a record of unknown kind");
}

}  // namespace unfold
