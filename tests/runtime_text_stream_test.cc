#include "harmonic/runtime/text_stream.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdio>

#include "harmonic/model/safetensors.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

constexpr int32_t kEot = 0;

struct Loaded {
  explicit Loaded(const ModelConfig& config, uint64_t seed = 1)
      : model(config, cpu_backend(), false),
        pool(2),
        inference((initialise_for_test(model, seed), model), pool) {}
  Model model;
  ThreadPool pool;
  Inference inference;
};

ModelConfig small(const char* name = "levels") {
  for (const NamedConfig& named : small_configs())
    if (named.name == name) return named.config;
  fail("no small model {}", name);
}

std::vector<int32_t> part(const std::vector<int32_t>& tokens, size_t begin, size_t end) {
  return {tokens.begin() + static_cast<std::ptrdiff_t>(begin),
          tokens.begin() + static_cast<std::ptrdiff_t>(end)};
}

std::vector<double> logits_of(TextStream& stream) {
  const Tensor logits = stream.next_logits();
  std::vector<double> result;
  for (int64_t v = 0; v < logits.cols; ++v) result.push_back(number_at(logits, 0, v));
  return result;
}

TEST(TextStream, ScoresHaveTheSameBitsInPiecesOfAnySize) {
  for (const NamedConfig& named : small_configs()) {
    Loaded loaded(named.config);
    const std::vector<int32_t> text = random_text(1500, named.config.vocab_size, 7);
    TextStream whole(loaded.inference, kEot);
    std::vector<double> expected;
    whole.score(text, expected);
    ASSERT_EQ(expected.size(), text.size());
    for (const size_t size : {1, 3, 5, 15, 17, 64, 1024, 1025}) {
      TextStream stream(loaded.inference, kEot);
      std::vector<double> bits;
      for (size_t begin = 0; begin < text.size(); begin += size)
        stream.score(part(text, begin, std::min(text.size(), begin + size)), bits);
      EXPECT_EQ(bits, expected) << named.name << " in pieces of " << size;
      EXPECT_EQ(stream.length(), text.size() + 1);
    }
  }
}

TEST(TextStream, TheBitsAreThoseOfTheLogits) {
  Loaded loaded(small());
  const std::vector<int32_t> text = random_text(40, 37, 3);
  TextStream scored(loaded.inference, kEot), read(loaded.inference, kEot);
  std::vector<double> bits;
  scored.score(text, bits);
  for (size_t t = 0; t < text.size(); ++t) {
    const std::vector<double> logits = logits_of(read);
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit);
    EXPECT_NEAR(bits[t], (std::log(sum) - logits[static_cast<size_t>(text[t])]) / std::log(2), 1e-4);
    read.append({text[t]});
  }
}

TEST(TextStream, LookingAtTheNextLogitsChangesNothing) {
  for (const NamedConfig& named : small_configs()) {
    Loaded loaded(named.config);
    const std::vector<int32_t> text = random_text(50, named.config.vocab_size, 5);
    TextStream plain(loaded.inference, kEot), curious(loaded.inference, kEot);
    std::vector<double> plain_bits, curious_bits;
    for (size_t t = 0; t < text.size(); t += 2) {
      const std::vector<double> logits = logits_of(curious);
      EXPECT_EQ(logits_of(curious), logits);
      // By turns after a look: appending two, one, none; and scoring.
      curious.append({});
      if (t % 4 == 0) {
        curious.append(part(text, t, t + 2));
        plain.append(part(text, t, t + 2));
      } else {
        curious.append({text[t]});
        logits_of(curious);
        curious.score({text[t + 1]}, curious_bits);
        plain.append({text[t]});
        plain.score({text[t + 1]}, plain_bits);
      }
      ASSERT_EQ(curious.length(), plain.length());
    }
    EXPECT_EQ(curious_bits, plain_bits) << named.name;
    EXPECT_EQ(logits_of(curious), logits_of(plain)) << named.name;
  }
}

TEST(TextStream, ANewDocumentForgetsTheOneBeforeButItsTokensCount) {
  Loaded loaded(small());
  TextStream stream(loaded.inference, kEot), fresh(loaded.inference, kEot);
  EXPECT_EQ(stream.length(), 1u);
  stream.append(random_text(33, 37, 2));
  logits_of(stream);
  EXPECT_EQ(stream.length(), 34u);
  stream.restart();
  EXPECT_EQ(stream.length(), 35u);  // so that a sampler does not draw the same numbers again
  EXPECT_EQ(logits_of(stream), logits_of(fresh));
}

