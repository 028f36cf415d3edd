// SPDX-License-Identifier: Apache-2.0
// unfold bench as users run it: every figure is there and plausible, seeds decide, wrong wishes are refused in words.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <tuple>

#include "tests/unit/cli_fixture.h"

namespace unfold::cli_testing {
namespace {

// Runs `unfold bench ARGS` and checks what every line has. By figure.
std::map<std::string, Json> Figures(const ProcessResult& result) {
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::map<std::string, Json> figures;
  for (const Json& line : Lines(result.out)) {
    const std::string text = line.dump();
    for (const char* field : {"bench", "what", "backend", "shape"}) {
      EXPECT_FALSE(line.value(field, "").empty()) << field << " of " << text;
    }
    for (const char* field : {"p10_ms", "bytes", "read_bytes_per_s", "floor_ms", "share"}) {
      EXPECT_GT(line.value(field, 0.0), 0) << field << " of " << text;
    }
    EXPECT_LE(line["p10_ms"], line["median_ms"]) << text;
    EXPECT_LE(line["median_ms"], line["p90_ms"]) << text;
    const double floor_ms = line["bytes"].get<double>() / line["read_bytes_per_s"].get<double>() * 1e3;
    EXPECT_NEAR(line["floor_ms"].get<double>() / floor_ms, 1, 1e-6) << text;
    EXPECT_NEAR(line["share"].get<double>() * line["median_ms"].get<double>() / floor_ms, 1, 1e-6) << text;
    EXPECT_EQ(line["seed"], 5) << text;
    EXPECT_EQ(line["repeats"], 3) << text;
    EXPECT_TRUE(figures.emplace(line["what"], line).second) << "twice: " << text;
  }
  return figures;
}

class BenchCli : public Cli {
 protected:
  ProcessResult Bench(Args args) {
    args.insert(args.begin(), "bench");
    return Run(args);
  }
  std::map<std::string, Json> Measure(Args args) {
    const Args more = {"--seed", "5", "--repeats", "3"};
    args.insert(args.end(), more.begin(), more.end());
    return Figures(Bench(args));
  }
};

TEST_F(BenchCli, Route) {
  auto figures = Measure({"route", "--shape", "gist-mini", "--chunks", "20000"});
  ASSERT_EQ(figures.size(), 1U);
  const Json& route = figures["route"];
  const char* forced = std::getenv("UNFOLD_BACKEND");
  EXPECT_EQ(route["backend"], forced == nullptr ? "cpu" : forced);
  EXPECT_EQ(route["chunks"], 20000);
  EXPECT_EQ(route["bytes"], 16 * 20000 * 64 * 2);
  EXPECT_EQ(route["flops"], 2.0 * 16 * 20000 * 64 * 32);
  EXPECT_GE(route["parts"], 20000 / 300);
  EXPECT_LE(route["parts"], 20000 / 100 + 1);
}

TEST_F(BenchCli, Encode) {
  auto figures = Measure({"encode", "--shape", "gist-mini", "--context", "300", "--batch", "2", "--levels", "2"});
  ASSERT_EQ(figures.size(), 2U);
  for (const char* what : {"encode", "encode_pass"}) {
    const Json& figure = figures[what];
    EXPECT_EQ(figure["raw_tokens"], 600);
    EXPECT_GT(figure["chunks"], 600 / 12);
    EXPECT_LT(figure["chunks"], 600 / 8 + 2);
    // A gist for each chunk, and one for each four, or what is left at a document's end.
    EXPECT_GE(figure["rows"], 600 + figure["chunks"].get<double>() * 1.25);
    EXPECT_LT(figure["rows"], 600 + figure["chunks"].get<double>() * 1.25 + 2);
    const double tokens = 600 / figure["median_ms"].get<double>() * 1e3;
    EXPECT_NEAR(figure["raw_tokens_per_s"].get<double>() / tokens, 1, 1e-6);
    EXPECT_GT(figure["share_of_product_flops"], 0);
    EXPECT_LT(figure["share_of_product_flops"], 2);
  }
  // The KV of 8 layers, bf16, on top of the weights.
  EXPECT_EQ(figures["encode"]["bytes"].get<double>() - figures["encode_pass"]["bytes"].get<double>(),
            figures["encode"]["rows"].get<double>() * 8 * 2 * 4 * 64 * 2);
}

TEST_F(BenchCli, LayerCountsItsChoice) {
  const Args args = {"layer", "--shape", "gist-mini", "--context", "5000"};
  auto figures = Measure(args);
  ASSERT_EQ(figures.size(), 5U);
  const Json& layer = figures["layer"];
  const double chunks = layer["chunks"], chosen = layer["chosen_chunks_a_kv_head"], top_k = layer["top_k"];
  EXPECT_EQ(layer["documents"], 3);
  EXPECT_GT(layer["mean_chunk_tokens"], 8);
  EXPECT_LT(layer["mean_chunk_tokens"], 9);
  EXPECT_EQ(layer["compression"], 8);
  EXPECT_EQ(layer["scored_gists_a_kv_head"], chunks);
  EXPECT_GE(chosen, top_k);
  EXPECT_LE(chosen, 2 * top_k);  // two query heads share a key/value head
  EXPECT_EQ(layer["chosen_gists_a_kv_head"], chosen);
  EXPECT_GT(layer["chosen_raw_tokens_a_kv_head"], 8 * chosen * 0.9);
  EXPECT_LE(layer["chosen_raw_tokens_a_kv_head"], 12 * chosen);
  const double row = 4 * 64 * sizeof(float);  // of four heads
  const double attended = chosen + layer["chosen_raw_tokens_a_kv_head"].get<double>() + 3 * 3 + 64;
  EXPECT_NEAR(figures["score"]["bytes"], chunks * row, 1);
  EXPECT_NEAR(figures["pages"]["bytes"], chosen * 4 * (8 + 16), 1);
  EXPECT_NEAR(figures["attend"]["bytes"], 2 * attended * row, 1);
  EXPECT_NEAR(layer["bytes"].get<double>(), (chunks + 2 * attended) * row, 1);
  // The seed decides what is chosen.
  auto again = Measure(args);
  for (const char* count : {"chunks", "chosen_chunks_a_kv_head", "chosen_raw_tokens_a_kv_head"}) {
    EXPECT_EQ(again["layer"][count], layer[count]) << count;
  }
  const auto other = Lines(Bench({"layer", "--shape", "gist-mini", "--context", "5000", "--repeats", "1"}).out);
  ASSERT_FALSE(other.empty());
  EXPECT_NE(other[0]["chosen_raw_tokens_a_kv_head"], layer["chosen_raw_tokens_a_kv_head"]);
}

TEST_F(BenchCli, LayerCoarseToFineAndDense) {
  auto two = Measure({"layer", "--shape", "gist-mini", "--context", "16000", "--levels", "2", "--compression", "16"});
  ASSERT_EQ(two.size(), 5U);
  EXPECT_EQ(two["layer"]["compression"], 16);
  EXPECT_LT(two["layer"]["scored_gists_a_kv_head"], two["layer"]["chunks"]);
  EXPECT_GT(two["layer"]["chosen_gists_a_kv_head"], two["layer"]["chosen_chunks_a_kv_head"]);
  auto fixed = Measure({"layer", "--shape", "gist-mini", "--context", "16000", "--unfold-top-k", "5"});
  EXPECT_EQ(fixed["layer"]["top_k"], 5);
  EXPECT_GE(fixed["layer"]["chosen_chunks_a_kv_head"], 5);
  EXPECT_LE(fixed["layer"]["chosen_chunks_a_kv_head"], 10);
  auto dense = Measure({"layer", "--shape", "gist-mini", "--context", "16000", "--full-attention"});
  ASSERT_EQ(dense.size(), 1U);
  EXPECT_EQ(dense["layer"]["bytes"], (16000 + 64) * 2 * 4 * 64 * 4);
  EXPECT_EQ(dense["layer"]["full_attention"], true);
}

TEST_F(BenchCli, Decode) {
  auto figures =
      Measure({"decode", "--shape", "gist-mini", "--context", "2500", "--levels", "2", "--compression", "4"});
  ASSERT_EQ(figures.size(), 2U);
  const Json &first = figures["decode_unfolding"], &again = figures["decode"];
  EXPECT_EQ(first["context_tokens"], 2500);
  EXPECT_EQ(first["documents"], 2);
  EXPECT_GT(first["pages_missed"], 0);
  EXPECT_EQ(again["pages_missed"], 0);
  EXPECT_EQ(again["pages_hit"], first["pages_hit"].get<double>() + first["pages_missed"].get<double>());
  EXPECT_EQ(again["chosen_share"], first["chosen_share"]);
  EXPECT_GT(again["chosen_share"], 0);
  EXPECT_LE(again["chosen_share"], 1);
  EXPECT_GT(again["bytes"], again["weight_bytes"]);
  // Of gist-mini's 27.8 M weights, two bytes each (tests/bench/speed_bench.cc).
  EXPECT_NEAR(again["weight_bytes"].get<double>(), 55.6e6, 0.05e6);
  EXPECT_NEAR(again["tokens_per_s"].get<double>() * again["median_ms"].get<double>(), 1e3, 1e-6);

  auto dense = Measure({"decode", "--shape", "gist-mini", "--context", "500", "--full-attention"});
  ASSERT_EQ(dense.size(), 1U);
  EXPECT_EQ(dense["decode"]["full_attention"], true);
  // Half of three timed and four warming steps stand in the tail, after 32 question tokens.
  EXPECT_EQ(dense["decode"]["bytes"].get<double>() - dense["decode"]["weight_bytes"].get<double>(),
            (500 + 32 + 3.5) * 8 * 2 * 4 * 64 * 4);
}

TEST_F(BenchCli, Ttft) {
  auto figures = Measure({"ttft", "--shape", "gist-mini", "--context", "1000"});
  ASSERT_EQ(figures.size(), 3U);
  const Json &cold = figures["ttft"], &pinned = figures["ttft_pinned"], &unfolded = figures["ttft_unfolded"];
  EXPECT_EQ(cold["pages_hit"], 0);
  EXPECT_GT(cold["pages_missed"], 0);
  EXPECT_EQ(unfolded["pages_missed"], 0);
  EXPECT_EQ(unfolded["pages_hit"], cold["pages_missed"]);
  EXPECT_GT(cold["stored_bytes_read"], 8 * 2 * 4 * 64 * 2 * cold["chunks"].get<double>());  // gist KV, and raw KV
  EXPECT_EQ(unfolded["stored_bytes_read"], 0);
  // All of it from host memory, none from the store.
  EXPECT_EQ(pinned["stored_bytes_read"], 0);
  EXPECT_EQ(pinned["pages_hit"], 0);
  EXPECT_EQ(pinned["pages_missed"], cold["pages_missed"]);
  EXPECT_EQ(pinned["unfolded_bytes"], cold["unfolded_bytes"]);
  for (const Json& figure : {cold, pinned, unfolded}) {
    EXPECT_GT(figure["place_ms"], 0);
    EXPECT_LT(figure["place_ms"], figure["p90_ms"]);
  }
  auto dense = Measure({"ttft", "--shape", "gist-mini", "--context", "500", "--full-attention"});
  ASSERT_EQ(dense.size(), 1U);
  EXPECT_EQ(dense["ttft"]["stored_bytes_read"], 0);
}

TEST_F(BenchCli, ShapesFromAFileAndTheReferenceBackend) {
  auto figures =
      Measure({"layer", "--shape", std::string(kModel) + "/config.json", "--context", "200", "--backend", "ref"});
  EXPECT_EQ(figures["layer"]["backend"], "ref");
  EXPECT_EQ(figures["layer"]["context_tokens"], 200);
}

TEST_F(BenchCli, RefusesInWords) {
  const std::vector<std::tuple<Args, int, std::string>> cases = {
      {{}, 2, "subcommand"},
      {{"nope"}, 2, "subcommand"},
      {{"layer", "--levels", "3"}, 2, "--levels"},
      {{"layer", "--compression", "-1"}, 2, "--compression"},
      {{"layer", "--unfold-top-k", "-1"}, 2, "--unfold-top-k"},
      {{"layer", "--batch", "2"}, 2, "--batch"},
      {{"route", "--full-attention"}, 2, "--full-attention"},
      {{"encode", "--compute", "f16"}, 2, "--compute"},
      {{"encode", "--backend", "tpu"}, 2, "--backend"},
      {{"layer", "--shape", "gpt-9"}, 1, "qwen2-7b"},
      {{"layer", "--shape", At("config.json")}, 1, "config.json"},
      {{"layer", "--chunk", "5000"}, 1, "chunk_size is 5000"},
      {{"layer", "--section", "1", "--levels", "2"}, 1, "section_size is 1"},
      {{"encode", "--context", "100000", "--batch", "4096"}, 1, "batch times context_tokens is 409600000"},
      {{"route", "--chunks", "4000000000"}, 1, "resource exhausted"},
      {{"encode", "--shape", "qwen2-7b", "--context", "8000000"}, 1, "resource exhausted"},
      {{"decode", "--shape", "qwen2-7b", "--context", "4000000"}, 1, "resource exhausted"},
  };
  for (const auto& [args, code, words] : cases) {
    const ProcessResult result = Bench(args);
    EXPECT_EQ(result.exit_code, code) << words << ": " << result.err;
    EXPECT_TRUE(Holds(result.err, words)) << words << ": " << result.err;
    EXPECT_EQ(result.out, "") << words;
  }
}

}  // namespace
}  // namespace unfold::cli_testing
