// SPDX-License-Identifier: Apache-2.0
// unfold bench: measures the engine's work at the shape of a model, with random weights and keys. JSON lines.
#include "unfold/bench.h"

#include <cmath>
#include <cstdio>
#include <memory>

#include "apps/cli.h"
#include "apps/interrupt.h"
#include "apps/json_output.h"
#include "apps/progress.h"

namespace unfold::cli {
namespace {

struct BenchFlags {
  BenchOptions options;
  std::string compute = "bf16";
};

struct BenchCommand {
  const char* name = "";
  const char* help = "";
  const char* example = "";
  const char* shape = "";  // where no other is given
  BenchKind kind = BenchKind::kRoute;
  void (*add_flags)(CLI::App& command, BenchFlags& flags) = nullptr;
  void (*settings)(const BenchOptions& options, Json& line) = nullptr;  // adds to a line what was asked for
};

void AddGistFlags(CLI::App& command, BenchOptions& options) {
  command.add_option("--chunk", options.chunk_size, "raw tokens a gist stands for")
      ->check(CheckPositive)
      ->type_name("N");
  command.add_option("--levels", options.num_levels, "levels of gists: 1, or 2 with sections")
      ->check(CLI::IsMember({1, 2}))
      ->type_name("N");
  command.add_option("--section", options.section_size, "gists a section has, with two levels")
      ->check(CheckPositive)
      ->type_name("N");
}

void AddCompute(CLI::App& command, BenchFlags& flags) {
  command.add_option("--compute", flags.compute, "what products are computed in: f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE");
}

void AddRouteFlags(CLI::App& command, BenchFlags& flags) {
  command.add_option("--chunks", flags.options.num_chunks, "chunks of the collection")
      ->check(CheckPositive)
      ->type_name("N");
}

void AddEncodeFlags(CLI::App& command, BenchFlags& flags) {
  command.add_option("--context", flags.options.context_tokens, "raw tokens of each document")
      ->check(CheckPositive)
      ->type_name("N");
  command.add_option("--batch", flags.options.batch, "documents in one pass")->check(CheckPositive)->type_name("N");
  AddGistFlags(command, flags.options);
  AddCompute(command, flags);
}

// Of what reads a context.
void AddContextFlags(CLI::App& command, BenchFlags& flags) {
  flags.options.context_tokens = 16384;
  command.add_option("--context", flags.options.context_tokens, "raw tokens of the context, in documents of 2,048")
      ->check(CheckPositive)
      ->type_name("N");
  AddGistFlags(command, flags.options);
  command
      .add_option("--compression", flags.options.compression,
                  "context tokens a token attended; 0: the chunk, with two levels times the section")
      ->check(CheckNotNegative)
      ->type_name("R");
  command.add_option("--unfold-top-k", flags.options.unfold_top_k, "chunks a head keeps; 0: by --compression")
      ->check(CheckNotNegative)
      ->type_name("N");
  command.add_flag("--full-attention", flags.options.full_attention, "attend all of the same tokens, without gists");
}

void AddAnswerFlags(CLI::App& command, BenchFlags& flags) {
  AddContextFlags(command, flags);
  AddCompute(command, flags);
}

void AddDecodeFlags(CLI::App& command, BenchFlags& flags) {
  AddAnswerFlags(command, flags);
  command.add_option("--batch", flags.options.batch, "answers in one step, each over documents of its own; up to 64")
      ->check(CheckPositive)
      ->type_name("N");
}

void TellGists(const BenchOptions& options, Json& line) {
  line["chunk"] = options.chunk_size;
  line["levels"] = options.num_levels;
  if (options.num_levels > 1) line["section"] = options.section_size;
}

void TellRoute(const BenchOptions&, Json&) {}

void TellCompute(const BenchOptions& options, Json& line) { line["compute"] = DTypeName(options.compute); }

void TellEncode(const BenchOptions& options, Json& line) {
  TellCompute(options, line);
  line["context"] = options.context_tokens;
  line["batch"] = options.batch;
  TellGists(options, line);
}

void TellContext(const BenchOptions& options, Json& line) {
  line["full_attention"] = options.full_attention;
  line["context"] = options.context_tokens;
  if (options.full_attention) return;
  TellGists(options, line);
}

void TellAnswer(const BenchOptions& options, Json& line) {
  TellCompute(options, line);
  TellContext(options, line);
}

void TellDecode(const BenchOptions& options, Json& line) {
  TellAnswer(options, line);
  line["batch"] = options.batch;
}

constexpr BenchCommand kBenchCommands[] = {
    {"route", "A question of 32 tokens, 16 routing heads, against the bf16 gist keys of a collection",
     "  unfold bench route --backend cuda --chunks 1250000", "qwen2-7b", BenchKind::kRoute, AddRouteFlags, TellRoute},
    {"encode", "Documents to gist and raw KV, as ingest encodes them",
     "  unfold bench encode --backend cuda --shape llama-3.1-8b --context 2048 --batch 8", "llama-3.2-1b",
     BenchKind::kEncode, AddEncodeFlags, TellEncode},
    {"layer", "One layer of a decoding step: score the gists, choose, attend",
     "  unfold bench layer --backend cuda --shape qwen2-7b --context 131072 --levels 2\n"
     "  unfold bench layer --backend cuda --shape qwen2-7b --context 131072 --full-attention",
     "llama-3.2-1b", BenchKind::kLayer, AddContextFlags, TellContext},
    {"decode", "A token of an answer, through all layers: with its chunks to be unfolded, and with all unfolded before",
     "  unfold bench decode --backend cuda --shape qwen2-7b --context 44000\n"
     "  unfold bench decode --backend cuda --shape qwen2-7b --context 32768 --batch 32\n"
     "  unfold bench decode --backend cuda --shape qwen2-7b --context 44000 --full-attention",
     "llama-3.2-1b", BenchKind::kDecode, AddDecodeFlags, TellDecode},
    {"ttft", "From a question of 32 tokens and its documents to the first token: placing, reading, unfolding",
     "  unfold bench ttft --backend cuda --shape qwen2-7b --context 16384 --repeats 5", "llama-3.2-1b",
     BenchKind::kTtft, AddAnswerFlags, TellAnswer},
};

void AddCommonFlags(CLI::App& command, BenchFlags& flags) {
  command
      .add_option("--shape", flags.options.shape,
                  "llama-3.2-1b, qwen2-7b, llama-3.1-8b, gist-mini, or the path of a config.json")
      ->type_name("NAME");
  command
      .add_option("--backend", flags.options.backend, "what computes: cpu, cuda (a GPU), or ref (slow, for comparison)")
      ->check(CLI::IsMember({"cpu", "cuda", "ref"}))
      ->type_name("NAME");
  command.add_option("--threads", flags.options.num_threads, "worker threads; 0: one per core")
      ->check(CheckNotNegative)
      ->type_name("N");
  command.add_option("--repeats", flags.options.repeats, "timed runs")->check(CheckPositive)->type_name("N");
  command.add_option("--seed", flags.options.seed, "of weights, keys and tokens")
      ->check(CheckNotNegative)
      ->type_name("N");
}

// Whole numbers as such: bytes and counts are read by people too.
Json Number(double value) {
  constexpr double kExact = 9007199254740992;  // 2^53
  if (value == std::floor(value) && std::abs(value) < kExact) return static_cast<std::int64_t>(value);
  return value;
}

void PrintFigure(const BenchCommand& command, const BenchOptions& options, const std::string& backend,
                 const BenchFigure& figure) {
  Json line = {{"bench", command.name}, {"what", figure.what}, {"backend", backend}, {"shape", options.shape}};
  command.settings(options, line);
  line["seed"] = options.seed;
  line["repeats"] = options.repeats;
  line["median_ms"] = figure.median_ms;
  line["p10_ms"] = figure.p10_ms;
  line["p90_ms"] = figure.p90_ms;
  line["bytes"] = Number(figure.bytes);
  line["read_bytes_per_s"] = std::floor(figure.read_bytes_per_s);
  line["floor_ms"] = figure.floor_ms;
  line["share"] = figure.share;
  for (const auto& [name, value] : figure.counts) line[name] = Number(value);
  PrintJsonLine(line);
}

int Run(const BenchCommand& command, BenchFlags& flags) {
  flags.options.compute = flags.compute == "f32" ? DType::kF32 : DType::kBF16;
  const Interrupt interrupt;
  ProgressLine progress;
  const auto report = RunBench(command.kind, flags.options, [&](std::string_view doing) {
    progress.Update([&] { return "bench " + std::string(command.name) + ": " + std::string(doing); });
    return !interrupt.requested();
  });
  progress.Clear();
  if (!report.ok()) return Fail(report.status());
  for (const BenchFigure& figure : report->figures) PrintFigure(command, flags.options, report->backend, figure);
  return kExitOk;
}

}  // namespace

CommandRun AddBench(CLI::App& command) {
  command.require_subcommand(1);
  command.footer(
      "No checkpoint and no store are needed: weights, keys and tokens are random, from --seed. Each line on stdout "
      "is\n"
      "one figure: median, p10 and p90 in milliseconds a run; bytes that a run must move; read_bytes_per_s of this\n"
      "machine, measured before and after; floor_ms, the bytes at that rate; share, the floor over the median.\n"
      "Example:\n"
      "  unfold bench layer --shape gist-mini --context 4000");
  auto all = std::make_shared<std::vector<std::pair<CLI::App*, std::function<int()>>>>();
  for (const BenchCommand& bench : kBenchCommands) {
    CLI::App* added = command.add_subcommand(bench.name, bench.help);
    auto flags = std::make_shared<BenchFlags>();
    flags->options.shape = bench.shape;
    bench.add_flags(*added, *flags);
    AddCommonFlags(*added, *flags);
    added->footer(std::string("Example:\n") + bench.example);
    all->emplace_back(added, [&bench, flags] { return Run(bench, *flags); });
  }
  return [all] {
    for (const auto& [added, run] : *all) {
      if (added->parsed()) return run();
    }
    return kExitUsage;
  };
}

}  // namespace unfold::cli
