// SPDX-License-Identifier: Apache-2.0
#include "golden/reference_questions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

namespace unfold::golden {
namespace {

std::string Label(const Json& reference) { return "'" + reference.at("question").get<std::string>() + "': "; }

}  // namespace

std::vector<Json> ReadLines(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  return lines;
}

std::vector<DocumentInput> ReferenceDocuments() {
  std::vector<DocumentInput> documents;
  for (const Json& line : ReadLines(kModelDir + "/docs.jsonl")) {
    DocumentInput document;
    document.name = line.at("name").get<std::string>();
    document.text = line.at("text").get<std::string>();
    documents.push_back(std::move(document));
  }
  return documents;
}

std::vector<Json> ReferenceQuestions() { return ReadLines(UNFOLD_BINARY_DIR "/golden/reference.jsonl"); }

Comparison CompareTokens(const Json& reference, const Answer& answer, const std::string& prefix) {
  Comparison result;
  const auto expected = reference.at(prefix + "answer_tokens").get<std::vector<TokenId>>();
  const auto margins = reference.at(prefix + "margins").get<std::vector<double>>();
  std::vector<TokenId> got = answer.tokens;
  if (answer.finish == FinishReason::kEnd) got.push_back(0);
  if (got == expected) return result;
  result.different = true;
  std::size_t at = 0;
  while (at < std::min(got.size(), expected.size()) && got[at] == expected[at]) ++at;
  const std::string what = Label(reference) + prefix + "token " + std::to_string(at) + " differs, reference margin " +
                           (at < margins.size() ? std::to_string(margins[at]) : "none");
  const bool near_tie = at < margins.size() && margins[at] < kTokenMargin;
  (near_tie ? result.notes : result.failures).push_back(what);
  return result;
}

using Chunks = std::vector<std::pair<std::string, int>>;

// Those of `some` that `others` lack, with a mark before each.
std::string Missing(const std::string& mark, const Chunks& some, const Chunks& others) {
  std::string missing;
  for (const auto& chunk : some) {
    if (std::find(others.begin(), others.end(), chunk) != others.end()) continue;
    missing += mark + chunk.first + " chunk " + std::to_string(chunk.second);
  }
  return missing;
}

Comparison CompareChosen(const Json& reference, const Answer& answer) {
  Comparison result;
  const auto documents = reference.at("documents").get<std::vector<std::string>>();
  std::map<std::pair<int, int>, std::vector<std::pair<std::string, int>>> got;
  for (const UnfoldedHead& head : answer.unfolded) {
    auto& chunks = got[{head.layer, head.kv_head}];
    for (const UnfoldedChunk& chunk : head.chunks) chunks.emplace_back(chunk.document, static_cast<int>(chunk.chunk));
  }
  std::size_t num_groups = 0;
  for (const Json& layer : reference.at("chosen")) {
    const int number = layer.at("layer").get<int>();
    for (std::size_t head = 0; head < layer.at("groups").size(); ++head) {
      ++num_groups;
      std::vector<std::pair<std::string, int>> expected;
      for (const Json& chunk : layer.at("groups")[head]) {
        expected.emplace_back(documents.at(chunk[0].get<std::size_t>()), chunk[1].get<int>());
      }
      if (got[{number, static_cast<int>(head)}] == expected) continue;
      result.different = true;
      const double margin = layer.at("margin").get<double>();
      (margin < kScoreMargin ? result.notes : result.failures)
          .push_back(Label(reference) + "layer " + std::to_string(number) + " group " + std::to_string(head) +
                     " chose other chunks, reference gap " + std::to_string(margin) + ":" +
                     Missing(" +", got[{number, static_cast<int>(head)}], expected) +
                     Missing(" -", expected, got[{number, static_cast<int>(head)}]));
    }
  }
  if (num_groups == 0 || num_groups != answer.unfolded.size()) {
    result.failures.push_back(Label(reference) + "unfolded " + std::to_string(answer.unfolded.size()) +
                              " groups, reference " + std::to_string(num_groups));
  }
  return result;
}

Comparison CompareRouted(const Json& reference, const Answer& answer) {
  Comparison result;
  const Json& expected = reference.at("routed");
  if (answer.routed.size() != expected.size()) {
    result.failures.push_back(Label(reference) + "routed " + std::to_string(answer.routed.size()) + " documents");
    return result;
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double score = expected[i].at("score").get<double>();
    const RoutedDocument& got = answer.routed[i];
    const bool same = got.document == expected[i].at("document").get<std::string>();
    result.different |= !same;
    // The score of a place must be the reference's; two documents may change places only when their scores tie.
    const std::string what = Label(reference) + "place " + std::to_string(i) + ": " + got.document + " " +
                             std::to_string(got.score) + ", reference " + expected[i].dump();
    if (std::abs(got.score - score) >= kScoreMargin) {
      result.failures.push_back(what);
    } else if (!same) {
      result.notes.push_back(what);
    }
  }
  return result;
}

void IngestAll(Engine& engine, const std::string& collection, std::vector<DocumentInput> documents) {
  std::size_t next = 0;
  const auto progress = engine.Ingest(collection, [&]() -> std::optional<DocumentInput> {
    if (next == documents.size()) return std::nullopt;
    return documents[next++];
  });
  ASSERT_TRUE(progress.ok()) << progress.status().ToString();
  ASSERT_EQ(progress->num_added, documents.size());
}

}  // namespace unfold::golden
