// SPDX-License-Identifier: Apache-2.0
// unfold ask: streams an answer, then says where it comes from.
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "apps/answer_json.h"
#include "apps/answer_stream.h"
#include "apps/cli.h"
#include "apps/deadline.h"
#include "apps/format.h"
#include "apps/history.h"
#include "apps/interrupt.h"
#include "apps/json_output.h"

namespace unfold::cli {
namespace {

constexpr std::size_t kSnippetBytes = 160;

struct AskFlags {
  StoreFlags store;
  ModelFlags model;
  std::string question;
  std::string history;  // a file; empty: none
  AskOptions options;
  std::uint64_t unfold_cache_bytes = EngineOptions().unfold_cache_bytes;
  std::uint64_t block_cache_bytes = EngineOptions().block_cache_bytes;
  std::uint64_t gist_cache_bytes = EngineOptions().gist_cache_bytes;
  double timeout_seconds = 0;
  bool json = false;
};

// "-" is standard input without its last line ends.
std::string ReadQuestion(const std::string& argument) {
  if (argument != "-") return argument;
  std::string text;
  char buffer[4096];
  for (std::size_t size; (size = std::fread(buffer, 1, sizeof(buffer), stdin)) > 0;) text.append(buffer, size);
  text.erase(text.find_last_not_of("\r\n") + 1);
  return text;
}

const char* FinishName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEnd: return "end";
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kSink: return "sink";
  }
  return "";
}

void PrintJson(const Answer& answer, bool show_unfold) {
  Json json = {{"answer", answer.text},
               {"answer_tokens", answer.tokens},
               {"sources", SourcesJson(answer.sources)},
               {"usage", UsageJson(answer.usage)},
               {"timings", TimingsJson(answer.timings)},
               {"finish_reason", FinishName(answer.finish)},
               {"routed", RoutedJson(answer.routed)},
               {"placed", answer.placed},
               {"unfolded_share", answer.unfolded_share},
               {"question_truncated", answer.question_truncated},
               {"turns_dropped", answer.num_turns_dropped}};
  if (show_unfold) json["unfolded"] = UnfoldedJson(answer.unfolded);
  PrintJsonLine(json);
}

void PrintSources(const std::vector<Source>& sources) {
  if (!sources.empty()) std::printf("\nSources:\n");
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const Source& source = sources[i];
    std::printf("[%zu] %s, part %u, bytes %u-%u, %s %%\n    %s\n", i + 1, OneLine(source.document).c_str(), source.part,
                source.byte_begin, source.byte_end, Fixed(100 * source.share, 1).c_str(),
                OneLine(source.snippet, kSnippetBytes).c_str());
  }
}

// "layer 3 head 1: a.txt 0:4 0:5, b.txt 1:0" with part:chunk.
void PrintUnfolded(const std::vector<UnfoldedHead>& heads) {
  std::printf("\nUnfolded for the first token (part:chunk):\n");
  for (const UnfoldedHead& head : heads) {
    std::printf("layer %d head %d:", head.layer, head.kv_head);
    const std::string* document = nullptr;
    for (const UnfoldedChunk& chunk : head.chunks) {
      if (document == nullptr || *document != chunk.document) {
        std::printf("%s %s", document == nullptr ? "" : ",", OneLine(chunk.document).c_str());
      }
      document = &chunk.document;
      std::printf(" %u:%u", chunk.part, chunk.chunk);
    }
    std::printf("\n");
  }
}

void PrintFigures(const Answer& answer) {
  if (answer.question_truncated) std::fprintf(stderr, "note: the question was cut at max_question_tokens\n");
  if (answer.num_turns_dropped > 0) {
    std::fprintf(stderr,
                 "note: the history is longer than max_question_tokens leaves room for: its first %s left out\n",
                 (Plural(static_cast<std::uint64_t>(answer.num_turns_dropped), "turn") +
                  (answer.num_turns_dropped == 1 ? " was" : " were"))
                     .c_str());
  }
  std::fprintf(stderr, "%s, the first after %s ms, then %s tokens/s; %s of %s unfolded in %s\n",
               Plural(answer.tokens.size(), "token").c_str(), Fixed(answer.timings.ttft_ms, 1).c_str(),
               Fixed(answer.timings.tokens_per_second, 1).c_str(),
               (Fixed(100 * answer.unfolded_share, 1) + " %").c_str(),
               Plural(answer.usage.context_chunks, "chunk").c_str(), Plural(answer.placed.size(), "document").c_str());
}

int FailAnswer(const Status& status, bool interrupted, double timeout_seconds) {
  if (status.code() != StatusCode::kCancelled) return Fail(status);
  if (interrupted) return Fail(Status::Cancelled("stopped before the answer was complete"));
  if (timeout_seconds <= 0) return Fail(status);
  return Fail(Status::Cancelled("no complete answer within --timeout " + Fixed(timeout_seconds, 3) + " seconds"));
}

int Answered(const AskFlags& flags, const Answer& answer) {
  if (flags.json) {
    PrintJson(answer, flags.options.explain);
    return kExitOk;
  }
  std::printf("\n");
  PrintSources(answer.sources);
  if (flags.options.explain) PrintUnfolded(answer.unfolded);
  std::fflush(stdout);
  PrintFigures(answer);
  return kExitOk;
}

