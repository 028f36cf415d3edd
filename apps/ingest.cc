// SPDX-License-Identifier: Apache-2.0
// unfold ingest: files and folders into a collection.
#include <cerrno>
#include <cstdio>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

#include "apps/cli.h"
#include "apps/file_walker.h"
#include "apps/format.h"
#include "apps/ingest_report.h"
#include "apps/interrupt.h"

namespace unfold::cli {
namespace {

struct IngestFlags {
  StoreFlags store;
  ModelFlags model;
  std::vector<std::string> paths;
  WalkOptions walk;
  std::uint64_t max_document_bytes = IngestOptions().max_document_bytes;
  int encode_batch_tokens = EngineOptions().encode_batch_tokens;
  bool prune = false;
  bool force = false;
  bool quiet = false;
  bool json = false;
};

// The files of a run, read one by one as the engine asks for them. Thread-compatible.
class FileSource {
 public:
  FileSource(const WalkResult& found, std::uint64_t max_bytes, IngestReport& report)
      : found_(found), max_bytes_(max_bytes), report_(report) {}

  std::optional<DocumentInput> Next() {
    while (next_ < found_.files.size() + found_.problems.size()) {
      const std::size_t i = next_++;
      const std::size_t num_files = found_.files.size();
      ReadOutcome read = ReadDocument(i < num_files ? found_.files[i] : found_.problems[i - num_files], max_bytes_);
      if (!read.is_binary) return std::move(read.document);
      report_.Skipped(read.document.name, "binary file");
    }
    return std::nullopt;
  }
  bool exhausted() const { return next_ == found_.files.size() + found_.problems.size(); }

