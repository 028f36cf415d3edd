// SPDX-License-Identifier: Apache-2.0
// tokenizer.json files that are broken, hostile, or hold what is not supported: each has its message.
#include <gtest/gtest.h>

#include <functional>

#include "base/json.h"
#include "text/tokenizer.h"

namespace unfold {
namespace {

const std::string kGistMini = UNFOLD_SOURCE_DIR "/datasets/gist-mini/tokenizer.json";

Json Sound() {
  static const auto file = ReadJsonFile(kGistMini);
  if (!file.ok()) ADD_FAILURE() << file.status().ToString();
  return *file;
}

void ExpectRefused(const std::string& json, StatusCode code, const std::string& words) {
  const auto tokenizer = Tokenizer::Parse(json, "tokenizer.json");
  ASSERT_FALSE(tokenizer.ok()) << words;
  EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status().ToString();
  EXPECT_EQ(tokenizer.status().message().find("tokenizer.json: "), 0u) << tokenizer.status().ToString();
  EXPECT_NE(tokenizer.status().message().find(words), std::string::npos) << tokenizer.status().ToString();
}

struct Edit {
  std::string words;  // of the message
  std::function<void(Json*)> apply;
};

void ExpectEachRefused(const std::vector<Edit>& edits) {
  for (const Edit& edit : edits) {
    Json json = Sound();
    edit.apply(&json);
    ExpectRefused(json.dump(), StatusCode::kInvalidArgument, edit.words);
  }
}

Json Parsed(const char* text) { return Json::parse(text); }

TEST(TokenizerFile, SoundOneLoads) {
  const auto tokenizer = Tokenizer::Parse(Sound().dump(), "t");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
}

TEST(TokenizerFile, MissingFile) {
  const auto tokenizer = Tokenizer::Load(UNFOLD_BINARY_DIR "/no/such/tokenizer.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), StatusCode::kNotFound);
}

TEST(TokenizerFile, CutAnywhereIsRefused) {
  const auto whole = ReadFile(kGistMini);
  ASSERT_TRUE(whole.ok());
  const std::size_t last = whole->find_last_of('}');
  for (std::size_t cut = 0; cut <= last; cut += 1 + last / 61) {
    ExpectRefused(whole->substr(0, cut), StatusCode::kCorruption, "not valid JSON");
  }
  ExpectRefused(whole->substr(0, last), StatusCode::kCorruption, "not valid JSON");
}

TEST(TokenizerFile, NotATokenizer) {
  ExpectRefused("[]", StatusCode::kInvalidArgument, "expected an object");
  ExpectRefused("{}", StatusCode::kInvalidArgument, "'model' is missing");
  ExpectRefused("null", StatusCode::kInvalidArgument, "expected an object");
  ExpectRefused("\x80", StatusCode::kCorruption, "not valid JSON");
  ExpectRefused(R"({"model": [1]})", StatusCode::kInvalidArgument, "expected an object");
  ExpectRefused(std::string(1'000'000, '['), StatusCode::kInvalidArgument, "nested deeper than 64");
  std::string wide = "{";
  for (int i = 0; i < 5000; ++i) wide += "\"k" + std::to_string(i) + "\": 0, ";
  ExpectRefused(wide + "\"z\": 0}", StatusCode::kInvalidArgument, "more than 4096 fields");
}

TEST(TokenizerFile, BpeNeedNotBeNamed) {
  Json json = Sound();
  json["model"].erase("type");
  json["model"]["unk_token"] = "<none>";  // nothing is unknown to a byte-level vocabulary
  const auto tokenizer = Tokenizer::Parse(json.dump(), "t");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
}

TEST(TokenizerFile, UnsupportedModelsAreNamed) {
  ExpectEachRefused({
      {"model 'WordPiece' is not supported", [](Json* j) { (*j)["model"]["type"] = "WordPiece"; }},
      {"model 'Unigram' is not supported",
       [](Json* j) { (*j)["model"] = Parsed(R"({"type": "Unigram", "vocab": [["a", -1.5]], "unk_id": 0})"); }},
      {"'type' is missing",
       [](Json* j) {
         (*j)["model"].erase("type");
         (*j)["model"].erase("merges");
       }},
      {"'dropout' is not supported", [](Json* j) { (*j)["model"]["dropout"] = 0.1; }},
      {"'continuing_subword_prefix' '##' is not", [](Json* j) { (*j)["model"]["continuing_subword_prefix"] = "##"; }},
      {"'end_of_word_suffix' '</w>' is not", [](Json* j) { (*j)["model"]["end_of_word_suffix"] = "</w>"; }},
      {"'vocab' must be an object", [](Json* j) { (*j)["model"].erase("vocab"); }},
      {"'merges' must be an array", [](Json* j) { (*j)["model"]["merges"] = Json::object(); }},
  });
}

TEST(TokenizerFile, UnsupportedPartsAreNamed) {
  const auto pre = [](const char* text) { return [text](Json* j) { (*j)["pre_tokenizer"] = Parsed(text); }; };
  ExpectEachRefused({
      {"decoder 'null' is not supported", [](Json* j) { (*j)["decoder"] = nullptr; }},
      {"decoder 'WordPiece' is not supported", [](Json* j) { (*j)["decoder"] = Parsed(R"({"type": "WordPiece"})"); }},
      {"post_processor 'BertProcessing' is not supported",
       [](Json* j) { (*j)["post_processor"] = Parsed(R"({"type": "BertProcessing"})"); }},
      {"decoder 'ByteLevel' is not supported with a pre_tokenizer that is not ByteLevel",
       [](Json* j) { (*j)["pre_tokenizer"] = nullptr; }},
      {"decoder 'Fuse' is not supported with a pre_tokenizer that is ByteLevel",
       [](Json* j) { (*j)["decoder"] = Parsed(R"({"type": "Fuse"})"); }},
      {"pre_tokenizer 'Whitespace' is not supported", pre(R"({"type": "Whitespace"})")},
      {"pre_tokenizer[0] 'Metaspace' is not supported",
       pre(R"({"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}, {"type": "ByteLevel"}]})")},
      {"pre_tokenizer[0] 'ByteLevel': must be the last",
       pre(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "ByteLevel"}]})")},
      {"must be an array of 1 to 64", pre(R"({"type": "Sequence", "pretokenizers": []})")},
      {"must be an array of 1 to 64",
       [](Json* j) {
         (*j)["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json(65, Json{{"type", "Digits"}})}};
       }},
      {"expected an object", pre(R"("ByteLevel")")},
      {"'add_prefix_space' must be true or false", pre(R"({"type": "ByteLevel", "add_prefix_space": 1})")},
  });
}