class SavedState : public ::testing::Test {
 protected:
  SavedState() : loaded_(small()), stream_(loaded_.inference, kEot), path_(folder_ / "state") {
    stream_.append(random_text(20, 37, 4));
    stream_.restart();
    stream_.append(random_text(53, 37, 4));
    stream_.save(path_);
  }

  std::string error_of_loading(TextStream& stream) const {
    try {
      stream.load(path_);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path_), std::string::npos) << error.what();
      return error.what();
    }
    return "";
  }

  // Not write_file(): thousands of syncs to a disk are slow.
  void put(const std::string& content) const {
    std::FILE* file = std::fopen(path_.c_str(), "wb");
    ASSERT_EQ(std::fwrite(content.data(), 1, content.size(), file), content.size());
    std::fclose(file);
  }

  TemporaryFolder folder_;
  Loaded loaded_;
  TextStream stream_;
  std::string path_;
};

TEST_F(SavedState, GoesOnExactlyWhereItWasSaved) {
  TextStream other(loaded_.inference, kEot);
  other.append(random_text(9, 37, 8));
  logits_of(other);
  other.load(path_);
  EXPECT_EQ(other.length(), stream_.length());
  EXPECT_EQ(logits_of(other), logits_of(stream_));
  std::vector<double> bits, expected;
  other.score(random_text(100, 37, 5), bits);
  stream_.score(random_text(100, 37, 5), expected);
  EXPECT_EQ(bits, expected);
  other.save(folder_ / "again");
  stream_.save(folder_ / "original");
  EXPECT_EQ(read_file(folder_ / "again"), read_file(folder_ / "original"));
}

TEST_F(SavedState, KeepsTheBeginningOfACharacter) {
  TextStream other(loaded_.inference, kEot);
  EXPECT_EQ(other.load(path_), "");
  for (const std::string unfinished : {"\xc3", "\xe6\x97", "\xf0\x9f\x99"}) {
    stream_.save(path_, unfinished);
    EXPECT_EQ(other.load(path_), unfinished);
  }
  for (const std::string nonsense : {"a", "\x97", "\xc3\xa9", "\xc3\xc3", "\xff"}) {
    stream_.save(path_, nonsense);
    EXPECT_NE(error_of_loading(other).find("unfinished_character"), std::string::npos);
  }
}

TEST_F(SavedState, OfFormat1WhichHadNoUnfinishedCharacterIsLoaded) {
  const SafetensorsFile file(path_);
  Metadata metadata = file.metadata();
  metadata["harmonic_state"] = "1";
  metadata.erase("unfinished_character");
  const StoredTensor& stored = file.at("state");
  const std::string state(reinterpret_cast<const char*>(stored.bytes.data()), stored.bytes.size());
  metadata["sha256"] = sha256(sha256(state) + ' ' + metadata.at("model") + ' ' +
                              metadata.at("pending_token") + ' ' + metadata.at("earlier_tokens"));
  const std::string old = folder_ / "old";
  SafetensorsWriter writer(old, {{"state", StoredType::u8, {static_cast<int64_t>(state.size())}}}, metadata);
  writer.append(state.data(), static_cast<int64_t>(state.size()));
  writer.commit();
  TextStream other(loaded_.inference, kEot);
  EXPECT_EQ(other.load(old), "");
  EXPECT_EQ(logits_of(other), logits_of(stream_));
}

TEST_F(SavedState, OfAnotherModelIsRefused) {
  Loaded other_weights(small(), 2);
  TextStream stream(other_weights.inference, kEot);
  EXPECT_NE(error_of_loading(stream).find("another model"), std::string::npos);
  // The same weights to the bit, put together otherwise.
  ModelConfig config = small();
  config.harmonic.strides = {1, 2, 16};
  Loaded other_config(config);
  EXPECT_EQ(other_config.model.parameters().hash(), loaded_.model.parameters().hash());
  TextStream second(other_config.inference, kEot);
  EXPECT_NE(error_of_loading(second).find("another model"), std::string::npos);
}

