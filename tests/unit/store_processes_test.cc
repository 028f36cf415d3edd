// SPDX-License-Identifier: Apache-2.0
// A reader and a second writer in processes of their own. In an executable of its own, because a child is made by fork
// before this process has a thread.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/store_fixture.h"

namespace unfold {
namespace {

// One end of a conversation in single letters.
class Channel {
 public:
  Channel(int in, int out) : in_(in), out_(out) {}
  void Say(char letter) const { ASSERT_EQ(write(out_, &letter, 1), 1); }
  void Await(char letter) const {
    char got = 0;
    ASSERT_EQ(read(in_, &got, 1), 1) << "the other process ended";
    ASSERT_EQ(got, letter);
  }

 private:
  int in_;
  int out_;
};

constexpr DocumentShape kShape{.layers = 3, .chunks = 70};

void ReaderProcess(const std::string& path, const Channel& parent) {
  parent.Await('s');  // the store is there, its writer running
  const auto second_writer = OpenRocksDbStore({path});
  EXPECT_EQ(second_writer.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(second_writer.status().message().find(path + "/LOCK"), std::string::npos);
  auto reader = OpenOrFail({path, StoreAccess::kReadOnly});
  ASSERT_NE(reader, nullptr);
  parent.Say('o');
  parent.Await('r');  // all that the reader sees was replaced and removed, and the writer has closed
  const auto snapshot = reader->Snapshot();
  const auto documents = snapshot->Documents("c");
  ASSERT_TRUE(documents.ok()) << documents.status().ToString();
  ASSERT_EQ(documents->size(), 4U);
  for (std::uint64_t i = 0; i < 4; ++i) ExpectWhole(*snapshot, (*documents)[i], i, kShape);
  ExpectClean(*reader, 4);
  auto writer = OpenOrFail({path});
  ASSERT_NE(writer, nullptr) << "the lock is free again";
  ExpectClean(*writer, 1);
}

void WriterProcess(const std::string& path, const Channel& child) {
  auto writer = OpenOrFail({path});
  for (int i = 0; i < 4; ++i) {
    if (i == 2) {  // half of them in tables and blob files, half in the log
      ASSERT_OK(writer->Close());
      writer = OpenOrFail({path});
    }
    ASSERT_OK(PutDocument(*writer, "c", std::to_string(i), i, kShape));
  }
  child.Say('s');
  child.Await('o');
  for (int i = 0; i < 4; ++i) ASSERT_OK(PutDocument(*writer, "c", std::to_string(i), 9, kShape));
  const std::string names[] = {"0", "1", "2"};
  ASSERT_OK(writer->Remove("c", names));
  ASSERT_OK(writer->Close());
  child.Say('r');
}

TEST(StoreProcesses, AReaderKeepsItsViewAndASecondWriterIsRefused) {
  TempDir dir;
  int to_child[2];
  int to_parent[2];
  ASSERT_EQ(pipe(to_child), 0);
  ASSERT_EQ(pipe(to_parent), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    close(to_child[1]);  // so that the end of the parent is seen
    ReaderProcess(dir.Path(), Channel(to_child[0], to_parent[1]));
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  close(to_parent[1]);
  WriterProcess(dir.Path(), Channel(to_parent[0], to_child[1]));
  close(to_child[1]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the reader's failures are above";
}

}  // namespace
}  // namespace unfold
