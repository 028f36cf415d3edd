// SPDX-License-Identifier: Apache-2.0
// Holds the tree to its layers, and shows first that each rule can fail.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/layers/layer_rules.h"

namespace unfold::layers {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxLines = 450;
constexpr std::uintmax_t kMaxTreeBytes = 62'000'000;

// One finding a line, for the message of a failed test.
std::string Joined(const Findings& findings) {
  std::string out;
  for (const std::string& finding : findings) out += finding + "\n";
  return out;
}

testing::AssertionResult Reports(const Findings& findings, const std::string& part) {
  if (findings.size() == 1 && findings[0].find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "wanted one finding with '" << part << "', got:\n" << Joined(findings);
}

// ---- each rule on examples

TEST(Rules, IncludesAreFoundInAnyForm) {
  const auto includes =
      IncludesOf("#include <a>\n  #  include \"b/c.h\"  // why\n// #include <no>\nint x;\n#include <d.h>");
  ASSERT_EQ(includes.size(), 3U);
  EXPECT_TRUE(includes[0].angled);
  EXPECT_EQ(includes[1].target, "b/c.h");
  EXPECT_FALSE(includes[1].angled);
  EXPECT_EQ(includes[1].line, 2);
  EXPECT_EQ(includes[2].line, 5);
}

TEST(Rules, LayersOfPaths) {
  EXPECT_EQ(LayerOf("include/unfold/base.h"), "core");
  EXPECT_EQ(LayerOf("include/unfold/engine.h"), "public");
  EXPECT_EQ(LayerOf("src/rag/router.cc"), "rag");
  EXPECT_EQ(LayerOf("kernels/backend.h"), "kernels");
  EXPECT_EQ(LayerOf("src/misc/a.h"), "");
  EXPECT_EQ(LayerOf("apps"), "");
}

// A tree of one header in every layer, and one more file that includes `target`.
Findings IncludeFrom(const std::string& path, const std::string& target) {
  std::vector<SourceFile> files = {{"include/unfold/base.h", ""},  {"include/unfold/engine.h", ""},
                                   {"src/base/json.h", ""},        {"src/text/tokenizer.h", ""},
                                   {"kernels/backend.h", ""},      {"store/store.h", ""},
                                   {"src/model/config.h", ""},     {"src/rag/router.h", ""},
                                   {"src/engine/scheduler.h", ""}, {"apps/commands.h", ""}};
  files.push_back({path, "#include " + target + "\n"});
  return CheckIncludes(files);
}

TEST(Rules, DownwardIncludesPass) {
  const std::vector<std::pair<std::string, std::string>> good = {
      {"src/text/a.cc", "\"base/json.h\""},
      {"src/model/a.cc", "\"kernels/backend.h\""},
      {"src/rag/a.cc", "\"store/store.h\""},
      {"src/engine/a.cc", "\"unfold/engine.h\""},
      {"apps/a.cc", "\"unfold/engine.h\""},
      {"apps/a.cc", "\"commands.h\""},
      {"apps/a.cc", "<CLI/CLI.hpp>"},
      {"store/a.cc", "<rocksdb/db.h>"},
      {"src/text/a.cc", "<pcre2.h>"},
      {"include/unfold/a.h", "<vector>"},
      {"include/unfold/unfold.h", "<stdint.h>"},
      {"src/engine/a.cc", "<unistd.h>"},
      {"kernels/a.cc", "<immintrin.h>"},
      {"src/model/a.cc", "\"model/config.h\""},
      {"kernels/a.cu", "<cuda_runtime.h>"},
  };
  for (const auto& [path, target] : good) EXPECT_EQ(Joined(IncludeFrom(path, target)), "") << path << " " << target;
}

TEST(Rules, UpwardAndSidewaysIncludesAreReported) {
  EXPECT_TRUE(Reports(IncludeFrom("src/base/a.cc", "\"text/tokenizer.h\""), "layer 'base' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("src/text/a.cc", "\"kernels/backend.h\""), "layer 'text' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("kernels/a.cc", "\"store/store.h\""), "layer 'kernels' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("kernels/a.cc", "\"text/tokenizer.h\""), "layer 'kernels' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("store/a.cc", "\"kernels/backend.h\""), "layer 'store' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("src/model/a.cc", "\"store/store.h\""), "layer 'model' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("src/rag/a.cc", "\"unfold/engine.h\""), "layer 'rag' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("src/train/a.cc", "\"rag/router.h\""), "layer 'train' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("apps/a.cc", "\"base/json.h\""), "layer 'apps' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("apps/a.cc", "\"engine/scheduler.h\""), "layer 'apps' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("include/unfold/a.h", "\"base/json.h\""), "layer 'public' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("include/unfold/base.h", "\"unfold/engine.h\""), "layer 'core' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("src/base/a.cc", "<kernels/backend.h>"), "layer 'base' must not include"));
  EXPECT_TRUE(Reports(IncludeFrom("src/rag/a.cc", "\"tests/unit/helper.h\""), "names no file of the tree"));
  EXPECT_TRUE(Reports(IncludeFrom("src/misc/a.cc", "<vector>"), "belongs to no layer"));
}

