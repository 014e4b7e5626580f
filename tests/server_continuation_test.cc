// Where a text begins and where it goes on, with a vocabulary that puts a space before a text's first word.
#include <sys/stat.h>

#include <algorithm>

#include "harmonic/model/state.h"
#include "tests/sentencepiece_fixture.h"
#include "tests/server_fixture.h"

namespace harmonic {
namespace {

class Continuation : public ServerTest {
 protected:
  Continuation() {
    make_model_folder(folder_ / "model", *tokenizer_, 3);
    config.keyring = folder_.file("ring", std::string(64, '5') + "\n");
    ::chmod(config.keyring.c_str(), 0600);
  }
  // The first choice of a completion, its prompt's tokens and a few more shown.
  Json completion(Json body, const std::string& path = "/v1/completions") {
    body.update({{"temperature", 0},
                 {"max_tokens", 6},
                 {"echo", true},
                 {"logprobs", 0},
                 {"return_token_ids", true},
                 {"ignore_end", true}});
    return ask(path, body)["choices"][0];
  }
  std::string state_after(const std::string& prompt) {
    return ask("/v1/completions", {{"prompt", prompt}, {"max_tokens", 0}, {"return_state", true}})["state"];
  }
  static std::vector<int32_t> ids_of(const Json& choice) { return choice["logprobs"]["token_ids"]; }
  // Each of the shown tokens begins where the text of those before it ends.
  void expect_offsets(const Json& choice) {
    const std::vector<int32_t> ids = ids_of(choice);
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::string before = tokenizer_->decode({ids.begin(), ids.begin() + static_cast<ptrdiff_t>(i)});
      EXPECT_EQ(choice["logprobs"]["text_offset"][i],
                std::count_if(before.begin(), before.end(), [](char c) { return (c & 0xC0) != 0x80; }))
          << i;
    }
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = small_sentencepiece();
};

TEST_F(Continuation, ATextThatGoesOnGetsNoSpaceOfItsOwn) {
  std::vector<int32_t> expected;
  tokenizer_->encode_continuation("ce lo", expected);
  ASSERT_NE(tokenizer_->encode("ce lo"), expected);
  const std::string state = state_after("the on");
  const Json from_state = completion({{"prompt", "ce lo"}, {"state", state}});
  EXPECT_TRUE(from_state["text"].get<std::string>().starts_with("ce lo")) << from_state["text"];
  std::vector<int32_t> ids = ids_of(from_state);
  ids.resize(expected.size());
  EXPECT_EQ(ids, expected);
  // In a session, after a stored answer, and by ids, it is the same.
  const std::string id = ask("/v1/sessions", Json::object())["id"], path = "/v1/sessions/" + id;
  ask(path + "/append", {{"prompt", "the on"}});
  EXPECT_EQ(completion({{"prompt", "ce lo"}}, path + "/generate"), from_state);
  const std::string stored =
      ask("/v1/completions", {{"prompt", "the on"}, {"max_tokens", 0}, {"store", true}})["id"];
  EXPECT_EQ(completion({{"prompt", "ce lo"}, {"previous_response_id", stored}}), from_state);
  EXPECT_EQ(completion({{"prompt", expected}, {"state", state}}), from_state);
  const Json scored =
      ask("/v1/score", {{"text", "ce lo"}, {"state", state}, {"end", false}, {"by", "token"}});
  ASSERT_EQ(scored["results"].size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(scored["results"][i]["token"], expected[i]);
    EXPECT_NEAR(scored["results"][i]["bits"].get<double>(),
                -from_state["logprobs"]["token_logprobs"][i].get<double>() * kBitsPerNat, 1e-5);
  }
  // Of a token that begins with a space, which goes on with another word, the echo keeps it.
  const Json word = completion({{"prompt", tokenizer_->encode("the")}, {"state", state}});
  EXPECT_TRUE(word["text"].get<std::string>().starts_with(" the")) << word["text"];
}

TEST_F(Continuation, AStateBeforeTheFirstWordIsTheBeginningOfAText) {
  const std::string state = state_after("");
  Json body = {{"text", "the once"}, {"by", "token"}, {"end", false}};
  const Json whole = ask("/v1/score", body);
  body["state"] = state;
  EXPECT_EQ(ask("/v1/score", body), whole);
  EXPECT_EQ(whole["bytes"], 8);
  const Json begun = completion({{"prompt", "the once"}}),
             from_state = completion({{"prompt", "the once"}, {"state", state}});
  EXPECT_EQ(from_state["text"], begun["text"]);
  EXPECT_EQ(ids_of(from_state), ids_of(begun));
  // A list of ids may name the token that leads the text there too.
  std::vector<int32_t> led = tokenizer_->encode("the once");
  led.insert(led.begin(), tokenizer_->bos());
  EXPECT_EQ(completion({{"prompt", led}, {"state", state}}), completion({{"prompt", led}}));
}

TEST_F(Continuation, AnOffsetIsWhereTheTokenStandsInTheTextThatIsShown) {
  const Json whole = completion({{"prompt", "the once"}});
  ASSERT_GT(ids_of(whole).size(), 6u);
  expect_offsets(whole);
  expect_offsets(completion({{"prompt", ""}}));
  Json streamed = {{"pieces", Json::array()}};
  for (const Json& event : events_of(post("/v1/completions", {{"prompt", "the once"},
                                                              {"temperature", 0},
                                                              {"max_tokens", 6},
                                                              {"echo", true},
                                                              {"logprobs", 0},
                                                              {"ignore_end", true},
                                                              {"stream", true}})
                                         .body))
    for (const Json& choice : event["choices"])
      if (!choice["logprobs"].is_null())
        for (const Json& offset : choice["logprobs"]["text_offset"]) streamed["pieces"].push_back(offset);
  EXPECT_EQ(streamed["pieces"], whole["logprobs"]["text_offset"]);
}

}  // namespace
}  // namespace harmonic
