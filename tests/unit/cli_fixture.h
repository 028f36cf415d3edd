// SPDX-License-Identifier: Apache-2.0
// Runs the program itself, as users run it, with the shipped model on a handful of documents.
#ifndef UNFOLD_TESTS_UNIT_CLI_FIXTURE_H_
#define UNFOLD_TESTS_UNIT_CLI_FIXTURE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "apps/json_output.h"
#include "tests/unit/process.h"

namespace unfold::cli_testing {
namespace fs = std::filesystem;
using cli::Json;
using Args = std::vector<std::string>;

inline constexpr const char* kProgram = UNFOLD_BINARY_DIR "/unfold";
inline constexpr const char* kModel = UNFOLD_SOURCE_DIR "/datasets/gist-mini";

inline std::string ReadText(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::vector<Json> Lines(const std::string& text) {
  std::vector<Json> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(Json::parse(text.substr(begin, end - begin), nullptr, false));
    EXPECT_FALSE(lines.back().is_discarded()) << text.substr(begin, end - begin);
    begin = end + 1;
  }
  return lines;
}

inline std::set<std::string> Keys(const Json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

inline bool Holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// A fresh folder for each test.
class Cli : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "unfold_cli_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    store_ = At("kb");
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string At(const std::string& name) const { return (root_ / name).string(); }
  void Write(const std::string& name, const std::string& text) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << text;
  }
  // The first documents of the sample, as docs/<name>.
  void WriteSample(std::size_t count) {
    std::ifstream in(std::string(kModel) + "/docs.jsonl");
    std::string line;
    while (count-- > 0 && std::getline(in, line)) {
      const Json document = Json::parse(line, nullptr, false);
      ASSERT_TRUE(document.is_object());
      Write("docs/" + document["name"].get<std::string>(), document["text"].get<std::string>());
    }
  }

  ProcessResult Run(const Args& args, const std::string& input = "") {
    Args all = {kProgram};
    all.insert(all.end(), args.begin(), args.end());
    return Process(all, root_, input).Finish();
  }
  Args WithModel(Args args) const {
    const Args more = {"--store", store_, "--collection", "notes", "--model", kModel};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  ProcessResult Ingest(Args more = {}) {
    more.insert(more.begin(), {"ingest", At("docs"), "--json"});
    return Run(WithModel(more));
  }
  // What ingest said: outcome by document.
  static std::map<std::string, std::string> Outcomes(const ProcessResult& result) {
    std::map<std::string, std::string> outcomes;
    for (const Json& line : Lines(result.out)) {
      if (line.contains("document")) outcomes[line["document"]] = line["outcome"];
    }
    return outcomes;
  }
  static Json Summary(const ProcessResult& result) {
    const auto lines = Lines(result.out);
    return lines.empty() ? Json() : lines.back().value("summary", Json());
  }
  std::vector<std::string> Listed() {
    std::vector<std::string> names;
    const ProcessResult result = Run({"list", "--store", store_, "--collection", "notes", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    for (const Json& line : Lines(result.out)) names.push_back(line["document"]);
    return names;
  }

  fs::path root_;
  std::string store_;
};

}  // namespace unfold::cli_testing

#endif  // UNFOLD_TESTS_UNIT_CLI_FIXTURE_H_
