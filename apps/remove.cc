// SPDX-License-Identifier: Apache-2.0
// unfold remove: every named document, or none when one of them does not exist.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "apps/cli.h"
#include "apps/format.h"

namespace unfold::cli {
namespace {

struct RemoveFlags {
  StoreFlags store;
  std::vector<std::string> names;
};

int Run(RemoveFlags flags) {
  std::sort(flags.names.begin(), flags.names.end());
  flags.names.erase(std::unique(flags.names.begin(), flags.names.end()), flags.names.end());
  const auto engine = Engine::Open(MakeStoreOptions(flags.store, StoreAccessMode::kReadWrite));
  if (!engine.ok()) return Fail(engine.status());
  const Status status = (*engine)->Remove(flags.store.collection, flags.names);
  if (!status.ok()) return Fail(status);
  for (const std::string& name : flags.names) std::fprintf(stderr, "removed    %s\n", OneLine(name).c_str());
  return kExitOk;
}

}  // namespace

CommandRun AddRemove(CLI::App& command) {
  auto flags = std::make_shared<RemoveFlags>();
  command.add_option("name", flags->names, "documents to remove, as `unfold list` names them")
      ->required()
      ->type_name("NAME");
  AddStoreFlag(command, flags->store);
  AddCollectionFlag(command, flags->store)->required();
  command.footer(
      "All of them are removed, or none when one does not exist.\n"
      "Example:\n"
      "  unfold remove old/plan.md draft.txt --store kb --collection notes");
  return [flags] { return Run(*flags); };
}

}  // namespace unfold::cli
