// SPDX-License-Identifier: Apache-2.0
// src/base: Status and Result, 16-bit floats, the thread pool, JSON, and the laws of the gist mask.
#include "unfold/base.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <thread>

#include "base/float16.h"
#include "base/gist_mask.h"
#include "base/json.h"
#include "base/thread_pool.h"

namespace unfold {
namespace {

// ---- Status and Result --------------------------------------------------------------------------------------------

TEST(Status, CarriesCodeAndMessage) {
  EXPECT_TRUE(Status::Ok().ok());
  EXPECT_EQ(Status::Ok().ToString(), "ok");
  const Status status = Status::NotFound("collection 'x'");
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.ToString(), "not found: collection 'x'");
}

TEST(Status, EveryCodeHasItsOwnNameAndFactory) {
  const Status all[] = {Status::InvalidArgument("m"), Status::NotFound("m"),    Status::Corruption("m"),
                        Status::Incompatible("m"),    Status::Unavailable("m"), Status::ResourceExhausted("m"),
                        Status::Cancelled("m"),       Status::Io("m"),          Status::Device("m"),
                        Status::Internal("m")};
  std::set<std::string> names = {"ok"};
  int code = 1;
  for (const Status& status : all) {
    EXPECT_EQ(static_cast<int>(status.code()), code++);
    EXPECT_EQ(status.message(), "m");
    names.insert(std::string(StatusCodeName(status.code())));
  }
  EXPECT_EQ(names.size(), std::size(all) + 1);
  EXPECT_EQ(names.count("unknown"), 0U);
}

Status FailIf(bool fail) { return fail ? Status::Io("disk") : Status::Ok(); }
Result<std::unique_ptr<int>> Make(int value) {
  if (value < 0) return Status::InvalidArgument("negative");
  return std::make_unique<int>(value);
}

Result<int> Chain(bool fail, int value, int* reached) {
  UNFOLD_TRY(FailIf(fail));
  *reached = 1;
  UNFOLD_TRY_ASSIGN(std::unique_ptr<int> first, Make(value));
  UNFOLD_TRY_ASSIGN(auto second, Make(value + 1));
  *reached = 2;
  return *first + *second;
}

TEST(Status, MacrosReturnTheFirstFailureAndMoveValues) {
  int reached = 0;
  EXPECT_EQ(Chain(true, 1, &reached).status().code(), StatusCode::kIo);
  EXPECT_EQ(reached, 0);
  EXPECT_EQ(Chain(false, -5, &reached).status().message(), "negative");
  EXPECT_EQ(reached, 1);
  const Result<int> sum = Chain(false, 3, &reached);
  ASSERT_TRUE(sum.ok());
  EXPECT_EQ(*sum, 7);
  EXPECT_EQ(reached, 2);
}

TEST(Status, ResultFromAnOkStatusIsAFailure) {
  const Result<int> result = Status::Ok();
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kInternal);
}

// ---- 16-bit floats ------------------------------------------------------------------------------------------------

// value = sign * significand * 2^exponent, straight from the format's fields.
double Model(std::uint16_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
  const int exponent = bits >> fraction_bits & top, fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = (bits >> 15) != 0 ? -1 : 1;
  if (exponent == top) return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  const double significand = (exponent == 0 ? 0 : 1 << fraction_bits) + fraction;
  return sign * std::ldexp(significand, std::max(exponent, 1) - bias - fraction_bits);
}

TEST(Float16, WidensAllHalvesAndAllBrainFloats) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    for (const auto& [got, want] :
         {std::pair(F16ToF32(bits), Model(bits, 5, 10)), std::pair(BF16ToF32(bits), Model(bits, 8, 7))}) {
      ASSERT_EQ(std::isnan(got), std::isnan(want)) << i;
      if (std::isnan(want)) continue;
      ASSERT_EQ(double{got}, want) << i;
      ASSERT_EQ(std::signbit(got), std::signbit(want)) << i;
    }
  }
}

TEST(Float16, BrainFloatsRoundTrip) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const std::uint16_t back = F32ToBF16(BF16ToF32(bits));
    if (std::isnan(BF16ToF32(bits))) {
      ASSERT_TRUE(std::isnan(BF16ToF32(back))) << i;
      ASSERT_EQ(back & 0x8000, bits & 0x8000) << i;
    } else {
      ASSERT_EQ(back, bits);
    }
  }
}

