// tokenizer.json and GPT-2's files: what is read, what is refused, and that nothing malformed does harm.
#include "harmonic/tokenizer/tokenizer_json.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/random.h"
#include "harmonic/base/thread_pool.h"
#include "harmonic/tokenizer/bpe_trainer.h"

namespace harmonic {
namespace {

using Json = nlohmann::json;

const std::string sample =
    "the cat's on the mat; then the other cat sat on the thatched hat 42 42 naïve naïve\n\n";

std::unique_ptr<Tokenizer> trained() {
  ThreadPool pool(1);
  const std::string_view view = sample;
  return train_bpe({&view, 1}, 271, pool);
}

// What is said when `file` is read, or nothing.
std::string complaint(const std::string& file) {
  try {
    read_tokenizer_json(file, "some.json");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

class TokenizerFolder : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(testing::TempDir()) /
            (std::string("harmonic_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    make_folder(path_);
  }
  void TearDown() override { std::filesystem::remove_all(path_); }
  std::filesystem::path path_;
};

}  // namespace

TEST_F(TokenizerFolder, SavedAndLoadedATokenizerIsTheSame) {
  const auto tokenizer = trained();
  write_file(path_ / "tokenizer.json", tokenizer->to_json());
  for (const auto& path : {path_, path_ / "tokenizer.json"}) {
    const auto loaded = load_tokenizer(path);
    EXPECT_EQ(loaded->hash(), tokenizer->hash());
    EXPECT_EQ(loaded->to_json(), tokenizer->to_json());
    EXPECT_EQ(loaded->encode(sample), tokenizer->encode(sample));
    EXPECT_EQ(loaded->eot(), tokenizer->eot());
  }
}

TEST_F(TokenizerFolder, Gpt2sPairOfFilesIsReadUnderBothNames) {
  const auto tokenizer = trained();
  const Json file = Json::parse(tokenizer->to_json());
  std::string merges = "#version: 0.2\n";
  for (const auto& merge : file["model"]["merges"]) merges += merge.get<std::string>() + "\n";
  for (const auto& [encoder, list] :
       {std::pair("encoder.json", "vocab.bpe"), std::pair("vocab.json", "merges.txt")}) {
    const auto folder = path_ / (std::string(encoder) + ".d");
    make_folder(folder);
    write_file(folder / encoder, file["model"]["vocab"].dump());
    write_file(folder / list, merges);
    EXPECT_EQ(load_tokenizer(folder)->hash(), tokenizer->hash()) << encoder;
    write_file(folder / list, merges + "the two three\n");
    EXPECT_THROW(load_tokenizer(folder), Error) << "a line of three";
    write_file(folder / list, merges + "zz yy\n");
    EXPECT_THROW(load_tokenizer(folder), Error) << "tokens not in the vocabulary";
    write_file(folder / list, merges + "\xff\xfe x\n");
    EXPECT_THROW(load_tokenizer(folder), Error) << "a name that is no UTF-8";
    write_file(folder / encoder, "[1, 2]");
    EXPECT_THROW(load_tokenizer(folder), Error) << "no object";
  }
}

TEST_F(TokenizerFolder, WithoutATokenizerSaysWhatWasExpected) {
  try {
    load_tokenizer(path_);
    FAIL() << "an empty folder holds no tokenizer";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("expected tokenizer.json"), std::string::npos) << error.what();
  }
}

TEST(TokenizerJson, MergesMayBePairsAndTheModelWithoutType) {
  const auto tokenizer = trained();
  Json file = Json::parse(tokenizer->to_json());
  for (auto& merge : file["model"]["merges"]) {
    const std::string line = merge.get<std::string>();
    const size_t blank = line.find(' ');
    merge = Json::array({line.substr(0, blank), line.substr(blank + 1)});
  }
  file["model"].erase("type");
  file["model"]["unk_token"] = "<|endoftext|>";
  file["post_processor"] = nullptr;
  EXPECT_EQ(read_tokenizer_json(file.dump(), "some.json")->hash(), tokenizer->hash());
}

TEST(TokenizerJson, SpecialTokensMayStandBesideTheVocabulary) {
  const auto tokenizer = trained();
  Json file = Json::parse(tokenizer->to_json());
  file["model"]["vocab"].erase("<|endoftext|>");
  EXPECT_EQ(read_tokenizer_json(file.dump(), "some.json")->hash(), tokenizer->hash());

  file["added_tokens"].push_back({{"id", 271}, {"content", "<pad>"}, {"special", true}});
  const auto padded = read_tokenizer_json(file.dump(), "some.json");
  EXPECT_EQ(padded->vocab_size(), 272);
  EXPECT_EQ(padded->eot(), 270);
  EXPECT_EQ(padded->bytes_of(271), "");
  EXPECT_EQ(read_tokenizer_json(padded->to_json(), "some.json")->hash(), padded->hash());
}

TEST(TokenizerJson, DigitsMayBeCutOutOneByOne) {
  const auto tokenizer = trained();
  Json file = Json::parse(tokenizer->to_json());
  file["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, file["pre_tokenizer"]}}};
  const auto digits = read_tokenizer_json(file.dump(), "some.json");
  EXPECT_NE(digits->hash(), tokenizer->hash());
  EXPECT_EQ(read_tokenizer_json(digits->to_json(), "some.json")->hash(), digits->hash());
  EXPECT_LT(tokenizer->encode(" 42").size(), 3u) << "the sample has it often enough for a merge";
  EXPECT_EQ(digits->encode(" 42").size(), 3u);
  EXPECT_EQ(digits->encode("the cat"), tokenizer->encode("the cat"));
}

// As in SmolLM's: some control characters and bytes that UTF-8 does not use have none.
TEST(TokenizerJson, BytesWithoutATokenAreLeftOutOfATextButNoPrintableOneIs) {
  const auto tokenizer = trained();
  const auto without = [&](const char* name) {
    Json file = Json::parse(tokenizer->to_json());
    const int id = file["model"]["vocab"][name];
    file["model"]["vocab"].erase(name);
    for (auto& [token, number] : file["model"]["vocab"].items())
      if (number > id) number = number.get<int>() - 1;
    for (auto& added : file["added_tokens"]) added["id"] = added["id"].get<int>() - 1;
    return file.dump();
  };
  const auto read = read_tokenizer_json(without("\u0104"), "some.json");  // 0x04
  EXPECT_EQ(read->decode(read->encode("the\x04 cat\x04\x04")), "the cat");
  EXPECT_EQ(read->encode("\x04"), std::vector<int32_t>{});
  EXPECT_NE(complaint(without("~")).find("0x7e"), std::string::npos);
}

TEST(TokenizerJson, WhatIsNotSupportedIsRefusedByName) {
  const Json good = Json::parse(trained()->to_json());
  EXPECT_EQ(complaint(good.dump()), "");
  const Json byte_level = good["pre_tokenizer"];
  const std::tuple<const char*, Json, const char*> cases[] = {
      {"/model/type", "WordPiece", "WordPiece"},
      {"/model/type", "Unigram", "Unigram"},
      {"/model/continuing_subword_prefix", "##", "continuing_subword_prefix"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/ignore_merges", true, "ignore_merges"},
      {"/normalizer", {{"type", "NFC"}}, "NFC"},
      {"/pre_tokenizer", nullptr, "pre_tokenizer"},
      {"/pre_tokenizer", {{"type", "Metaspace"}}, "Metaspace"},
      {"/pre_tokenizer/add_prefix_space", true, "add_prefix_space"},
      {"/pre_tokenizer/use_regex", false, "use_regex"},
      {"/pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", false}}, byte_level}}},
       "individual_digits"},
      {"/pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Punctuation"}}, byte_level}}},
       "Punctuation"},
      {"/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {byte_level}}}, "pre_tokenizer"},
      {"/pre_tokenizer/use_regex", "yes", "use_regex"},
      {"/decoder", {{"type", "WordPiece"}}, "WordPiece"},
      {"/added_tokens/0/special", false, "special"},
  };
  for (const auto& [pointer, value, name] : cases) {
    Json file = good;
    file[Json::json_pointer(pointer)] = value;
    const std::string said = complaint(file.dump());
    EXPECT_NE(said.find(name), std::string::npos) << pointer << ": " << said;
    EXPECT_NE(said.find("some.json"), std::string::npos) << said;
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
  }
}

