// SPDX-License-Identifier: Apache-2.0
// The program as a process: help, exit codes, and what its commands print.
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/cli_fixture.h"

namespace unfold::cli_testing {
namespace {

TEST_F(Cli, EveryCommandHasHelpWithAnExample) {
  for (const char* command : {"ingest", "ask", "list", "remove", "inspect", "verify", "eval", "bench"}) {
    const ProcessResult result = Run({command, "--help"});
    EXPECT_EQ(result.exit_code, 0) << command;
    EXPECT_TRUE(Holds(result.out, std::string("Usage: unfold ") + command)) << result.out;
    EXPECT_TRUE(Holds(result.out, std::string("  unfold ") + command + " ")) << "no example: " << result.out;
    EXPECT_EQ(result.err, "");
  }
  EXPECT_EQ(Run({"--version"}).out.rfind("unfold ", 0), 0U);
  EXPECT_EQ(Run({"--help"}).exit_code, 0);
}

TEST_F(Cli, AWrongCommandLineExitsWith2) {
  const std::vector<std::pair<Args, std::string>> cases = {
      {{}, "subcommand"},
      {{"bogus"}, "subcommand"},
      {{"list"}, "--store"},
      {{"list", "--store", store_, "--nope"}, "--nope"},
      {{"verify", "--store", store_, "extra"}, "extra"},
      {WithModel({"ask"}), "question"},
      {WithModel({"ask", " "}), "question is empty"},
      {WithModel({"ask", "q", "--temperature", "-1"}), "--temperature"},
      {WithModel({"ask", "q", "--top-p", "nan"}), "--top-p"},
      {WithModel({"ask", "q", "--chunk-size", "x"}), "--chunk-size"},
      {WithModel({"ask", "q", "--backend", "abacus"}), "--backend"},
      {WithModel({"ask", "q", "--kv-type", "f64"}), "--kv-type"},
      {WithModel({"ask", "q", "--compute", "f16"}), "--compute"},
      {WithModel({"eval", "--questions", "q.jsonl", "--mode", "open"}), "--mode"},
      {WithModel({"ingest"}), "path"},
      {{"remove", "--store", store_, "--collection", "notes"}, "--all"},
      {{"remove", "a", "--all", "--store", store_, "--collection", "notes"}, "--all"},
  };
  for (const auto& [args, expected] : cases) {
    const ProcessResult result = Run(args);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_TRUE(Holds(result.err, expected)) << expected << " is not in: " << result.err;
    EXPECT_EQ(result.out, "");
  }
  EXPECT_FALSE(fs::exists(store_)) << "a wrong command line must not make a store";
}

TEST_F(Cli, WhatIsMissingIsNamedAndExitsWith1) {
  Write("docs/a.txt", "Some text about a lighthouse.");
  Write("q.jsonl", "{\"question\": \"q\"}\n{\"question\": 1}\n");
  const Args store = {"--store", store_};
  const std::vector<std::pair<Args, std::string>> cases = {
      {{"list", "--store", store_}, "not found"},
      {{"inspect", "--store", store_}, "not found"},
      {{"verify", "--store", store_}, "not found"},
      {{"remove", "a.txt", "--store", store_, "--collection", "notes"}, "not found"},
      {WithModel({"ask", "q"}), "not found"},
      {{"ask", "q", "--store", store_, "--collection", "notes", "--model", At("no_model")}, "no_model"},
      {{"ingest", At("docs"), "--store", store_, "--collection", "notes", "--model", At("no_model")}, "no_model"},
      {WithModel({"ingest", At("nothing")}), "nothing"},
      {WithModel({"eval", "--questions", At("no.jsonl")}), "no.jsonl"},
      {WithModel({"eval", "--questions", At("q.jsonl")}), "q.jsonl line 2"},
      {WithModel({"ask", "q", "--history", At("no.json")}), "no.json"},
      {WithModel({"ask", "q", "--history", At("q.jsonl")}), "q.jsonl: not valid JSON"},
  };
  for (const auto& [args, expected] : cases) {
    const ProcessResult result = Run(args);
    EXPECT_EQ(result.exit_code, 1) << args[0] << ": " << result.err;
    EXPECT_TRUE(Holds(result.err, expected)) << args[0] << ": " << result.err;
  }
}

TEST_F(Cli, UnknownNamesExitWith1) {
  WriteSample(1);
  ASSERT_EQ(Ingest().exit_code, 0);
  const std::vector<std::pair<Args, std::string>> cases = {
      {{"list", "--store", store_, "--collection", "other"}, "other"},
      {{"inspect", "--store", store_, "--collection", "other"}, "other"},
      {{"remove", "x", "--store", store_, "--collection", "other"}, "other"},
      {{"remove", "d0000.txt", "ghost.txt", "--store", store_, "--collection", "notes"}, "ghost.txt"},
      {{"ask", "q", "--store", store_, "--collection", "other", "--model", kModel}, "other"},
      {WithModel({"ask", "q", "--document", "ghost.txt"}), "ghost.txt"},
  };
  for (const auto& [args, expected] : cases) {
    const ProcessResult result = Run(args);
    EXPECT_EQ(result.exit_code, 1) << args[0];
    EXPECT_TRUE(Holds(result.err, expected)) << args[0] << ": " << result.err;
    EXPECT_EQ(result.out, "");
  }
  EXPECT_EQ(Listed(), (Args{"d0000.txt"})) << "all named documents are removed or none";
}

TEST_F(Cli, ListInspectVerifyAndRemoveHaveTheirShapes) {
  WriteSample(2);
  ASSERT_EQ(Ingest().exit_code, 0);
  EXPECT_EQ(Run({"list", "--store", store_, "--json"}).out, "{\"collection\":\"notes\"}\n");
  const auto listed = Lines(Run({"list", "--store", store_, "--collection", "notes", "--json"}).out);
  ASSERT_EQ(listed.size(), 2U);
  EXPECT_EQ(Keys(listed[0]), (std::set<std::string>{"document", "title", "parts", "tokens", "bytes"}));
  EXPECT_GT(listed[0]["tokens"], 0);

  const Json inspected = Lines(Run({"inspect", "--store", store_, "--json"}).out).at(0);
  EXPECT_EQ(Keys(inspected), (std::set<std::string>{"store", "disk_bytes", "fingerprint", "collections"}));
  EXPECT_TRUE(inspected["fingerprint"].is_object());
  const Json& collection = inspected["collections"].at(0);
  EXPECT_EQ(collection["documents"], 2);
  EXPECT_EQ(Keys(collection["bytes"]), (std::set<std::string>{"text", "chunks", "gist", "raw", "total"}));
  // bf16 keys and values of every token, key/value head and layer but the first, which keeps gists and sinks alone.
  const Json config = Json::parse(ReadText(std::string(kModel) + "/config.json"), nullptr, false);
  const double kv_bytes = 2.0 * 2.0 * (config["num_hidden_layers"].get<double>() - 1) *
                          config["num_key_value_heads"].get<double>() * config["head_dim"].get<double>();
  const Json& per_token = collection["bytes_per_token"];
  EXPECT_GE(per_token["raw"].get<double>() + per_token["gist"].get<double>(), kv_bytes);
  const Json& bytes = collection["bytes"];
  EXPECT_EQ(bytes["total"],
            bytes["text"].get<int>() + bytes["chunks"].get<int>() + bytes["gist"].get<int>() + bytes["raw"].get<int>());
  EXPECT_EQ(bytes["total"], listed[0]["bytes"].get<int>() + listed[1]["bytes"].get<int>());
  EXPECT_GE(inspected["disk_bytes"], bytes["raw"]);

  const ProcessResult verified = Run({"verify", "--store", store_, "--json"});
  EXPECT_EQ(verified.exit_code, 0);
  const Json verdict = Lines(verified.out).at(0);
  EXPECT_EQ(Keys(verdict), (std::set<std::string>{"ok", "documents", "records", "bytes", "orphans", "findings"}));
  EXPECT_EQ(verdict["ok"], true);
  EXPECT_EQ(verdict["documents"], 2);

  EXPECT_EQ(Run({"remove", "d0000.txt", "--store", store_, "--collection", "notes"}).exit_code, 0);
  EXPECT_EQ(Listed(), (Args{"d0001.txt"}));
  EXPECT_EQ(Run({"remove", "--all", "--store", store_, "--collection", "notes"}).exit_code, 0);
  EXPECT_EQ(Run({"list", "--store", store_, "--collection", "notes"}).exit_code, 1);
}

TEST_F(Cli, VerifyFindsAFlippedByte) {
  WriteSample(1);
  ASSERT_EQ(Ingest().exit_code, 0);
  fs::path largest;
  std::uintmax_t largest_bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(store_)) {
    if (entry.is_regular_file() && entry.file_size() > largest_bytes) {
      largest = entry.path();
      largest_bytes = entry.file_size();
    }
  }
  ASSERT_GT(largest_bytes, 0U);
  std::string bytes = ReadText(largest);
  bytes[bytes.size() / 2] ^= 1;
  std::ofstream(largest, std::ios::binary) << bytes;
  const ProcessResult result = Run({"verify", "--store", store_, "--json"});
  EXPECT_EQ(result.exit_code, 1) << result.out << result.err;
  const Json verdict = Lines(result.out).at(0);
  EXPECT_EQ(verdict["ok"], false);
  EXPECT_FALSE(verdict["findings"].empty());
}

// gist-mini has no turns: they are joined into the question, and the earliest go when there are more than 64 tokens.
TEST_F(Cli, AskWithEarlierTurns) {
  WriteSample(2);
  ASSERT_EQ(Ingest().exit_code, 0);
  Json turns = {{{"role", "user"}, {"content", "Who wrote it?"}}, {{"role", "assistant"}, {"content", "A man."}}};
  Write("h.json", turns.dump());
  const Args ask = WithModel({"ask", "And when?", "--json", "--document", "d0000.txt"});
  Args with = ask;
  with.insert(with.end(), {"--history", At("h.json")});
  const ProcessResult result = Run(with);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Lines(result.out).at(0)["turns_dropped"], 0);
  Args joined = ask;
  joined[1] = "Who wrote it?\nA man.\nAnd when?";
  const ProcessResult same = Run(joined);
  ASSERT_EQ(same.exit_code, 0) << same.err;
  EXPECT_EQ(Lines(same.out).at(0)["answer_tokens"], Lines(result.out).at(0)["answer_tokens"]);

