// SPDX-License-Identifier: Apache-2.0
// The only truth about the bytes of a store: keys, record headers and payloads. FORMAT.md has the byte tables.
// All integers little-endian in values and big-endian in keys, written by encoders, never by copying structs.
// Unknown version: Incompatible. Bad magic, length or CRC32C: Corruption naming the key. No input aborts.
#ifndef UNFOLD_STORE_KV_FORMAT_H_
#define UNFOLD_STORE_KV_FORMAT_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unfold/base.h"
#include "unfold/options.h"

namespace unfold {

inline constexpr std::uint16_t kStoreFormatVersion = 1;
inline constexpr std::uint32_t kChunksPerRawBlock = 32;  // raw KV is stored in blocks of this many whole chunks

// Kinds of bulk records, one column family each.
enum class RecordKind : std::uint8_t {
  kText = 1,    // the document's source text
  kChunks = 2,  // tokens, byte spans and chunk lengths of one part
  kGist = 3,    // KV of one part and layer that every query reads: sinks, then gists
  kRaw = 4,     // KV of one part, layer and block of chunks: raw tokens without the sinks. Layer 0 has none: its raw
                // tokens are never attended (method.md section 4)
};

// Names one bulk record. Sorted so that a document's records of one kind are one range.
struct RecordKey {
  RecordKind kind = RecordKind::kText;
  DocumentId document;
  std::uint32_t part = 0;
  std::uint16_t layer = 0;
  std::uint32_t block = 0;
  friend bool operator==(const RecordKey&, const RecordKey&) = default;

  std::string Encode() const;    // fixed width, big-endian
  std::string ToString() const;  // "raw KV of document 12, part 0, layer 3, block 1"
};

// Half-open range of bytes in the document's source text.
struct ByteSpan {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  friend bool operator==(const ByteSpan&, const ByteSpan&) = default;
};

// One encoded unit of a document.
struct PartSummary {
  std::uint32_t num_tokens = 0;  // raw tokens
  std::uint32_t num_sinks = 0;
  std::uint32_t num_chunks = 0;
  std::uint32_t num_gists = 0;  // all levels
  ByteSpan body;                // source bytes of the body (the title not counted)
  friend bool operator==(const PartSummary&, const PartSummary&) = default;
};

// What makes a document visible, and all that listing needs.
struct DocumentRecord {
  std::string name;
  std::string title;                       // empty when there is none
  TextFormat format = TextFormat::kPlain;  // how the source text is read
  std::uint64_t content_hash[2] = {0, 0};  // XXH3-128 of the source text and of what shapes its parts
  std::uint64_t text_bytes = 0;
  std::uint64_t stored_bytes[5] = {0, 0, 0, 0, 0};  // values by RecordKind (index = kind; 0 is none)
  std::vector<PartSummary> parts;
  friend bool operator==(const DocumentRecord&, const DocumentRecord&) = default;
};

// The kChunks record.
struct ChunkTable {
  std::vector<std::int32_t> token_ids;      // raw tokens, in order
  std::vector<ByteSpan> token_spans;        // source bytes of each; a title's tokens cite the title's bytes
  std::uint32_t num_sinks = 0;              // first tokens, before chunk 0
  std::vector<std::uint16_t> chunk_tokens;  // raw tokens of each chunk, sinks not counted
  std::uint32_t num_title_tokens = 0;       // first tokens that repeat the title in front of a part's body
  friend bool operator==(const ChunkTable&, const ChunkTable&) = default;
};

// Header of a kGist or kRaw record. Payload: K then V, each [rows, kv_heads, head_dim] of dtype, keys not rotated,
// row-major; before them, for int8, their scales, bf16 [kv_heads, head_dim] each: an element stands for its value times
// the scale of its head and channel. Positions of rows follow from the ChunkTable. Rows of a kGist record: sinks, then
// the gists of each level in order, lowest level first.
struct KvHeader {
  DType dtype = DType::kBF16;  // f32, bf16 or int8
  std::int8_t level = -1;      // -1: raw tokens; kGist records hold sinks and gists up to this level
  std::uint32_t num_rows = 0;
  std::uint16_t kv_heads = 0;
  std::uint16_t head_dim = 0;
  friend bool operator==(const KvHeader&, const KvHeader&) = default;
  std::size_t row_bytes() const { return std::size_t{kv_heads} * head_dim * DTypeBytes(dtype); }  // of K, or of V
  std::size_t scale_bytes() const {                                                               // of K, or of V
    return dtype == DType::kInt8 ? std::size_t{kv_heads} * head_dim * DTypeBytes(DType::kBF16) : 0;
  }
  std::size_t PayloadBytes() const { return 2 * (scale_bytes() + num_rows * row_bytes()); }
};

// The types that KV is stored in.
constexpr bool IsKvType(DType type) { return type == DType::kF32 || type == DType::kBF16 || type == DType::kInt8; }

// Sealed records: magic, version, kind, body length, CRC32C of the body, body.
std::string SealText(std::string_view text);
std::string SealChunks(const ChunkTable& table);
// `payload` has header.PayloadBytes() bytes.
std::string SealKv(RecordKind kind, const KvHeader& header, std::string_view payload);
std::string SealDocument(const DocumentRecord& record);

// What the store itself keeps: the value of a `docs` key (the id and its SealDocument), and values of `meta` keys.
std::string SealPublication(DocumentId document, const DocumentRecord& record);
std::string SealMeta(std::string_view body);

// Checks magic, version, kind, length and CRC. `name` goes into the message.
Status CheckSealed(RecordKind kind, std::string_view sealed, std::string_view name);

// Readers of sealed records; each checks all that CheckSealed does, and its own fields.
Result<std::string_view> OpenText(std::string_view sealed, std::string_view name);  // a view into `sealed`
Result<ChunkTable> OpenChunks(std::string_view sealed, std::string_view name);
struct KvView {
  KvHeader header;
  std::string_view payload;  // a view into the sealed record; not aligned beyond 4 bytes

