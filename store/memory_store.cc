// SPDX-License-Identifier: Apache-2.0
// The store in memory: the same rules as on disk, in plain maps.
#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "store/document_check.h"
#include "store/store.h"

namespace unfold {
namespace {

// A document's bulk records by kind and encoded key, so in the order of the disk. Never changed once published.
using Records = std::map<std::pair<RecordKind, std::string>, StoreRecord>;

struct StoredDocument {
  PublishedDocument published;
  std::shared_ptr<const Records> records;
};
struct Collection {
  CollectionId id;
  std::map<std::string, StoredDocument, std::less<>> documents;
};
// What a snapshot sees. Replaced as a whole by each change.
struct State {
  std::map<std::string, Collection, std::less<>> collections;
};

Result<const Collection*> FindCollection(const State& state, std::string_view name) {
  const auto found = state.collections.find(name);
  if (found != state.collections.end()) return &found->second;
  std::string message = "no collection '" + std::string(name) + "'; there are";
  for (const auto& [other, collection] : state.collections) message += " '" + other + "'";
  return Status::NotFound(message + (state.collections.empty() ? " none" : ""));
}

// Thread-safe.
class MemorySnapshot : public StoreSnapshot {
 public:
  explicit MemorySnapshot(std::shared_ptr<const State> state) : state_(std::move(state)) {
    for (const auto& [name, collection] : state_->collections) {
      for (const auto& [document_name, document] : collection.documents) {
        records_[document.published.id] = document.records.get();
      }
    }
  }

  Result<std::vector<CollectionInfo>> Collections() const override {
    std::vector<CollectionInfo> collections;
    for (const auto& [name, collection] : state_->collections) {
      collections.push_back({collection.id, name});
    }
    return collections;
  }

  Result<bool> HasCollection(std::string_view name) const override { return state_->collections.contains(name); }

  Result<PublishedDocument> Find(std::string_view name, std::string_view document_name) const override {
    UNFOLD_TRY_ASSIGN(const Collection* collection, FindCollection(*state_, name));
    const auto found = collection->documents.find(document_name);
    if (found != collection->documents.end()) return found->second.published;
    return Status::NotFound("document '" + std::string(document_name) + "'");
  }

  Result<std::vector<PublishedDocument>> Documents(std::string_view name) const override {
    UNFOLD_TRY_ASSIGN(const Collection* collection, FindCollection(*state_, name));
    std::vector<PublishedDocument> documents;
    for (const auto& [document_name, document] : collection->documents) documents.push_back(document.published);
    return documents;
  }

  Result<std::string> Read(const RecordKey& key) const override {
    const auto document = records_.find(key.document);
    if (document == records_.end()) return Status::NotFound(key.ToString());
    const auto record = document->second->find({key.kind, key.Encode()});
    if (record == document->second->end()) return Status::NotFound(key.ToString());
    UNFOLD_TRY(CheckSealed(key.kind, record->second.value, key.ToString()));
    return record->second.value;
  }

  Result<std::vector<std::string>> ReadMany(std::span<const RecordKey> keys) const override {
    std::vector<std::string> values;
    values.reserve(keys.size());
    for (const RecordKey& key : keys) {
      UNFOLD_TRY_ASSIGN(std::string value, Read(key));
      values.push_back(std::move(value));
    }
    return values;
  }

 private:
  std::shared_ptr<const State> state_;
  std::map<DocumentId, const Records*> records_;
};

// Thread-safe.
class MemoryStore : public Store {
 public:
  Result<std::string> Fingerprint() const override {
    const std::lock_guard<std::mutex> guard(mutex_);
    return fingerprint_;
  }

  Status SetFingerprint(std::string_view json) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (!fingerprint_.empty()) return Status::InvalidArgument("the store has a fingerprint already");
    if (json.empty()) return Status::InvalidArgument("an empty fingerprint");
    fingerprint_ = json;
    return Status::Ok();
  }

  std::shared_ptr<const StoreSnapshot> Snapshot() const override {
    const std::lock_guard<std::mutex> guard(mutex_);
    return std::make_shared<MemorySnapshot>(state_);
  }

  Result<CollectionId> EnsureCollection(std::string_view name) override;
  Status RemoveCollection(std::string_view name) override;
  Result<DocumentId> AllocateDocument() override;
  Status Write(std::span<const StoreRecord> records) override;
  Status Publish(std::span<const Publication> publications) override;
  Status Discard(std::span<const DocumentId> documents) override;
  Status Remove(std::string_view collection, std::span<const std::string> names) override;
  Result<VerifyReport> Verify(const std::function<bool(std::uint64_t)>& progress) const override;
  Result<std::uint64_t> DiskBytes() const override { return std::uint64_t{0}; }
  Status Close() override { return Status::Ok(); }

 private:
  Status RequireOpen(DocumentId document) const;
  Status CheckPublication(const Publication& publication) const;