TEST(TokenizerFile, UnsupportedNormalizersAreNamed) {
  const auto part = [](const std::string& text) {
    return [text](Json* j) { (*j)["normalizer"] = Parsed(text.c_str()); };
  };
  const auto replace = [&](const std::string& fields) { return part(R"({"type": "Replace", )" + fields + "}"); };
  ExpectEachRefused({
      {"normalizer 'NFKC' is not supported", part(R"({"type": "NFKC"})")},
      {"normalizer[1] 'Lowercase' is not supported",
       part(R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]})")},
      {"normalizer[0][0] 'Strip' is not supported",
       part(R"({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [{"type": "Strip"}]}]})")},
      {"'normalizers' must be an array", part(R"({"type": "Sequence"})")},
      {"'prepend' is missing", part(R"({"type": "Prepend"})")},
      {"'prepend' of more than 16 bytes", part(R"({"type": "Prepend", "prepend": "12345678901234567"})")},
      {"'pattern' is missing", replace(R"("content": "x")")},
      {"'Regex' is not supported", replace(R"("pattern": {"Regex": " +"}, "content": "x")")},
      {"'String' is empty", replace(R"("pattern": {"String": ""}, "content": "x")")},
      {"'content' of more than 16 bytes", replace(R"("pattern": {"String": "x"}, "content": "12345678901234567")")},
      {"'content' makes texts too long", part(R"({"type": "Sequence", "normalizers": [
           {"type": "Replace", "pattern": {"String": "x"}, "content": "xxxxxxxxxxxxxxxx"},
           {"type": "Replace", "pattern": {"String": "x"}, "content": "xxxxxxxxxxxxxxxx"}]})")},
      {"more than 64 normalizers",
       [](Json* j) {
         (*j)["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json(65, Json{{"type", "NFC"}})}};
       }},
  });
}

