// SPDX-License-Identifier: Apache-2.0
// KV reuse is exact: logits from stored KV equal, bit for bit, those from documents encoded afresh, whatever the order
// of ingestion, the packing into batches, and however often the store was closed between.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>

#include "engine/loaded_model.h"
#include "golden/encoded_documents.h"
#include "golden/reference_questions.h"
#include "rag/generator.h"
#include "store/rocksdb_store.h"

namespace unfold {
namespace {

constexpr std::size_t kNumDocuments = 9;
constexpr std::string_view kQuestion = "who played daisy duke in the new dukes of hazzard";

// A few golden documents, and one that is long enough to be cut into parts.
std::vector<DocumentInput> Documents() {
  std::vector<DocumentInput> documents = golden::ReferenceDocuments();
  documents.resize(kNumDocuments);
  DocumentInput longer{"long.txt", "A long one\n", TextFormat::kPlain, Status::Ok()};
  for (const DocumentInput& document : documents) longer.text += "\n" + document.text + "\n";
  documents.push_back(std::move(longer));
  return documents;
}

// A way to encode and store.
struct Kind {
  std::string name;
  DType kv_type;
  std::string gist_overrides;
  DType compute = DType::kF32;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

EngineOptions Options(const std::string& store, const Kind& kind, int batch_tokens) {
  EngineOptions options;
  options.store_path = store;
  options.model_path = golden::kModelDir;
  options.kv_type = kind.kv_type;
  options.compute = kind.compute;
  options.gist_overrides = kind.gist_overrides;
  options.encode_batch_tokens = batch_tokens;
  return options;
}

std::unique_ptr<Store> OpenStored(const std::string& path) {
  auto store = OpenRocksDbStore({.path = path, .access = StoreAccess::kReadOnly, .file_system = nullptr});
  EXPECT_TRUE(store.ok()) << store.status().ToString();
  return *std::move(store);
}

// Logits of every step of an answer, and what it took.
std::vector<std::vector<float>> LogitsOf(const LoadedModel& model, const EngineOptions& options,
                                         std::vector<PartRef> parts, int unfold_top_k = 0, Usage* usage = nullptr) {
  AskOptions ask;
  ask.unfold_top_k = unfold_top_k;
  ask.max_answer_tokens = 6;
  ask.ignore_end_token = true;
  const GeneratorContext context = model.Context(options);
  auto question = PrepareQuestion(context, kQuestion, ask);
  EXPECT_TRUE(question.ok());
  auto generator = Generator::Start(context, *question, ask, std::move(parts), [] { return Status::Ok(); });
  EXPECT_TRUE(generator.ok()) << generator.status().ToString();
  std::vector<std::vector<float>> logits;
  for (bool goes_on = true; goes_on;) {
    logits.emplace_back((*generator)->logits().begin(), (*generator)->logits().end());
    const auto step = (*generator)->Step({});
    EXPECT_TRUE(step.ok()) << step.status().ToString();
    goes_on = step.ok() && *step;
  }
  if (usage == nullptr) return logits;
  const Result<Answer> answer = (*generator)->TakeAnswer();
  EXPECT_TRUE(answer.ok()) << answer.status().ToString();
  *usage = answer->usage;
  return logits;
}

bool SameBits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size() || std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0)
      return false;
  }
  return true;
}

void IngestInto(const EngineOptions& options, std::vector<DocumentInput> documents) {
  auto engine = Engine::Open(options);
  ASSERT_TRUE(engine.ok()) << engine.status().ToString();
  golden::IngestAll(**engine, "c", std::move(documents));
}

// Documents in a store, and the model that encoded them.
struct Ingested {
  EngineOptions options;
  std::unique_ptr<Store> store;
  std::unique_ptr<LoadedModel> model;  // null after a failure
};

class KvReuse : public testing::TestWithParam<Kind> {
 protected:
  Ingested Ingest(const std::vector<DocumentInput>& documents) {
    Ingested ingested{Options(base_ + "/store", GetParam(), 4096), nullptr, nullptr};
    IngestInto(ingested.options, documents);
    if (HasFatalFailure()) return ingested;
    ingested.store = OpenStored(ingested.options.store_path);
    auto loaded = LoadModel(ingested.options);
    EXPECT_TRUE(loaded.ok()) << loaded.status().ToString();
    if (loaded.ok()) ingested.model = *std::move(loaded);
    return ingested;
  }
  void SetUp() override {
    base_ = UNFOLD_BINARY_DIR "/kv_reuse_" + GetParam().name;
    std::filesystem::remove_all(base_);
    std::filesystem::create_directories(base_);
  }
  void TearDown() override { std::filesystem::remove_all(base_); }
  std::string base_;
};