TEST(TokenizerJson, WhatIsMalformedIsAnError) {
  const Json good = Json::parse(trained()->to_json());
  const std::pair<const char*, Json> cases[] = {
      {"/model", 3},
      {"/model/vocab", nullptr},
      {"/model/vocab", Json::array({"a"})},
      {"/model/vocab", Json::object()},
      {"/model/vocab/a", -1},
      {"/model/vocab/a", 1.5},
      {"/model/vocab/a", "7"},
      {"/model/vocab/a", 98},                       // the id of b
      {"/model/vocab/a", 18446744073709551615ull},  // beyond any id
      {"/model/vocab/a", 16000000},                 // a hole of millions
      {"/model/vocab/a", 300},                      // a small hole
      {"/model/vocab/\u20ac", 271},                 // not in the alphabet
      {"/model/vocab/<|endoftext|>", 3},            // not its id as an added token
      {"/model/merges", nullptr},
      {"/model/merges", "a b"},
      {"/model/merges/0", "ab"},
      {"/model/merges/0", "a b c"},
      {"/model/merges/0", Json::array({"a"})},
      {"/model/merges/0", Json::array({"a", 1})},
      {"/model/merges/0", "a q\u20ac"},
      {"/model/merges/1", good["model"]["merges"][0]},
      {"/added_tokens", 1},
      {"/added_tokens/0", "x"},
      {"/added_tokens/0/id", "x"},
      {"/added_tokens/0/id", 3},
      {"/added_tokens/0/content", ""},
      {"/added_tokens/1", good["added_tokens"][0]},
  };
  for (const auto& [pointer, value] : cases) {
    Json file = good;
    file[Json::json_pointer(pointer)] = value;
    EXPECT_NE(complaint(file.dump()), "") << pointer << " = " << value;
  }
  for (const char* text :
       {"", "{", "null", "[]", "\"x\"", "{}", "{\"model\": {}}", "\xff\xfe", "{\"model\": 1e999}"})
    EXPECT_NE(complaint(text), "") << text;
  EXPECT_NE(complaint(std::string(1'000'000, '[')), "") << "deep nesting";
  Json nameless = good;
  nameless["added_tokens"] = Json::array();
  nameless["model"]["vocab"]["<end>"] = nameless["model"]["vocab"]["<|endoftext|>"];
  nameless["model"]["vocab"].erase("<|endoftext|>");
  EXPECT_NE(complaint(nameless.dump()).find("ends a text"), std::string::npos) << complaint(nameless.dump());
}