TEST(Rules, ForeignHeadersStayInTheirPlaces) {
  EXPECT_TRUE(Reports(IncludeFrom("src/rag/a.cc", "<rocksdb/db.h>"), "only store/"));
  EXPECT_TRUE(Reports(IncludeFrom("src/base/a.cc", "<isa-l/crc.h>"), "only store/"));
  EXPECT_TRUE(Reports(IncludeFrom("src/rag/a.cc", "<pcre2.h>"), "only src/text/"));
  EXPECT_TRUE(Reports(IncludeFrom("src/engine/a.cc", "<CLI/CLI.hpp>"), "only apps/"));
  EXPECT_TRUE(Reports(IncludeFrom("src/base/json.cc", "<nlohmann/json.hpp>"), "only src/base/json.h"));
  EXPECT_TRUE(Reports(IncludeFrom("src/model/a.cc", "<cuda_runtime.h>"), "only kernels/"));
  EXPECT_TRUE(Reports(IncludeFrom("src/model/a.cc", "<immintrin.h>"), "only kernels/"));
  EXPECT_TRUE(Reports(IncludeFrom("include/unfold/a.h", "<unistd.h>"), "in a public header"));
  EXPECT_TRUE(Reports(IncludeFrom("include/unfold/a.h", "<nlohmann/json.hpp>"), "in a public header"));
  EXPECT_TRUE(Reports(IncludeFrom("include/unfold/a.h", "<stdint.h>"), "in a public header"));
  EXPECT_TRUE(Reports(IncludeFrom("src/base/a.cc", "<absl/any.h>"), "in no list of known headers"));
  EXPECT_TRUE(Reports(IncludeFrom("src/base/a.cc", "<gtest/gtest.h>"), "in no list of known headers"));
}

TEST(Rules, CyclesAreReported) {
  EXPECT_EQ(Joined(CheckCycles({{"src/base/a.h", "#include \"base/b.h\"\n"}, {"src/base/b.h", ""}})), "");
  EXPECT_TRUE(Reports(CheckCycles({{"src/base/a.h", "#include \"base/b.h\"\n"},
                                   {"src/base/b.h", "#include \"base/c.h\"\n"},
                                   {"src/base/c.h", "#include \"base/a.h\"\n"}}),
                      "include cycle"));
  EXPECT_TRUE(Reports(CheckCycles({{"src/base/a.h", "#include \"base/a.h\"\n"}}), "include cycle"));
}

TEST(Rules, UpwardLinksAreReported) {
  EXPECT_EQ(Joined(CheckLinks({{"src/rag/CMakeLists.txt", "target_link_libraries(unfold_rag PUBLIC unfold_store)"}})),
            "");
  EXPECT_EQ(Joined(CheckLinks({{"src/base/CMakeLists.txt", "x(unfold_base unfold_settings)  # not unfold_rag"}})), "");
  EXPECT_TRUE(
      Reports(CheckLinks({{"store/CMakeLists.txt", "x(unfold_store PUBLIC unfold_kernels)"}}), "must not link"));
  EXPECT_TRUE(
      Reports(CheckLinks({{"apps/CMakeLists.txt", "x(unfold PRIVATE unfold_base unfold_rag)"}}), "must not link"));
}

TEST(Rules, MissingSpdxIsReported) {
  EXPECT_EQ(Joined(CheckSpdx({{"a.h", "// SPDX-License-Identifier: Apache-2.0\n"},
                              {"b", "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n"}})),
            "");
  EXPECT_TRUE(Reports(CheckSpdx({{"a.h", "\n// SPDX-License-Identifier: Apache-2.0\n"}}), "no SPDX line"));
  EXPECT_TRUE(Reports(CheckSpdx({{"a.h", "// SPDX-License-Identifier: MIT\n"}}), "no SPDX line"));
}

TEST(Rules, LongFilesAreReported) {
  EXPECT_EQ(Joined(CheckLineCounts({{"a.h", "1\n2\n"}}, 2)), "");
  EXPECT_TRUE(Reports(CheckLineCounts({{"a.h", "1\n2\n3\n"}}, 2), "3 lines"));
}

