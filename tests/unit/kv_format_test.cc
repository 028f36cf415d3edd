// SPDX-License-Identifier: Apache-2.0
// Exact bytes of every record, round trips, and what each kind of damage is called.
#include "store/kv_format.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

namespace unfold {
namespace {

std::string Hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const char byte : bytes) {
    out.push_back(kDigits[static_cast<unsigned char>(byte) >> 4]);
    out.push_back(kDigits[static_cast<unsigned char>(byte) & 15]);
  }
  return out;
}

DocumentRecord SmallDocument() {
  DocumentRecord record;
  record.name = "a/b.md";
  record.title = "T";
  record.content_hash[0] = 0x0102030405060708;
  record.content_hash[1] = 0x1112131415161718;
  record.text_bytes = 300;
  for (std::uint64_t i = 0; i < 5; ++i) record.stored_bytes[i] = i * 256;
  record.parts = {{10, 3, 2, 2, {0, 200}}, {5, 3, 1, 1, {200, 300}}};
  return record;
}

ChunkTable SmallTable() {
  ChunkTable table;
  table.token_ids = {7, 300, 70000};
  table.token_spans = {{0, 2}, {2, 3}, {3, 9}};
  table.num_sinks = 1;
  table.chunk_tokens = {2};
  table.num_title_tokens = 1;
  return table;
}

std::string SmallGist() {
  return SealKv(RecordKind::kGist, {DType::kBF16, 0, 2, 1, 2},
                std::string("\x01\x02\x03\x04\x05\x06\x07\x08"
                            "\x11\x12\x13\x14\x15\x16\x17\x18"));
}

std::string SmallRaw() { return SealKv(RecordKind::kRaw, {DType::kF32, -1, 1, 1, 1}, "kkkkvvvv"); }

TEST(Crc32c, CheckValue) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(Crc32c("6789", Crc32c("12345")), 0xE3069283U);
  EXPECT_EQ(Crc32c(""), 0U);
}

// A CRC by the definition, bit by bit, at every length around the widths that a fast one works in.
TEST(Crc32c, EqualsItsDefinition) {
  std::mt19937_64 random(1);
  std::string bytes;
  for (int length = 0; length < 300; ++length) {
    std::uint32_t crc = 0xffffffff;
    for (const char byte : bytes) {
      crc ^= static_cast<unsigned char>(byte);
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0);
    }
    ASSERT_EQ(Crc32c(bytes), ~crc) << length;
    bytes.push_back(static_cast<char>(random()));
  }
}

TEST(KvFormat, KeysAreExactAndInOrder) {
  const RecordKey key{RecordKind::kRaw, {0x0102030405060708}, 0x0a0b0c0d, 0x1e1f, 0x2a2b2c2d};
  EXPECT_EQ(Hex(key.Encode()),
            "0102030405060708"
            "0a0b0c0d"
            "1e1f"
            "2a2b2c2d");
  EXPECT_EQ(*DecodeRecordKey(RecordKind::kRaw, key.Encode()), key);
  EXPECT_EQ(DecodeRecordKey(RecordKind::kRaw, "short").status().code(), StatusCode::kCorruption);
  EXPECT_EQ(Hex(FirstKeyOf({255})),
            "00000000000000ff"
            "00000000"
            "0000"
            "00000000");
  EXPECT_LT(key.Encode(), FirstKeyOf({key.document.value + 1}));
  EXPECT_GE(key.Encode(), FirstKeyOf(key.document));
  const RecordKey last{RecordKind::kRaw, {255}, UINT32_MAX, UINT16_MAX, UINT32_MAX};
  EXPECT_LT(last.Encode(), FirstKeyOf({256}));
  EXPECT_EQ(Hex(EncodeDocumentKey({0x01020304}, "ab")),
            "01020304"
            "6162");
  const auto document_key = DecodeDocumentKey(EncodeDocumentKey({9}, "name"));
  EXPECT_EQ(document_key->first.value, 9U);
  EXPECT_EQ(document_key->second, "name");
  EXPECT_EQ(DecodeDocumentKey("abc").status().code(), StatusCode::kCorruption);
}

