// SPDX-License-Identifier: Apache-2.0
// The engine of a build without RocksDB: documents in memory as ever, and a clear word about a store on disk.
#include <gtest/gtest.h>

#include <filesystem>

#include "unfold/engine.h"

namespace unfold {
namespace {

constexpr const char* kModel = UNFOLD_SOURCE_DIR "/datasets/gist-mini";

TEST(NoRocksDb, AnswersFromMemory) {
  const auto engine = Engine::Open({.model_path = kModel});
  ASSERT_TRUE(engine.ok()) << engine.status().ToString();
  const auto added = (*engine)->AddDocument("notes", {.name = "a.txt", .text = "The bridge was built in 1930."});
  ASSERT_TRUE(added.ok()) << added.status().ToString();
  AskOptions options;
  options.max_answer_tokens = 4;
  const auto answer = (*engine)->Ask("notes", "when was the bridge built", options);
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  ASSERT_EQ(answer->placed.size(), 1U);
  EXPECT_EQ(answer->placed[0], "a.txt");
}

TEST(NoRocksDb, AStoreOnDiskIsUnavailable) {
  const auto path = std::filesystem::temp_directory_path() / "unfold_no_rocksdb_store";
  for (const char* model : {kModel, ""}) {
    std::filesystem::create_directory(path);
    const auto engine = Engine::Open({.store_path = path, .model_path = model});
    EXPECT_EQ(engine.status().code(), StatusCode::kUnavailable) << engine.status().ToString();
    EXPECT_NE(engine.status().message().find("no store on disk"), std::string::npos) << engine.status().ToString();
    EXPECT_NE(engine.status().message().find(path), std::string::npos) << engine.status().ToString();
    EXPECT_NE(engine.status().message().find("UNFOLD_WITH_STORE=ON"), std::string::npos) << engine.status().ToString();
    std::filesystem::remove_all(path);
  }
}

}  // namespace
}  // namespace unfold
