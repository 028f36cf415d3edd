// SPDX-License-Identifier: Apache-2.0
// The program `unfold`: one command a file. Data goes to stdout, everything else to stderr.
#include <cerrno>
#include <cstdio>
#include <exception>
#include <system_error>
#include <utility>
#include <vector>

#include "apps/cli.h"

namespace unfold::cli {
namespace {

struct Command {
  const char* name;
  const char* help;
  CommandRun (*add)(CLI::App& command);
};

constexpr Command kCommands[] = {
    {"ingest", "Add files to a collection", AddIngest},
    {"ask", "Answer a question from a collection, with sources", AddAsk},
    {"list", "List the documents of a collection, or the collections of a store", AddList},
    {"remove", "Remove documents from a collection", AddRemove},
    {"inspect", "Say what a store holds", AddInspect},
    {"verify", "Check every record of a store", AddVerify},
    {"eval", "Answer a file of questions and score the answers", AddEval},
#ifdef UNFOLD_WITH_SERVER
    {"serve", "Answer over HTTP: OpenAI's chat completions and more", AddServe},
#endif
    {"bench", "Measure the engine's work on this machine, without a model", AddBench},
};

// Parsing ends in an exit code, or in the command to run.
int ParseAndRun(int argc, char** argv) {
  CLI::App app("Answers questions from stored documents by unfolding what a question needs.", "unfold");
  app.set_version_flag("--version", "unfold " UNFOLD_VERSION);
  app.require_subcommand(1);
  app.footer("`unfold COMMAND --help` describes a command.\nExit codes: 0 done, 1 the work failed, 2 usage.");
  std::vector<std::pair<CLI::App*, CommandRun>> commands;
  for (const Command& command : kCommands) {
    CLI::App* added = app.add_subcommand(command.name, command.help);
    commands.emplace_back(added, command.add(*added));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;  // help and version are errors to CLI11, with code 0
  }
  for (const auto& [command, run] : commands) {
    if (command->parsed()) return run();
  }
  return kExitUsage;
}

// An answer that was lost on a full disk or a closed pipe is no success.
int CheckStdout(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  std::fprintf(stderr, "unfold: cannot write to stdout: %s\n", std::generic_category().message(errno).c_str());
  return code == kExitOk ? kExitFailed : code;
}

}  // namespace
}  // namespace unfold::cli

int main(int argc, char** argv) {
  try {
    return unfold::cli::CheckStdout(unfold::cli::ParseAndRun(argc, argv));
  } catch (const std::exception& error) {  // no memory, or a mistake in how flags are declared
    std::fprintf(stderr, "unfold: %s\n", error.what());
    return unfold::cli::kExitFailed;
  }
}
