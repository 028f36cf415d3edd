// SPDX-License-Identifier: Apache-2.0
// unfold eval: answers a file of questions in one or more modes and scores the answers.
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "apps/cli.h"
#include "apps/eval_questions.h"
#include "apps/eval_summary.h"
#include "apps/format.h"
#include "apps/interrupt.h"
#include "apps/json_output.h"
#include "apps/metrics.h"
#include "apps/progress.h"

namespace unfold::cli {
namespace {

struct EvalFlags {
  StoreFlags store;
  ModelFlags model;
  std::string questions;
  std::vector<std::string> modes;
  AskOptions options;
  std::uint64_t limit = 0;
  bool json = false;
};

struct Mode {
  std::string name;
  AnswerMode mode;
  ModeSummary summary;
  std::optional<std::vector<TokenId>> answer;  // to the question at hand
};

AnswerMode ModeOf(const std::string& name) {
  if (name == "dense") return AnswerMode::kDense;
  if (name == "fresh") return AnswerMode::kFresh;
  return name == "closed" ? AnswerMode::kClosed : AnswerMode::kSsa;
}

// Each mode once, in the order given.
std::vector<Mode> MakeModes(std::vector<std::string> names) {
  if (names.empty()) names = {"ssa"};
  std::vector<Mode> modes;
  for (const std::string& name : names) {
    const bool is_new = std::none_of(modes.begin(), modes.end(), [&](const Mode& mode) { return mode.name == name; });
    if (is_new) modes.push_back({name, ModeOf(name), {}, {}});
  }
  return modes;
}

AskOptions OptionsFor(const EvalFlags& flags, const EvalQuestion& question, AnswerMode mode) {
  AskOptions options = flags.options;
  options.mode = mode;
  options.always_route = true;
  if (mode != AnswerMode::kClosed) options.working_set.documents = question.documents;
  return options;
}

// Routing that only fills `routed` is no part of the time to the first token.
double TimeToFirstToken(const EvalQuestion& question, AnswerMode mode, const Timings& timings) {
  const bool was_routed = mode != AnswerMode::kClosed && question.documents.empty();
  return was_routed ? timings.ttft_ms : timings.ttft_ms - timings.route_ms;
}

EvalResult Score(const EvalQuestion& question, AnswerMode mode, const Answer& answer) {
  EvalResult result;
  if (!question.answers.empty()) {
    result.em = SubspanMatch(answer.text, question.answers);
    result.f1 = WordF1(answer.text, question.answers);
  }
  result.gold_document = question.document;
  for (const RoutedDocument& routed : answer.routed) result.routed.push_back(routed.document);
  result.unfolded_share = answer.unfolded_share;
  result.ttft_ms = TimeToFirstToken(question, mode, answer.timings);
  result.decode_ms = answer.timings.decode_ms;
  result.tokens_per_second = answer.timings.tokens_per_second;
  return result;
}

void PrintResult(const Mode& mode, const EvalQuestion& question, const Answer& answer, const EvalResult& result) {
  PrintJsonLine({{"mode", mode.name},
                 {"question", question.question},
                 {"answer", answer.text},
                 {"answer_tokens", answer.tokens},
                 {"em", NumberOrNull(result.em)},
                 {"f1", NumberOrNull(result.f1)},
                 {"routed", result.routed},
                 {"unfolded_share", result.unfolded_share},
                 {"ttft_ms", result.ttft_ms}});
}

// Answers every question in every mode. Thread-compatible.
class EvalRun {
 public:
  EvalRun(Engine& engine, EvalFlags& flags, std::vector<EvalQuestion> questions)
      : engine_(engine), flags_(flags), questions_(std::move(questions)), modes_(MakeModes(flags.modes)) {}

  int Run() {
    const Interrupt interrupt;
    flags_.options.stop_token = interrupt.token();
    for (const EvalQuestion& question : questions_) {
      for (Mode& mode : modes_) {
        if (!interrupt.requested()) AnswerOne(question, mode, interrupt);
      }
      CompareWithFresh();
      ++num_done_;
      if (interrupt.requested()) break;
    }
    progress_.Clear();
    PrintSummary();
    if (interrupt.requested()) return Fail(Status::Cancelled("stopped before the last question"));
    const bool all_answered =
        std::all_of(modes_.begin(), modes_.end(), [](const Mode& mode) { return mode.summary.num_failed() == 0; });
    return all_answered ? kExitOk : kExitFailed;
  }

 private:
  void AnswerOne(const EvalQuestion& question, Mode& mode, const Interrupt& interrupt) {
    mode.answer.reset();
    const AskOptions options = OptionsFor(flags_, question, mode.mode);
    const auto answer = engine_.Ask(flags_.store.collection, question.question, options);
    if (answer.ok()) {
      const EvalResult result = Score(question, mode.mode, *answer);
      mode.summary.Add(result);
      mode.answer = answer->tokens;
      progress_.Update([&] { return Plural(num_done_, "question") + " of " + std::to_string(questions_.size()); });
      if (flags_.json) PrintResult(mode, question, *answer, result);
      return;
    }
    if (interrupt.requested()) return;
    mode.summary.AddFailure();
    progress_.Print(OneLine(mode.name + ": " + question.question + ": " + answer.status().ToString()));
    if (flags_.json) {
      PrintJsonLine({{"mode", mode.name}, {"question", question.question}, {"error", answer.status().ToString()}});
    }
  }