// Between two neighbours: the nearer one, and at the middle the even one. Past the largest: infinity.
TEST(Float16, RoundsToNearestEven) {
  for (std::uint32_t i = 0; i < 0x7f80; ++i) {
    const std::uint32_t low = i << 16;
    const auto at = [low](std::uint32_t offset) { return F32ToBF16(std::bit_cast<float>(low + offset)); };
    const std::uint32_t up = i + 1, even = i % 2 == 0 ? i : up;
    ASSERT_EQ(at(1), i);
    ASSERT_EQ(at(0x7fff), i);
    ASSERT_EQ(at(0x8000), even);
    ASSERT_EQ(at(0x8001), up);
    ASSERT_EQ(at(0xffff), up);
    ASSERT_EQ(F32ToBF16(-std::bit_cast<float>(low + 0x8001)), up | 0x8000);
  }
  EXPECT_EQ(F32ToBF16(std::numeric_limits<float>::max()), 0x7f80);
}

// ---- Thread pool --------------------------------------------------------------------------------------------------

TEST(ThreadPool, CoversEveryIndexOnceInRangesOfAtMostTheGrain) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (std::int64_t count : {0, 1, 2, 3, 7, 64, 1000, 4097}) {
      for (std::int64_t grain : {-1, 0, 1, 2, 3, 64, 5000}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
        std::atomic<bool> in_bounds = true;
        pool.ParallelFor(count, grain, [&](std::int64_t begin, std::int64_t end) {
          if (begin < 0 || begin >= end || end > count || end - begin > std::max<std::int64_t>(1, grain)) {
            in_bounds = false;
            return;
          }
          for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
        });
        ASSERT_TRUE(in_bounds);
        ASSERT_TRUE(std::all_of(seen.begin(), seen.end(), [](const auto& times) { return times == 1; }))
            << threads << " threads, count " << count << ", grain " << grain;
      }
    }
  }
}

TEST(ThreadPool, TenThousandCallsLoseNothing) {
  ThreadPool pool(3);
  std::vector<std::int64_t> squares(50);  // plain memory: ParallelFor must order its writes before its return
  for (std::int64_t call = 0; call < 10000; ++call) {
    const std::int64_t count = call % 50;
    pool.ParallelFor(count, 1 + call % 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) squares[static_cast<std::size_t>(i)] = i * call;
    });
    for (std::int64_t i = 0; i < count; ++i) ASSERT_EQ(squares[static_cast<std::size_t>(i)], i * call) << call;
  }
}

TEST(ThreadPool, WorkReachesOtherThreads) {
  ThreadPool pool(2);
  // The caller waits inside its range until another thread has taken one: this ends only when a worker runs.
  std::atomic<int> inside = 0;
  pool.ParallelFor(2, 1, [&](std::int64_t, std::int64_t) {
    ++inside;
    while (inside < 2) std::this_thread::yield();
  });
  EXPECT_EQ(inside, 2);
}

// Ten pools of four threads on whatever cores there are: nobody waits for a thread that gets no core.
TEST(ThreadPool, ManyPoolsShareTheCores) {
  std::vector<std::thread> engines;
  std::atomic<std::int64_t> total = 0;
  for (int engine = 0; engine < 10; ++engine) {
    engines.emplace_back([&total] {
      ThreadPool pool(4);
      for (int call = 0; call < 500; ++call) {
        pool.ParallelFor(8, 1, [&](std::int64_t begin, std::int64_t end) { total += end - begin; });
      }
    });
  }
  for (std::thread& engine : engines) engine.join();
  EXPECT_EQ(total, 10 * 500 * 8);
}

TEST(ThreadPool, StartsAndStopsIdle) {
  for (int i = 0; i < 200; ++i) ThreadPool pool(1 + i % 4);
  EXPECT_GE(ThreadPool(0).size(), 1);
}

// ---- JSON ---------------------------------------------------------------------------------------------------------

std::string Nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
}

TEST(Json, DepthIsLimitedBeforeParsing) {
  EXPECT_TRUE(ParseJson(Nested(64), "f").ok());
  for (int depth : {65, 1000, 2000000}) {
    const auto result = ParseJson(Nested(depth), "f.json");
    EXPECT_EQ(result.status().code(), StatusCode::kCorruption);
    EXPECT_EQ(result.status().message(), "f.json: nested deeper than 64 levels");
  }
  // Brackets inside strings, behind escaped quotes too, do not count.
  EXPECT_TRUE(ParseJson("[\"" + std::string(500, '[') + "\\\"" + std::string(500, '{') + "\\\\\"]", "f").ok());
}