TEST(KvFormat, KeysSayWhatTheyName) {
  EXPECT_EQ((RecordKey{RecordKind::kText, {12}, 0, 0, 0}.ToString()), "text of document 12");
  EXPECT_EQ((RecordKey{RecordKind::kChunks, {12}, 4, 0, 0}.ToString()), "chunk table of document 12, part 4");
  EXPECT_EQ((RecordKey{RecordKind::kGist, {12}, 0, 3, 0}.ToString()), "gist KV of document 12, part 0, layer 3");
  EXPECT_EQ((RecordKey{RecordKind::kRaw, {12}, 0, 3, 1}.ToString()), "raw KV of document 12, part 0, layer 3, block 1");
}

TEST(KvFormat, ExactBytes) {
  // magic, version, kind, zero, CRC32C of the body, length of the body, body
  EXPECT_EQ(Hex(SealText("123456789")),
            "554e4652"
            "0100"
            "01"
            "00"
            "839206e3"
            "0900000000000000"
            "313233343536373839");
  EXPECT_EQ(Hex(SealMeta("123456789")),
            "554e4652"
            "0100"
            "07"
            "00"
            "839206e3"
            "0900000000000000"
            "313233343536373839");
  EXPECT_EQ(Hex(SealChunks(SmallTable())),
            "554e4652"
            "0100"
            "02"
            "00"
            "36f93bbb"
            "3600000000000000"
            "03000000"
            "01000000"
            "01000000"
            "01000000"  // tokens, sinks, title tokens, chunks
            "07000000"
            "2c010000"
            "70110100"  // token ids
            "0000000002000000"
            "0200000003000000"
            "0300000009000000"  // spans
            "0200");            // tokens of each chunk
  EXPECT_EQ(Hex(SmallGist()),
            "554e4652"
            "0100"
            "03"
            "00"
            "0c7155e7"
            "1c00000000000000"
            "02"
            "00"
            "0100"
            "0200"
            "0000"
            "02000000"  // dtype, level, heads, dim, zero, rows
            "0102030405060708"
            "1112131415161718");  // K, V
  EXPECT_EQ(Hex(SmallRaw()),
            "554e4652"
            "0100"
            "04"
            "00"
            "57427c0b"
            "1400000000000000"
            "00"
            "ff"
            "0100"
            "0100"
            "0000"
            "01000000"
            "6b6b6b6b"
            "76767676");
  const std::string document =
      "554e4652"
      "0100"
      "05"
      "00"
      "bc3b611b"
      "8300000000000000"
      "06000000"
      "612f622e6d64"
      "01000000"
      "54"  // name, title
      "0807060504030201"
      "1817161514131211"
      "2c01000000000000"  // content hash, bytes of text
      "0000000000000000"
      "0001000000000000"
      "0002000000000000"
      "0003000000000000"
      "0004000000000000"  // by kind
      "02000000"          // parts: tokens, sinks, chunks, gists, body
      "0a000000"
      "03000000"
      "02000000"
      "02000000"
      "00000000c8000000"
      "05000000"
      "03000000"
      "01000000"
      "01000000"
      "c80000002c010000";
  EXPECT_EQ(Hex(SealDocument(SmallDocument())), document);
  EXPECT_EQ(Hex(SealPublication({0x0102}, SmallDocument())),
            "554e4652"
            "0100"
            "06"
            "00"
            "89fc29f0"
            "9f00000000000000"
            "0201000000000000" +
                document);
}

