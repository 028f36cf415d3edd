// SPDX-License-Identifier: Apache-2.0
// Store records: any body under a right header is refused or read, what is read is written as the same bytes, and the
// check of a whole document takes any set of such records.
//
// Input: records, each of a kind (1 byte), a place (1 byte: part in the low half, layer in the high half), a length (2
// bytes, little-endian) and a body. A seal with a right CRC is put around each, since no fuzzer guesses one; the last
// record may also be taken as it is.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "store/document_check.h"
#include "store/kv_format.h"

namespace {

using namespace unfold;  // NOLINT(google-build-using-namespace)

void Require(bool holds) {
  if (!holds) std::abort();
}

struct Input {
  std::uint8_t kind = 0;
  std::uint8_t place = 0;
  std::string sealed;
};

std::string Seal(std::uint8_t kind, std::string_view body) {
  std::string sealed = "UNFR";
  PutLittle(&sealed, kStoreFormatVersion, 2);
  PutLittle(&sealed, kind, 1);
  PutLittle(&sealed, 0, 1);
  PutLittle(&sealed, Crc32c(body), 4);
  PutLittle(&sealed, body.size(), 8);
  return sealed.append(body);
}

std::vector<Input> ReadInputs(std::string_view data) {
  std::vector<Input> inputs;
  while (data.size() >= 4) {
    const auto kind = static_cast<std::uint8_t>(data[0]);
    const auto place = static_cast<std::uint8_t>(data[1]);
    const std::size_t length = std::min<std::size_t>(GetLittle(data.substr(2), 2), data.size() - 4);
    // A publication holds a sealed document of its own behind the id.
    std::string body(data.substr(4, length));
    if (kind == 6 && length >= 8) body = body.substr(0, 8) + Seal(5, std::string_view(body).substr(8));
    inputs.push_back({kind, place, Seal(kind, body)});
    data.remove_prefix(4 + length);
  }
  return inputs;
}

// What opens is what its writer writes: no two byte strings mean the same record.
void CheckOne(std::uint8_t kind, std::string_view sealed) {
  switch (kind) {
    case 1:
      if (const auto text = OpenText(sealed, "r"); text.ok()) Require(SealText(*text) == sealed);
      return;
    case 2:
      if (const auto table = OpenChunks(sealed, "r"); table.ok()) Require(SealChunks(*table) == sealed);
      return;
    case 3:
    case 4: {
      const auto record_kind = static_cast<RecordKind>(kind);
      const auto kv = OpenKv(record_kind, sealed, "r");
      if (kv.ok()) Require(SealKv(record_kind, kv->header, kv->payload) == sealed);
      return;
    }
    case 5:
      if (const auto record = OpenDocument(sealed, "r"); record.ok()) Require(SealDocument(*record) == sealed);
      return;
    case 6: {
      const auto publication = OpenPublication(sealed, "r");
      if (publication.ok()) Require(SealPublication(publication->first, publication->second) == sealed);
      return;
    }
    case 7:
      if (const auto meta = OpenMeta(sealed, "r"); meta.ok()) Require(SealMeta(*meta) == sealed);
      return;
    default: return;
  }
}

// The last record that opens as a document gives what the others are checked against.
void CheckDocument(const std::vector<Input>& inputs) {
  PublishedDocument document;
  document.id = DocumentId{7};
  for (const Input& input : inputs) {
    if (auto record = OpenDocument(input.sealed, "r"); record.ok()) document.record = *std::move(record);
  }
  VerifyReport report;
  DocumentCheck check(document, &report);
  for (const std::uint8_t kind : {1, 2, 3, 4}) {
    for (const Input& input : inputs) {
      if (input.kind != kind) continue;
      const std::uint32_t part = input.place & 7U, layer = (input.place >> 4) & 7U, block = (input.place >> 3) & 1U;
      check.Add({static_cast<RecordKind>(kind), document.id, part, static_cast<std::uint16_t>(layer), block},
                input.sealed);
    }
  }
  check.Finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (std::uint8_t kind = 1; kind <= 7; ++kind) CheckOne(kind, bytes);  // as it is: almost always refused
  const std::vector<Input> inputs = ReadInputs(bytes);
  for (const Input& input : inputs) CheckOne(input.kind, input.sealed);
  CheckDocument(inputs);
  for (const RecordKind kind : {RecordKind::kText, RecordKind::kRaw}) {
    if (const auto key = DecodeRecordKey(kind, bytes); key.ok()) Require(key->Encode() == bytes);
  }
  if (const auto key = DecodeDocumentKey(bytes); key.ok()) Require(EncodeDocumentKey(key->first, key->second) == bytes);
  return 0;
}
