// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/killed_ingest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "apps/json_output.h"

namespace unfold {
namespace {

constexpr std::size_t kShortBytes = 240;

bool IsStored(const std::string& outcome) {
  return outcome == "added" || outcome == "replaced" || outcome == "unchanged";
}

const std::string* Find(const Texts& texts, const std::string& name) {
  const auto it = texts.find(name);
  return it == texts.end() ? nullptr : &it->second;
}

// Which text is stored under each name: that from before the run, or the folder's.
Texts StoredTexts(const std::vector<DocumentInfo>& listed, const KilledRun& run) {
  Texts stored;
  for (const DocumentInfo& info : listed) {
    const std::string* known = nullptr;
    for (const std::string* text : {Find(run.before, info.name), Find(run.folder, info.name)}) {
      if (text != nullptr && text->size() == info.text_bytes) known = text;
    }
    EXPECT_NE(known, nullptr) << info.name << " of " << info.text_bytes << " bytes was never given";
    if (known != nullptr) stored[info.name] = *known;
  }
  return stored;
}

void ExpectAcknowledged(const Texts& stored, const KilledRun& run) {
  for (const auto& [name, outcome] : run.outcomes) {
    const std::string* text = Find(stored, name);
    if (outcome == "removed") {
      EXPECT_EQ(text, nullptr) << name << " is back";
      continue;
    }
    ASSERT_TRUE(IsStored(outcome)) << name << " " << outcome;
    ASSERT_NE(text, nullptr) << name << " was " << outcome << " and is lost";
    EXPECT_EQ(*text, run.folder.at(name)) << name << " was " << outcome << " and has its old text";
  }
}

// Nothing goes away but by pruning, and pruning is one step.
void ExpectNothingLost(const Texts& stored, const KilledRun& run) {
  std::size_t num_gone = 0, num_lost = 0;
  for (const auto& [name, text] : run.before) {
    const bool in_folder = run.folder.contains(name), is_stored = stored.contains(name);
    num_gone += in_folder ? 0 : 1;
    num_lost += is_stored ? 0 : 1;
    EXPECT_TRUE(is_stored || (run.prunes && !in_folder)) << name << " is lost";
  }
  EXPECT_TRUE(num_lost == 0 || num_lost == num_gone) << num_lost << " of " << num_gone << " pruned";
}

// The kill may fall between a batch's publication and its verdicts: then that one batch is visible and unheard. It
// holds the end of one document and, whole, the others.
std::size_t CountUnheard(const std::vector<DocumentInfo>& listed, const Texts& stored, const KilledRun& run) {
  std::size_t num_unheard = 0;
  std::uint64_t tokens = 0, most_tokens = 0;
  for (const DocumentInfo& info : listed) {
    const std::string *before = Find(run.before, info.name), *now = Find(stored, info.name);
    if (now == nullptr || run.outcomes.contains(info.name) || (before != nullptr && *before == *now)) continue;
    ++num_unheard;
    tokens += info.num_tokens;
    most_tokens = std::max(most_tokens, info.num_tokens);
  }
  EXPECT_LE(tokens - most_tokens, run.batch_tokens) << num_unheard << " documents are visible, more than one batch";
  return num_unheard;
}

void ExpectAnswers(Engine& engine, const std::string& collection, const Texts& stored) {
  for (const auto& [name, text] : stored) {
    AskOptions options;
    options.working_set.documents = {name};
    options.max_answer_tokens = 2;
    const auto answer = engine.Ask(collection, "what is this about", options);
    ASSERT_TRUE(answer.ok()) << name << ": " << answer.status().ToString();
    ASSERT_FALSE(answer->sources.empty()) << name;
    for (const Source& source : answer->sources) {
      EXPECT_EQ(source.document, name);
      EXPECT_EQ(source.snippet, text.substr(source.byte_begin, source.byte_end - source.byte_begin));
    }
  }
}

void ExpectNothingStored(const Status& status, const KilledRun& run) {
  EXPECT_EQ(status.code(), StatusCode::kNotFound) << status.ToString();
  EXPECT_TRUE(run.before.empty()) << "all documents are lost: " << status.ToString();
  EXPECT_TRUE(run.outcomes.empty()) << "acknowledged documents are lost: " << status.ToString();
}

}  // namespace

std::string ChangingFolder::RandomName(std::mt19937_64& random) const {
  return std::next(texts_.begin(), static_cast<std::ptrdiff_t>(random() % texts_.size()))->first;
}

void ChangingFolder::Write(const std::string& name, std::mt19937_64& random) {
  const std::size_t number = std::stoul(name.substr(1));
  std::string text;
  for (std::size_t i = 0; i < (number % 5 == 0 ? 3 : 1); ++i) {
    const std::string& more = pool_[random() % pool_.size()];
    text += number % 5 == 0 ? more + "\n\n" : more.substr(0, kShortBytes);
  }
  text.erase(std::find_if(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; }), text.end());
  text = "Note " + std::to_string(number) + ".\n" + text;
  while (!used_lengths_[name].insert(text.size()).second) text += '.';
  std::filesystem::create_directories(path_);
  std::ofstream(path_ / name, std::ios::binary) << text;
  texts_[name] = text;
}