TEST(KvFormat, RoundTrips) {
  EXPECT_EQ(*OpenText(SealText(""), ""), "");
  const std::string text = SealText("some text");
  EXPECT_EQ(*OpenText(text, ""), "some text");
  EXPECT_EQ(*OpenChunks(SealChunks(SmallTable()), ""), SmallTable());
  EXPECT_EQ(*OpenChunks(SealChunks({}), ""), ChunkTable());
  EXPECT_EQ(*OpenDocument(SealDocument(SmallDocument()), ""), SmallDocument());
  EXPECT_EQ(*OpenDocument(SealDocument({}), ""), DocumentRecord());
  const auto publication = OpenPublication(SealPublication({77}, SmallDocument()), "");
  EXPECT_EQ(publication->first.value, 77U);
  EXPECT_EQ(publication->second, SmallDocument());
  EXPECT_EQ(*OpenMeta(SealMeta("m"), ""), "m");
  const std::string gist = SmallGist();
  const auto view = OpenKv(RecordKind::kGist, gist, "");
  EXPECT_EQ(view->header, (KvHeader{DType::kBF16, 0, 2, 1, 2}));
  EXPECT_EQ(view->payload.size(), view->header.PayloadBytes());
  EXPECT_EQ((view->payload.data() - gist.data()) % 4, 0);
  const std::string empty = SealKv(RecordKind::kRaw, {DType::kF32, -1, 0, 4, 64}, "");
  EXPECT_EQ(OpenKv(RecordKind::kRaw, empty, "")->header.num_rows, 0U);
}

struct RecordCase {
  const char* name;
  std::string sealed;
  std::function<Status(std::string_view)> open;
};

std::vector<RecordCase> Cases() {
  return {
      {"text", SealText("some text"), [](auto s) { return OpenText(s, "the record").status(); }},
      {"chunks", SealChunks(SmallTable()), [](auto s) { return OpenChunks(s, "the record").status(); }},
      {"gist", SmallGist(), [](auto s) { return OpenKv(RecordKind::kGist, s, "the record").status(); }},
      {"raw", SmallRaw(), [](auto s) { return OpenKv(RecordKind::kRaw, s, "the record").status(); }},
      {"document", SealDocument(SmallDocument()), [](auto s) { return OpenDocument(s, "the record").status(); }},
      {"publication", SealPublication({5}, SmallDocument()),
       [](auto s) { return OpenPublication(s, "the record").status(); }},
      {"meta", SealMeta("body"), [](auto s) { return OpenMeta(s, "the record").status(); }},
  };
}

// Copied to a block of exactly its size, so that a sanitizer sees a read behind its end.
Status OpenExact(const RecordCase& record, std::string_view bytes) {
  const std::vector<char> exact(bytes.begin(), bytes.end());
  return record.open(std::string_view(exact.data(), exact.size()));
}

TEST(KvFormat, EveryChangedByteIsFound) {
  for (const RecordCase& record : Cases()) {
    ASSERT_TRUE(OpenExact(record, record.sealed).ok()) << record.name;
    for (std::size_t at = 0; at < record.sealed.size(); ++at) {
      for (int change = 1; change < 256; ++change) {
        std::string mutated = record.sealed;
        mutated[at] = static_cast<char>(mutated[at] ^ change);
        const Status status = OpenExact(record, mutated);
        const bool version = at == 4 || at == 5;
        ASSERT_EQ(status.code(), version ? StatusCode::kIncompatible : StatusCode::kCorruption)
            << record.name << " byte " << at << " xor " << change << ": " << status.ToString();
        ASSERT_EQ(status.message().find("the record: "), 0U) << status.message();
      }
    }
  }
}

TEST(KvFormat, EveryTruncationAndExtensionIsFound) {
  for (const RecordCase& record : Cases()) {
    for (std::size_t length = 0; length < record.sealed.size(); ++length) {
      ASSERT_EQ(OpenExact(record, record.sealed.substr(0, length)).code(), StatusCode::kCorruption) << record.name;
    }
    EXPECT_EQ(OpenExact(record, record.sealed + '\0').code(), StatusCode::kCorruption) << record.name;
  }
}

