// SPDX-License-Identifier: Apache-2.0
// What the commands share: their flags, how they open the engine, and what they say when something fails.
#ifndef UNFOLD_APPS_CLI_H_
#define UNFOLD_APPS_CLI_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "unfold/engine.h"

namespace unfold::cli {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;  // the work, or part of it, failed
constexpr int kExitUsage = 2;   // the command line is wrong

// A command registers its flags and returns what to run once they are parsed; that gives the exit code.
using CommandRun = std::function<int()>;
CommandRun AddIngest(CLI::App& command);
CommandRun AddAsk(CLI::App& command);
CommandRun AddList(CLI::App& command);
CommandRun AddRemove(CLI::App& command);
CommandRun AddInspect(CLI::App& command);
CommandRun AddVerify(CLI::App& command);
CommandRun AddEval(CLI::App& command);
CommandRun AddBench(CLI::App& command);
CommandRun AddServe(CLI::App& command);

struct StoreFlags {
  std::string store;
  std::string collection;
};
void AddStoreFlag(CLI::App& command, StoreFlags& flags);
CLI::Option* AddCollectionFlag(CLI::App& command, StoreFlags& flags);

// Flags of the commands that load a model.
struct ModelFlags {
  std::string model;
  std::string backend = "cpu";
  int num_threads = 0;
  std::string compute = "f32";
  std::string kv_type;                  // empty: as the store has it
  std::vector<std::string> gist_texts;  // as given, by place in GistFlags()
  std::vector<CLI::Option*> gist_options;
};
// `flags` must outlive the parsing.
void AddModelFlags(CLI::App& command, ModelFlags& flags);

// A flag that may be given several times and takes one value each time.
CLI::Option* AddRepeatable(CLI::App& command, const std::string& name, std::vector<std::string>& values,
                           const std::string& help);

// Checks of a value as CLI11 wants them: what is wrong with it, or nothing.
std::string CheckNotNegative(const std::string& text);
std::string CheckPositive(const std::string& text);
std::string CheckShare(const std::string& text);  // 0 to 1
CLI::Validator ByteSize();                        // takes 4096, 16kB and 2GiB alike, by powers of 1024

Result<EngineOptions> MakeEngineOptions(const StoreFlags& store, const ModelFlags& model, StoreAccessMode access);
// Without a model, for what only looks at the store or removes from it.
EngineOptions MakeStoreOptions(const StoreFlags& store, StoreAccessMode access);

// "unfold: not found: ..." on stderr, on one line; returns kExitFailed.
int Fail(const Status& status);
int FailUsage(const std::string& message);  // returns kExitUsage

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_CLI_H_
