// SPDX-License-Identifier: Apache-2.0
// Store: documents' records on disk, by collection. An interface; RocksDB (rocksdb_store.cc) and memory
// (memory_store.cc) stand behind it, and nothing above may know which.
//
// A document's life: Allocate an id, Write its bulk records in bounded batches (gist KV, raw KV, chunk tables, text),
// then Publish. Until Publish returns Ok nothing of it is visible to anyone; after, it survives power loss.
// Readers work on a Snapshot and trust only published documents.
//
// Thread-safe: any thread may call any method. One process writes a store at a time; any number read beside it.
#ifndef UNFOLD_STORE_STORE_H_
#define UNFOLD_STORE_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "store/kv_format.h"
#include "unfold/base.h"

namespace unfold {

// A bulk record ready to be written: `value` is a sealed record of kv_format.h.
struct StoreRecord {
  RecordKey key;
  std::string value;
};

// Makes one document visible, and retires in the same atomic step the published document of that name, if any.
struct Publication {
  CollectionId collection;
  DocumentId document;
  DocumentRecord record;
};

struct PublishedDocument {
  DocumentId id;
  DocumentRecord record;
};

struct CollectionInfo {
  CollectionId id;
  std::string name;
};

// One finding of Verify: which record or file, and what is wrong with it.
struct VerifyFinding {
  std::string where;
  std::string what;
};
struct VerifyReport {
  std::uint64_t num_documents = 0;
  std::uint64_t num_records = 0;
  std::uint64_t num_bytes = 0;    // values read and checked
  std::uint64_t num_orphans = 0;  // records of no published document: left by a killed ingest, swept at the next write
  std::vector<VerifyFinding> findings;
  bool clean() const { return findings.empty(); }
};

// What readers see: the documents published when the snapshot was taken, whatever happens later. Thread-safe.
class StoreSnapshot {
 public:
  virtual ~StoreSnapshot() = default;

  virtual Result<std::vector<CollectionInfo>> Collections() const = 0;
  virtual Result<bool> HasCollection(std::string_view name) const = 0;
  // Published documents in order of name. NotFound names the collection and those that exist.
  virtual Result<std::vector<PublishedDocument>> Documents(std::string_view collection) const = 0;
  // One published document. NotFound names the collection, or the document that it does not have.
  virtual Result<PublishedDocument> Find(std::string_view collection, std::string_view name) const = 0;
  // The sealed record, checked (magic, version, CRC). NotFound when absent, Corruption naming the key.
  virtual Result<std::string> Read(const RecordKey& key) const = 0;
  // As Read, for many keys at once, in their order.
  virtual Result<std::vector<std::string>> ReadMany(std::span<const RecordKey> keys) const = 0;
};

class Store {
 public:
  virtual ~Store() = default;

  // The fingerprint (JSON) written at creation; empty for a store just created (see SetFingerprint).
  virtual Result<std::string> Fingerprint() const = 0;
  // Once, for a new store. Synced.
  virtual Status SetFingerprint(std::string_view json) = 0;

  virtual std::shared_ptr<const StoreSnapshot> Snapshot() const = 0;

  // The collection of that name, made if it does not exist.
  virtual Result<CollectionId> EnsureCollection(std::string_view name) = 0;
  // Removes a collection with every byte of its documents; what is being written to it cannot be published any more.
  // NotFound when there is none of the name.
  virtual Status RemoveCollection(std::string_view name) = 0;
  // A fresh document id, never used before.
  virtual Result<DocumentId> AllocateDocument() = 0;
  // One bounded batch of bulk records. Not synced.
  virtual Status Write(std::span<const StoreRecord> records) = 0;
  // Syncs what was written, then makes all documents visible in one synced, atomic step. Two with the same name in one
  // call are InvalidArgument.
  virtual Status Publish(std::span<const Publication> publications) = 0;
  // Deletes every record of documents that were never published (an ingest given up).
  virtual Status Discard(std::span<const DocumentId> documents) = 0;
  // Removes published documents by name, every byte of them. NotFound names the first that does not exist; then
  // nothing is removed.
  virtual Status Remove(std::string_view collection, std::span<const std::string> names) = 0;

  // Walks every record and checksum, and the files below them. Failing to read is a finding, not an error.
  // `progress` (may be empty) gets records done so far; returning false ends the walk with Cancelled.
  virtual Result<VerifyReport> Verify(const std::function<bool(std::uint64_t)>& progress) const = 0;

  // Bytes of live files on disk; 0 for memory.
  virtual Result<std::uint64_t> DiskBytes() const = 0;

  // Flushes and closes; after it only destruction is allowed. The destructor closes too, but cannot report.
  virtual Status Close() = 0;
};

// A store that lives as long as the object: for tests, and for documents given with a query.
std::unique_ptr<Store> MakeMemoryStore();

}  // namespace unfold

#endif  // UNFOLD_STORE_STORE_H_