TEST(KvFormat, KindsAreNotMixedUp) {
  const std::vector<RecordCase> cases = Cases();
  for (const RecordCase& record : cases) {
    for (const RecordCase& other : cases) {
      EXPECT_EQ(OpenExact(record, other.sealed).ok(), &record == &other) << record.name << " opens " << other.name;
    }
  }
}

// A body sealed with a right CRC whose fields lie: what a bug, not the disk, would write.
std::string Reseal(std::string sealed) {
  std::string crc;
  PutLittle(&crc, Crc32c(std::string_view(sealed).substr(20)), 4);
  return sealed.replace(8, 4, crc);
}

TEST(KvFormat, EveryChangedFieldUnderARightCrcIsHarmless) {
  for (const RecordCase& record : Cases()) {
    int refused = 0;
    for (std::size_t at = 20; at < record.sealed.size(); ++at) {
      for (int change = 1; change < 256; ++change) {
        std::string mutated = record.sealed;
        mutated[at] = static_cast<char>(mutated[at] ^ change);
        const Status status = OpenExact(record, Reseal(mutated));
        refused += status.ok() ? 0 : 1;
        ASSERT_TRUE(status.ok() || status.code() == StatusCode::kCorruption ||
                    status.code() == StatusCode::kIncompatible)
            << status.ToString();
      }
    }
    const bool free_form = std::string_view(record.name) == "text" || std::string_view(record.name) == "meta";
    EXPECT_EQ(refused == 0, free_form) << record.name;
  }
}

TEST(KvFormat, TheFormatOfATextIsKept) {
  constexpr std::size_t kFormatAt = 59;  // behind header, name, title, hash and bytes of text
  DocumentRecord record = SmallDocument();
  record.format = TextFormat::kHtml;
  std::string sealed = SealDocument(record);
  EXPECT_EQ(*OpenDocument(sealed, ""), record);
  EXPECT_EQ(sealed[kFormatAt], 2);
  sealed[kFormatAt] = 3;
  EXPECT_EQ(OpenDocument(Reseal(sealed), "x").status().code(), StatusCode::kIncompatible);
}

TEST(KvFormat, FieldsThatContradictEachOtherAreCorruption) {
  const std::string gist = SmallGist();
  const auto with = [&](std::size_t at, char value) {
    std::string changed = gist;
    changed[20 + at] = value;
    return OpenKv(RecordKind::kGist, Reseal(changed), "r").status();
  };
  EXPECT_EQ(with(0, 1).code(), StatusCode::kIncompatible) << "f16 is not stored";
  EXPECT_EQ(with(0, 0).code(), StatusCode::kCorruption) << "f32 would need more bytes";
  EXPECT_EQ(with(1, -1).code(), StatusCode::kCorruption) << "raw tokens in a gist record";
  EXPECT_EQ(with(1, 3).code(), StatusCode::kCorruption) << "no such level";
  EXPECT_EQ(with(2, 0).code(), StatusCode::kCorruption) << "no heads";
  EXPECT_EQ(with(6, 1).code(), StatusCode::kCorruption) << "reserved";
  EXPECT_EQ(with(8, 3).code(), StatusCode::kCorruption) << "rows";
  std::string huge = gist;
  for (std::size_t at : {2, 3, 4, 5, 8, 9, 10, 11}) huge[20 + at] = '\xff';  // more than 64 bits of bytes
  EXPECT_EQ(OpenKv(RecordKind::kGist, Reseal(huge), "r").status().code(), StatusCode::kCorruption);
}

TEST(KvFormat, RandomBytesNeverOpen) {
  std::mt19937_64 random(2);
  const std::vector<RecordCase> cases = Cases();
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(random() % 100, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (bytes.size() > 20 && round % 2 == 0) bytes.replace(0, 4, "UNFR");
    for (const RecordCase& record : cases) ASSERT_FALSE(OpenExact(record, bytes).ok());
  }
}

}  // namespace
}  // namespace unfold
