// SPDX-License-Identifier: Apache-2.0
// Ingest jobs over ends of the process: what was taken is encoded, and what happened is reported.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "apps/http/jobs.h"
#include "tests/http/fake_engine.h"
#include "tests/unit/temp_dir.h"

namespace unfold::http {
namespace {

using cli::Json;

class JobsTest : public ::testing::Test {
 protected:
  void Open() {
    auto jobs = Jobs::Open(engine_, counters_, folder_.Path("jobs"));
    ASSERT_TRUE(jobs.ok()) << jobs.status().ToString();
    jobs_ = *std::move(jobs);
  }
  // The job's report once its state is `state`.
  Json Reported(const std::string& id, const std::string& state) {
    Json report;
    for (int i = 0; i < 1000; ++i) {
      report = jobs_->Describe(id);
      if (report.is_object() && report["state"] == state) return report;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << id << " is not " << state << ": " << report.dump();
    return report;
  }
  std::string Start(const std::vector<std::string>& names, const std::string& collection = "new") {
    std::vector<DocumentInput> documents;
    for (const std::string& name : names) documents.push_back({.name = name, .text = "text of \xff " + name});
    const auto id = jobs_->Start(collection, std::move(documents));
    EXPECT_TRUE(id.ok()) << id.status().ToString();
    return id.ok() ? *id : "";
  }
  // The engine waits in each document until let go, or told to stop.
  void Hold() {
    engine_.on_document = [this](const DocumentInput&, const std::stop_token& stop) {
      while (!go_.try_acquire_for(std::chrono::milliseconds(5)) && !stop.stop_requested()) {
      }
    };
  }

  TempDir folder_;
  FakeEngine engine_;
  Counters counters_;
  std::counting_semaphore<> go_{0};
  std::unique_ptr<Jobs> jobs_;
};

TEST_F(JobsTest, GoOnWhenOpenedAgain) {
  Open();
  Hold();
  const std::string first = Start({"a", "b", "c"}), second = Start({"d"});
  go_.release();
  for (int i = 0; i < 1000 && jobs_->Describe(first)["documents"].empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(jobs_->Describe(first)["state"], "running");
  EXPECT_EQ(jobs_->Describe(second)["state"], "queued");
  jobs_.reset();
  int taken = 0;
  engine_.on_document = [&](const DocumentInput&, const std::stop_token&) { ++taken; };
  Open();
  const Json report = Reported(first, "done");
  std::vector<std::string> names;
  for (const Json& verdict : report["documents"]) names.push_back(verdict["name"]);
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(report["progress"]["documents"], 3);
  EXPECT_EQ(report["collection"], "new");
  Reported(second, "done");
  EXPECT_EQ(taken, 2) << "a and b were through before: b was in flight";
  EXPECT_EQ(*engine_.ReadText("new", "c"), "text of \xff c");
  jobs_.reset();
  Open();
  EXPECT_EQ(jobs_->Describe(first), report) << "what has ended is still told";
  EXPECT_EQ(jobs_->CollectionOf(second), "new");
  EXPECT_TRUE(jobs_->Describe("job-none").is_null());
}

TEST_F(JobsTest, ThatWaitEndAtOnceWhenCancelled) {
  Open();
  Hold();
  const std::string running = Start({"a", "b"}), waiting = Start({"c"}), other = Start({"d"}, "other");
  for (int i = 0; i < 1000 && jobs_->Describe(running)["state"] != "running"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  jobs_->CancelAll("new");
  EXPECT_EQ(jobs_->Describe(waiting)["state"], "cancelled");
  Reported(running, "cancelled");
  go_.release();
  Reported(other, "done");
  EXPECT_EQ(engine_.ReadText("new", "c").status().code(), StatusCode::kNotFound);
  jobs_.reset();
  Open();
  EXPECT_EQ(jobs_->Describe(waiting)["state"], "cancelled");
  EXPECT_EQ(jobs_->Describe(running)["state"], "cancelled");
}

TEST_F(JobsTest, DamageIsReported) {
  Open();
  Hold();
  const std::string id = Start({"a"});
  jobs_.reset();
  std::ofstream(folder_.Path("jobs/" + id + ".docs"), std::ios::trunc) << "no CBOR";
  std::ofstream(folder_.Path("jobs/job-x.docs.partial")) << "cut short";
  engine_.on_document = {};
  Open();
  EXPECT_EQ(Reported(id, "failed")["error"], "corruption");
  EXPECT_FALSE(std::filesystem::exists(folder_.Path("jobs/job-x.docs.partial")));
  Reported(Start({"b"}), "done");
  jobs_.reset();
  const std::string report = folder_.Path("jobs/" + id + ".json");
  std::ofstream(report, std::ios::trunc) << "{}";
  const Status status = Jobs::Open(engine_, counters_, folder_.Path("jobs")).status();
  EXPECT_EQ(status.code(), StatusCode::kCorruption);
  EXPECT_NE(status.message().find(report), std::string::npos) << status.message();
}

TEST_F(JobsTest, WhatCannotBeKeptIsNotTaken) {
  Open();
  std::filesystem::remove_all(folder_.Path("jobs"));
  EXPECT_EQ(jobs_->Start("new", {{.name = "a", .text = "b"}}).status().code(), StatusCode::kIo);
  std::ofstream(folder_.Path("file")) << "no folder";
  EXPECT_EQ(Jobs::Open(engine_, counters_, folder_.Path("file")).status().code(), StatusCode::kIo);
}

TEST_F(JobsTest, AreBounded) {
  Open();
  Hold();
  Start({"a"});
  int taken = 0;
  while (taken < 100 && jobs_->Start("new", {{.name = "b", .text = "c"}}).ok()) ++taken;
  EXPECT_GE(taken, 63);
  EXPECT_LE(taken, 64);
  EXPECT_EQ(jobs_->Start("new", {{.name = "b", .text = "c"}}).status().code(), StatusCode::kUnavailable);
  jobs_->CancelAll("new");
}

}  // namespace
}  // namespace unfold::http
