// SPDX-License-Identifier: Apache-2.0
#include "apps/cli.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "apps/format.h"
#include "apps/gist_flags.h"

namespace unfold::cli {
namespace {

std::string CheckRange(const std::string& text, double low, bool with_low, double high, const char* expected) {
  double value = 0;
  // NaN fails every comparison.
  const bool is_number = CLI::detail::lexical_cast(text, value) && std::isfinite(value);
  if (is_number && (with_low ? value >= low : value > low) && value <= high) return {};
  return std::string("expected ") + expected + ", got '" + text + "'";
}

}  // namespace

std::string CheckNotNegative(const std::string& text) {
  return CheckRange(text, 0, true, std::numeric_limits<double>::max(), "a number that is not negative");
}
std::string CheckPositive(const std::string& text) {
  return CheckRange(text, 0, false, std::numeric_limits<double>::max(), "a number above 0");
}
std::string CheckShare(const std::string& text) { return CheckRange(text, 0, true, 1, "a number from 0 to 1"); }

CLI::Validator ByteSize() { return CLI::AsSizeValue(false).description(""); }

void AddStoreFlag(CLI::App& command, StoreFlags& flags) {
  command.add_option("--store", flags.store, "folder of the store")->required()->type_name("DIR");
}

CLI::Option* AddCollectionFlag(CLI::App& command, StoreFlags& flags) {
  return command.add_option("--collection", flags.collection, "name of the collection in the store")->type_name("NAME");
}

CLI::Option* AddRepeatable(CLI::App& command, const std::string& name, std::vector<std::string>& values,
                           const std::string& help) {
  return command.add_option(name, values, help + "; may be repeated")->allow_extra_args(false);
}

void AddModelFlags(CLI::App& command, ModelFlags& flags) {
  constexpr const char* kGroup = "Model";
  command.add_option("--model", flags.model, "checkpoint folder with gist_config.json")
      ->required()
      ->type_name("DIR")
      ->group(kGroup);
  command.add_option("--backend", flags.backend, "what computes: cpu, cuda (a GPU), or ref (slow, for comparison)")
      ->check(CLI::IsMember({"cpu", "cuda", "ref"}))
      ->type_name("NAME")
      ->group(kGroup);
  command.add_option("--threads", flags.num_threads, "worker threads; 0: one per core")
      ->check(CheckNotNegative)
      ->type_name("N")
      ->group(kGroup);
  command
      .add_option("--compute", flags.compute,
                  "f32, or bf16: activations are rounded before each product; a store keeps to one")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE")
      ->group(kGroup);
  command
      .add_option("--kv-type", flags.kv_type,
                  "type of stored keys and values; a new store has bf16 unless told, and keeps it")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}))
      ->type_name("TYPE")
      ->group(kGroup);
  const auto table = GistFlags();
  flags.gist_texts.resize(table.size());
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto check = [&flag = table[i]](const std::string& text) {
      const auto value = ParseGistFlag(flag, text);
      return value.ok() ? std::string() : value.status().message();
    };
    flags.gist_options.push_back(command.add_option(table[i].names, flags.gist_texts[i], table[i].help)
                                     ->check(check)
                                     ->type_name(table[i].value_name)
                                     ->group("Instead of gist_config.json"));
  }
}

Result<EngineOptions> MakeEngineOptions(const StoreFlags& store, const ModelFlags& model, StoreAccessMode access) {
  EngineOptions options = MakeStoreOptions(store, access);
  options.model_path = model.model;
  options.backend = model.backend;
  options.num_threads = model.num_threads;
  options.compute = model.compute == "f32" ? DType::kF32 : DType::kBF16;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kInt8}) {
    if (model.kv_type == DTypeName(type)) options.kv_type = type;
  }
  std::vector<std::pair<const GistFlag*, std::string>> given;
  for (std::size_t i = 0; i < model.gist_options.size(); ++i) {
    if (model.gist_options[i]->count() > 0) given.emplace_back(&GistFlags()[i], model.gist_texts[i]);
  }
  UNFOLD_TRY_ASSIGN(options.gist_overrides, MakeGistOverrides(given));
  return options;
}

EngineOptions MakeStoreOptions(const StoreFlags& store, StoreAccessMode access) {
  EngineOptions options;
  options.store_path = store.store;
  options.access = access;
  return options;
}

int Fail(const Status& status) {
  std::fflush(stdout);  // what was said before stands before
  std::fprintf(stderr, "unfold: %s\n", OneLine(status.ToString()).c_str());
  return kExitFailed;
}

int FailUsage(const std::string& message) {
  std::fprintf(stderr, "unfold: %s\n", OneLine(message).c_str());
  return kExitUsage;
}

}  // namespace unfold::cli
