// SPDX-License-Identifier: Apache-2.0
// unfold verify: walks every record and checksum. Exit code 1 when something is wrong.
#include <cstdio>
#include <memory>

#include "apps/cli.h"
#include "apps/format.h"
#include "apps/interrupt.h"
#include "apps/json_output.h"
#include "apps/progress.h"

namespace unfold::cli {
namespace {

struct VerifyFlags {
  StoreFlags store;
  bool json = false;
};

void PrintJson(const VerifySummary& summary) {
  PrintJsonLine({{"ok", summary.findings.empty()},
                 {"documents", summary.num_documents},
                 {"records", summary.num_records},
                 {"bytes", summary.num_bytes},
                 {"orphans", summary.num_orphans},
                 {"findings", summary.findings}});
}

void PrintText(const VerifySummary& summary) {
  for (const std::string& finding : summary.findings) std::printf("%s\n", OneLine(finding).c_str());
  std::printf("%s: %s, %s, %s checked, %s left by a run that did not finish or is running\n",
              summary.findings.empty() ? "sound" : Plural(summary.findings.size(), "finding").c_str(),
              Plural(summary.num_documents, "document").c_str(), Plural(summary.num_records, "record").c_str(),
              HumanBytes(static_cast<double>(summary.num_bytes)).c_str(),
              Plural(summary.num_orphans, "document").c_str());
}

int Report(const VerifySummary& summary, bool json) {
  if (json) {
    PrintJson(summary);
  } else {
    PrintText(summary);
  }
  return summary.findings.empty() ? kExitOk : kExitFailed;
}

int Run(const VerifyFlags& flags) {
  const auto engine = Engine::Open(MakeStoreOptions(flags.store, StoreAccessMode::kReadOnly));
  if (!engine.ok()) {
    // A store too damaged to open is a finding, not a failure to look.
    if (engine.status().code() != StatusCode::kCorruption) return Fail(engine.status());
    VerifySummary summary;
    summary.findings.push_back(engine.status().message());
    return Report(summary, flags.json);
  }
  const Interrupt interrupt;
  ProgressLine progress;
  const auto summary = (*engine)->Verify([&](std::uint64_t num_records) {
    progress.Update([&] { return Plural(num_records, "record") + " checked"; });
    return !interrupt.requested();
  });
  progress.Clear();
  if (!summary.ok()) return Fail(summary.status());
  return Report(*summary, flags.json);
}

}  // namespace

CommandRun AddVerify(CLI::App& command) {
  auto flags = std::make_shared<VerifyFlags>();
  AddStoreFlag(command, flags->store);
  command.add_flag("--json", flags->json, "one JSON object: ok, documents, records, bytes, orphans, findings");
  command.footer(
      "Example:\n"
      "  unfold verify --store kb");
  return [flags] { return Run(*flags); };
}

}  // namespace unfold::cli