TEST(Json, BrokenTextIsCorruptionThatNamesTheFile) {
  for (std::string_view text : {"", "{", "{\"a\":}", "[1,]", "nul", "\"\\ud800\"", "{} x", "\"\xff\""}) {
    const auto result = ParseJson(text, "config.json");
    EXPECT_EQ(result.status().code(), StatusCode::kCorruption) << text;
    EXPECT_EQ(result.status().message().substr(0, 27), "config.json: not valid JSON") << result.status().message();
  }
}

class JsonGetters : public ::testing::Test {
 protected:
  JsonGetters()
      : object_(*ParseJson(R"({"n": 7, "big": 18446744073709551615, "whole": 3.0, "half": 0.5, "yes": true, "text": "t",
                               "none": null, "ints": [1, -2], "mixed": [1, "a"], "texts": ["a", "b"], "low": -3})",
                           "f")),
        fields_(*JsonFields::Of(object_, "f")) {}

  // InvalidArgument with a message that begins with file and field.
  template <typename T>
  void Refuses(const Result<T>& result, const std::string& field) {
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
    const std::string want = "f: '" + field + "' ";
    EXPECT_EQ(result.status().message().substr(0, want.size()), want);
  }

  Json object_;
  JsonFields fields_;
};

TEST_F(JsonGetters, Integers) {
  EXPECT_EQ(*fields_.Int("n", 0, 7), 7);
  EXPECT_EQ(*fields_.Int("whole", 0, 7), 3);
  EXPECT_EQ(*fields_.Int("low", -3, 0), -3);
  EXPECT_EQ(*fields_.IntOr("absent", 9, 0, 1), 9);
  EXPECT_EQ(*fields_.IntOr("none", 9, 0, 1), 9);
  EXPECT_EQ(*fields_.IntOr("n", 9, 0, 10), 7);
  Refuses(fields_.Int("absent", 0, 9), "absent");
  Refuses(fields_.Int("none", 0, 9), "none");
  Refuses(fields_.Int("n", 8, 9), "n");
  Refuses(fields_.Int("n", 0, 6), "n");
  for (const char* field : {"big", "half", "yes", "text", "ints"}) {
    Refuses(fields_.Int(field, INT64_MIN, INT64_MAX), field);
    Refuses(fields_.IntOr(field, 1, INT64_MIN, INT64_MAX), field);
  }
}

TEST_F(JsonGetters, OtherTypes) {
  EXPECT_EQ(*fields_.NumberOr("half", 1), 0.5);
  EXPECT_EQ(*fields_.NumberOr("n", 1), 7);
  EXPECT_EQ(*fields_.NumberOr("absent", 1), 1);
  Refuses(fields_.NumberOr("text", 1), "text");
  EXPECT_TRUE(*fields_.BoolOr("yes", false));
  EXPECT_TRUE(*fields_.BoolOr("none", true));
  Refuses(fields_.BoolOr("n", true), "n");
  EXPECT_EQ(*fields_.String("text"), "t");
  EXPECT_EQ(*fields_.StringOr("absent", "d"), "d");
  Refuses(fields_.String("absent"), "absent");
  Refuses(fields_.StringOr("n", "d"), "n");
  EXPECT_EQ(*fields_.IntsOr("ints", {}), (std::vector<std::int64_t>{1, -2}));
  EXPECT_EQ(*fields_.IntsOr("absent", {4}), (std::vector<std::int64_t>{4}));
  Refuses(fields_.IntsOr("mixed", {}), "mixed");
  Refuses(fields_.IntsOr("n", {}), "n");
  EXPECT_EQ(*fields_.StringsOr("texts", {}), (std::vector<std::string>{"a", "b"}));
  Refuses(fields_.StringsOr("mixed", {}), "mixed");
  Refuses(fields_.StringsOr("text", {}), "text");
}