TEST_P(KvReuse, StoredEqualsFreshWhateverTheIngest) {
  const std::vector<DocumentInput> documents = Documents();
  const EngineOptions packed = Options(base_ + "/packed", GetParam(), 4096);
  ASSERT_NO_FATAL_FAILURE(IngestInto(packed, documents));
  // Backwards, one part a batch, over three runs.
  const EngineOptions single = Options(base_ + "/single", GetParam(), 1);
  std::vector<DocumentInput> backwards(documents.rbegin(), documents.rend());
  for (std::size_t begin = 0; begin < backwards.size(); begin += 4) {
    const auto end = backwards.begin() + static_cast<std::ptrdiff_t>(std::min(begin + 4, backwards.size()));
    ASSERT_NO_FATAL_FAILURE(IngestInto(single, {backwards.begin() + static_cast<std::ptrdiff_t>(begin), end}));
  }
  auto loaded = LoadModel(packed);
  ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
  LoadedModel& model = **loaded;

  const std::unique_ptr<Store> stores[] = {OpenStored(packed.store_path), OpenStored(single.store_path),
                                           golden::EncodeAfresh(model, GetParam().kv_type, documents)};
  std::vector<std::vector<std::vector<float>>> logits;
  std::uint64_t source = 0;  // of its own for each, so that no page of one serves another
  for (const std::unique_ptr<Store>& store : stores) {
    std::vector<PartRef> parts = golden::PartsOf(store->Snapshot(), source++, documents);
    ASSERT_GT(parts.size(), documents.size());  // the long one is in parts
    logits.push_back(LogitsOf(model, packed, std::move(parts)));
    ASSERT_EQ(logits.back().size(), 6U);
  }
  EXPECT_TRUE(SameBits(logits[0], logits[2])) << "stored, packed, against fresh";
  EXPECT_TRUE(SameBits(logits[1], logits[2])) << "stored, one by one, against fresh";
  // A second question finds pages unfolded already; that changes nothing either.
  EXPECT_TRUE(SameBits(LogitsOf(model, packed, golden::PartsOf(stores[0]->Snapshot(), 0, documents)), logits[2]))
      << "warm";
}

// Raw KV that a question wants most of is brought a layer ahead, where the backend has memory for it.
TEST_P(KvReuse, StagedBlocksChangeNothing) {
  const std::vector<DocumentInput> documents = Documents();
  const auto [options, store, loaded] = Ingest(documents);
  ASSERT_NE(loaded, nullptr);
  LoadedModel& model = *loaded;
  constexpr int kAllChunks = 100000;
  constexpr std::uint64_t kBytes = 256 << 20, kTooFew = 1024;
  std::vector<std::vector<std::vector<float>>> logits;
  // None; with room for every set; for none. The second time blocks are in memory, and pages are not.
  for (const std::uint64_t stage_bytes : {std::uint64_t{0}, kBytes, kTooFew}) {
    auto cache = UnfoldCache::Make(
        *model.transformer, model.gist.rules.max_chunk_tokens(),
        {.page_bytes = kBytes, .block_bytes = kBytes, .gist_bytes = kBytes, .stage_bytes = stage_bytes});
    ASSERT_TRUE(cache.ok()) << cache.status().ToString();
    model.cache = *std::move(cache);
    for (int time = 0; time < 2; ++time) {
      ASSERT_TRUE(model.cache->DropPages().ok());
      logits.push_back(LogitsOf(model, options, golden::PartsOf(store->Snapshot(), 0, documents), kAllChunks));
    }
    EXPECT_EQ(model.cache->blocks().num_staged() > 0, stage_bytes == kBytes);
  }
  for (const auto& other : logits) EXPECT_TRUE(SameBits(logits[0], other));
}

