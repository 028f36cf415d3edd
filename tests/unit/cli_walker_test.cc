// SPDX-License-Identifier: Apache-2.0
// Globs, the walk over files and folders, and reading.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "apps/file_walker.h"
#include "apps/glob.h"

namespace unfold::cli {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

TEST(Glob, Matches) {
  const std::vector<std::pair<std::string, std::string>> matching = {{"*.md", "a.md"},
                                                                     {"*", "a"},
                                                                     {"a?c", "abc"},
                                                                     {"a?c",
                                                                      "a\xC3\xA9"
                                                                      "c"},
                                                                     {"[a-c]x", "bx"},
                                                                     {"[!a-c]x", "dx"},
                                                                     {"[]]x", "]x"},
                                                                     {"[a-]x", "-x"},
                                                                     {"[\xC3\xA0-\xC3\xBC]", "\xC3\xA9"},
                                                                     {"\\*x", "*x"},
                                                                     {"[x", "[x"},
                                                                     {"a/**/b", "a/b"},
                                                                     {"a/**/b", "a/x/y/b"},
                                                                     {"**", "a/b"},
                                                                     {"**/*.md", "x.md"},
                                                                     {"a/**", "a/b/c"},
                                                                     {"*a*b*", "xxaxxbxx"},
                                                                     {"a//b", "a/b"}};
  for (const auto& [pattern, path] : matching) EXPECT_TRUE(GlobMatch(pattern, path)) << pattern << " " << path;
  const std::vector<std::pair<std::string, std::string>> different = {
      {"*.md", "a/b.md"}, {"*.md", "a.mdx"}, {"a?c", "ac"}, {"[a-c]x", "dx"}, {"[!a-c]x", "ax"}, {"\\*x", "ax"},
      {"a/**/b", "ab"},   {"a/**/b", "a"},   {"?", "/"},    {"*a*b", "xbxa"}, {"", "a"},         {"a/b", "a/b/c"}};
  for (const auto& [pattern, path] : different) EXPECT_FALSE(GlobMatch(pattern, path)) << pattern << " " << path;
}

TEST(Glob, TakesNoLongerOnAHardPattern) {
  std::string pattern, deep;
  for (int i = 0; i < 200; ++i) pattern += "*a", deep += "**/";
  EXPECT_FALSE(GlobMatch(pattern + "b", std::string(2000, 'a')));
  EXPECT_FALSE(GlobMatch(deep + "b", deep + "a"));
}

TEST(Glob, FiltersLookAtTheLastNameUnlessTheyHoldASlash) {
  EXPECT_TRUE(FilterMatch("*.md", "a/b.md"));
  EXPECT_TRUE(FilterMatch("a/*.md", "a/b.md"));
  EXPECT_FALSE(FilterMatch("b/*.md", "a/b.md"));
}

// A fresh folder for each test.
class Walk : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "unfold_walk_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& text = "text") {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << text;
  }
  std::string At(const std::string& name) const { return (root_ / name).string(); }

  WalkResult Found(const Names& paths, const WalkOptions& options = {}) {
    auto result = WalkPaths(paths, options);
    EXPECT_TRUE(result.ok()) << result.status().ToString();
    return result.ok() ? *std::move(result) : WalkResult();
  }
  static Names NamesOf(const std::vector<FoundFile>& files) {
    Names names;
    for (const FoundFile& file : files) names.push_back(file.name);
    return names;
  }

  fs::path root_;
};

TEST_F(Walk, NamesAreRelativeToTheFolderGiven) {
  Write("d/b.txt");
  Write("d/sub/a.MD");
  Write("d/sub/deeper/c.TxT");
  Write("d/skip.pdf");
  Write("d/.hidden.txt");
  Write("d/.git/x.txt");
  Write("single.md");
  Write("page.Html");
  const WalkResult found = Found({At("d") + "/", At("single.md"), At("page.Html")});
  EXPECT_EQ(NamesOf(found.files), (Names{"b.txt", "sub/a.MD", "sub/deeper/c.TxT", "single.md", "page.Html"}));
  EXPECT_EQ(found.files[4].format, TextFormat::kHtml);
  EXPECT_EQ(found.files[0].format, TextFormat::kPlain);
  EXPECT_EQ(found.files[1].format, TextFormat::kMarkdown);
  EXPECT_EQ(found.files[1].num_bytes, 4U);
  EXPECT_EQ(found.num_other_types, 1U);
  EXPECT_TRUE(found.has_folder && found.problems.empty());
}

TEST_F(Walk, TakesGlobsRelativeToTheirLeadingFolder) {
  Write("d/a.md");
  Write("d/x/b.md");
  Write("d/x/c.txt");
  Write("d/[odd].txt");
  EXPECT_EQ(NamesOf(Found({At("d/**/*.md")}).files), (Names{"a.md", "x/b.md"}));
  EXPECT_EQ(NamesOf(Found({At("d/*/*")}).files), (Names{"x/b.md", "x/c.txt"}));
  EXPECT_EQ(NamesOf(Found({At("d/[odd].txt")}).files), (Names{"[odd].txt"})) << "a file that exists is no glob";
  const WalkResult none = Found({At("d/*.rst")});
  ASSERT_EQ(none.problems.size(), 1U);
  EXPECT_EQ(none.problems[0].status.code(), StatusCode::kNotFound);
}