void ChangingFolder::Add(std::size_t count, std::mt19937_64& random) {
  while (count-- > 0) Write("n" + std::to_string(1000 + num_added_++) + ".txt", random);
}

void ChangingFolder::Change(std::size_t count, std::mt19937_64& random) {
  while (count-- > 0 && !texts_.empty()) Write(RandomName(random), random);
}

void ChangingFolder::Delete(std::size_t count, std::mt19937_64& random) {
  while (count-- > 0 && texts_.size() > 1) {
    const std::string name = RandomName(random);
    std::filesystem::remove(path_ / name);
    texts_.erase(name);
  }
}

void ChangingFolder::Clear() {
  std::filesystem::remove_all(path_);
  texts_.clear();
}

std::map<std::string, std::string> OutcomesOf(const std::string& output) {
  std::map<std::string, std::string> outcomes;
  for (std::size_t begin = 0, end; (end = output.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const cli::Json line = cli::Json::parse(output.substr(begin, end - begin), nullptr, false);
    EXPECT_TRUE(line.is_object()) << output.substr(begin, end - begin);
    if (line.is_object() && line.contains("document")) outcomes[line["document"]] = line["outcome"];
  }
  return outcomes;
}

std::size_t NumChanges(const std::map<std::string, std::string>& outcomes) {
  return static_cast<std::size_t>(std::count_if(outcomes.begin(), outcomes.end(), [](const auto& entry) {
    return entry.second != "unchanged" && entry.second != "failed";
  }));
}

StoreAfter CheckAfterKill(const EngineOptions& options, const std::string& collection, const KilledRun& run) {
  StoreAfter after;
  const auto engine = Engine::Open(options);
  if (!engine.ok()) {
    ExpectNothingStored(engine.status(), run);
    return after;
  }
  after.exists = true;
  const auto verified = (*engine)->Verify();
  EXPECT_TRUE(verified.ok()) << verified.status().ToString();
  if (verified.ok()) {
    for (const std::string& finding : verified->findings) ADD_FAILURE() << finding;
    after.num_orphans = verified->num_orphans;
  }
  const auto listed = (*engine)->List(collection);
  if (!listed.ok()) {
    ExpectNothingStored(listed.status(), run);
    return after;
  }
  after.stored = StoredTexts(*listed, run);
  ExpectAcknowledged(after.stored, run);
  ExpectNothingLost(after.stored, run);
  after.num_unheard = CountUnheard(*listed, after.stored, run);
  ExpectAnswers(**engine, collection, after.stored);
  return after;
}

}  // namespace unfold
