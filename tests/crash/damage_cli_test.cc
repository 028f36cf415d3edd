// SPDX-License-Identifier: Apache-2.0
// Damaged stores and stores of another model, as the program's user meets them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/cli_fixture.h"

namespace unfold::cli_testing {
namespace {

constexpr std::size_t kNumDocuments = 6;
constexpr std::size_t kNumRandomFlips = 3;  // in each file, beside its first and its last byte
constexpr const char* kQuestion = "Who played Glenn Miller?";

void WriteBytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

std::string KindOf(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  return dot != std::string::npos ? name.substr(dot) : name.substr(0, name.find('-'));
}

// RocksDB's messages for people, empty locks, and the remembered hash of the weights, which is checked when used.
bool HoldsData(const std::string& name) {
  return name != "LOCK" && name != "READERS" && name != "WEIGHTS" && name.rfind("LOG", 0) != 0;
}

class DamagedStore : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    WriteSample(kNumDocuments);
    ASSERT_EQ(Ingest().exit_code, 0);
    fs::remove(root_ / "docs/d0005.txt");
    ASSERT_EQ(Ingest({"--prune"}).exit_code, 0);  // a second closing, and something removed
    intact_answer_ = AskTwo();
    ASSERT_EQ(intact_answer_.exit_code, 0) << intact_answer_.err;
    for (const auto& entry : fs::directory_iterator(store_)) {
      if (HoldsData(entry.path().filename().string())) files_.push_back(entry.path());
    }
  }
  ProcessResult AskTwo(Args more = {}) {
    more.insert(more.begin(), {"ask", kQuestion, "--max-tokens", "2"});
    return Run(WithModel(more));
  }
  ProcessResult Verify() { return Run({"verify", "--store", store_}); }

  // An answer that is given is the right one; one that is not is refused with its reason. No signal ends it.
  void ExpectAnswerOrReason() {
    const ProcessResult asked = AskTwo();
    if (asked.exit_code == 0) {
      EXPECT_EQ(asked.out, intact_answer_.out);
    } else {
      EXPECT_EQ(asked.exit_code, 1) << asked.err;
      EXPECT_TRUE(Holds(asked.err, "unfold: corruption: ")) << asked.err;
    }
  }

  ProcessResult intact_answer_;
  std::vector<fs::path> files_;
};

TEST_F(DamagedStore, VerifyNamesTheFileOfEveryFlippedByte) {
  std::mt19937_64 random(1);
  std::map<std::string, int> flips;
  for (const fs::path& path : files_) {
    const std::string intact = ReadText(path), name = path.filename().string();
    int& num_flips = flips[KindOf(name)];
    if (intact.empty()) continue;
    std::set<std::size_t> places = {0, intact.size() - 1};
    for (std::size_t i = 0; i < kNumRandomFlips; ++i) places.insert(random() % intact.size());
    for (const std::size_t at : places) {
      SCOPED_TRACE(name + " byte " + std::to_string(at) + " of " + std::to_string(intact.size()));
      std::string damaged = intact;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 + random() % 255));
      WriteBytes(path, damaged);
      const ProcessResult verified = Verify();
      EXPECT_EQ(verified.exit_code, 1) << verified.out << verified.err;
      EXPECT_TRUE(Holds(verified.out, name)) << verified.out << verified.err;
      ExpectAnswerOrReason();
      ++num_flips;
    }
    WriteBytes(path, intact);
  }
  EXPECT_EQ(Verify().exit_code, 0) << "intact again";
  EXPECT_EQ(AskTwo().out, intact_answer_.out);
  for (const char* kind : {".sst", ".blob", "MANIFEST", "CURRENT", "COMMITS", "CLEAN"})
    EXPECT_GT(flips[kind], 1) << kind;
  ASSERT_TRUE(flips.contains(".log"));
  EXPECT_EQ(flips[".log"], 0) << "the log of a closed store is empty, so there is no byte to flip";
}

