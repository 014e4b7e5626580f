// State tokens, and states that say what no model could.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "harmonic/runtime/state_seal.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

TEST(TextPoint, StandsNoFartherThanTheModelRemembers) {
  ModelConfig config = tiny_config(*make_byte_tokenizer());
  config.mixer = {"attention"};
  config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 100};
  const Model model(config, cpu_backend(), false);
  for (const uint64_t position : {uint64_t{100}, uint64_t{101}, kFarthestPosition - 1, ~uint64_t{0}}) {
    TextPoint point = beginning_of_text(model);
    std::memcpy(point.state.data(), &position, sizeof position);
    const auto decode = [&] { return decode_point(model, encode_point(point), "the state"); };
    if (position == 100) {
      EXPECT_EQ(decode().state.position(), 100u);
    } else {
      EXPECT_THROW(decode(), Error) << position;
    }
  }
}

class Seal : public ::testing::Test {
 protected:
  Seal() : model_(tiny_config(*make_byte_tokenizer()), cpu_backend(), false) {
    initialise_for_test(model_, 1);
  }
  std::string ring(const std::string& text, mode_t mode = 0600) const {
    const std::string path = folder_.file("ring", text);
    ::chmod(path.c_str(), mode);
    return path;
  }
  StateSeal make(const std::string& text, const std::string& identity = "model") const {
    return {ring(text), model_, identity};
  }

  TemporaryFolder folder_;
  Model model_;
  const std::string one_ = std::string(64, 'a') + "\n", two_ = std::string(64, 'b') + "\n";
};

TEST_F(Seal, ATokenOpensToTheSamePointOnAnyWorkerWithTheKey) {
  TextPoint point = beginning_of_text(model_);
  point.pending = 7;
  point.unfinished = "\xc3";
  const std::string token = make(one_).seal(point, "me", 100);
  EXPECT_EQ(make(one_).open(token, "me", 99), point);
  EXPECT_EQ(make(two_ + one_).open(token, "me", 0), point) << "an older key opens";
  EXPECT_NE(make(one_).seal(point, "me", 100), token) << "no nonce comes twice";
  EXPECT_EQ(token.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
            token.npos);
  const std::string newer = make(two_ + one_).seal(point, "me", 100);
  EXPECT_THROW(make(one_).open(newer, "me", 0), Error) << "the first key seals";
}

TEST_F(Seal, NothingElseOpens) {
  const StateSeal seal = make(one_);
  const std::string token = seal.seal(beginning_of_text(model_), "me", 100);
  EXPECT_THROW(seal.open(token, "me", 100), Error) << "expired";
  EXPECT_THROW(seal.open(token, "you", 0), Error);
  EXPECT_THROW(make(one_, "other").open(token, "me", 0), Error);
  EXPECT_THROW(make(two_).open(token, "me", 0), Error);
  EXPECT_THROW(seal.open("", "me", 0), Error);
  EXPECT_THROW(seal.open("AAAA", "me", 0), Error);
  EXPECT_THROW(seal.open("not base64!", "me", 0), Error);
  for (size_t i = 0; i < token.size(); i += 7) {
    std::string other = token;
    other[i] = other[i] == 'A' ? 'B' : 'A';
    EXPECT_THROW(seal.open(other, "me", 0), Error) << i;
    EXPECT_THROW(seal.open(token.substr(0, i), "me", 0), Error) << i;
  }
}

TEST_F(Seal, KeyringsThatOthersCanReadOrThatAreNotWholeAreRefused) {
  EXPECT_NO_THROW(StateSeal(ring(one_), model_, "model"));
  EXPECT_THROW(StateSeal(ring(one_, 0644), model_, "model"), Error);
  try {
    StateSeal(ring(one_, 0640), model_, "model");
    FAIL() << "others may read it";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("has mode 0640"), std::string::npos) << error.what();
  }
  std::string with_carriage_returns = one_;
  for (size_t at = 0; (at = with_carriage_returns.find('\n', at)) != std::string::npos; at += 2)
    with_carriage_returns.insert(at, "\r");
  EXPECT_NO_THROW(StateSeal(ring(with_carriage_returns), model_, "model"));
  EXPECT_THROW(StateSeal(ring(""), model_, "model"), Error);
  EXPECT_THROW(StateSeal(ring("abc\n"), model_, "model"), Error);
  EXPECT_THROW(StateSeal(ring(std::string(64, 'x') + "\n"), model_, "model"), Error);
  EXPECT_THROW(StateSeal(ring(std::string(66, 'a') + "\n"), model_, "model"), Error);
  EXPECT_THROW(StateSeal(folder_ / "missing", model_, "model"), Error);
}

}  // namespace
}  // namespace harmonic