// A page is a chunk's wherever its document is placed: a question that places the documents the other way round, and
// wants the same chunks, finds all of them unfolded, and answers as if it had unfolded them itself.
TEST_P(KvReuse, DocumentsPlacedElsewhereAreNotUnfoldedAgain) {
  const std::vector<DocumentInput> documents = Documents();
  const auto [options, store, loaded] = Ingest(documents);
  ASSERT_NE(loaded, nullptr);
  const LoadedModel& model = *loaded;
  constexpr int kAllChunks = 100000;
  const std::vector<PartRef> parts = golden::PartsOf(store->Snapshot(), 0, documents);
  const std::vector<PartRef> backwards(parts.rbegin(), parts.rend());
  Usage first, elsewhere, cold;
  LogitsOf(model, options, parts, kAllChunks, &first);
  const auto warm = LogitsOf(model, options, backwards, kAllChunks, &elsewhere);
  ASSERT_TRUE(model.cache->DropPages().ok());
  const auto unfolded = LogitsOf(model, options, backwards, kAllChunks, &cold);
  EXPECT_GT(first.pages_missed, 0U);
  EXPECT_EQ(elsewhere.pages_missed, 0U);
  EXPECT_EQ(elsewhere.pages_hit, first.pages_hit + first.pages_missed);
  EXPECT_EQ(cold.pages_missed, first.pages_missed);
  EXPECT_TRUE(SameBits(warm, unfolded));
}

// The records themselves: byte for byte the same.
TEST_P(KvReuse, RecordsDoNotDependOnPacking) {
  const std::vector<DocumentInput> documents = Documents();
  const EngineOptions packed = Options(base_ + "/packed", GetParam(), 4096);
  ASSERT_NO_FATAL_FAILURE(IngestInto(packed, documents));
  auto loaded = LoadModel(packed);
  ASSERT_TRUE(loaded.ok());
  const auto stored = OpenStored(packed.store_path)->Snapshot();
  const std::unique_ptr<Store> fresh_store = golden::EncodeAfresh(**loaded, GetParam().kv_type, documents);
  const auto fresh = fresh_store->Snapshot();
  const std::vector<PartRef> a = golden::PartsOf(stored, 0, documents);
  const std::vector<PartRef> b = golden::PartsOf(fresh, 0, documents);
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::uint16_t layer = 0; layer < 8; ++layer) {
      for (const RecordKind kind : {RecordKind::kGist, RecordKind::kRaw}) {
        if (kind == RecordKind::kRaw && layer == 0) continue;
        const auto left = stored->Read({kind, a[i].id, a[i].part, layer, 0});
        const auto right = fresh->Read({kind, b[i].id, b[i].part, layer, 0});
        ASSERT_TRUE(left.ok() && right.ok());
        ASSERT_EQ(*left, *right) << a[i].document << " part " << a[i].part << " layer " << layer;
      }
    }
  }
}

// The same through the public interface: documents given with the question against stored ones.
TEST_P(KvReuse, InlineDocumentsAnswerAsStoredOnes) {
  const std::vector<DocumentInput> documents = Documents();
  const EngineOptions options = Options(base_ + "/engine", GetParam(), 512);
  ASSERT_NO_FATAL_FAILURE(IngestInto(options, documents));
  auto engine = Engine::Open(options);
  ASSERT_TRUE(engine.ok());
  AskOptions named, inlined;
  for (const DocumentInput& document : documents) named.working_set.documents.push_back(document.name);
  inlined.inline_documents = documents;
  const auto stored = (*engine)->Ask("c", kQuestion, named);
  const auto fresh = (*engine)->Ask("c", kQuestion, inlined);
  ASSERT_TRUE(stored.ok()) << stored.status().ToString();
  ASSERT_TRUE(fresh.ok()) << fresh.status().ToString();
  EXPECT_EQ(stored->tokens, fresh->tokens);
  ASSERT_EQ(stored->sources.size(), fresh->sources.size());
  for (std::size_t i = 0; i < stored->sources.size(); ++i) {
    EXPECT_EQ(stored->sources[i].document, fresh->sources[i].document);
    EXPECT_EQ(stored->sources[i].share, fresh->sources[i].share);
    EXPECT_EQ(stored->sources[i].snippet, fresh->sources[i].snippet);
  }
}

const char kSections[] = R"({"chunk_size": 4, "section_size": 4, "gist_tokens": ["<gist>", "<Gist>"],
                             "link_tokens": ["<link0>", "<link1>"]})";

INSTANTIATE_TEST_SUITE_P(Kinds, KvReuse,
                         testing::Values(Kind{"f32", DType::kF32, ""}, Kind{"bf16", DType::kBF16, ""},
                                         Kind{"int8", DType::kInt8, ""}, Kind{"sections_f32", DType::kF32, kSections},
                                         Kind{"sections_int8", DType::kInt8, kSections},
                                         Kind{"bf16_products", DType::kBF16, "", DType::kBF16}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace unfold