// A damaged store is refused to a writer or written to, but never makes it crash or lose a document.
TEST_F(DamagedStore, AWriterDoesNotCrashOnIt) {
  std::mt19937_64 random(2);
  const fs::path backup = root_ / "backup";
  fs::rename(store_, backup);
  Write("docs/more.txt", "One more text, about a ferry.");
  for (const fs::path& path : files_) {
    const std::string name = path.filename().string();
    const std::string intact = ReadText(backup / name);
    if (intact.empty()) continue;
    fs::copy(backup, store_);
    std::string damaged = intact;
    damaged[random() % intact.size()] ^= 1;
    WriteBytes(path, damaged);
    const ProcessResult ingested = Ingest();
    EXPECT_TRUE(ingested.exit_code == 0 || ingested.exit_code == 1) << name << ": " << ingested.exit_code;
    if (ingested.exit_code == 1) {
      EXPECT_TRUE(Holds(ingested.err, "unfold: corruption: ")) << name << ": " << ingested.err;
    } else {
      EXPECT_EQ(Listed().size(), kNumDocuments) << name;
      EXPECT_EQ(Outcomes(ingested)["more.txt"], "added") << name;
    }
    fs::remove_all(store_);
  }
}

// Another model's store: refused by every command that would use its KV, with what differs, and left as it was.
TEST_F(DamagedStore, AStoreOfAnotherModelIsRefused) {
  const fs::path other = root_ / "other_model";
  fs::create_directory(other);
  for (const auto& entry : fs::directory_iterator(kModel)) {
    if (entry.path().filename() != "model.safetensors")
      fs::create_symlink(entry.path(), other / entry.path().filename());
  }
  std::string weights = ReadText(fs::path(kModel) / "model.safetensors");
  std::size_t header_bytes = 0;
  for (int i = 7; i >= 0; --i)
    header_bytes = header_bytes * 256 + static_cast<unsigned char>(weights[static_cast<std::size_t>(i)]);
  weights.at(8 + header_bytes) ^= 1;  // the lowest bit of the first weight: still a number
  WriteBytes(other / "model.safetensors", weights);

  const Args with_other = {"--store", store_, "--collection", "notes", "--model", other.string()};
  const std::vector<std::pair<Args, std::string>> cases = {
      {with_other, "weights ("},
      {WithModel({"--chunk-size", "16"}), "chunk_size (stored 8, now 16)"},
      {WithModel({"--sink-size", "2"}), "sink_size (stored 3, now 2)"},
      {WithModel({"--part-tokens", "64"}), "part_tokens (stored 176, now 64)"},
      {WithModel({"--kv-type", "f32"}), "kv_type (stored \"bf16\", now \"f32\")"},
      {WithModel({"--compute", "bf16"}), "compute_type (stored \"f32\", now \"bf16\")"},
  };
  Write("docs/more.txt", "One more text, about a ferry.");
  for (const auto& [rest, difference] : cases) {
    for (const Args& start : {Args{"ask", kQuestion}, Args{"ingest", At("docs")}}) {
      Args args = start;
      args.insert(args.end(), rest.begin(), rest.end());
      const ProcessResult result = Run(args);
      EXPECT_EQ(result.exit_code, 1) << start[0] << " " << difference;
      EXPECT_TRUE(Holds(result.err, "unfold: incompatible: ") && Holds(result.err, difference)) << result.err;
      EXPECT_EQ(result.out, "");
    }
  }
  EXPECT_EQ(AskTwo().out, intact_answer_.out) << "nothing was changed";
  EXPECT_EQ(Listed().size(), kNumDocuments - 1);
  EXPECT_EQ(Verify().exit_code, 0);
  // What KV does not depend on may change over a store.
  EXPECT_EQ(AskTwo({"--compression", "4", "--max-documents", "2"}).exit_code, 0);
}

}  // namespace
}  // namespace unfold::cli_testing
