// SPDX-License-Identifier: Apache-2.0
// unfold inspect: what a store holds, bytes per token by kind, and its fingerprint.
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "apps/cli.h"
#include "apps/format.h"
#include "apps/json_output.h"

namespace unfold::cli {
namespace {

struct InspectFlags {
  StoreFlags store;
  bool json = false;
};

using Collection = StoreInspection::Collection;

std::array<std::pair<const char*, std::uint64_t>, 4> BytesByKind(const Collection& collection) {
  return {{{"text", collection.text_bytes},
           {"chunks", collection.chunk_bytes},
           {"gist", collection.gist_bytes},
           {"raw", collection.raw_bytes}}};
}

std::optional<double> PerToken(std::uint64_t num_bytes, const Collection& collection) {
  if (collection.num_tokens == 0) return std::nullopt;
  return Ratio(static_cast<double>(num_bytes), static_cast<double>(collection.num_tokens));
}

Json CollectionJson(const Collection& collection) {
  Json bytes, per_token;
  std::uint64_t total = 0;
  for (const auto& [kind, num_bytes] : BytesByKind(collection)) {
    bytes[kind] = num_bytes;
    per_token[kind] = NumberOrNull(PerToken(num_bytes, collection));
    total += num_bytes;
  }
  bytes["total"] = total;
  per_token["total"] = NumberOrNull(PerToken(total, collection));
  return {{"collection", collection.name},          {"documents", collection.num_documents},
          {"parts", collection.num_parts},          {"tokens", collection.num_tokens},
          {"chunks", collection.num_chunks},        {"bytes", std::move(bytes)},
          {"bytes_per_token", std::move(per_token)}};
}

void PrintJson(const std::string& store, const StoreInspection& inspection) {
  Json fingerprint = Json::parse(inspection.fingerprint, nullptr, /*allow_exceptions=*/false);
  if (fingerprint.is_discarded()) fingerprint = inspection.fingerprint;
  Json collections = Json::array();
  for (const Collection& collection : inspection.collections) collections.push_back(CollectionJson(collection));
  PrintJsonLine({{"store", store},
                 {"disk_bytes", inspection.disk_bytes},
                 {"fingerprint", std::move(fingerprint)},
                 {"collections", std::move(collections)}});
}

void PrintCollection(const Collection& collection) {
  std::printf("collection %s: %s, %s, %s, %s\n", OneLine(collection.name).c_str(),
              Plural(collection.num_documents, "document").c_str(), Plural(collection.num_parts, "part").c_str(),
              Plural(collection.num_tokens, "token").c_str(), Plural(collection.num_chunks, "chunk").c_str());
  for (const auto& [kind, num_bytes] : BytesByKind(collection)) {
    const auto per_token = PerToken(num_bytes, collection);
    std::printf("  %-7s %10s  %s\n", kind, HumanBytes(static_cast<double>(num_bytes)).c_str(),
                per_token ? (Fixed(*per_token, 1) + " bytes a token").c_str() : "");
  }
}

void PrintText(const std::string& store, const StoreInspection& inspection) {
  std::printf("store %s: %s on disk\nfingerprint %s\n", OneLine(store).c_str(),
              HumanBytes(static_cast<double>(inspection.disk_bytes)).c_str(), OneLine(inspection.fingerprint).c_str());
  for (const Collection& collection : inspection.collections) PrintCollection(collection);
}

int Run(const InspectFlags& flags) {
  const auto engine = Engine::Open(MakeStoreOptions(flags.store, StoreAccessMode::kReadOnly));
  if (!engine.ok()) return Fail(engine.status());
  auto inspection = (*engine)->Inspect();
  if (!inspection.ok()) return Fail(inspection.status());
  if (const std::string& name = flags.store.collection; !name.empty()) {
    std::erase_if(inspection->collections, [&](const Collection& collection) { return collection.name != name; });
    if (inspection->collections.empty()) return Fail(Status::NotFound("collection '" + name + "' is not in the store"));
  }
  if (flags.json) {
    PrintJson(flags.store.store, *inspection);
  } else {
    PrintText(flags.store.store, *inspection);
  }
  return kExitOk;
}

}  // namespace

CommandRun AddInspect(CLI::App& command) {
  auto flags = std::make_shared<InspectFlags>();
  AddStoreFlag(command, flags->store);
  AddCollectionFlag(command, flags->store);
  command.add_flag("--json", flags->json, "one JSON object: store, disk_bytes, fingerprint, collections");
  command.footer(
      "Example:\n"
      "  unfold inspect --store kb");
  return [flags] { return Run(*flags); };
}

}  // namespace unfold::cli
