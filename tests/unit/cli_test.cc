// SPDX-License-Identifier: Apache-2.0
// The parts of the program that need no engine: scoring, flags, questions, and what is shown.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "apps/answer_stream.h"
#include "apps/eval_questions.h"
#include "apps/eval_summary.h"
#include "apps/format.h"
#include "apps/gist_flags.h"
#include "apps/history.h"
#include "apps/interrupt.h"
#include "apps/json_output.h"
#include "apps/metrics.h"
#include "apps/progress.h"

namespace unfold::cli {
namespace {

// Expected values of this test are those of SQuAD's own evaluation script (Python), run once on the same texts.
TEST(Metrics, NormalizesAsSquadDoes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", ""},
      {"the", ""},
      {"!?.", ""},
      {"The  Eiffel-Tower,\t(Paris)!\n", "eiffeltower paris"},
      {"A man, a plan", "man plan"},
      {"an apple a day in the Theatre", "apple day in theatre"},
      {"U.S.A.", "usa"},
      {"it's the_end", "its theend"},
      {"\xC3\x89"
       "COLE \xC3\x84 \xD0\x9C\xD0\x98\xD0\xA0 \xCE\xA9",
       "\xC3\xA9"
       "cole \xC3\xA4 \xD0\xBC\xD0\xB8\xD1\x80 \xCF\x89"},
      {"a\xE2\x80\x93"
       "b",
       "\xE2\x80\x93"
       "b"},  // an en dash is no ASCII punctuation, and ends the word a
      {"\xC3\xA9"
       "a the\xC3\xA9",
       "\xC3\xA9"
       "a the\xC3\xA9"},                     // é is a letter: no article here
      {"x\xC2\xA0the\xE3\x80\x80y", "x y"},  // no-break space, ideographic space
      {"a1 1a", "a1 1a"},
  };
  for (const auto& [text, normalized] : cases) EXPECT_EQ(NormalizeAnswer(text), normalized) << text;
}

TEST(Metrics, SubspanMatchFindsAnyAnswerInside) {
  EXPECT_EQ(SubspanMatch("It was Glenn Miller, in 1942.", {"nobody", "the Glenn Miller"}), 1);
  EXPECT_EQ(SubspanMatch("Glenn", {"Glenn Miller"}), 0);
  EXPECT_EQ(SubspanMatch("anything", {}), 0);
  EXPECT_EQ(SubspanMatch("anything", {"the"}), 0) << "an answer that is empty once normalised is not in every text";
  EXPECT_EQ(SubspanMatch("A!", {"the"}), 1);
  EXPECT_EQ(SubspanMatch("", {"x"}), 0);
}

TEST(Metrics, F1CountsWordsOnceEach) {
  // predicted: cat sat on mat; gold: cat on mat; 3 in common: P 3/4, R 1.
  EXPECT_DOUBLE_EQ(WordF1("The cat sat on mat", {"a cat on the mat"}), 6.0 / 7.0);
  EXPECT_DOUBLE_EQ(WordF1("yes yes yes", {"yes"}), 0.5);
  EXPECT_DOUBLE_EQ(WordF1("yes", {"no", "Yes!"}), 1);
  EXPECT_EQ(WordF1("yes", {"no"}), 0);
  EXPECT_EQ(WordF1("", {"no"}), 0);
  EXPECT_EQ(WordF1("the", {"a"}), 1) << "two empty texts agree";
  EXPECT_EQ(WordF1("yes", {}), 0);
}

TEST(EvalSummary, AveragesOverTheQuestionsThatHaveWhatItTakes) {
  ModeSummary summary;
  summary.Add({.em = 1,
               .f1 = 0.5,
               .gold_document = "d",
               .routed = {"d", "e"},
               .unfolded_share = 0.25,
               .ttft_ms = 30,
               .decode_ms = 100,
               .tokens_per_second = 50});
  summary.Add({.em = 0,
               .f1 = 0,
               .gold_document = "d",
               .routed = {"1", "2", "3", "4", "5", "d"},
               .unfolded_share = 0.75,
               .ttft_ms = 10,
               .decode_ms = 300,
               .tokens_per_second = 10});
  summary.Add({.em = {},
               .f1 = {},
               .gold_document = "",
               .routed = {"d"},
               .unfolded_share = 0.5,
               .ttft_ms = 20,
               .decode_ms = 0,
               .tokens_per_second = 0});
  const Json json = summary.ToJson();
  EXPECT_EQ(DumpJson(json),
            R"({"questions":3,"em":0.5,"f1":0.25,"recall_at_1":0.5,"recall_at_5":0.5,"recall_at_10":1.0,)"
            R"("unfolded_share":0.5,"ttft_ms_p50":20.0,"tokens_per_s":20.0})");  // 5 + 3 steps in 0.4 s
}

TEST(EvalSummary, SaysNullWhereThereIsNothing) {
  ModeSummary summary;
  summary.AddFailure();
  EXPECT_EQ(DumpJson(summary.ToJson()),
            R"({"questions":0,"failed":1,"em":null,"f1":null,"recall_at_1":null,"recall_at_5":null,)"
            R"("recall_at_10":null,"unfolded_share":null,"ttft_ms_p50":null,"tokens_per_s":null})");
  EXPECT_EQ(Median({4, 1, 3, 2}), 2.5);
  EXPECT_EQ(Median({9, 1, 2}), 2);
  EXPECT_EQ(Median({}), std::nullopt);
}

TEST(EvalQuestions, ReadsFieldsAndIgnoresOthers) {
  const auto questions = ParseQuestions(
      "{\"question\": \"q\", \"answers\": [\"a\", \"b\"], \"document\": \"d\", \"documents\": [\"x\", \"y\"], \"k\": 1}"
      "\r\n\n  \n{\"question\": \"r\", \"document\": null}",
      "f");
  ASSERT_TRUE(questions.ok()) << questions.status().ToString();
  ASSERT_EQ(questions->size(), 2U);
  EXPECT_EQ((*questions)[0].answers, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ((*questions)[0].document, "d");
  EXPECT_EQ((*questions)[0].documents, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ((*questions)[1].question, "r");
  EXPECT_TRUE((*questions)[1].answers.empty() && (*questions)[1].document.empty());
}

TEST(EvalQuestions, NamesTheBadLine) {
  for (const char* bad :
       {"{", "[]", "{}", "{\"question\": 1}", "{\"question\": \"\"}", "{\"question\": \"q\", \"answers\": \"a\"}",
        "{\"question\": \"q\", \"documents\": [1]}", "{\"question\": \"q\", \"document\": []}"}) {
    const auto questions = ParseQuestions("{\"question\": \"q\"}\n\n" + std::string(bad), "f.jsonl");
    ASSERT_FALSE(questions.ok()) << bad;
    EXPECT_EQ(questions.status().message().rfind("f.jsonl line 3: ", 0), 0U) << questions.status().message();
  }
  EXPECT_FALSE(ParseQuestions("\n", "f").ok()) << "a file without a question";
  EXPECT_EQ(ReadQuestions("/nonexistent/q.jsonl").status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(ReadQuestions("/").ok()) << "a folder";
}

// JSON pointers of all values below `json`, arrays being values.
void CollectPaths(const Json& json, const std::string& path, std::set<std::string>& paths) {
  if (!json.is_object()) {
    paths.insert(path);
    return;
  }
  for (const auto& [key, value] : json.items()) CollectPaths(value, path + "/" + key, paths);
}

Json ShippedGistConfig() {
  std::ifstream in(UNFOLD_SOURCE_DIR "/datasets/gist-mini/gist_config.json");
  return Json::parse(std::string(std::istreambuf_iterator<char>(in), {}), nullptr, false);
}

TEST(GistFlags, CoverEveryFieldOfTheShippedConfig) {
  std::set<std::string> fields, flags;
  CollectPaths(ShippedGistConfig(), "", fields);
  EXPECT_EQ(fields.erase("/format_version"), 1U);
  fields.insert({"/prompt/chat_template", "/prompt/system"});  // its prompt is a plain one
  for (const GistFlag& flag : GistFlags()) EXPECT_TRUE(flags.insert(flag.path).second) << flag.path;
  EXPECT_EQ(fields, flags);
}

// A value as a user would type it.
std::string Typed(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

TEST(GistFlags, GiveBackTheShippedConfig) {
  Json config = ShippedGistConfig();
  std::vector<std::pair<const GistFlag*, std::string>> values;
  for (const GistFlag& flag : GistFlags()) {
    const Json::json_pointer path(flag.path);
    if (config.contains(path)) values.emplace_back(&flag, Typed(config.at(path)));
  }
  const auto patch = MakeGistOverrides(values);
  ASSERT_TRUE(patch.ok()) << patch.status().ToString();
  config.erase("format_version");
  // Without order: a merge patch has none.
  EXPECT_EQ(nlohmann::json::parse(*patch, nullptr, false), nlohmann::json::parse(config.dump(), nullptr, false));
  EXPECT_EQ(*MakeGistOverrides({}), "");
}

TEST(History, ReadsTurns) {
  const auto turns = ParseHistory(
      R"([{"role": "user", "content": "who?"}, {"content": "<gist> a \u00e4", "role": "assistant"}])", "h.json");
  ASSERT_TRUE(turns.ok()) << turns.status().ToString();
  ASSERT_EQ(turns->size(), 2U);
  EXPECT_EQ((*turns)[0].role, TurnRole::kUser);
  EXPECT_EQ((*turns)[0].text, "who?");
  EXPECT_EQ((*turns)[1].role, TurnRole::kAssistant);
  EXPECT_EQ((*turns)[1].text, "<gist> a \xC3\xA4");
  EXPECT_TRUE(ParseHistory("[]", "h.json")->empty());
}

TEST(History, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"[", "h.json: not valid JSON"},
      {R"({"role": "user", "content": "a"})", "h.json: not an array"},
      {R"([3])", "turn 1: not an object"},
      {R"([{"role": "user", "content": "a"}, {"role": "user"}])", "turn 2: no \"content\""},
      {R"([{"content": "a"}])", "turn 1: no \"role\""},
      {R"([{"role": "user", "content": ["a"]}])", "content is not a string"},
      {R"([{"role": "tool", "content": "a"}])", "\"tool\", expected user or assistant"},
      {R"([{"role": "system", "content": "a"}])", "--system-prompt"},
      {R"([{"role": "user", "content": "a", "name": "b"}])", "unknown field \"name\""}};
  for (const auto& [json, says] : cases) {
    const Status status = ParseHistory(json, "h.json").status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << json;
    EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
  }
  EXPECT_EQ(ReadHistory("/nowhere/h.json").status().code(), StatusCode::kNotFound);
}

const GistFlag& FlagOf(GistFlagKind kind) {
  for (const GistFlag& flag : GistFlags()) {
    if (flag.kind == kind) return flag;
  }
  ADD_FAILURE() << "no flag of this kind";
  return GistFlags()[0];
}

TEST(GistFlags, ReadLists) {
  const GistFlag &texts = FlagOf(GistFlagKind::kStrings), &ids = FlagOf(GistFlagKind::kInts);
  EXPECT_EQ(ParseGistFlag(texts, "<a>,<b>")->dump(), R"(["<a>","<b>"])");
  EXPECT_EQ(ParseGistFlag(texts, R"(["a,b"])")->dump(), R"(["a,b"])");
  EXPECT_EQ(ParseGistFlag(texts, "")->dump(), "[]");
  EXPECT_EQ(ParseGistFlag(ids, "1,-2,30")->dump(), "[1,-2,30]");
  EXPECT_EQ(ParseGistFlag(FlagOf(GistFlagKind::kNumber), "8")->dump(), "8");
  EXPECT_EQ(ParseGistFlag(FlagOf(GistFlagKind::kNumber), "2.5")->dump(), "2.5");
  EXPECT_EQ(ParseGistFlag(FlagOf(GistFlagKind::kBool), "no")->dump(), "false");
}

TEST(GistFlags, RefuseWhatTheyCannotRead) {
  const std::vector<std::pair<GistFlagKind, std::string>> cases = {{GistFlagKind::kInt, ""},
                                                                   {GistFlagKind::kInt, "8x"},
                                                                   {GistFlagKind::kInt, "1.5"},
                                                                   {GistFlagKind::kNumber, "nan"},
                                                                   {GistFlagKind::kNumber, "1e999"},
                                                                   {GistFlagKind::kBool, "maybe"},
                                                                   {GistFlagKind::kInts, "1,,2"},
                                                                   {GistFlagKind::kInts, "[\"a\"]"},
                                                                   {GistFlagKind::kStrings, "a,"},
                                                                   {GistFlagKind::kStrings, "[1]"},
                                                                   {GistFlagKind::kJson, "{}"},
                                                                   {GistFlagKind::kJson, "[1"},
                                                                   {GistFlagKind::kInt, "99999999999999999999"}};
  for (const auto& [kind, text] : cases) {
    const auto value = ParseGistFlag(FlagOf(kind), text);
    ASSERT_FALSE(value.ok()) << text;
    EXPECT_NE(value.status().message().find("got '" + text + "'"), std::string::npos);
  }
}

TEST(Format, Numbers) {
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(1000), "1.0 kB");
  EXPECT_EQ(HumanBytes(999'960), "1.0 MB");
  EXPECT_EQ(HumanBytes(55'600'072), "55.6 MB");
  EXPECT_EQ(HumanDuration(6.6), "0:07");
  EXPECT_EQ(HumanDuration(133), "2:13");
  EXPECT_EQ(HumanDuration(3723), "1:02:03");
  EXPECT_EQ(HumanDuration(-1), "0:00");
  EXPECT_EQ(Plural(1, "part") + Plural(0, "part"), "1 part0 parts");
  EXPECT_EQ(Ratio(1, 0), 0);
}

TEST(Format, OneLineCannotSteerATerminal) {
  EXPECT_EQ(OneLine("  a\n\n b\t\x1b[31mc\x7f "), "a b [31mc");
  EXPECT_EQ(OneLine("x\xC2\x9By\xE2\x80\xA8z"), "x y z");  // C1 escape, line separator
  EXPECT_EQ(OneLine("\xFF\xE4\xBD\xA0\xC3"), "?\xE4\xBD\xA0?");
  EXPECT_EQ(OneLine("\xED\xA0\x80"), "???") << "a surrogate is not UTF-8";
}

TEST(Format, CutsAtACharacter) {
  EXPECT_EQ(OneLine("abcdef", 6), "abcdef");
  EXPECT_EQ(OneLine("abcdefg", 6), "abc\xE2\x80\xA6");
  EXPECT_EQ(OneLine("ab\xE4\xBD\xA0\xE5\xA5\xBD", 7), "ab\xE2\x80\xA6") << "no half of a character";
}

TEST(AnswerStream, ShowsTheAnswerWithoutItsEnds) {
  AnswerStream stream;
  std::string shown;
  std::vector<std::string> pieces;
  for (const char* piece : {" ", "\n", " a", " ", "b \n", "", "c", " ", "\n"}) {
    pieces.push_back(stream.Push(piece));
    shown += pieces.back();
  }
  EXPECT_EQ(shown, "a b \nc");
  EXPECT_EQ(pieces[2], "a") << "what can be shown is shown at once";
}

TEST(JsonOutput, IsAlwaysUtf8) {
  EXPECT_EQ(DumpJson({{"a", "x\xFFy"}, {"b", 1.5}}), "{\"a\":\"x\xEF\xBF\xBDy\",\"b\":1.5}");
  EXPECT_EQ(DumpJson(NumberOrNull(std::nullopt)), "null");
}

// A file in memory to write to.
class MemoryFile {
 public:
  ~MemoryFile() { std::fclose(file_); }
  std::FILE* get() { return file_; }
  std::string Text() {
    std::fflush(file_);
    std::string text;
    std::rewind(file_);
    for (int c; (c = std::fgetc(file_)) != EOF;) text += static_cast<char>(c);
    return text;
  }

 private:
  std::FILE* file_ = std::tmpfile();
};

TEST(Progress, WritesALineEveryFiveSecondsElsewhere) {
  MemoryFile file;
  std::chrono::steady_clock::time_point now{};
  int num_made = 0;
  {
    ProgressLine line(file.get(), /*is_terminal=*/false, [&] { return now; });
    for (int i = 0; i <= 11; ++i) {
      now = std::chrono::steady_clock::time_point{} + std::chrono::seconds(i);
      line.Update([&] { return "at " + std::to_string(i) + "\x1b" + std::to_string(++num_made); });
    }
    line.Print("kept");
  }
  EXPECT_EQ(file.Text(), "at 5 1\nat 10 2\nkept\n");
}

TEST(Progress, RewritesItsLineOnATerminal) {
  MemoryFile file;
  std::chrono::steady_clock::time_point now{};
  {
    ProgressLine line(file.get(), /*is_terminal=*/true, [&] { return now; });
    now += std::chrono::milliseconds(100);
    line.Update([] { return "one"; });
    line.Update([] { return "too soon"; });
    line.Print("kept");
    now += std::chrono::milliseconds(100);
    line.Update([] { return std::string(200, 'x'); });
  }
  const std::string clear = "\r\x1b[K";
  EXPECT_EQ(file.Text(), clear + "one" + clear + "kept\n" + clear + std::string(76, 'x') + "\xE2\x80\xA6" + clear);
}

TEST(Interrupt, TurnsASignalIntoAStopRequest) {
  for (const int signal_number : {SIGINT, SIGTERM}) {
    Interrupt interrupt;
    ASSERT_FALSE(interrupt.requested());
    std::raise(signal_number);
    // Bounded by the test's own time limit.
    while (!interrupt.requested()) std::this_thread::yield();
    EXPECT_TRUE(interrupt.token().stop_requested());
  }
}

TEST(InterruptDeathTest, TheSecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        Interrupt interrupt;
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace unfold::cli