  // What storing costs in answers: how many are those of KV that was never stored.
  void CompareWithFresh() {
    const auto fresh =
        std::find_if(modes_.begin(), modes_.end(), [](const Mode& mode) { return mode.name == "fresh"; });
    if (fresh == modes_.end() || !fresh->answer) return;
    for (Mode& mode : modes_) {
      if (mode.answer) mode.summary.CompareWithFresh(*mode.answer == *fresh->answer);
    }
  }

  void PrintSummary() const {
    Json summary = Json::object();
    for (const Mode& mode : modes_) summary[mode.name] = mode.summary.ToJson();
    if (flags_.json) return PrintJsonLine({{"summary", std::move(summary)}});
    PrintTable(summary);
  }

  static void PrintTable(const Json& summary) {
    struct Column {
      const char* title;
      const char* key;
      int num_decimals;
    };
    constexpr std::array<Column, 10> kColumns = {{{"questions", "questions", 0},
                                                  {"em", "em", 3},
                                                  {"f1", "f1", 3},
                                                  {"recall@1", "recall_at_1", 3},
                                                  {"recall@5", "recall_at_5", 3},
                                                  {"recall@10", "recall_at_10", 3},
                                                  {"unfolded", "unfolded_share", 3},
                                                  {"ttft ms", "ttft_ms_p50", 1},
                                                  {"tokens/s", "tokens_per_s", 1},
                                                  {"as fresh", "same_as_fresh", 3}}};
    std::printf("%-7s", "mode");
    for (const Column& column : kColumns) std::printf(" %9s", column.title);
    std::printf("\n");
    for (const auto& [mode, figures] : summary.items()) {
      std::printf("%-7s", mode.c_str());
      for (const Column& column : kColumns) {
        const Json figure = figures.value(column.key, Json());
        const std::string text = figure.is_null() ? "-" : Fixed(figure.get<double>(), column.num_decimals);
        std::printf(" %9s", text.c_str());
      }
      std::printf("\n");
    }
  }

  Engine& engine_;
  EvalFlags& flags_;
  std::vector<EvalQuestion> questions_;
  std::vector<Mode> modes_;
  ProgressLine progress_;
  std::uint64_t num_done_ = 0;
};

int Run(EvalFlags flags) {
  auto questions = ReadQuestions(flags.questions);
  if (!questions.ok()) return Fail(questions.status());
  if (flags.limit > 0 && flags.limit < questions->size()) questions->resize(flags.limit);
  const auto options = MakeEngineOptions(flags.store, flags.model, StoreAccessMode::kReadOnly);
  if (!options.ok()) return FailUsage(options.status().message());
  const auto engine = Engine::Open(*options);
  if (!engine.ok()) return Fail(engine.status());
  return EvalRun(**engine, flags, *std::move(questions)).Run();
}

}  // namespace

CommandRun AddEval(CLI::App& command) {
  auto flags = std::make_shared<EvalFlags>();
  AddStoreFlag(command, flags->store);
  AddCollectionFlag(command, flags->store)->required();
  command.add_option("--questions", flags->questions, "JSON lines: question, answers, document, documents")
      ->required()
      ->type_name("FILE.jsonl");
  AddRepeatable(command, "--mode", flags->modes, "ssa (default), dense, fresh or closed")
      ->check(CLI::IsMember({"ssa", "dense", "fresh", "closed"}))
      ->type_name("MODE");
  command.add_option("--limit", flags->limit, "only this many questions; 0: all")->type_name("N");
  command
      .add_option("--max-context-tokens", flags->options.working_set.max_context_tokens,
                  "raw tokens of the documents placed; 0: what the model's window holds")
      ->check(CheckNotNegative)
      ->type_name("N");
  command.add_option("--unfold-top-k", flags->options.unfold_top_k, "unfold this many chunks per head")
      ->check(CheckNotNegative)
      ->type_name("N");
  command.add_option("--unfold-top-p", flags->options.unfold_top_p, "unfold the fewest chunks whose mass reaches this")
      ->check(CheckShare)
      ->type_name("P");
  command.add_flag("--json", flags->json, "a JSON line a question and mode, then {\"summary\": {mode: ...}}");
  AddModelFlags(command, flags->model);
  command.footer(
      "ttft_ms is the time to the first token, without routing where that only fills `routed`: fixed documents and\n"
      "closed. ttft_ms_p50 is its median. tokens_per_s is all decode steps after first tokens over all their time.\n"
      "Mode fresh encodes the same documents anew with f32 KV; \"as fresh\" is the share of answers that equal its "
      "own\n"
      "token for token: what the store's --kv-type costs.\n"
      "Example:\n"
      "  unfold eval --store kb --collection notes --model gist-mini --questions q.jsonl --mode ssa --mode dense");
  return [flags] { return Run(*flags); };
}

}  // namespace unfold::cli