  const char* k_scale() const { return payload.data(); }
  const char* v_scale() const { return payload.data() + header.scale_bytes(); }
  const char* k_row(std::size_t row) const {
    return payload.data() + 2 * header.scale_bytes() + row * header.row_bytes();
  }
  const char* v_row(std::size_t row) const { return k_row(header.num_rows + row); }
};
Result<KvView> OpenKv(RecordKind kind, std::string_view sealed, std::string_view name);
Result<DocumentRecord> OpenDocument(std::string_view sealed, std::string_view name);
Result<std::pair<DocumentId, DocumentRecord>> OpenPublication(std::string_view sealed, std::string_view name);
Result<std::string_view> OpenMeta(std::string_view sealed, std::string_view name);  // a view into `sealed`
// Opens a bulk record of any kind and drops what it says: a full check.
Status CheckRecord(const RecordKey& key, std::string_view sealed);

// Keys. A bulk key read back; the keys of one document are [first, first of the next id).
Result<RecordKey> DecodeRecordKey(RecordKind kind, std::string_view bytes);
std::string FirstKeyOf(DocumentId document);
// Keys of `docs`: collection id, then the name's bytes, so that a collection's documents are one range in name order.
std::string EncodeDocumentKey(CollectionId collection, std::string_view name);
Result<std::pair<CollectionId, std::string>> DecodeDocumentKey(std::string_view bytes);

// Little-endian integers of `width` bytes in values, big-endian in keys.
void PutLittle(std::string* out, std::uint64_t value, int width);
std::uint64_t GetLittle(std::string_view bytes, int width);  // `bytes` holds at least `width`
void PutBig(std::string* out, std::uint64_t value, int width);
std::uint64_t GetBig(std::string_view bytes, int width);

// CRC32C (Castagnoli), as in iSCSI: Crc32c("123456789") is 0xE3069283. `seed` is the CRC of what came before.
std::uint32_t Crc32c(std::string_view bytes, std::uint32_t seed = 0);

}  // namespace unfold

#endif  // UNFOLD_STORE_KV_FORMAT_H_