  turns.insert(turns.begin(), Json{{"role", "user"}, {"content", std::string(400, '?')}});
  Write("h.json", turns.dump());
  const ProcessResult longer = Run(with);
  ASSERT_EQ(longer.exit_code, 0) << longer.err;
  EXPECT_EQ(Lines(longer.out).at(0)["turns_dropped"], 1);
  EXPECT_EQ(Lines(longer.out).at(0)["answer_tokens"], Lines(result.out).at(0)["answer_tokens"]);
  with.erase(std::find(with.begin(), with.end(), "--json"));
  EXPECT_TRUE(Holds(Run(with).err, "its first 1 turn was left out")) << longer.err;
  with.insert(with.end(), {"--chat-template", "chatml"});
  EXPECT_TRUE(Holds(Run(with).err, "needs the special token '<|im_start|>'"));
}

TEST_F(Cli, AskCitesBytesOfTheFiles) {
  WriteSample(5);
  ASSERT_EQ(Ingest().exit_code, 0);
  const std::string question = "Who played Glenn Miller?";
  const ProcessResult result = Run(WithModel({"ask", question, "--json", "--show-unfold"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto lines = Lines(result.out);
  ASSERT_EQ(lines.size(), 1U) << "one object";
  const Json& answer = lines[0];
  for (const char* key : {"answer", "answer_tokens", "sources", "usage", "timings", "finish_reason", "routed",
                          "unfolded_share", "question_truncated", "turns_dropped", "unfolded"}) {
    EXPECT_TRUE(answer.contains(key)) << key;
  }
  ASSERT_FALSE(answer["sources"].empty());
  double share_sum = 0;
  for (const Json& source : answer["sources"]) {
    EXPECT_EQ(Keys(source), (std::set<std::string>{"document", "part", "byte_begin", "byte_end", "snippet", "share"}));
    const std::string text = ReadText(root_ / "docs" / source["document"].get<std::string>());
    const auto begin = source["byte_begin"].get<std::size_t>(), end = source["byte_end"].get<std::size_t>();
    ASSERT_LT(begin, end);
    ASSERT_LE(end, text.size());
    EXPECT_EQ(source["snippet"], text.substr(begin, end - begin));
    share_sum += source["share"].get<double>();
  }
  // Each share and each addition is rounded once.
  EXPECT_NEAR(share_sum, 1, 2 * DBL_EPSILON * static_cast<double>(answer["sources"].size()));
  EXPECT_EQ(answer["usage"]["completion_tokens"], answer["answer_tokens"].size());
  ASSERT_FALSE(answer["unfolded"].empty());
  EXPECT_EQ(Keys(answer["unfolded"][0]), (std::set<std::string>{"layer", "kv_head", "chunks"}));

  // The stream is the answer, and a question from standard input is the same question.
  const ProcessResult streamed = Run(WithModel({"ask", "-"}), question + "\n");
  ASSERT_EQ(streamed.exit_code, 0) << streamed.err;
  EXPECT_EQ(streamed.out.rfind(answer["answer"].get<std::string>() + "\n\nSources:\n[1] ", 0), 0U) << streamed.out;

  const Json named = Lines(Run(WithModel({"ask", question, "--json", "--document", "d0003.txt", "--document",
                                          "d0001.txt", "--max-tokens", "3"}))
                               .out)
                         .at(0);
  EXPECT_EQ(named["placed"], (Json{"d0003.txt", "d0001.txt"}));
  EXPECT_LE(named["answer_tokens"].size(), 3U);
  EXPECT_EQ(Run({"list", "--store", store_}).out, "notes\n");
}

TEST_F(Cli, ALostAnswerIsAFailure) {
  WriteSample(1);
  ASSERT_EQ(Ingest().exit_code, 0);
  const std::string command = std::string(kProgram) + " list --store '" + store_ + "' > /dev/full";
  const ProcessResult result = Process({"/bin/sh", "-c", command}, root_).Finish();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_TRUE(Holds(result.err, "stdout")) << result.err;
}

TEST_F(Cli, EvalScoresEachQuestionInEachMode) {
  WriteSample(12);
  ASSERT_EQ(Ingest().exit_code, 0);
  Write("q.jsonl",
        "{\"question\": \"Who played Glenn Miller?\", \"answers\": [\"James Stewart\"], \"document\": \"d0000.txt\", "
        "\"documents\": [\"d0002.txt\", \"d0000.txt\"], \"ignored\": 1}\n"
        "{\"question\": \"What is the film about?\"}\n"
        "{\"question\": \"Left out by --limit\"}\n");
  const ProcessResult result = Run(WithModel({"eval", "--questions", At("q.jsonl"), "--mode", "ssa", "--mode", "dense",
                                              "--mode", "closed", "--limit", "2", "--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto lines = Lines(result.out);
  ASSERT_EQ(lines.size(), 7U);
  const Args modes = {"ssa", "dense", "closed"};
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(Keys(lines[i]), (std::set<std::string>{"mode", "question", "answer", "answer_tokens", "em", "f1",
                                                     "routed", "unfolded_share", "ttft_ms"}));
    EXPECT_EQ(lines[i]["mode"], modes[i % 3]);
    EXPECT_EQ(lines[i]["routed"].size(), 10U) << "always filled: " << lines[i];
    EXPECT_EQ(lines[i]["em"].is_null(), i >= 3) << "only the first question has answers";
  }
  const Json& summary = lines[6]["summary"];
  EXPECT_EQ(Keys(summary), (std::set<std::string>{"ssa", "dense", "closed"}));
  for (const std::string& mode : modes) {
    EXPECT_EQ(Keys(summary[mode]),
              (std::set<std::string>{"questions", "em", "f1", "recall_at_1", "recall_at_5", "recall_at_10",
                                     "unfolded_share", "ttft_ms_p50", "tokens_per_s"}));
    EXPECT_EQ(summary[mode]["questions"], 2);
    EXPECT_EQ(summary[mode]["recall_at_10"], summary["ssa"]["recall_at_10"]) << "routing does not depend on the mode";
    EXPECT_GT(summary[mode]["ttft_ms_p50"], 0);
  }
  const ProcessResult table =
      Run(WithModel({"eval", "--questions", At("q.jsonl"), "--limit", "1", "--mode", "ssa", "--mode", "fresh"}));
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_TRUE(Holds(table.out, "recall@10") && Holds(table.out, "as fresh")) << table.out;

  Write("bad.jsonl", "{\"question\": \"q\", \"documents\": [\"ghost.txt\"]}\n{\"question\": \"q\"}\n");
  const ProcessResult bad = Run(WithModel({"eval", "--questions", At("bad.jsonl"), "--json"}));
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_TRUE(Holds(bad.err, "ghost.txt")) << bad.err;
  EXPECT_EQ(Lines(bad.out).back()["summary"]["ssa"]["failed"], 1) << "one bad question does not end the run";
}

}  // namespace
}  // namespace unfold::cli_testing