 private:
  const WalkResult& found_;
  std::uint64_t max_bytes_;
  IngestReport& report_;
  std::size_t next_ = 0;
};

bool IsReadable(const FoundFile& file, std::uint64_t max_bytes) {
  return file.status.ok() && file.num_bytes <= max_bytes;
}

// Documents of the collection by name; none when it does not exist yet.
Result<std::unordered_map<std::string, DocumentInfo>> KnownDocuments(const Engine& engine,
                                                                     const std::string& collection) {
  std::unordered_map<std::string, DocumentInfo> known;
  auto documents = engine.List(collection);
  if (!documents.ok() && documents.status().code() != StatusCode::kNotFound) return documents.status();
  if (documents.ok()) {
    for (DocumentInfo& info : *documents) known.emplace(info.name, std::move(info));
  }
  return known;
}

// Says what the run will write. Files whose size is that of their stored document count as unchanged.
Status CheckSpace(const Engine& engine, const IngestFlags& flags, const WalkResult& found, IngestReport& report) {
  UNFOLD_TRY_ASSIGN(const EncodingCost cost, engine.EstimateCost());
  UNFOLD_TRY_ASSIGN(const auto known, KnownDocuments(engine, flags.store.collection));
  std::uint64_t num_new = 0, new_bytes = 0;
  for (const FoundFile& file : found.files) {
    if (!IsReadable(file, flags.max_document_bytes)) continue;
    const auto it = known.find(file.name);
    if (it != known.end() && it->second.text_bytes == file.num_bytes) continue;
    ++num_new;
    new_bytes += file.num_bytes;
  }
  const double estimate = cost.stored_bytes_per_text_byte * static_cast<double>(new_bytes);
  const std::string text = Plural(num_new, "file") + " new or of another size (" +
                           HumanBytes(static_cast<double>(new_bytes)) + " of text) will take about " +
                           HumanBytes(estimate) + "; " + HumanBytes(static_cast<double>(cost.free_disk_bytes)) +
                           " are free";
  if (estimate > static_cast<double>(cost.free_disk_bytes) && !flags.force) {
    return Status::ResourceExhausted(text + "; --force goes on all the same");
  }
  report.Note(text);
  return Status::Ok();
}

// Whether the file of a document may still be there: only one that is certainly gone is pruned.
bool MayExist(const std::vector<std::filesystem::path>& roots, const std::string& name) {
  for (const std::filesystem::path& root : roots) {
    std::error_code error;
    const auto status = std::filesystem::symlink_status(root / name, error);
    const bool is_gone = status.type() == std::filesystem::file_type::not_found;
    if (!is_gone) return true;
  }
  return false;
}

Status Prune(Engine& engine, const std::string& collection, const WalkResult& found, IngestReport& report) {
  UNFOLD_TRY_ASSIGN(const auto known, KnownDocuments(engine, collection));
  std::set<std::string> gone;
  for (const auto& [name, info] : known) gone.insert(name);
  for (const FoundFile& file : found.files) gone.erase(file.name);
  std::erase_if(gone, [&](const std::string& name) { return MayExist(found.roots, name); });
  if (gone.empty()) return Status::Ok();
  UNFOLD_TRY(engine.Remove(collection, {gone.begin(), gone.end()}));
  for (const std::string& name : gone) report.Removed(name);
  return Status::Ok();
}

// The files are all in; now what vanished.
int PruneAfterRun(Engine& engine, const IngestFlags& flags, const WalkResult& found, IngestReport& report) {
  if (!flags.prune) return kExitOk;
  if (!found.problems.empty()) {
    report.Note("nothing was pruned: not every path could be read");
    return kExitFailed;
  }
  const Status pruned = Prune(engine, flags.store.collection, found, report);
  return pruned.ok() ? kExitOk : Fail(pruned);
}

int Ingest(Engine& engine, const IngestFlags& flags, const WalkResult& found, IngestReport& report) {
  const Interrupt interrupt;
  FileSource source(found, flags.max_document_bytes, report);
  const IngestOptions options{.max_document_bytes = flags.max_document_bytes, .stop_token = interrupt.token()};
  const IngestSink sink{.on_verdict = [&](const DocumentVerdict& verdict) { report.Verdict(verdict); },
                        .on_progress = [&](const IngestProgress& progress) { report.Progress(progress); }};
  const auto next = [&]() -> std::optional<DocumentInput> {
    return interrupt.requested() ? std::nullopt : source.Next();
  };
  const auto progress = engine.Ingest(flags.store.collection, next, options, sink);
  if (progress.ok()) report.Finish(*progress);
  const bool all_taken = progress.ok() && source.exhausted() && report.num_abandoned() == 0;
  const int pruned = all_taken ? PruneAfterRun(engine, flags, found, report) : kExitFailed;
  report.Summary(all_taken && pruned == kExitOk);
  if (!progress.ok()) {
    Fail(progress.status());
    report.Note("stopped: " + Plural(report.num_stored(), "document") + " are stored and stay");
  } else if (!all_taken) {
    report.Note("stopped: what has its verdict above is stored; run the same command again to go on with the rest");
  }
  return report.num_failed() > 0 ? kExitFailed : pruned;
}

// What needs no model: names, other types, and runs that have nothing to do.
int Run(const IngestFlags& flags) {
  auto found = WalkPaths(flags.paths, flags.walk);
  if (!found.ok()) return FailUsage(found.status().message());
  const auto options = MakeEngineOptions(flags.store, flags.model, StoreAccessMode::kReadWrite);
  if (!options.ok()) return FailUsage(options.status().message());
  IngestReport report(flags.json, flags.quiet);
  for (const std::string& path : found->other_types) report.Skipped(path, "not a " + std::string(kFileTypes) + " file");
  if (found->num_other_types > 0) {
    report.Note(Plural(found->num_other_types, "file") + " of other types than " + std::string(kFileTypes) +
                " left out");
  }
  if (found->files.empty() && !(flags.prune && found->has_folder)) {
    for (const FoundFile& problem : found->problems) report.Failed(problem.name, problem.status);
    report.Summary(/*complete=*/false);
    return Fail(Status::NotFound("no " + std::string(kFileTypes) + " file in the paths given"));
  }
  for (const FoundFile& file : found->files) {
    report.Expect(file.name, IsReadable(file, flags.max_document_bytes) ? file.num_bytes : 0);
  }
  EngineOptions engine_options = *options;
  engine_options.encode_batch_tokens = flags.encode_batch_tokens;
  const auto engine = Engine::Open(engine_options);
  if (!engine.ok()) return Fail(engine.status());
  const Status space = CheckSpace(**engine, flags, *found, report);
  if (!space.ok()) return Fail(space);
  return Ingest(**engine, flags, *found, report);
}

}  // namespace

CommandRun AddIngest(CLI::App& command) {
  auto flags = std::make_shared<IngestFlags>();
  command.add_option("path", flags->paths, "files (.txt, .md, .html), folders, or globs such as 'docs/**/*.md'")
      ->required()
      ->type_name("PATH");
  AddStoreFlag(command, flags->store);
  AddCollectionFlag(command, flags->store)->required();
  AddRepeatable(command, "--include", flags->walk.include, "take only files that match")->type_name("GLOB");
  AddRepeatable(command, "--exclude", flags->walk.exclude, "leave out files and folders that match")->type_name("GLOB");
  command.add_flag("--prune", flags->prune,
                   "at the end remove documents of the collection whose files are in none of the paths any more");
  command.add_option("--max-document-bytes", flags->max_document_bytes, "larger files are not read, such as 16MiB")
      ->transform(ByteSize())
      ->type_name("N");
  command
      .add_option("--encode-batch-tokens", flags->encode_batch_tokens,
                  "tokens encoded in one pass; without it what keeps the backend busy")
      ->check(CheckPositive)
      ->type_name("N");
  command.add_flag("--force", flags->force, "go on when the disk seems too small");
  command.add_flag("-q,--quiet", flags->quiet, "say verdicts of failures only");
  command.add_flag("--json", flags->json, "one JSON line a verdict, then {\"summary\": ...}");
  AddModelFlags(command, flags->model);
  command.footer(
      "A document's name is its path relative to the folder given, or the file name of a file given by itself.\n"
      "Unchanged files are skipped, changed ones replaced. Ctrl-C finishes what is being stored; a second run goes "
      "on.\n"
      "Examples:\n"
      "  unfold ingest docs --store kb --collection notes --model gist-mini\n"
      "  unfold ingest 'docs/**/*.md' --exclude drafts --prune --store kb --collection notes --model gist-mini");
  return [flags] { return Run(*flags); };
}

}  // namespace unfold::cli
