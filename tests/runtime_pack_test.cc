#include "harmonic/runtime/pack.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>

#include "harmonic/base/put_number.h"
#include "harmonic/runtime/range_coder.h"
#include "harmonic/runtime/sampler.h"
#include "harmonic/runtime/text_point.h"
#include "harmonic/runtime/text_stream.h"
#include "tests/model_folder_fixture.h"
#include "tests/sentencepiece_fixture.h"

namespace harmonic {
namespace {

TEST(RangeCoder, SymbolsComeBackAndCostTheirSurprise) {
  for (const uint32_t total : {2u, 3u, 257u, 65'537u, SymbolRange::kMostTotal}) {
    const Random random(1, total);
    std::vector<SymbolRange> symbols;
    double bits = 0;
    for (uint64_t i = 0; i < 5000; ++i) {
      // Mostly one likely symbol, the rest any.
      const uint32_t likely = total - total / 16 - (total < 16);
      const bool rare = random.uniform(2 * i) < 0.1;
      const auto below = rare ? likely + static_cast<uint32_t>(random.below(2 * i + 1, total - likely)) : 0;
      symbols.push_back({below, rare ? 1 : likely, total});
      bits -= std::log2(static_cast<double>(symbols.back().frequency) / total);
    }
    RangeEncoder encoder;
    for (const SymbolRange& symbol : symbols) encoder.encode(symbol);
    const std::string bytes = encoder.finish();
    EXPECT_LE(static_cast<double>(bytes.size()), bits / 8 * 1.001 + 2) << total;
    RangeDecoder decoder(bytes);
    for (const SymbolRange& symbol : symbols) {
      const uint32_t target = decoder.target(total);
      ASSERT_GE(target, symbol.below);
      ASSERT_LT(target, symbol.below + symbol.frequency);
      decoder.consume(symbol);
    }
  }
}

class PackTest : public ::testing::Test {
 protected:
  explicit PackTest() { use(make_byte_tokenizer()); }
  void use(std::unique_ptr<Tokenizer> tokenizer, void (*change)(ModelConfig&) = nullptr, int threads = 1) {
    inference_.reset();
    pool_.reset();
    tokenizer_ = std::move(tokenizer);
    ModelConfig config = tiny_config(*tokenizer_);
    if (change) change(config);
    model_.emplace(config, cpu_backend(), false);
    initialise_for_test(*model_, 1);
    pool_.emplace(threads);
    inference_.emplace(*model_, *pool_);
    model_->pack(inference_->context());
  }
  static Packer::Read reader(std::string_view text) {
    return [text](int64_t most) mutable {
      const std::string piece(text.substr(0, static_cast<size_t>(most)));
      text.remove_prefix(piece.size());
      return piece;
    };
  }
  Packer packer() { return {*inference_, *tokenizer_, identity_of(*model_), 4096}; }
  std::string pack(const std::string& text) {
    std::string out;
    const Packer::Sizes sizes = packer().pack(reader(text), [&](std::string_view bytes) { out += bytes; });
    EXPECT_EQ(sizes.source, static_cast<int64_t>(text.size()));
    EXPECT_EQ(sizes.packed, static_cast<int64_t>(out.size()));
    return out;
  }
  std::string unpack(const std::string& packed) {
    std::string out;
    packer().unpack(
        reader(packed), [&](std::string_view bytes) { out += bytes; }, "the file");
    return out;
  }
  // What the model writes itself, and so knows as well as it can.
  std::vector<int32_t> written_by_the_model(size_t size) {
    TextStream stream(*inference_, tokenizer_->bos());
    Sampler sampler({.temperature = 0.2});
    std::vector<int32_t> tokens;
    while (tokens.size() < size) {
      const int32_t token = sampler.sample(stream.next_logits(), tokens.size());
      tokens.push_back(token);
      stream.append({token});
    }
    return tokens;
  }
  static std::string noise(size_t size, uint64_t seed, uint64_t values = 256) {
    const Random random(seed, 7);
    std::string text;
    for (uint64_t i = 0; i < size; ++i) text += static_cast<char>(random.below(i, values));
    return text;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<Model> model_;
  std::optional<ThreadPool> pool_;
  std::optional<Inference> inference_;
};

TEST_F(PackTest, AnyBytesComeBackWithEveryTokenizer) {
  const std::vector<std::string> texts = {"",
                                          "a",
                                          std::string(1, '\0'),
                                          std::string(3, '\0') + "x" + std::string(1, '\0'),
                                          "Once upon a time, caf\xc3\xa9.\n\n",
                                          " a  leading blank",
                                          "\xff\xfe\x80 no text",
                                          noise(3000, 1),
                                          noise(3000, 2, 3),
                                          std::string(2000, ' ')};
  for (int which = 0; which < 3; ++which) {
    use(which == 0 ? make_byte_tokenizer() : which == 1 ? small_bpe() : small_sentencepiece());
    for (const std::string& text : texts) EXPECT_EQ(unpack(pack(text)), text) << which;
  }
}

TEST_F(PackTest, FilesOfManyBlocksComeBack) {
  const size_t size = 4096;
  for (const size_t bytes : {size, size + 1, 20 * size + 77}) {
    std::string text = noise(bytes, 5, 2);
    text.replace(10, 1000, noise(1000, 6));
    EXPECT_EQ(unpack(pack(text)) == text, true) << bytes;
  }
}

TEST_F(PackTest, AnyRangeIsUnpackedFromItsBlocksAlone) {
  std::string text = noise(21 * 4096 + 77, 5, 2);
  text.replace(5000, 3000, noise(3000, 6));  // of which a block stays as it is
  const std::string packed = pack(text);
  int64_t read = 0;
  const auto range = [&](const std::string& file, int64_t from, int64_t count) {
    std::string out;
    read = 0;
    const Packer::ReadAt read_at = [&](int64_t offset, int64_t most) {
      std::string bytes =
          file.substr(std::min(file.size(), static_cast<size_t>(offset)), static_cast<size_t>(most));
      read += static_cast<int64_t>(bytes.size());
      return bytes;
    };
    const Packer::Sizes sizes = packer().unpack_range(
        read_at, static_cast<int64_t>(file.size()), from, count,
        [&](std::string_view bytes) { out += bytes; }, "the file");
    EXPECT_EQ(sizes.source, static_cast<int64_t>(out.size()));
    return out;
  };
  for (const auto& [from, count] : std::vector<std::pair<size_t, size_t>>{
           {0, 1}, {4095, 2}, {4096, 4096}, {6000, 9000}, {86'000, 500}, {0, 1'000'000}, {text.size(), 5}})
    EXPECT_TRUE(range(packed, static_cast<int64_t>(from), static_cast<int64_t>(count)) ==
                text.substr(from, count))
        << from << ", " << count;
  EXPECT_EQ(range(pack(""), 0, 5), "");
  range(packed, 50'000, 10);
  EXPECT_LT(read, static_cast<int64_t>(packed.size()) / 4);
  EXPECT_THROW(range(packed, static_cast<int64_t>(text.size()) + 1, 1), Error);
  for (size_t cut = 1; cut < packed.size(); cut += 997)
    EXPECT_THROW(range(packed.substr(0, cut), 0, 1), Error);
  for (size_t i = 1; i < 200; ++i) {  // of the index and what follows it
    std::string damaged = packed;
    damaged[damaged.size() - i] = static_cast<char>(damaged[damaged.size() - i] ^ 0x55);
    EXPECT_THROW(range(damaged, 0, 1'000'000), Error) << i;
  }
}

TEST_F(PackTest, TheFileIsTheSameWithAnyNumberOfThreads) {
  const std::string text = noise(5000, 3, 20);
  const std::string packed = pack(text);
  use(make_byte_tokenizer(), nullptr, 2);
  EXPECT_EQ(pack(text) == packed, true);
  EXPECT_EQ(unpack(packed) == text, true);
}

TEST_F(PackTest, ModelsWithABoundedMemoryBeginAnew) {
  use(make_byte_tokenizer(), [](ModelConfig& config) {
    config.mixer = {"attention"};
    config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 100};
  });
  const std::string text = noise(1234, 4, 9);
  EXPECT_EQ(unpack(pack(text)), text);
}

TEST_F(PackTest, ATextCostsAsManyBitsAsTheModelSays) {
  const std::vector<int32_t> tokens = written_by_the_model(4000);
  std::string text;
  for (const int32_t token : tokens) text += static_cast<char>(token);
  TextStream scored(*inference_, tokenizer_->bos());
  std::vector<double> bits;
  scored.score(tokens, bits);
  double total = 0;
  for (const double one : bits) total += one;
  const std::string packed = pack(text);
  EXPECT_EQ(unpack(packed) == text, true);
  EXPECT_LT(total / 8, 0.9 * static_cast<double>(text.size())) << "or the text would be stored";
  ASSERT_LT(text.size(), 4096u) << "one block";
  constexpr double kFrame = 8 + 64 + 20 + 64 + 4 + 8 + 8 + 8 + 8;
  EXPECT_NEAR(static_cast<double>(packed.size()) - kFrame, total / 8, 0.001 * total / 8 + 2);
}

TEST_F(PackTest, WhatTheModelMakesNoSmallerIsStored) {
  const std::string text = noise(20'000, 8);
  EXPECT_LT(pack(text).size(), text.size() + 700);
}

TEST_F(PackTest, AnotherModelAndDamageAreRefused) {
  const std::string text = noise(3000, 2, 3), packed = pack(text);
  for (size_t size = 0; size < packed.size(); size += 13)
    EXPECT_THROW(unpack(packed.substr(0, size)), Error) << size;
  EXPECT_THROW(unpack(packed + "x"), Error);
  for (size_t i = 0; i < packed.size(); i += 11) {
    std::string damaged = packed;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    try {
      EXPECT_EQ(unpack(damaged) == text, true) << i;  // a last bit that nothing depends on
      EXPECT_GT(i, packed.size() / 2);
    } catch (const Error&) {
    }
  }
  model_->parameters()[0].value.row<float>(0)[0] += 1;
  EXPECT_THROW(unpack(packed), Error);
}

TEST_F(PackTest, ABlockThatClaimsMoreTokensThanItHasBytesIsRefusedAtOnce) {
  std::string text;
  for (const int32_t token : written_by_the_model(2000)) text += static_cast<char>(token);
  std::string packed = pack(text);
  const size_t tokens = 8 + 64 + 3 * sizeof(uint32_t);  // behind the magic, the identity and three numbers
  for (const uint32_t claimed : {1u << 21, 2 * 2000u + 1, 4000u}) {
    std::memcpy(packed.data() + tokens, &claimed, sizeof claimed);
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_THROW(unpack(packed), Error) << claimed;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5)) << claimed;
  }
}

// Each decoded token takes bits, and the block has none: it is known for a forged one long before its tokens
// are all there.
TEST_F(PackTest, ABlockIsRefusedWhereItsBytesAreUsedUp) {
  const std::string whole = pack(noise(3000, 2, 3));
  constexpr size_t kHead = 8 + 64 + 4;  // the magic, the identity, and that a block follows
  std::string forged = whole.substr(0, kHead);
  for (const uint32_t number : {1u, 1u << 20, 1u << 20, 1u}) put_number(forged, number);  // coded; its sizes
  forged += std::string(64, '0') + "x";
  put_number(forged, uint32_t{2});
  put_number(forged, uint64_t{8 + 64});
  put_number(forged, uint64_t{1});
  put_number(forged, static_cast<uint64_t>(forged.size() - 20));
  forged += "HPACKEND";
  try {
    unpack(forged);
    FAIL() << "it is no text";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("not those of a text of its size"), std::string::npos)
        << error.what();
  }
}

TEST(RangeCoder, KnowsWhenSymbolsTakeMoreBitsThanThereAre) {
  const SymbolRange one = {0, 1, 256}, likely = {1, 255, 256};
  RangeEncoder encoder;
  for (int i = 0; i < 100; ++i) encoder.encode(i % 3 == 0 ? one : likely);
  const std::string bytes = encoder.finish();
  RangeDecoder decoder(bytes);
  for (int i = 0; i < 100; ++i) {
    decoder.consume(i % 3 == 0 ? one : likely);
    EXPECT_FALSE(decoder.is_past_end()) << i;
  }
  for (int i = 0; i < 2; ++i) decoder.consume(one);
  EXPECT_TRUE(decoder.is_past_end());
}

}  // namespace
}  // namespace harmonic
