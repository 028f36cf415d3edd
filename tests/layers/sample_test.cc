// SPDX-License-Identifier: Apache-2.0
// The shipped sample is whole: documents, questions whose answers stand in them, and the model's golden documents.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/json.h"

namespace unfold {
namespace {

namespace fs = std::filesystem;

const fs::path& Datasets() {
  static const fs::path path = fs::path(UNFOLD_SOURCE_DIR) / "datasets";
  return path;
}

std::string ReadText(const fs::path& path) {
  const Result<std::string> text = ReadFile(path.string());
  EXPECT_TRUE(text.ok()) << text.status().ToString();
  return text.ok() ? *text : "";
}

// One JSON value a line.
std::vector<Json> ReadLines(const fs::path& path) {
  std::vector<Json> out;
  std::istringstream in(ReadText(path));
  for (std::string line; std::getline(in, line);) {
    const Result<Json> json = ParseJson(line, path.string());
    EXPECT_TRUE(json.ok()) << json.status().ToString();
    if (json.ok()) out.push_back(*json);
  }
  return out;
}

TEST(Sample, HandbookIsADocumentSet) {
  std::size_t num_documents = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(Datasets() / "handbook")) {
    if (!entry.is_regular_file()) continue;
    ++num_documents;
    const std::string name = entry.path().filename().string();
    const auto is_plain = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
    };
    EXPECT_TRUE(std::all_of(name.begin(), name.end(), is_plain)) << name;
    EXPECT_TRUE(name.ends_with(".txt") || name.ends_with(".md")) << name;
    const std::string text = ReadText(entry.path());
    EXPECT_EQ(text.starts_with("# "), name.ends_with(".md")) << name << ": a Markdown file opens with its heading";
    EXPECT_EQ(text.find('\r'), std::string::npos) << name;
  }
  EXPECT_GE(num_documents, 200U);
}

TEST(Sample, EveryAnswerStandsInItsDocument) {
  const std::vector<Json> questions = ReadLines(Datasets() / "questions" / "handbook.jsonl");
  EXPECT_GE(questions.size(), 120U);
  std::set<std::string> seen;
  for (const Json& question : questions) {
    const std::string asked = question["question"];
    EXPECT_TRUE(seen.insert(asked).second) << "twice: " << asked;
    const std::string text = ReadText(Datasets() / "handbook" / question["document"].get<std::string>());
    EXPECT_FALSE(question["answers"].empty()) << asked;
    for (const Json& answer : question["answers"]) {
      EXPECT_NE(text.find(answer.get<std::string>()), std::string::npos) << asked << " -> " << answer;
    }
  }
}

TEST(Sample, GoldenAnswersHaveTheirDocuments) {
  std::set<std::string> names;
  for (const Json& document : ReadLines(Datasets() / "gist-mini" / "docs.jsonl")) {
    EXPECT_FALSE(document["text"].get<std::string>().empty());
    names.insert(document["name"].get<std::string>());
  }
  EXPECT_EQ(names.size(), 1000U);
  const std::vector<Json> golden = ReadLines(UNFOLD_BINARY_DIR "/golden/reference.jsonl");
  EXPECT_EQ(golden.size(), 200U);
  for (const Json& record : golden) {
    EXPECT_TRUE(names.contains(record["document"].get<std::string>()));
    for (const Json& name : record["documents"]) EXPECT_TRUE(names.contains(name.get<std::string>()));
    for (const Json& routed : record["routed"]) EXPECT_TRUE(names.contains(routed["document"].get<std::string>()));
  }
}

}  // namespace
}  // namespace unfold
