// SPDX-License-Identifier: Apache-2.0
// kill -9 at random moments of an ingest: what was acknowledged answers, nothing else is there, and the next run goes
// on. UNFOLD_CRASH_FULL=1 takes 200 moments, UNFOLD_CRASH_SEED the moments of an earlier run (as far as the machine's
// own timing repeats).
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "tests/crash/killed_ingest.h"
#include "tests/unit/cli_fixture.h"

namespace unfold::cli_testing {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

constexpr int kNumMoments = 12;
constexpr int kNumMomentsFull = 200;
constexpr std::size_t kNumDocuments = 24;
constexpr std::size_t kNumDocumentsFull = 40;
constexpr std::uint64_t kBatchTokens = 128;  // one to three documents become visible at a time

bool IsFull() {
  const char* full = std::getenv("UNFOLD_CRASH_FULL");
  return full != nullptr && std::string(full) == "1";
}

std::uint64_t Seed() {
  const char* seed = std::getenv("UNFOLD_CRASH_SEED");
  return seed != nullptr ? std::strtoull(seed, nullptr, 10) : std::random_device()();
}

std::vector<std::string> SampleTexts() {
  std::vector<std::string> texts;
  for (const Json& document : Lines(ReadText(std::string(kModel) + "/docs.jsonl"))) texts.push_back(document["text"]);
  return texts;
}

// Where the kills fell.
struct Tally {
  int killed = 0, without_store = 0, before_first_change = 0, between_changes = 0, after_last_change = 0;
  int with_orphans = 0, with_unheard = 0, replacing = 0, removing = 0;
  std::size_t acknowledged = 0;
};

class IngestKill : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    folder_ = ChangingFolder(root_ / "docs", SampleTexts());
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed_));
    options_.store_path = store_;
    options_.access = StoreAccessMode::kReadOnly;
    options_.model_path = kModel;
  }

  // The folder as the next run finds it: sometimes all new with a new store, else changed if there is little to do.
  void Prepare() {
    prunes_ = random_() % 2 == 0;
    const std::size_t num_documents = IsFull() ? kNumDocumentsFull : kNumDocuments;
    if (stored_.empty() || random_() % 8 == 0) {
      fs::remove_all(store_);
      stored_.clear();
      folder_.Clear();
      folder_.Add(num_documents, random_);
    } else if (NumToDo() < 6) {
      folder_.Delete(3, random_);
      folder_.Change(10, random_);
      folder_.Add(num_documents - folder_.texts().size(), random_);
    }
  }

  std::size_t NumToDo() const {
    std::size_t count = 0;
    for (const auto& [name, text] : folder_.texts()) {
      const auto it = stored_.find(name);
      count += it == stored_.end() || it->second != text ? 1 : 0;
    }
    if (!prunes_) return count;
    for (const auto& [name, text] : stored_) count += folder_.texts().contains(name) ? 0 : 1;
    return count;
  }

  Args IngestArgs() const {
    Args args = {
        kProgram, "ingest", At("docs"), "--json", "--quiet", "--encode-batch-tokens", std::to_string(kBatchTokens)};
    if (prunes_) args.push_back("--prune");
    return WithModel(args);
  }

  // After a random number of changes and a moment more, or after a random time, be it before the first change.
  void WaitForMoment(Process& process) {
    const bool counts = random_() % 2 == 0;
    // Pruning comes last and is quick: some kills aim at it.
    const bool aims_at_end = prunes_ && random_() % 3 == 0;
    const auto limit = aims_at_end ? NumToDo() : static_cast<std::size_t>(random_() % (NumToDo() + 1));
    const double whole_ms = startup_ms_ + document_ms_ * static_cast<double>(NumToDo());
    const double most_ms = counts ? 2 * document_ms_ : random_() % 3 == 0 ? startup_ms_ : whole_ms;
    const double share = std::uniform_real_distribution<double>(0, 1)(random_);
    const double wait_ms =
        most_ms * (counts ? share * share : share);  // just after a change more often than long after
    while (counts && !process.HasEnded() && NumChanges(OutcomesOf(process.Output())) < limit) {
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
    std::this_thread::sleep_for(Milliseconds(wait_ms));
  }

  // One kill, or a run that was faster; then the store is looked at.
  void RunAndKill() {
    Prepare();
    const std::size_t num_to_do = NumToDo();
    Process process(IngestArgs(), root_);
    WaitForMoment(process);
    process.Signal(SIGKILL);
    const ProcessResult result = process.Finish();
    ASSERT_TRUE(result.exit_code == -SIGKILL || result.exit_code == 0) << result.exit_code << ": " << result.err;
    const KilledRun run = {stored_, folder_.texts(), OutcomesOf(result.out), prunes_, kBatchTokens};
    const StoreAfter after = CheckAfterKill(options_, "notes", run);
    stored_ = after.stored;
    if (result.exit_code == 0) {
      EXPECT_EQ(NumToDo(), 0U) << "a run that was not killed is complete";
      return;
    }
    Count(run, after, num_to_do);
  }

  void Count(const KilledRun& run, const StoreAfter& after, std::size_t num_to_do) {
    const std::size_t changes = NumChanges(run.outcomes);
    ++tally_.killed;
    tally_.acknowledged += changes;
    tally_.without_store += after.exists ? 0 : 1;
    tally_.before_first_change += changes == 0 ? 1 : 0;
    tally_.between_changes += changes > 0 && changes < num_to_do ? 1 : 0;
    tally_.after_last_change += changes > 0 && changes >= num_to_do ? 1 : 0;
    tally_.with_orphans += after.num_orphans > 0 ? 1 : 0;
    tally_.with_unheard += after.num_unheard > 0 ? 1 : 0;
    const auto says = [&](const char* word) {
      return std::any_of(run.outcomes.begin(), run.outcomes.end(), [&](const auto& o) { return o.second == word; });
    };
    tally_.replacing += says("replaced") ? 1 : 0;
    tally_.removing += says("removed") ? 1 : 0;
  }

  // A run that nothing disturbs; also what the length of a run is guessed from.
  void RunToTheEnd() {
    const std::size_t num_to_do = NumToDo();
    const auto begin = Clock::now();
    Process process(IngestArgs(), root_);
    while (!process.HasEnded() && process.Output().empty()) std::this_thread::sleep_for(Milliseconds(1));
    const auto first = Clock::now();
    const ProcessResult result = process.Finish();
    ASSERT_EQ(result.exit_code, 0) << result.err;
    startup_ms_ = Milliseconds(first - begin).count();
    document_ms_ =
        Milliseconds(Clock::now() - first).count() / static_cast<double>(std::max<std::size_t>(num_to_do, 1));
    const KilledRun run = {stored_, folder_.texts(), OutcomesOf(result.out), prunes_, kBatchTokens};
    const StoreAfter after = CheckAfterKill(options_, "notes", run);
    stored_ = after.stored;
    EXPECT_EQ(after.num_orphans, 0U) << "what killed runs left is swept";
    EXPECT_EQ(NumToDo(), 0U);
  }

  const std::uint64_t seed_ = Seed();
  std::mt19937_64 random_{seed_};
  EngineOptions options_;
  ChangingFolder folder_{{}, {}};
  Texts stored_;
  bool prunes_ = false;
  double startup_ms_ = 0, document_ms_ = 0;
  Tally tally_;
};