TEST(Rules, UnlistedTestsAndLabelsAreReported) {
  const SourceFile root = {"tests/CMakeLists.txt", "include(unit/base.cmake)\n"};
  const auto check = [&](const std::string& base, const std::vector<std::string>& sources) {
    return CheckTestsAreListed({root, {"tests/unit/base.cmake", base}}, sources);
  };
  const std::string good = "unfold_test(NAME a LABEL unit SOURCES unit/a_test.cc)\n";
  EXPECT_EQ(Joined(check(good, {"tests/unit/a_test.cc"})), "");
  EXPECT_TRUE(Reports(check(good, {"tests/unit/a_test.cc", "tests/unit/b_test.cc"}), "b_test.cc: named in no"));
  EXPECT_TRUE(Reports(check("# " + good, {"tests/unit/a_test.cc"}), "a_test.cc: named in no"));
  EXPECT_TRUE(Reports(check("unfold_test(NAME a LABEL slow SOURCES a_test.cc)", {}), "unknown label 'slow'"));
  EXPECT_TRUE(Reports(check("unfold_test(NAME a SOURCES a_test.cc)", {}), "a test without a label"));
  EXPECT_TRUE(Reports(CheckTestsAreListed({root, {"tests/unit/base.cmake", ""}, {"tests/unit/more.cmake", ""}}, {}),
                      "more.cmake: included nowhere"));
}

// ---- the tree itself

std::string ReadText(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

bool IsSource(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".h" || extension == ".cc" || extension == ".c" || extension == ".cu" || extension == ".cuh";
}

// Every file of the checkout that is not built (build/ is the one ignored folder) and not git's own.
const std::vector<fs::path>& TreeFiles() {
  static const std::vector<fs::path> files = [] {
    const fs::path root = UNFOLD_SOURCE_DIR;
    std::vector<fs::path> found;
    for (fs::recursive_directory_iterator it(root), end; it != end; ++it) {
      const bool is_top = it.depth() == 0;
      const std::string name = it->path().filename().string();
      if (is_top && (name == ".git" || name == "build")) {
        it.disable_recursion_pending();
      } else if (it->is_regular_file() && !it->is_symlink()) {
        found.push_back(fs::relative(it->path(), root));
      }
    }
    return found;
  }();
  return files;
}

// The files of the tree for which `wanted(path)` holds, with their text.
template <typename Wanted>
std::vector<SourceFile> Select(const Wanted& wanted) {
  std::vector<SourceFile> out;
  for (const fs::path& path : TreeFiles()) {
    const std::string name = path.generic_string();
    if (wanted(path)) out.push_back({name, ReadText(fs::path(UNFOLD_SOURCE_DIR) / path)});
  }
  return out;
}

bool IsInTests(const fs::path& path) { return *path.begin() == "tests"; }

std::vector<SourceFile> ProductSources() {
  return Select([](const fs::path& path) { return IsSource(path) && !IsInTests(path); });
}

TEST(Tree, HoldsTheLayers) {
  const std::vector<SourceFile> files = ProductSources();
  ASSERT_GT(files.size(), 10U);
  EXPECT_EQ(Joined(CheckIncludes(files)), "");
  EXPECT_EQ(Joined(CheckCycles(files)), "");
}

TEST(Tree, LinksDownwardOnly) {
  const auto files = Select([](const fs::path& path) {
    return path.filename() == "CMakeLists.txt" && path.has_parent_path() && !IsInTests(path);
  });
  ASSERT_GE(files.size(), 4U);
  EXPECT_EQ(Joined(CheckLinks(files)), "");
}

TEST(Tree, CarriesItsLicence) {
  const auto files = Select([](const fs::path& path) {
    return IsSource(path) || path.extension() == ".py" || path == "dev" || path == ".ci/run";
  });
  EXPECT_EQ(Joined(CheckSpdx(files)), "");
  EXPECT_NE(ReadText(fs::path(UNFOLD_SOURCE_DIR) / "LICENSE").find("Apache License"), std::string::npos);
}

TEST(Tree, HasNoLongFiles) { EXPECT_EQ(Joined(CheckLineCounts(ProductSources(), kMaxLines)), ""); }

TEST(Tree, RunsEveryTest) {
  const auto cmake = Select([](const fs::path& path) {
    return IsInTests(path) && (path.extension() == ".cmake" || path == "tests/CMakeLists.txt");
  });
  std::vector<std::string> sources;
  for (const fs::path& path : TreeFiles()) {
    if (IsInTests(path) && IsSource(path) && path.stem().string().ends_with("_test")) {
      sources.push_back(path.generic_string());
    }
  }
  ASSERT_GT(sources.size(), 0U);
  EXPECT_EQ(Joined(CheckTestsAreListed(cmake, sources)), "");
}

TEST(Tree, StaysSmall) {
  std::uintmax_t bytes = 0;
  for (const fs::path& path : TreeFiles()) bytes += fs::file_size(fs::path(UNFOLD_SOURCE_DIR) / path);
  EXPECT_GT(bytes, 55'000'000U) << "the shipped model is missing";
  EXPECT_LT(bytes, kMaxTreeBytes);
}

}  // namespace
}  // namespace unfold::layers
