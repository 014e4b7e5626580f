// llama2.c's checkpoints and tokenizers.
#include <gtest/gtest.h>

#include <fstream>

#include "harmonic/base/error.h"
#include "harmonic/base/random.h"
#include "harmonic/convert/convert.h"
#include "harmonic/convert/llama2c.h"
#include "harmonic/model/weights.h"
#include "tests/cli_program.h"
#include "tests/model_folder_fixture.h"
#include "tests/sentencepiece_fixture.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

template <typename T>
void put(std::string& bytes, T number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof number);
}

// The small vocabulary as llama2.c's export writes it.
std::string tokenizer_file() {
  using Kind = SentencePieceVocabulary::Kind;
  const ScoredVocabulary scored = small_scored_vocabulary();
  std::string bytes;
  put(bytes, int32_t{8});
  for (size_t id = 0; id < scored.vocabulary.tokens.size(); ++id) {
    std::string text = scored.vocabulary.tokens[id];
    if (scored.vocabulary.kinds[id] == Kind::byte)
      text = fmt::format("<0x{:02X}>", static_cast<uint8_t>(text[0]));
    if (id == 1 || id == 2) text = "\n" + text + "\n";
    put(bytes, scored.scores[id]);
    put(bytes, static_cast<int32_t>(text.size()));
    bytes += text;
  }
  return bytes;
}

ModelConfig small_config(bool tied) {
  const auto tokenizer = read_llama2c_tokenizer(tokenizer_file(), "tokenizer");
  ModelConfig config;
  take_vocabulary(config, *tokenizer);
  config.mixer = {"attention"};
  config.d_model = 24;
  config.n_layers = 2;
  config.ffn_multiple = 2;
  config.tie_embeddings = tied;
  config.attention.n_heads = 3;
  config.attention.n_kv_heads = 1;
  config.attention.context = 10;
  return config;
}

// The model as llama2.c's export writes it.
std::string checkpoint_file(Model& model) {
  const ModelConfig& c = model.config();
  const int64_t head = c.d_model / c.attention.n_heads;
  std::string bytes;
  for (const int64_t number : {c.d_model, c.d_ffn(), c.n_layers, c.attention.n_heads, c.attention.n_kv_heads,
                               c.tie_embeddings ? c.vocab_size : -c.vocab_size, c.attention.context})
    put(bytes, static_cast<int32_t>(number));
  const auto write = [&](const std::string& name) {
    const Tensor& value = model.parameters().find(name)->value;
    const bool rotated = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
    for (int64_t row = 0; row < value.rows; ++row) {
      // Its pairs are neighbours: row 2 i is ours i, row 2 i + 1 ours i + half a head.
      const int64_t in_head = row % head;
      const int64_t from = rotated ? row - in_head + in_head / 2 + in_head % 2 * (head / 2) : row;
      bytes.append(reinterpret_cast<const char*>(value.row<float>(from)),
                   static_cast<size_t>(value.cols) * 4);
    }
  };
  write("embed.weight");
  for (const char* part : {"mixer_norm", "mixer.q_proj", "mixer.k_proj", "mixer.v_proj", "mixer.o_proj",
                           "ffn_norm", "ffn.gate", "ffn.down", "ffn.up"})
    for (int64_t i = 0; i < c.n_layers; ++i) write(fmt::format("layers.{}.{}.weight", i, part));
  write("final_norm.weight");
  bytes.append(static_cast<size_t>(c.attention.context * head * 4), '\x7f');  // nobody reads it
  if (!c.tie_embeddings) write("head.weight");
  return bytes;
}

