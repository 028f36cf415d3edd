// SPDX-License-Identifier: Apache-2.0
// unfold list: the documents of a collection, or the collections of a store.
#include <cstdio>
#include <memory>

#include "apps/cli.h"
#include "apps/format.h"
#include "apps/json_output.h"

namespace unfold::cli {
namespace {

struct ListFlags {
  StoreFlags store;
  bool json = false;
};

int ListCollections(const Engine& engine, bool json) {
  const auto names = engine.Collections();
  if (!names.ok()) return Fail(names.status());
  for (const std::string& name : *names) {
    if (json) {
      PrintJsonLine({{"collection", name}});
    } else {
      std::printf("%s\n", OneLine(name).c_str());
    }
  }
  return kExitOk;
}

int ListDocuments(const Engine& engine, const std::string& collection, bool json) {
  const auto documents = engine.List(collection);
  if (!documents.ok()) return Fail(documents.status());
  for (const DocumentInfo& info : *documents) {
    if (json) {
      PrintJsonLine({{"document", info.name},
                     {"title", info.title},
                     {"parts", info.num_parts},
                     {"tokens", info.num_tokens},
                     {"bytes", info.stored_bytes}});
      continue;
    }
    std::printf("%s\t%s, %s, %s\t%s\n", OneLine(info.name).c_str(), Plural(info.num_parts, "part").c_str(),
                Plural(info.num_tokens, "token").c_str(), HumanBytes(static_cast<double>(info.stored_bytes)).c_str(),
                OneLine(info.title, 60).c_str());
  }
  return kExitOk;
}

int Run(const ListFlags& flags) {
  const auto engine = Engine::Open(MakeStoreOptions(flags.store, StoreAccessMode::kReadOnly));
  if (!engine.ok()) return Fail(engine.status());
  if (flags.store.collection.empty()) return ListCollections(**engine, flags.json);
  return ListDocuments(**engine, flags.store.collection, flags.json);
}

}  // namespace

CommandRun AddList(CLI::App& command) {
  auto flags = std::make_shared<ListFlags>();
  AddStoreFlag(command, flags->store);
  AddCollectionFlag(command, flags->store);
  command.add_flag("--json", flags->json, "one JSON line a document: document, title, parts, tokens, bytes");
  command.footer(
      "Examples:\n"
      "  unfold list --store kb\n"
      "  unfold list --store kb --collection notes --json");
  return [flags] { return Run(*flags); };
}

}  // namespace unfold::cli