TEST_F(SavedState, AnyChangedByteIsAnErrorOrChangesNothing) {
  const std::string good = read_file(path_);
  TextStream stream(loaded_.inference, kEot);
  stream.load(path_);
  stream.save(folder_ / "expected");
  const std::string expected = read_file(folder_ / "expected");
  int errors = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    for (const int change : {0x01, 0x10, 0x80, 0xff}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ change);
      put(bad);
      if (!error_of_loading(stream).empty()) ++errors;
    }
  }
  // All but the few bytes of the header that mean nothing (the blanks at its end, "format") were noticed, and
  // neither a refused file nor an accepted one has changed the stream.
  EXPECT_GT(errors, static_cast<int>(good.size()) * 4 * 9 / 10);
  stream.save(folder_ / "after");
  EXPECT_EQ(read_file(folder_ / "after"), expected);
}

TEST_F(SavedState, CutShortAnywhereIsAnError) {
  const std::string good = read_file(path_);
  TextStream stream(loaded_.inference, kEot);
  for (size_t size = 0; size < good.size(); size += 1 + size / 20) {
    put(good.substr(0, size));
    EXPECT_NE(error_of_loading(stream), "") << size << " bytes";
  }
  put(good + "x");
  EXPECT_NE(error_of_loading(stream), "");
}

TEST_F(SavedState, OtherFilesAreErrors) {
  TextStream stream(loaded_.inference, kEot);
  for (const std::string& content : {std::string(), std::string("hello"), std::string(1000, '\0')}) {
    put(content);
    EXPECT_NE(error_of_loading(stream), "");
  }
  std::filesystem::remove(path_);
  EXPECT_NE(error_of_loading(stream), "");
  std::filesystem::create_directory(path_);
  EXPECT_NE(error_of_loading(stream).find("directory"), std::string::npos);
  make_model_folder(folder_ / "model", *make_byte_tokenizer());
  path_ = folder_ / "model/model.safetensors";
  EXPECT_NE(error_of_loading(stream).find("not a saved state"), std::string::npos);
}

// What attention remembers of a text may be large; a token must not cost a copy of it.
TEST(TextStream, ATokenTakesNoLongerInALargerContext) {
  std::vector<double> logits[2];
  double seconds[2];
  for (const bool large : {false, true}) {
    ModelConfig config = small("attention");
    config.attention.context = large ? 1 << 19 : 1 << 9;  // 32 MB of cache, or 32 KB
    Loaded loaded(config);
    TextStream stream(loaded.inference, kEot);
    const auto begun = std::chrono::steady_clock::now();
    for (int32_t t = 0; t < 200; ++t) {
      const std::vector<double> found = logits_of(stream);
      logits[large].insert(logits[large].end(), found.begin(), found.end());
      stream.append({1 + t % 36});
    }
    seconds[large] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  }
  EXPECT_EQ(logits[0], logits[1]);
  EXPECT_LT(seconds[1], 5 * seconds[0] + 0.2);  // 200 copies take a second and more
}

TEST(TextStream, IsFullAtTheEndOfAnAttentionModelsContext) {
  ModelConfig config = small("attention");
  config.attention.context = 10;
  Loaded loaded(config);
  TextStream stream(loaded.inference, kEot);
  for (int32_t t = 0; t < 10; ++t) {
    EXPECT_FALSE(stream.full());
    stream.next_logits();
    stream.append({t + 1});
  }
  EXPECT_TRUE(stream.full());
  EXPECT_THROW(stream.next_logits(), Error);
  Loaded endless(small("harmonic_then_attention_with_a_window"));
  TextStream other(endless.inference, kEot);
  other.append(std::vector<int32_t>(100, 1));
  EXPECT_FALSE(other.full());
}

TEST(TextStream, ALookAheadIsNeitherPartOfTheTextNorOfWhatIsSaved) {
  const TemporaryFolder folder;
  for (const NamedConfig& named : small_configs()) {
    Loaded loaded(named.config);
    TextStream stream(loaded.inference, kEot), loaded_again(loaded.inference, kEot);
    stream.next_logits();
    EXPECT_TRUE(stream.at_beginning());
    stream.append(random_text(30, named.config.vocab_size, 5));
    EXPECT_FALSE(stream.at_beginning());
    const std::vector<double> ahead = logits_of(stream);
    stream.save(folder / named.name);
    loaded_again.load(folder / named.name);
    EXPECT_EQ(loaded_again.length(), stream.length());
    EXPECT_EQ(logits_of(loaded_again), ahead) << named.name;
  }
}

}  // namespace
}  // namespace harmonic
