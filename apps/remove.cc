// SPDX-License-Identifier: Apache-2.0
// unfold remove: every named document, or none when one of them does not exist; or a whole collection.
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
  bool all = false;
};

int Run(RemoveFlags flags) {
  std::sort(flags.names.begin(), flags.names.end());
  flags.names.erase(std::unique(flags.names.begin(), flags.names.end()), flags.names.end());
  const auto engine = Engine::Open(MakeStoreOptions(flags.store, StoreAccessMode::kReadWrite));
  if (!engine.ok()) return Fail(engine.status());
  const std::string& collection = flags.store.collection;
  const Status status =
      flags.all ? (*engine)->RemoveCollection(collection) : (*engine)->Remove(collection, flags.names);
  if (!status.ok()) return Fail(status);
  if (flags.all) std::fprintf(stderr, "removed    collection %s\n", OneLine(collection).c_str());
  for (const std::string& name : flags.names) std::fprintf(stderr, "removed    %s\n", OneLine(name).c_str());
  return kExitOk;
}

}  // namespace

CommandRun AddRemove(CLI::App& command) {
  auto flags = std::make_shared<RemoveFlags>();
  CLI::Option* names =
      command.add_option("name", flags->names, "documents to remove, as `unfold list` names them")->type_name("NAME");
  command.add_flag("--all", flags->all, "the collection, with all its documents")->excludes(names);
  AddStoreFlag(command, flags->store);
  AddCollectionFlag(command, flags->store)->required();
  command.footer(
      "All of them are removed, or none when one does not exist.\n"
      "Examples:\n"
      "  unfold remove old/plan.md draft.txt --store kb --collection notes\n"
      "  unfold remove --all --store kb --collection drafts");
  return [flags] {
    if (flags->names.empty() && !flags->all) return FailUsage("name documents, or give --all for the whole collection");
    return Run(*flags);
  };
}

}  // namespace unfold::cli
