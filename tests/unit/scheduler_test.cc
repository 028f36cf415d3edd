// SPDX-License-Identifier: Apache-2.0
// Who gets the engine's thread, and for how long.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace unfold {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct Turn {
  bool is_bulk;
  Clock::time_point begin, end;
};

// Steps that sleep, each noted in `turns`.
class Sleeper : public Work {
 public:
  Sleeper(bool bulk, milliseconds step, int count, std::vector<Turn>& turns)
      : bulk_(bulk), step_(step), count_(count), turns_(turns) {}
  Status Check() const override { return Status::Ok(); }
  bool Step() override {
    const Clock::time_point begin = Clock::now();
    std::this_thread::sleep_for(step_);
    turns_.push_back({bulk_, begin, Clock::now()});
    if (--count_ > 0) return true;
    done_.set_value(Status::Ok());
    return false;
  }
  void Abort(const Status& why) override { done_.set_value(why); }
  bool IsBulk() const override { return bulk_; }
  std::future<Status> Done() { return done_.get_future(); }

 private:
  const bool bulk_;
  const milliseconds step_;
  int count_;
  std::vector<Turn>& turns_;
  std::promise<Status> done_;
};

TEST(Scheduler, BulkWorkGetsHalfOfTheTimeBesideQuestions) {
  std::vector<Turn> turns;  // of the scheduler's thread, while it lives
  Clock::time_point questions_end;
  {
    Scheduler scheduler(8, [] {});
    std::vector<std::future<Status>> done;
    const auto submit = [&](bool bulk, int step, int count) {
      auto work = std::make_unique<Sleeper>(bulk, milliseconds(step), count, turns);
      done.push_back(work->Done());
      ASSERT_TRUE(scheduler.Submit(std::move(work)).ok());
    };
    submit(false, 1, 150);
    submit(false, 1, 150);
    submit(true, 20, 1000);
    done[0].wait();
    done[1].wait();
    questions_end = Clock::now();
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_FALSE(scheduler.HasQuestions());
  }
  int beside = 0, alone = 0;
  const Turn* last = nullptr;
  for (const Turn& turn : turns) {
    if (!turn.is_bulk) continue;
    if (turn.begin < questions_end && last != nullptr) {
      ++beside;
      EXPECT_GE(turn.begin - last->end, last->end - last->begin - milliseconds(1)) << "turn " << beside;
    }
    if (turn.begin > questions_end) ++alone;
    last = &turn;
  }
  EXPECT_GE(beside, 3);
  EXPECT_GE(alone, 2) << "alone it need not wait";
}

TEST(Scheduler, BulkWorkIsNotRefusedWhereQuestionsAre) {
  std::vector<Turn> turns;
  Scheduler scheduler(1, [] {});
  std::vector<std::future<Status>> done;
  Status status;
  for (int i = 0; status.ok() && i < 100; ++i) {
    auto work = std::make_unique<Sleeper>(false, milliseconds(1), 100, turns);
    auto ended = work->Done();
    status = scheduler.Submit(std::move(work));
    if (status.ok()) done.push_back(std::move(ended));
  }
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  auto work = std::make_unique<Sleeper>(true, milliseconds(1), 1, turns);
  auto ended = work->Done();
  ASSERT_TRUE(scheduler.Submit(std::move(work)).ok());
  EXPECT_TRUE(ended.get().ok());
  EXPECT_TRUE(scheduler.HasQuestions()) << "it did not wait for them";
}

}  // namespace
}  // namespace unfold