TEST_F(IngestKill, WhatWasAcknowledgedAnswersAndNothingElseIsThere) {
  Prepare();
  ASSERT_NO_FATAL_FAILURE(RunToTheEnd());
  const int num_moments = IsFull() ? kNumMomentsFull : kNumMoments;
  int num_runs = 0;
  for (; tally_.killed < num_moments && num_runs < 3 * num_moments; ++num_runs) {
    SCOPED_TRACE("run " + std::to_string(num_runs) + " of seed " + std::to_string(seed_));
    ASSERT_NO_FATAL_FAILURE(RunAndKill());
    if (HasFailure()) return;
    if (IsFull() && num_runs % 10 == 0) {
      std::printf("%d killed\n", tally_.killed);
      std::fflush(stdout);
    }
  }
  prunes_ = true;
  RunToTheEnd();
  EXPECT_EQ(stored_, folder_.texts());
  std::printf(
      "%d killed of %d runs: %d without a store yet, %d before the first change, %d between changes, %d after the "
      "last; %zu documents acknowledged; %d left orphans, %d a batch unheard; %d had replaced, %d removed\n",
      tally_.killed, num_runs, tally_.without_store, tally_.before_first_change, tally_.between_changes,
      tally_.after_last_change, tally_.acknowledged, tally_.with_orphans, tally_.with_unheard, tally_.replacing,
      tally_.removing);
  EXPECT_EQ(tally_.killed, num_moments) << "too many runs ended before the kill";
  EXPECT_GT(tally_.between_changes, 0);
  if (!IsFull()) return;
  EXPECT_GT(tally_.before_first_change, 0);
  EXPECT_GT(tally_.with_orphans, 0);
  EXPECT_GT(tally_.replacing, 0);
  EXPECT_GT(tally_.removing, 0);
}

}  // namespace
}  // namespace unfold::cli_testing