class Llama2c : public testing::Test {
 protected:
  std::string checkpoint(bool tied, uint64_t seed = 1) const {
    Model model(small_config(tied), cpu_backend(), false);
    initialise_for_test(model, seed);
    return checkpoint_file(model);
  }
  std::string complaint(const std::string& content) const {
    const std::string path = folder_ / "model.bin";
    std::ofstream(path, std::ios::binary) << content;  // a thousand syncs would take their time
    try {
      read_pretrained(path, {}, cpu_backend());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
  std::string tokenizer_ = folder_.file("tokenizer.bin", tokenizer_file());
};

std::string tokenizer_complaint(const std::string& content) {
  try {
    read_llama2c_tokenizer(content, "damaged.bin");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_F(Llama2c, EveryNumberOfACheckpointIsKept) {
  for (const bool tied : {true, false}) {
    Model model(small_config(tied), cpu_backend(), false);
    initialise_for_test(model, 5);
    const std::string path = folder_.file("model.bin", checkpoint_file(model));
    const PretrainedModel pretrained = read_pretrained(path, {}, cpu_backend());
    EXPECT_EQ(pretrained.loaded.model->parameters().hash(), model.parameters().hash());
    EXPECT_EQ(pretrained.loaded.model->config().to_json(), model.config().to_json());
    EXPECT_EQ(pretrained.parameters, model.parameters().count());
  }
}

TEST_F(Llama2c, ItsTokenizerIsThatOfSentencePieceWhoseTextsBeginAndEndAlike) {
  const auto tokenizer =
      load_tokenizer(folder_.file("t.json", read_llama2c_tokenizer(tokenizer_file(), "t")->to_json()));
  EXPECT_EQ(tokenizer->encode("once the ing \xFF"), small_sentencepiece()->encode("once the ing \xFF"));
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eot(), 1);
  EXPECT_EQ(tokenizer->bytes_of(1), "");
}

TEST_F(Llama2c, TheTokenizerIsTheOneBesideItOrTheOneNamed) {
  const std::string path = folder_.file("model.bin", checkpoint(true));
  const std::string plain = read_pretrained(path, {}, cpu_backend()).loaded.tokenizer->hash();
  fs::remove(tokenizer_);
  EXPECT_NE(complaint(checkpoint(true)).find("--tokenizer"), std::string::npos);
  folder_.file(fmt::format("tok{}.bin", small_config(true).vocab_size), tokenizer_file());
  EXPECT_EQ(read_pretrained(path, {}, cpu_backend()).loaded.tokenizer->hash(), plain);
  const std::string model = folder_.file("own.model", sentencepiece_model_of(small_scored_vocabulary()));
  EXPECT_EQ(read_pretrained(path, model, cpu_backend()).loaded.tokenizer->eot(), 2);
}

TEST_F(Llama2c, OtherKindsOfFilesAreRefusedByName) {
  EXPECT_NE(complaint("GGUF" + std::string(100, '\0')).find("GGUF"), std::string::npos);
  EXPECT_NE(complaint("24ka\1" + std::string(300, '\0')).find("version 1"), std::string::npos);
  EXPECT_NE(complaint("").find("0 bytes"), std::string::npos);
  std::string wrong_vocabulary = checkpoint(true);
  wrong_vocabulary.replace(20, 4, "\x10\1\0\0", 4);
  EXPECT_NE(complaint(wrong_vocabulary).find("asks for"), std::string::npos);
  std::string not_finite = checkpoint(true);
  not_finite.replace(28 + 100, 4, "\0\0\xC0\x7F", 4);
  EXPECT_NE(complaint(not_finite).find("embed.weight is not finite"), std::string::npos);
  EXPECT_NE(complaint(checkpoint(true) + "x"), "");
}

TEST_F(Llama2c, ATokenizerOfAnotherVocabularyIsRefused) {
  const std::string short_file = tokenizer_file().substr(0, tokenizer_file().size() - 9);
  folder_.file("tokenizer.bin", short_file);
  EXPECT_NE(complaint(checkpoint(true)).find("belong together"), std::string::npos)
      << complaint(checkpoint(true));
}

// Whatever a damaged file holds, it is an Error that names it, or numbers.
TEST_F(Llama2c, DamagedFilesNeverDoHarm) {
  const std::string good = checkpoint(false);
  for (size_t length = 0; length < good.size(); length += length < 64 ? 1 : 997)
    ASSERT_NE(complaint(good.substr(0, length)).find("model.bin"), std::string::npos) << length;
  const Random random(4, stream_of("damaged checkpoints"));
  uint64_t draw = 0;
  int64_t refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string file = good;
    for (uint64_t changes = 1 + random.below(draw++, 3); changes > 0; --changes) {
      const size_t at = random.below(draw++, 28);
      file[at] = static_cast<char>(random.bits(draw++));
    }
    const std::string message = complaint(file);
    refused += !message.empty();
    if (file != good) {
      ASSERT_NE(message.find("model.bin"), std::string::npos) << message;
    }
  }
  EXPECT_GT(refused, 900);

  const std::string tokenizer = tokenizer_file();
  int64_t bad = 0, read = 0;
  for (size_t length = 0; length < tokenizer.size(); ++length)
    ASSERT_EQ(tokenizer_complaint(tokenizer.substr(0, length)).find("damaged.bin"),
              tokenizer_complaint(tokenizer.substr(0, length)).empty() ? std::string::npos : 0u)
        << length;
  for (int round = 0; round < 3000; ++round) {
    std::string file = tokenizer;
    for (uint64_t changes = 1 + random.below(draw++, 3); changes > 0; --changes) {
      const size_t at = random.below(draw++, file.size());
      file[at] = static_cast<char>(random.bits(draw++));
    }
    (tokenizer_complaint(file).empty() ? read : bad)++;
  }
  EXPECT_GT(bad, 500);
  EXPECT_GT(read, 100) << "some damage is harmless, e.g. in a score";
}

// A real model: its greedy text, as llama2.c itself and arithmetic in double precision give it.
TEST(Stories260K, WritesTheGoldenTextByteForByte) {
  const char* data = std::getenv("HARMONIC_DATA");
  if (data == nullptr) GTEST_SKIP() << "HARMONIC_DATA is not set";
  const fs::path stories = fs::path(data) / "stories260K";
  if (!fs::exists(stories / "stories260K.bin")) GTEST_SKIP() << stories << " holds no stories260K.bin";
  const TemporaryFolder folder;
  const std::string model = folder / "stories";
  const Outcome converted = run_harmonic({"convert", "--from", stories / "stories260K.bin", "--out", model});
  ASSERT_EQ(converted.status, 0) << converted.err;
  EXPECT_NE(converted.out.find("260032"), std::string::npos) << converted.out;
  for (const char* threads : {"1", "2"}) {
    const Outcome text = run_harmonic(
        {"generate", "--model", model, "--temperature", "0", "--max-tokens", "200", "--threads", threads});
    ASSERT_EQ(text.status, 0) << text.err;
    EXPECT_EQ(text.out, read_file(stories / "golden_greedy_200.txt") + "\n");
  }
  const Outcome again = run_harmonic({"convert", "--from", stories / "stories260K.bin", "--out", model});
  EXPECT_EQ(again.status, 2) << "nothing is written over";
}

}  // namespace harmonic