// Of the family of Llama 2, whose vocabulary is one of characters.
TEST(TokenizerFile, UnsupportedPartsOfCharacterModelsAreNamed) {
  const auto sound = ReadJsonFile(UNFOLD_SOURCE_DIR "/tests/golden/family_llama2.json");
  ASSERT_TRUE(sound.ok());
  const auto decoders = [](const char* text) {
    return [text](Json* j) { (*j)["decoder"]["decoders"] = Parsed(text); };
  };
  const auto metaspace = [](const char* text) {
    return [text](Json* j) {
      (*j)["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "_"}};
      (*j)["pre_tokenizer"].update(Parsed(text));
    };
  };
  const std::vector<Edit> edits = {
      {"'byte_fallback' needs a token for each byte; there is none for 10",
       [](Json* j) {
         Json& vocab = (*j)["model"]["vocab"];
         vocab["<0x0G>"] = vocab["<0x0A>"];
         vocab.erase("<0x0A>");
       }},
      {"'byte_fallback' must be true or false", [](Json* j) { (*j)["model"]["byte_fallback"] = "yes"; }},
      {"'byte_fallback' is false and there is no unk_token",
       [](Json* j) {
         (*j)["model"].update({{"byte_fallback", false}, {"unk_token", nullptr}});
       }},
      {"'unk_token' '<none>' is not in the vocabulary",
       [](Json* j) {
         (*j)["model"].update({{"byte_fallback", false}, {"unk_token", "<none>"}});
       }},
      {"'byte_fallback' is not supported without the decoder 'ByteFallback'", decoders(R"([{"type": "Fuse"}])")},
      {"decoder[0]: 'type' 'Strip' is supported only once, after Fuse",
       decoders(R"([{"type": "Strip", "content": " ", "start": 1, "stop": 0}])")},
      {"decoder[1]: 'type' 'ByteFallback' is not supported after",
       decoders(R"([{"type": "Fuse"}, {"type": "ByteFallback"}])")},
      {"decoder[0] 'CTC' is not supported", decoders(R"([{"type": "CTC"}])")},
      {"decoder[1]: 'stop' other than 0",
       decoders(R"([{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}])")},
      {"decoder[1]: 'content' other than ' '",
       decoders(R"([{"type": "Fuse"}, {"type": "Strip", "content": "x", "start": 1, "stop": 0}])")},
      {"decoder[0].pattern: 'Regex' is not supported",
       decoders(R"([{"type": "Replace", "pattern": {"Regex": "x"}, "content": ""}])")},
      {"decoder[0]: 'content' is not supported when longer",
       decoders(R"([{"type": "Replace", "pattern": {"String": "x"}, "content": "xx"}])")},
      {"decoder 'ByteLevel' is not supported",
       [](Json* j) {
         (*j)["decoder"] = {{"type", "ByteLevel"}};
       }},
      {"'replacement' must be one character", metaspace(R"({"replacement": "__"})")},
      {"'replacement' must be one character", metaspace(R"({"replacement": ""})")},
      {"'prepend_scheme' must be 'first', 'always' or 'never'", metaspace(R"({"prepend_scheme": "last"})")},
      {"'add_prefix_space' is false, so", metaspace(R"({"add_prefix_space": false})")},
      {"special token 'a' is also the token of a byte or character",
       [](Json* j) {
         (*j)["added_tokens"].push_back({{"content", "a"}, {"special", true}});
         (*j)["added_tokens"].back()["id"] = (*j)["model"]["vocab"]["a"];
       }},
  };
  for (const Edit& edit : edits) {
    Json json = *sound;
    edit.apply(&json);
    ExpectRefused(json.dump(), StatusCode::kInvalidArgument, edit.words);
  }
}

TEST(TokenizerFile, UnsupportedSplitsAreNamed) {
  const auto split = [](const std::string& pattern, const std::string& behavior) {
    return [pattern, behavior](Json* j) {
      (*j)["pre_tokenizer"] =
          Parsed(R"({"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]})");
      Json& step = (*j)["pre_tokenizer"]["pretokenizers"][0];
      step["pattern"] = Parsed(pattern.c_str());
      step["behavior"] = behavior;
    };
  };
  const auto regex = [&](const std::string& pattern) { return split(Json{{"Regex", pattern}}.dump(), "Isolated"); };
  ExpectEachRefused({
      {"'behavior' 'MergedWithAll' is not supported", split(R"({"String": " "})", "MergedWithAll")},
      {"pattern: an empty pattern", split(R"({"String": ""})", "Isolated")},
      {"'String' is missing", split(R"({"Glob": "*"})", "Isolated")},
      {"expected an object", split(R"("x")", "Isolated")},
      {"pattern: '\\w' at byte 1 is not supported", regex("x\\w")},
      {"pattern: '\\b' at byte 0 is not supported", regex("\\b")},
      {"pattern: '^' at byte 0 is not supported", regex("^a")},
      {"pattern: '[' at byte 2 is not supported", regex("[a[b]]")},
      {"pattern: '&&' at byte 4 is not supported", regex("[a-z&&b]")},
      {"pattern: '(?i' at byte 0 is not supported", regex("(?i)a")},
      {"pattern: '(*' at byte 0 is not supported", regex("(*ACCEPT)")},
      {"pattern: '}+' at byte 5 is not supported", regex("a{1,2}+")},
      {"pattern: a '[' is not closed", regex("[a")},
      {"pattern: missing closing parenthesis", regex("(a")},
      {"pattern: unknown property", regex("\\p{Nonsense}")},
      {"pattern: '\\' at byte 1 is not supported", regex("a\\")},
      {"pattern: a pattern of more than 64 KiB", regex(std::string(70'000, 'a'))},
      {"pattern: ", regex(std::string(1'000, '('))},
  });
}

TEST(TokenizerFile, BadVocabulariesAreNamed) {
  const auto id = [](const char* token, Json value) {
    return [token, value](Json* j) { (*j)["model"]["vocab"][token] = value; };
  };
  ExpectEachRefused({
      {"vocab: the id of 'in' must be an integer, found a string", id("in", "7")},
      {"vocab: the id of 'in' must be an integer, found a fraction", id("in", 7.5)},
      {"vocab: the id of 'in' must be an integer, found an object", id("in", Json::object())},
      {"vocab: the id of 'in' must be an integer, found an array", id("in", Json::array())},
      {"vocab: 'in' has id -1, which is negative", id("in", -1)},
      {"vocab: 'in' has id 1099511627776, out of proportion", id("in", std::int64_t{1} << 40)},
      {"vocab: 'in' has id 9223372036854775807, out of proportion", id("in", ~std::uint64_t{0})},
      {"vocab: 'in' has id 2147483647, out of proportion", id("in", INT32_MAX)},
      {"vocab: id 300 is taken twice", id("in", 300)},
      {"vocab: no token for byte 97", [](Json* j) { (*j)["model"]["vocab"].erase("a"); }},
      {"vocab: no token for byte 32", [](Json* j) { (*j)["model"]["vocab"] = Json::object(); }},
  });
  std::string twice = Sound().dump();
  twice.insert(twice.find("\"in\":"), "\"in\":8192,");
  ExpectRefused(twice, StatusCode::kInvalidArgument, "vocab: 'in' occurs twice");
}

TEST(TokenizerFile, BadMergesAreNamed) {
  const auto merge = [](Json value) { return [value](Json* j) { (*j)["model"]["merges"][3] = value; }; };
  const std::string form = "merge 3 must be \"a b\" or [\"a\", \"b\"]";
  ExpectEachRefused({
      {"merge 3 'in zzz': 'zzz' is not in the vocabulary", merge("in zzz")},
      {"merge 3 'zzz in': 'zzz' is not in the vocabulary", merge({"zzz", "in"})},
      {"merge 3 'in in': 'inin' is not in the vocabulary", merge({"in", "in"})},
      {"merge 3 ' in': '' is not in the vocabulary", merge({"", "in"})},
      {form, merge("abc")},
      {form, merge("a b c")},
      {form, merge({"a"})},
      {form, merge({"a", "b", "c"})},
      {form, merge({"a", 1})},
      {form, merge({"a", Json::array({"b"})})},
      {form, merge({"a", Json::object()})},
      {form, merge(7)},
      {form, merge(nullptr)},
  });
}

TEST(TokenizerFile, BadAddedTokensAreNamed) {
  const auto field = [](const char* name, Json value) {
    return [name, value](Json* j) { (*j)["added_tokens"][2][name] = value; };
  };
  ExpectEachRefused({
      {"added_tokens must be an array", [](Json* j) { (*j)["added_tokens"] = "x"; }},
      {"added_tokens[2]: expected an object", [](Json* j) { (*j)["added_tokens"][2] = 1; }},
      {"added_tokens[2]: 'content' is missing", [](Json* j) { (*j)["added_tokens"][2].erase("content"); }},
      {"added_tokens[2]: 'content' is empty", field("content", "")},
      {"added_tokens[2]: 'content' of more than 4096 bytes", field("content", std::string(4097, 'x'))},
      {"added_tokens[2]: 'id' must be an integer", field("id", -5)},
      {"added_tokens[2]: 'id' must be an integer", field("id", std::int64_t{1} << 33)},
      {"added_tokens[2]: '<gist>' has id 2147483647, where", field("id", INT32_MAX)},
      {"added_tokens[2]: '<gist>' has id 7, where", field("id", 7)},
      {"added_tokens[2]: '<new>' has id 2, where `tokenizers` gives it 8192", field("content", "<new>")},
      {"'<Gist>' or its id 3 occurs twice", [](Json* j) { (*j)["added_tokens"][2] = (*j)["added_tokens"][3]; }},
      {"special token 'a' is also the token of a byte",
       [](Json* j) {
         (*j)["added_tokens"][2]["content"] = "a";
         (*j)["added_tokens"][2]["id"] = (*j)["model"]["vocab"]["a"];
       }},
      {"with rstrip is not supported beside ' x'",
       [](Json* j) {
         (*j)["added_tokens"][2]["rstrip"] = true;
         (*j)["added_tokens"].push_back(Json{{"content", " x"}, {"id", 8192}});
       }},
  });
}

}  // namespace
}  // namespace unfold
