// SPDX-License-Identifier: Apache-2.0
// What the killed ingests of a test work on, and what a store must be after each.
#ifndef UNFOLD_TESTS_CRASH_KILLED_INGEST_H_
#define UNFOLD_TESTS_CRASH_KILLED_INGEST_H_

#include <cstddef>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "unfold/engine.h"

namespace unfold {

using Texts = std::map<std::string, std::string>;  // by document name

// A folder of small documents that changes between runs. Every text of a document has a length of its own, so that the
// length of a stored one tells which it is. Thread-compatible.
class ChangingFolder {
 public:
  // The texts are cut from `pool`.
  ChangingFolder(std::filesystem::path path, std::vector<std::string> pool)
      : path_(std::move(path)), pool_(std::move(pool)) {}

  // Adds documents; every fifth is long enough for several parts.
  void Add(std::size_t count, std::mt19937_64& random);
  void Change(std::size_t count, std::mt19937_64& random);
  void Delete(std::size_t count, std::mt19937_64& random);
  void Clear();
  const Texts& texts() const { return texts_; }

 private:
  void Write(const std::string& name, std::mt19937_64& random);
  std::string RandomName(std::mt19937_64& random) const;

  std::filesystem::path path_;
  std::vector<std::string> pool_;
  Texts texts_;
  std::map<std::string, std::set<std::size_t>> used_lengths_;
  std::size_t num_added_ = 0;
};

// What an ingest said on stdout: outcome by document, from whole lines alone.
std::map<std::string, std::string> OutcomesOf(const std::string& output);
// How many of them changed the store.
std::size_t NumChanges(const std::map<std::string, std::string>& outcomes);

// One ingest as it was started and killed.
struct KilledRun {
  Texts before;  // stored when it began
  Texts folder;
  std::map<std::string, std::string> outcomes;
  bool prunes = false;
  std::uint64_t batch_tokens = 0;
};

struct StoreAfter {
  Texts stored;
  std::uint64_t num_orphans = 0;  // records of documents that were being encoded
  std::size_t num_unheard = 0;    // documents that became visible and whose verdict was not heard any more
  bool exists = false;
};

// Opens the store as a reader and holds it to what the run said; failures are gtest's.
StoreAfter CheckAfterKill(const EngineOptions& options, const std::string& collection, const KilledRun& run);

}  // namespace unfold

#endif  // UNFOLD_TESTS_CRASH_KILLED_INGEST_H_
