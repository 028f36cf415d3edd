// SPDX-License-Identifier: Apache-2.0
// What the program cannot do: write on a full disk, open what it may not read, write beside another writer, take or
// finish a document that is too large. Each is said, and nothing is lost.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>

#include "tests/unit/cli_fixture.h"

namespace unfold::cli_testing {
namespace {

std::uintmax_t BytesIn(const fs::path& folder) {
  std::uintmax_t bytes = 0;
  std::error_code gone;  // files come and go while a program works there
  for (const auto& entry : fs::directory_iterator(folder, gone)) {
    const std::uintmax_t size = entry.file_size(gone);
    if (!gone) bytes += size;
  }
  return bytes;
}

class Refusal : public Cli {
 protected:
  Args IngestArgs(Args more) {
    more.insert(more.begin(), {kProgram, "ingest", At("docs"), "--json"});
    return WithModel(more);
  }
  ProcessResult Verify() { return Run({"verify", "--store", store_, "--json"}); }

  // Every document of `names` is listed and answers, and the store is sound.
  void ExpectStored(const std::set<std::string>& names) {
    const Args listed = Listed();
    EXPECT_EQ((std::set<std::string>(listed.begin(), listed.end())), names);
    for (const std::string& name : names) {
      const ProcessResult asked = Run(WithModel({"ask", "what is this", "--document", name, "--max-tokens", "2"}));
      EXPECT_EQ(asked.exit_code, 0) << name << ": " << asked.err;
    }
    const ProcessResult verified = Verify();
    EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.err;
  }
};

class FullDisk : public Refusal {
 protected:
  // The program on a disk with room for so many bytes more below the store.
  ProcessResult IngestWithSpace(std::uintmax_t num_bytes) {
    Args args = {"/usr/bin/env", "LD_PRELOAD=" UNFOLD_FULL_DISK, "UNFOLD_FULL_DISK_PATH=" + store_,
                 "UNFOLD_FULL_DISK_BYTES=" + std::to_string(num_bytes),
                 "ASAN_OPTIONS=verify_asan_link_order=0"};  // it wants to be loaded first
    const Args ingest = IngestArgs({"--encode-batch-tokens", "128"});
    args.insert(args.end(), ingest.begin(), ingest.end());
    return Process(args, root_).Finish();
  }
};

TEST_F(FullDisk, EndsTheRunAndLosesNothing) {
  WriteSample(3);
  ASSERT_EQ(Ingest().exit_code, 0);
  const std::uintmax_t document_bytes = BytesIn(store_) / 3;
  std::set<std::string> stored = {"d0000.txt", "d0001.txt", "d0002.txt"};
  WriteSample(12);
  std::size_t num_partial = 0;
  for (const std::uintmax_t space :
       {std::uintmax_t{0}, std::uintmax_t{100}, document_bytes / 2, document_bytes * 2, document_bytes * 3}) {
    SCOPED_TRACE("space for " + std::to_string(space) + " bytes");
    const ProcessResult result = IngestWithSpace(space);
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_TRUE(Holds(result.err, "unfold: resource exhausted: disk full")) << result.err;
    std::size_t num_added = 0;
    for (const auto& [name, outcome] : Outcomes(result)) {
      if (outcome != "added") continue;
      EXPECT_TRUE(stored.insert(name).second) << name << " was stored before";
      ++num_added;
    }
    num_partial += num_added > 0 ? 1 : 0;
    ExpectStored(stored);
  }
  EXPECT_GT(num_partial, 0U) << "some documents went in before the disk was full";
  EXPECT_LT(stored.size(), 12U) << "the disk was never full";
  const ProcessResult resumed = Ingest();
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(Summary(resumed)["unchanged"], stored.size());
  EXPECT_EQ(Listed().size(), 12U);
  EXPECT_EQ(Verify().exit_code, 0);
}

// The first bytes of a new store do not fit: the next run, with space, makes it.
TEST_F(FullDisk, AStoreThatCouldNotBeMadeIsMadeLater) {
  WriteSample(1);
  for (const std::uintmax_t space : {0, 100, 1000, 5000, 100000}) {
    SCOPED_TRACE("space for " + std::to_string(space) + " bytes");
    const ProcessResult result = IngestWithSpace(space);
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_TRUE(Holds(result.err, "unfold: resource exhausted: disk full")) << result.err;
  }
  const ProcessResult made = Ingest();
  EXPECT_EQ(made.exit_code, 0) << made.err;
  ExpectStored({"d0000.txt"});
}

TEST_F(Refusal, AnEmptyDirectoryBecomesAStoreAndOthersDoNot) {
  WriteSample(1);
  fs::create_directory(store_);
  EXPECT_EQ(Ingest().exit_code, 0);
  ExpectStored({"d0000.txt"});

  Write("other/letter.txt", "Not a store.");
  store_ = At("other");
  const ProcessResult result = Ingest();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_TRUE(Holds(result.err, "letter.txt")) << result.err;
  EXPECT_EQ(std::distance(fs::directory_iterator(store_), {}), 1) << "it is left as it was";
}

TEST_F(Refusal, ADirectoryThatMayNotBeReadIsNamed) {
  WriteSample(1);
  ASSERT_EQ(Ingest().exit_code, 0);
  ASSERT_EQ(chmod(store_.c_str(), 0), 0);
  // Permissions bind root only without these capabilities. What a thread drops, its children start without.
  std::thread([this] {
    if (geteuid() == 0) {
      ASSERT_EQ(prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0), 0);
      ASSERT_EQ(prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0), 0);
    }
    for (const Args& args :
         {Args{"list", "--store", store_}, Args{"verify", "--store", store_}, Args{"inspect", "--store", store_},
          WithModel({"ask", "q"}), WithModel({"ingest", At("docs")})}) {
      const ProcessResult result = Run(args);
      EXPECT_EQ(result.exit_code, 1) << args[0] << result.out;
      EXPECT_TRUE(Holds(result.err, store_) && Holds(result.err, "Permission denied")) << args[0] << ": " << result.err;
      EXPECT_EQ(result.out, "");
    }
  }).join();
  ASSERT_EQ(chmod(store_.c_str(), 0700), 0);
  ExpectStored({"d0000.txt"});
}