  mutable std::mutex mutex_;
  std::string fingerprint_;
  std::shared_ptr<const State> state_ = std::make_shared<State>();
  std::map<DocumentId, Records> open_;  // allocated, neither published nor given up
  std::uint32_t next_collection_ = 1;
  std::uint64_t next_document_ = 1;
};

Status MemoryStore::RequireOpen(DocumentId document) const {
  if (open_.find(document) != open_.end()) return Status::Ok();
  return Status::InvalidArgument("document " + std::to_string(document.value) +
                                 " is not one that was allocated here and is neither published nor given up");
}

Result<CollectionId> MemoryStore::EnsureCollection(std::string_view name) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const auto found = state_->collections.find(name);
  if (found != state_->collections.end()) return found->second.id;
  if (name.empty()) return Status::InvalidArgument("a collection needs a name");
  auto state = std::make_shared<State>(*state_);
  const CollectionId id{next_collection_++};
  state->collections[std::string(name)].id = id;
  state_ = std::move(state);
  return id;
}

Status MemoryStore::RemoveCollection(std::string_view name) {
  const std::lock_guard<std::mutex> guard(mutex_);
  UNFOLD_TRY(FindCollection(*state_, name).status());
  auto state = std::make_shared<State>(*state_);
  state->collections.erase(state->collections.find(name));
  state_ = std::move(state);
  return Status::Ok();
}

Result<DocumentId> MemoryStore::AllocateDocument() {
  const std::lock_guard<std::mutex> guard(mutex_);
  const DocumentId id{next_document_++};
  open_[id];
  return id;
}

Status MemoryStore::Write(std::span<const StoreRecord> records) {
  const std::lock_guard<std::mutex> guard(mutex_);
  for (const StoreRecord& record : records) UNFOLD_TRY(RequireOpen(record.key.document));
  for (const StoreRecord& record : records) {
    open_[record.key.document].insert_or_assign({record.key.kind, record.key.Encode()}, record);
  }
  return Status::Ok();
}

Status MemoryStore::CheckPublication(const Publication& publication) const {
  const std::string& name = publication.record.name;
  if (name.empty()) return Status::InvalidArgument("a document needs a name");
  const auto same_id = [&](const auto& entry) { return entry.second.id == publication.collection; };
  if (std::none_of(state_->collections.begin(), state_->collections.end(), same_id)) {
    return Status::InvalidArgument("document '" + name + "': no collection has the id " +
                                   std::to_string(publication.collection.value));
  }
  return RequireOpen(publication.document);
}

Status MemoryStore::Publish(std::span<const Publication> publications) {
  const std::lock_guard<std::mutex> guard(mutex_);
  std::set<std::pair<CollectionId, std::string>> names;
  std::set<DocumentId> documents;
  for (const Publication& publication : publications) {
    if (!names.emplace(publication.collection, publication.record.name).second ||
        !documents.insert(publication.document).second) {
      return Status::InvalidArgument("document '" + publication.record.name + "' is published twice in one call");
    }
    UNFOLD_TRY(CheckPublication(publication));
  }
  auto state = std::make_shared<State>(*state_);
  for (const Publication& publication : publications) {
    for (auto& [name, collection] : state->collections) {
      if (collection.id != publication.collection) continue;
      auto records = std::make_shared<const Records>(std::move(open_[publication.document]));
      open_.erase(publication.document);
      collection.documents.insert_or_assign(
          publication.record.name, StoredDocument{{publication.document, publication.record}, std::move(records)});
    }
  }
  state_ = std::move(state);
  return Status::Ok();
}

Status MemoryStore::Discard(std::span<const DocumentId> documents) {
  const std::lock_guard<std::mutex> guard(mutex_);
  for (DocumentId document : documents) UNFOLD_TRY(RequireOpen(document));
  for (DocumentId document : documents) open_.erase(document);
  return Status::Ok();
}

Status MemoryStore::Remove(std::string_view collection_name, std::span<const std::string> names) {
  const std::lock_guard<std::mutex> guard(mutex_);
  UNFOLD_TRY_ASSIGN(const Collection* present, FindCollection(*state_, collection_name));
  for (const std::string& name : names) {
    if (present->documents.find(name) == present->documents.end()) {
      return Status::NotFound("no document '" + name + "' in collection '" + std::string(collection_name) + "'");
    }
  }
  auto state = std::make_shared<State>(*state_);
  for (const std::string& name : names) state->collections.find(collection_name)->second.documents.erase(name);
  state_ = std::move(state);
  return Status::Ok();
}

Result<VerifyReport> MemoryStore::Verify(const std::function<bool(std::uint64_t)>& progress) const {
  std::shared_ptr<const State> state;
  VerifyReport report;
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    state = state_;
    for (const auto& [document, records] : open_) report.num_orphans += records.size();
  }
  for (const auto& [name, collection] : state->collections) {
    for (const auto& [document_name, document] : collection.documents) {
      DocumentCheck check(document.published, &report);
      for (const auto& [key, record] : *document.records) {
        check.Add(record.key, record.value);
        ++report.num_records;
        report.num_bytes += record.value.size();
      }
      check.Finish();
      ++report.num_documents;
      if (progress && !progress(report.num_records)) return Status::Cancelled("verification was stopped");
    }
  }
  return report;
}

}  // namespace

std::unique_ptr<Store> MakeMemoryStore() { return std::make_unique<MemoryStore>(); }

}  // namespace unfold