int Run(AskFlags flags) {
  const std::string question = ReadQuestion(flags.question);
  if (question.find_first_not_of(" \t\r\n") == std::string::npos) return FailUsage("the question is empty");
  auto engine_options = MakeEngineOptions(flags.store, flags.model, StoreAccessMode::kReadOnly);
  if (!engine_options.ok()) return FailUsage(engine_options.status().message());
  engine_options->unfold_cache_bytes = flags.unfold_cache_bytes;
  engine_options->block_cache_bytes = flags.block_cache_bytes;
  engine_options->gist_cache_bytes = flags.gist_cache_bytes;
  if (!flags.history.empty()) {
    auto history = ReadHistory(flags.history);
    if (!history.ok()) return Fail(history.status());
    flags.options.history = *std::move(history);
  }
  const auto engine = Engine::Open(*engine_options);
  if (!engine.ok()) return Fail(engine.status());
  const Interrupt interrupt;  // only now: until here Ctrl-C may end the process at once
  flags.options.stop_token = interrupt.token();
  if (flags.timeout_seconds > 0) flags.options.deadline = DeadlineIn(flags.timeout_seconds);
  AnswerStream stream;
  bool any_shown = false;
  TextSink sink;
  if (!flags.json) {
    sink = [&](std::string_view piece) {
      const std::string text = stream.Push(piece);
      any_shown = any_shown || !text.empty();
      return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
    };
  }
  const auto answer = (*engine)->Ask(flags.store.collection, question, flags.options, sink);
  if (answer.ok()) return Answered(flags, *answer);
  if (any_shown) std::printf("\n");
  return FailAnswer(answer.status(), interrupt.requested(), flags.timeout_seconds);
}

void AddSampling(CLI::App& command, AskOptions& options) {
  SamplingOptions& sampling = options.sampling;
  const auto add = [&](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->group("Sampling")->type_name("X");
  };
  add("--temperature", sampling.temperature, "0: the likeliest token each time")->check(CheckNotNegative);
  add("--top-k", sampling.top_k, "among this many likeliest tokens; 0: off")->check(CheckNotNegative);
  add("--top-p", sampling.top_p, "among tokens that reach this mass; 1: off")->check(CheckShare);
  add("--min-p", sampling.min_p, "at least this share of the likeliest; 0: off")->check(CheckShare);
  add("--repetition-penalty", sampling.repetition_penalty, "over question and answer; 1: off")->check(CheckPositive);
  add("--seed", sampling.seed, "of the random choice");
  AddRepeatable(command, "--stop", options.stop, "the answer ends before this text")
      ->type_name("TEXT")
      ->group("Sampling");
}

void AddSelection(CLI::App& command, AskFlags& flags) {
  AskOptions& options = flags.options;
  AddRepeatable(command, "--document", options.working_set.documents, "answer from this document, without routing")
      ->type_name("NAME");
  command
      .add_option("--max-context-tokens", options.working_set.max_context_tokens,
                  "raw tokens of the documents placed; 0: what the model's window holds")
      ->check(CheckNotNegative)
      ->type_name("N");
  command.add_option("--unfold-top-k", options.unfold_top_k, "unfold this many chunks per head")
      ->check(CheckNotNegative)
      ->type_name("N");
  command.add_option("--unfold-top-p", options.unfold_top_p, "unfold the fewest chunks whose mass reaches this")
      ->check(CheckShare)
      ->type_name("P");
  command.add_option("--unfold-cache-bytes", flags.unfold_cache_bytes, "memory for unfolded chunks, such as 512MiB")
      ->transform(ByteSize())
      ->type_name("N");
  command.add_option("--block-cache-bytes", flags.block_cache_bytes, "memory for stored blocks")
      ->transform(ByteSize())
      ->type_name("N");
  command
      .add_option("--gist-cache-bytes", flags.gist_cache_bytes, "memory for gists of documents that were asked before")
      ->transform(ByteSize())
      ->type_name("N");
}

}  // namespace

CommandRun AddAsk(CLI::App& command) {
  auto flags = std::make_shared<AskFlags>();
  command.add_option("question", flags->question, "the question; - reads it from standard input")
      ->required()
      ->type_name("TEXT");
  AddStoreFlag(command, flags->store);
  AddCollectionFlag(command, flags->store)->required();
  command.add_option("--history", flags->history, "earlier turns: [{\"role\": \"user\", \"content\": \"...\"}, ...]")
      ->type_name("FILE.json");
  AddSelection(command, *flags);
  command.add_option("--timeout", flags->timeout_seconds, "give up after this long; loading the model does not count")
      ->check(CheckPositive)
      ->type_name("SECONDS");
  command.add_flag("--json", flags->json, "one JSON object: answer, answer_tokens, sources, usage, timings, ...");
  command.add_flag("--show-unfold", flags->options.explain, "say which chunks each layer and head chose");
  AddModelFlags(command, flags->model);
  AddSampling(command, flags->options);
  command.footer(
      "Examples:\n"
      "  unfold ask \"Who signed the contract?\" --store kb --collection notes --model gist-mini\n"
      "  echo \"Who signed it?\" | unfold ask - --store kb --collection notes --model gist-mini --json\n"
      "  unfold ask \"What changed?\" --document a.txt --document b.txt --store kb --collection notes --model "
      "gist-mini");
  return [flags] { return Run(*flags); };
}

}  // namespace unfold::cli