TEST_F(JsonGetters, ObjectsAndPresence) {
  EXPECT_TRUE(fields_.Has("n"));
  EXPECT_FALSE(fields_.Has("none"));
  EXPECT_FALSE(fields_.Has("absent"));
  EXPECT_EQ(fields_.Find("none"), nullptr);
  EXPECT_EQ(fields_.name(), "f");
  const Json array = *ParseJson("[1]", "g");
  const auto refused = JsonFields::Of(array, "g");
  EXPECT_EQ(refused.status().message(), "g: expected an object, found array");
}

TEST(Json, FilesAreReadWholeOrRefusedByKind) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("unfold_base_test_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "f.json").string(), text("{\"a\": 1}\0 ", 8);
  std::ofstream(path, std::ios::binary) << text;
  EXPECT_EQ(*ReadFile(path), text);
  EXPECT_EQ(*ReadFile(path, text.size()), text);
  EXPECT_EQ(ReadFile(path, text.size() - 1).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(ReadFile((folder / "absent").string()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(ReadFile(folder.string()).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ((*ReadJsonFile(path))["a"], 1);
  std::filesystem::remove_all(folder);
}

// ---- The gist mask ------------------------------------------------------------------------------------------------

// A two-level document: S sinks, chunks of L raw tokens and a gist, a meta-gist after M gists, one at the end.
std::vector<GistToken> Document(int sinks, int chunk_size, int section_size, int chunks) {
  std::vector<GistToken> tokens;
  GistToken at;
  const auto put = [&](int level, bool sink) {
    at.level = static_cast<std::int8_t>(level);
    at.sink = sink ? 1 : 0;
    tokens.push_back(at);
  };
  int open = 0;
  for (int s = 0; s < sinks; ++s) put(kRawLevel, true);
  for (int c = 0; c < chunks; ++c) {
    for (int i = 0; i < chunk_size; ++i) put(kRawLevel, false);
    put(0, false);
    ++at.chunk;
    if (++open == section_size || c + 1 == chunks) {
      put(1, false);
      ++at.section[0];
      open = 0;
    }
  }
  return tokens;
}

// The rules of method.md section 3 in their own words, over whole sequences instead of two tokens.
bool SeesByTheWords(const std::vector<GistToken>& tokens, int i, int j, int previous) {
  if (j > i) return false;
  if (i == j || tokens[j].sink != 0) return true;
  const auto gists_between = [&](int level) {
    int count = 0;
    for (int n = j; n < i; ++n) count += tokens[n].level == level ? 1 : 0;
    return count;
  };
  if (tokens[j].level == kRawLevel) return tokens[i].level <= 0 && gists_between(0) <= previous;
  if (tokens[j].level == 1) return true;
  return gists_between(1) <= previous;
}

TEST(GistMask, FollowsTheRulesForEveryPair) {
  for (int previous : {0, 1, 2}) {
    for (int sinks : {0, 3}) {
      const std::vector<GistToken> tokens = Document(sinks, 3, 2, 7);
      const MaskRules rules{previous, 1};
      const int n = static_cast<int>(tokens.size());
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          ASSERT_EQ(MaySee(rules, i, j, tokens[i], tokens[j]), SeesByTheWords(tokens, i, j, previous))
              << i << " sees " << j << ", P " << previous;
        }
      }
    }
  }
}

TEST(GistMask, Laws) {
  const std::vector<GistToken> tokens = Document(3, 3, 2, 9);
  const int n = static_cast<int>(tokens.size());
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      const auto sees = [&](MaskRules rules) { return MaySee(rules, i, j, tokens[i], tokens[j]); };
      EXPECT_EQ(sees({1, kRawLevel}), j <= i) << "no gists: plain causal";
      EXPECT_TRUE(j <= i || !sees({100, 1})) << "never ahead";
      EXPECT_TRUE(j != i || sees({0, 1})) << "itself";
      EXPECT_TRUE(j > i || tokens[j].sink == 0 || sees({0, 1})) << "sinks";
      EXPECT_TRUE(j > i || tokens[j].level != 1 || sees({0, 1})) << "top level";
      EXPECT_TRUE(!sees({0, 1}) || sees({1, 1})) << "a wider window sees no less";
      if (tokens[i].level == 1 && tokens[j].level == kRawLevel && tokens[j].sink == 0) {
        EXPECT_FALSE(sees({100, 1})) << "meta-gists see no raw tokens";
      }
    }
  }
}

}  // namespace
}  // namespace unfold