TEST_F(Walk, FiltersFilesAndWholeFolders) {
  Write("d/a.md");
  Write("d/a.txt");
  Write("d/drafts/b.md");
  Write("d/x/drafts.md");
  EXPECT_EQ(NamesOf(Found({At("d")}, {.include = {"*.md"}, .exclude = {"drafts"}}).files),
            (Names{"a.md", "x/drafts.md"}));
  EXPECT_EQ(NamesOf(Found({At("d")}, {.include = {}, .exclude = {"x/*", "*.txt"}}).files),
            (Names{"a.md", "drafts/b.md"}));
}

TEST_F(Walk, RefusesTwoFilesOfOneNameAndNamesBoth) {
  Write("d/a.txt");
  Write("e/a.txt");
  const auto result = WalkPaths({At("d"), At("e")}, {});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find(At("d/a.txt")), std::string::npos) << result.status().message();
  EXPECT_NE(result.status().message().find(At("e/a.txt")), std::string::npos);
  EXPECT_EQ(NamesOf(Found({At("d"), At("d"), At("d/../d/a.txt")}).files), Names{"a.txt"})
      << "the same file twice is one";
}

TEST_F(Walk, FollowsLinksWithoutEnd) {
  Write("d/real/a.txt");
  Write("outside/b.txt");
  Write("above.txt");
  fs::create_directory_symlink("real", root_ / "d/again");  // sorts before "real", which keeps its name
  fs::create_directory_symlink("..", root_ / "d/real/up");
  fs::create_directory_symlink("../..", root_ / "d/real/upper");
  fs::create_directory_symlink(root_ / "outside", root_ / "d/out");
  fs::create_symlink("real/a.txt", root_ / "d/link.txt");
  EXPECT_EQ(NamesOf(Found({At("d")}).files), (Names{"link.txt", "real/a.txt", "out/b.txt"}));
}

TEST_F(Walk, WhatCannotBeReadGetsAStatus) {
  Write("d/ok.txt");
  fs::create_symlink("nowhere", root_ / "d/gone.txt");
  ASSERT_EQ(mkfifo(At("d/pipe.txt").c_str(), 0600), 0);
  fs::create_directories(root_ / "d/folder.txt");
  Write("e.pdf");
  const WalkResult found = Found({At("d"), At("missing"), At("e.pdf")});
  ASSERT_EQ(NamesOf(found.files), (Names{"gone.txt", "ok.txt", "pipe.txt"}));
  EXPECT_EQ(found.files[0].status.code(), StatusCode::kNotFound);
  EXPECT_TRUE(found.files[1].status.ok());
  EXPECT_EQ(found.files[2].status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(NamesOf(found.problems), Names{At("missing")});
  EXPECT_EQ(found.other_types, Names{At("e.pdf")});
  EXPECT_EQ(ReadDocument(found.files[0], 100).document.read_status.code(), StatusCode::kNotFound);
}

// Root reads every folder: where the test runs as root, another user walks for it.
class AsOrdinaryUser {
 public:
  AsOrdinaryUser() : was_root_(geteuid() == 0) {
    if (was_root_) {
      EXPECT_EQ(seteuid(65534), 0);
    }
  }
  ~AsOrdinaryUser() {
    if (was_root_) {
      EXPECT_EQ(seteuid(0), 0);
    }
  }

 private:
  bool was_root_;
};

TEST_F(Walk, WhatIsForbiddenIsNamed) {
  Write("d/shut/a.txt");
  Write("d/shut.txt");
  Write("d/open.txt");
  for (const fs::path& folder : {root_, root_ / "d"}) {  // whatever the umask is
    fs::permissions(folder, static_cast<fs::perms>(0755));
  }
  fs::permissions(root_ / "d/shut", fs::perms::none);
  fs::permissions(root_ / "d/shut.txt", fs::perms::none);
  WalkResult found;
  ReadOutcome shut;
  {
    const AsOrdinaryUser user;
    found = Found({At("d")});
    if (found.files.size() == 2) shut = ReadDocument(found.files[1], 100);
  }
  fs::permissions(root_ / "d/shut", fs::perms::owner_all);
  EXPECT_EQ(NamesOf(found.files), (Names{"open.txt", "shut.txt"}));
  EXPECT_EQ(shut.document.read_status.code(), StatusCode::kIo) << shut.document.read_status.ToString();
  ASSERT_EQ(NamesOf(found.problems), Names{At("d/shut")});
  EXPECT_EQ(found.problems[0].status.code(), StatusCode::kIo);
}

TEST_F(Walk, ReadsUpToTheLimit) {
  Write("five.txt", "12345");
  FoundFile file = Found({At("five.txt")}).files.at(0);
  EXPECT_EQ(ReadDocument(file, 5).document.text, "12345");
  EXPECT_EQ(ReadDocument(file, ~std::uint64_t{0}).document.text, "12345");
  const ReadOutcome large = ReadDocument(file, 4);
  EXPECT_EQ(large.document.read_status.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(large.document.text.empty());
  file.num_bytes = 0;  // it grew since the walk
  EXPECT_EQ(ReadDocument(file, 4).document.read_status.code(), StatusCode::kResourceExhausted);
}

TEST_F(Walk, TellsBinaryByItsFirst8KiB) {
  Write("a.txt", std::string(8191, 'x') + '\0');
  Write("b.txt", std::string(8192, 'x') + '\0');
  const WalkResult found = Found({root_.string()});
  EXPECT_TRUE(ReadDocument(found.files.at(0), 1 << 20).is_binary);
  const ReadOutcome text = ReadDocument(found.files.at(1), 1 << 20);
  EXPECT_FALSE(text.is_binary);
  EXPECT_EQ(text.document.text.size(), 8193U);
}

}  // namespace
}  // namespace unfold::cli
