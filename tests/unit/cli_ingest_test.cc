// SPDX-License-Identifier: Apache-2.0
// `unfold ingest` as a process: verdicts, second runs, and Ctrl-C.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/unit/cli_fixture.h"

namespace unfold::cli_testing {
namespace {

TEST_F(Cli, TwoFilesOfOneNameAreRefusedBeforeAnyWork) {
  Write("docs/a.txt", "one");
  Write("other/a.txt", "two");
  const ProcessResult result = Run(WithModel({"ingest", At("docs"), At("other")}));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_TRUE(Holds(result.err, At("docs/a.txt")) && Holds(result.err, At("other/a.txt"))) << result.err;
  EXPECT_FALSE(fs::exists(store_));
}

TEST_F(Cli, IngestGivesAVerdictForEachFile) {
  WriteSample(2);
  Write("docs/note.md", "# Lighthouse\n\nThe keeper lit the lamp at dusk.\n");
  Write("docs/sub/empty.txt", "");
  Write("docs/binary.txt", std::string("MZ\0\1", 4));
  Write("docs/latin1.txt", "caf\xE9 noir");
  Write("docs/large.txt", std::string(3000, 'x'));
  Write("docs/picture.png", "png");
  fs::create_symlink("nowhere", root_ / "docs/dangling.txt");
  const ProcessResult first = Ingest({"--max-document-bytes", "2kb"});
  EXPECT_EQ(first.exit_code, 1) << first.err;
  const std::map<std::string, std::string> expected = {
      {"d0000.txt", "added"},    {"d0001.txt", "added"},   {"note.md", "added"},    {"sub/empty.txt", "failed"},
      {"binary.txt", "skipped"}, {"latin1.txt", "failed"}, {"large.txt", "failed"}, {"dangling.txt", "failed"}};
  EXPECT_EQ(Outcomes(first), expected);
  for (const Json& line : Lines(first.out)) {
    if (!line.contains("document")) continue;
    const bool is_published = line["outcome"] == "added";
    EXPECT_EQ(line.contains("tokens"), is_published) << line;
    EXPECT_EQ(line.contains("message"), !is_published) << line;
  }
  const Json summary = Summary(first);
  EXPECT_EQ(summary["added"], 3);
  EXPECT_EQ(summary["failed"], 4);
  EXPECT_EQ(summary["skipped"], 1);
  EXPECT_EQ(summary["complete"], true);
  EXPECT_GT(summary["tokens"], 0);
  EXPECT_GT(summary["bytes_per_token"], 0);
  EXPECT_TRUE(Holds(first.err, "are free")) << "the estimate is said: " << first.err;
  EXPECT_EQ(Listed(), (Args{"d0000.txt", "d0001.txt", "note.md"}));
}

TEST_F(Cli, ASecondRunSkipsReplacesAndPrunes) {
  WriteSample(3);
  ASSERT_EQ(Ingest().exit_code, 0);
  Write("docs/d0001.txt", "Another text.\nIt is about a bridge.");
  fs::remove(root_ / "docs/d0002.txt");
  const ProcessResult second = Ingest();
  EXPECT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(Outcomes(second),
            (std::map<std::string, std::string>{{"d0000.txt", "unchanged"}, {"d0001.txt", "replaced"}}));
  EXPECT_EQ(Listed().size(), 3U) << "without --prune nothing is removed";

  const ProcessResult refused = Ingest({At("missing"), "--prune"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_EQ(Listed().size(), 3U) << "nothing is pruned when a path could not be read";

  const ProcessResult third = Ingest({"--prune"});
  EXPECT_EQ(third.exit_code, 0) << third.err;
  EXPECT_EQ(Outcomes(third)["d0002.txt"], "removed");
  EXPECT_EQ(Listed(), (Args{"d0000.txt", "d0001.txt"}));

  // A file that the run left out is still there, and stays; an empty folder prunes all.
  EXPECT_EQ(Ingest({"--prune", "--exclude", "d0001*"}).exit_code, 0);
  EXPECT_EQ(Listed().size(), 2U);
  fs::remove_all(root_ / "docs");
  fs::create_directories(root_ / "docs");
  EXPECT_EQ(Ingest().exit_code, 1) << "nothing to ingest";
  EXPECT_EQ(Ingest({"--prune"}).exit_code, 0);
  EXPECT_EQ(Run({"verify", "--store", store_}).exit_code, 0);
}

TEST_F(Cli, HtmlIsReadWithoutMarkupAndCitedInTheFile) {
  const std::string page =
      "<html><head><title>Old &amp; new bridges</title></head><body><nav>Peter's guide</nav>"
      "<p>The <b>bridge</b> over the <a href='/r'>river</a> was\n built by Peter in 1911.</p></body></html>";
  Write("docs/page.html", page);
  Write("docs/lamp.HTM", "<p>The lamp of the lighthouse was lit by Anna every evening.");
  Write("docs/latin1.html", "<meta charset=iso-8859-1>caf\xE9");
  Write("docs/deep.html", [] {
    std::string deep;
    for (int i = 0; i < 2000; ++i) deep += "<div>";
    return deep + "x";
  }());
  const ProcessResult first = Ingest();
  EXPECT_EQ(first.exit_code, 1);
  EXPECT_EQ(Outcomes(first),
            (std::map<std::string, std::string>{
                {"page.html", "added"}, {"lamp.HTM", "added"}, {"latin1.html", "failed"}, {"deep.html", "failed"}}));
  EXPECT_TRUE(Holds(first.out, "declares charset iso-8859-1")) << first.out;
  EXPECT_TRUE(Holds(first.out, "more than 1024 elements are open")) << first.out;
  EXPECT_EQ(Outcomes(Ingest())["page.html"], "unchanged");
  const ProcessResult listed = Run({"list", "--store", store_, "--collection", "notes"});
  EXPECT_TRUE(Holds(listed.out, "Old & new bridges")) << listed.out;
  EXPECT_EQ(Run({"verify", "--store", store_}).exit_code, 0);

  const ProcessResult asked = Run(WithModel({"ask", "who built the bridge over the river", "--json"}));
  ASSERT_EQ(asked.exit_code, 0) << asked.err;
  const Json answer = Json::parse(asked.out);
  bool is_cited = false;
  for (const Json& source : answer["sources"]) {
    if (source["document"] != "page.html") continue;
    is_cited = true;
    const std::size_t begin = source["byte_begin"], end = source["byte_end"];
    ASSERT_LT(begin, end);
    ASSERT_LE(end, page.size());
    EXPECT_TRUE(Holds(page.substr(begin, end - begin), "</a> was\n built by Peter")) << source;
    const std::string snippet = source["snippet"];
    EXPECT_TRUE(Holds(snippet, "river was built by Peter")) << snippet;
    EXPECT_EQ(snippet.find_first_of("<>"), std::string::npos) << snippet;
  }
  EXPECT_TRUE(is_cited) << asked.out;
}

TEST_F(Cli, IngestWithoutJsonSpeaksOnStderr) {
  WriteSample(1);
  const ProcessResult result = Run(WithModel({"ingest", At("docs/*.txt")}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(Holds(result.err, "added      d0000.txt")) << result.err;
  EXPECT_EQ(result.out.rfind("1 document: 1 added, 0 replaced, 0 unchanged, 0 failed; ", 0), 0U) << result.out;
}

TEST_F(Cli, CtrlCStopsAnIngestThatGoesOnLaterAndReadersWorkBesideIt) {
  constexpr std::size_t kNumDocuments = 100;
  WriteSample(kNumDocuments);
  Args args = {kProgram, "ingest", At("docs"), "--json", "--encode-batch-tokens", "256"};
  const Args more = WithModel({});
  args.insert(args.end(), more.begin(), more.end());
  Process writer(args, root_);
  ASSERT_TRUE(writer.WaitForOutput("\"added\"")) << writer.Finish().err;
  // Held still, the writer keeps its lock for as long as the rest takes.
  writer.Signal(SIGSTOP);
  const std::size_t num_seen = Listed().size();
  EXPECT_GE(num_seen, 1U);
  EXPECT_LT(num_seen, kNumDocuments);
  const ProcessResult asked = Run(WithModel({"ask", "Who played Glenn Miller?"}));
  EXPECT_EQ(asked.exit_code, 0) << asked.err;
  EXPECT_EQ(Run({"verify", "--store", store_}).exit_code, 0);
  const ProcessResult second_writer = Ingest();
  EXPECT_EQ(second_writer.exit_code, 1);
  EXPECT_TRUE(Holds(second_writer.err, "unavailable") && Holds(second_writer.err, store_)) << second_writer.err;
  writer.Signal(SIGINT);
  writer.Signal(SIGCONT);
  const ProcessResult stopped = writer.Finish();

  EXPECT_EQ(stopped.exit_code, 1) << stopped.err;
  EXPECT_TRUE(Holds(stopped.err, "run the same command again")) << stopped.err;
  EXPECT_EQ(Summary(stopped)["complete"], false);
  std::size_t num_stored = 0;
  for (const auto& [name, outcome] : Outcomes(stopped)) num_stored += outcome == "added" ? 1 : 0;
  EXPECT_GE(num_stored, num_seen);
  EXPECT_LT(num_stored, kNumDocuments);
  EXPECT_EQ(Listed().size(), num_stored) << "what has its verdict is stored, and nothing else";
  EXPECT_EQ(Run({"verify", "--store", store_}).exit_code, 0);

  const ProcessResult resumed = Ingest();
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(Summary(resumed)["unchanged"], num_stored);
  EXPECT_EQ(Summary(resumed)["added"], kNumDocuments - num_stored);
  EXPECT_EQ(Listed().size(), kNumDocuments);
}

}  // namespace
}  // namespace unfold::cli_testing