TEST_F(Refusal, ASecondWriterIsToldOfTheLock) {
  WriteSample(30);
  Process writer(IngestArgs({"--encode-batch-tokens", "128"}), root_);
  ASSERT_TRUE(writer.WaitForOutput("\"added\"")) << writer.Finish().err;
  writer.Signal(SIGSTOP);  // it keeps its lock for as long as this takes
  for (const Args& args :
       {WithModel({"ingest", At("docs")}), Args{"remove", "d0000.txt", "--store", store_, "--collection", "notes"}}) {
    const ProcessResult second = Run(args);
    EXPECT_EQ(second.exit_code, 1);
    EXPECT_TRUE(Holds(second.err, "unfold: unavailable: ") && Holds(second.err, store_ + "/LOCK")) << second.err;
  }
  writer.Signal(SIGKILL);
  writer.Signal(SIGCONT);
  EXPECT_EQ(writer.Finish().exit_code, -SIGKILL);
  EXPECT_EQ(Ingest().exit_code, 0) << "the lock of a killed writer is gone";
  EXPECT_EQ(Listed().size(), 30U);
}

// 10 MB on one line.
TEST_F(Refusal, AHugeDocumentIsSkippedAndCtrlCLeavesNothingOfIt) {
  std::string text;
  while (text.size() < 10'000'000) text += "the keeper of the north lighthouse lit the lamp by the river bridge ";
  Write("docs/huge.txt", text);
  Write("docs/small.txt", "A small text about a ferry.");
  const ProcessResult skipped = Ingest();
  EXPECT_EQ(skipped.exit_code, 1) << skipped.err;
  EXPECT_EQ(Outcomes(skipped), (std::map<std::string, std::string>{{"huge.txt", "failed"}, {"small.txt", "added"}}));
  EXPECT_TRUE(Holds(skipped.out, "10.0 MB is more than --max-document-bytes")) << skipped.out;
  ExpectStored({"small.txt"});

  // Its whole KV would fill 20 GB, which the disk need not have.
  const std::uintmax_t bytes_before = BytesIn(store_);
  Process process(IngestArgs({"--max-document-bytes", "16MiB", "--force", "--encode-batch-tokens", "256"}), root_);
  // Text and token tables are less than this for a byte of text; what comes on top is KV.
  constexpr std::uintmax_t kTextAndTables = 6;
  while (!process.HasEnded() && BytesIn(store_) < bytes_before + (kTextAndTables + 2) * text.size()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const auto begin = std::chrono::steady_clock::now();
  process.Signal(SIGINT);
  const ProcessResult stopped = process.Finish();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10)) << "hours are left of it";
  EXPECT_EQ(stopped.exit_code, 1) << stopped.err;
  EXPECT_EQ(Outcomes(stopped)["huge.txt"], "abandoned");
  ExpectStored({"small.txt"});
  EXPECT_EQ(Lines(Verify().out).at(0)["orphans"], 0);
  EXPECT_EQ(Ingest({"--exclude", "huge.txt"}).exit_code, 0);  // the next opening for writing
  EXPECT_EQ(Lines(Verify().out).at(0)["orphans"], 0);
  EXPECT_LT(BytesIn(store_), bytes_before + text.size() / 4) << "neither KV nor text nor tables are left on the disk";
}

}  // namespace
}  // namespace unfold::cli_testing