// Whatever a damaged file holds, it is an Error or a tokenizer that works.
TEST(TokenizerJson, DamagedFilesNeverDoHarm) {
  const std::string good = trained()->to_json();
  const Random random(11, stream_of("damaged files"));
  int64_t refused = 0, read = 0;
  uint64_t draw = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string file = good;
    for (uint64_t changes = 1 + random.below(draw++, 3); changes > 0; --changes) {
      const size_t at = random.below(draw++, file.size());
      const size_t length = std::min<size_t>(random.below(draw++, 12), file.size() - at);
      switch (random.below(draw++, 4)) {
        case 0:
          file[at] = static_cast<char>(random.bits(draw++));
          break;
        case 1:
          file.erase(at, length);
          break;
        case 2:
          file.insert(at, file.substr(random.below(draw++, file.size()), length));
          break;
        default:
          file[at] = "0123456789{}[]\",:-"[random.below(draw++, 18)];
      }
    }
    try {
      const auto tokenizer = read_tokenizer_json(file, "damaged.json");
      ASSERT_EQ(tokenizer->decode(tokenizer->encode(sample)), sample);
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(read, 10) << "some damage is harmless, e.g. in white space";
}

// Runs python/check_tokenizer.py where HARMONIC_TOKENIZERS_PYTHON names a Python that has the package
// tokenizers.
TEST_F(TokenizerFolder, HuggingFaceGivesTheSameIds) {
  const char* python = std::getenv("HARMONIC_TOKENIZERS_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "HARMONIC_TOKENIZERS_PYTHON is not set";
  std::string text = sample;
  const std::string parts[] = {
      " ",       "  ",  "\n", "\t",   "the",    " cat's", "é", "日本", "नमस्ते",  "7",    "²",
      "'s",      "'LL", "!?", "🙂", "\u3000", "\u00a0", "Ā", "\r\n", "naïve", "\x1c", std::string(1, '\0'),
      "<|endof", "'"};
  const Random random(12, stream_of("text for the library"));
  for (uint64_t i = 0; i < 20'000; ++i) text += parts[random.below(i, std::size(parts))];

  std::vector<std::pair<std::string, std::unique_ptr<Tokenizer>>> tokenizers;
  tokenizers.emplace_back("trained", trained());
  tokenizers.emplace_back("bytes", make_byte_tokenizer());
  if (const char* data = std::getenv("HARMONIC_DATA"))
    tokenizers.emplace_back("gpt2", load_tokenizer(std::filesystem::path(data) / "gpt2"));
  for (const auto& [name, tokenizer] : tokenizers) {
    std::string ids;
    for (int32_t id : tokenizer->encode(text)) ids += std::to_string(id) + "\n";
    write_file(path_ / "tokenizer.json", tokenizer->to_json());
    write_file(path_ / "text", text);
    write_file(path_ / "ids", ids);
    const std::string command = std::string(python) + " '" + HARMONIC_SOURCE_DIR +
                                "/python/check_tokenizer.py' '" + (path_ / "tokenizer.json").string() +
                                "' '" + (path_ / "text").string() + "' '" + (path_ / "ids").string() + "'";
    EXPECT_EQ(std::system(command.c_str()), 0) << name;
  }
}

}  // namespace harmonic
