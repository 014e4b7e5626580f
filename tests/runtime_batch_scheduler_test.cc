#include "harmonic/runtime/batch_scheduler.h"

#include "tests/batch_scheduler_fixture.h"

namespace harmonic {
namespace {

TEST(BatchScheduler, WritesWhatATextByItselfWouldForEveryKindOfModel) {
  for (const ModelConfig& config : configs()) {
    Served served(config);
    GenerationRequest request = served.request("Once upon a time", 60);
    request.ignore_end = true;
    const Result expected = expected_of(served.model, *served.tokenizer, request);
    const Result result = served.run(request);
    EXPECT_EQ(result.tokens, expected.tokens);
    EXPECT_EQ(result.logprobs, expected.logprobs);
    EXPECT_EQ(result.text, expected.text);
    EXPECT_EQ(result.end.finish, GenerationEnd::Finish::length);
  }
}

TEST(BatchScheduler, WhoElseIsInTheBatchChangesNoBit) {
  for (const ModelConfig& config : configs()) {
    Served served(config, {.threads = 2, .max_batch = 5});
    std::vector<GenerationRequest> requests;
    for (uint64_t i = 0; i < 24; ++i) {
      requests.push_back(served.request(std::string(i * i, static_cast<char>('a' + i)),
                                        5 + static_cast<int64_t>(i * 3 % 20), i));
      requests.back().score = i % 3 == 0;
      requests.back().boundary_every = i % 4 == 0 ? 16 : 0;
    }
    std::vector<Result> alone;
    for (const GenerationRequest& request : requests) alone.push_back(served.run(request));
    std::vector<std::shared_ptr<Collector>> listeners;
    for (const GenerationRequest& request : requests) {
      listeners.push_back(std::make_shared<Collector>());
      served.scheduler->submit(request, listeners.back());
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      const Result together = listeners[i]->wait();
      EXPECT_EQ(together.tokens, alone[i].tokens);
      EXPECT_EQ(together.logprobs, alone[i].logprobs);
      EXPECT_EQ(together.scored, alone[i].scored);
      EXPECT_EQ(together.scored.size(), requests[i].score ? requests[i].tokens.size() : 0);
      EXPECT_EQ(together.end.point, alone[i].end.point);
      EXPECT_EQ(together.boundaries, alone[i].boundaries);
    }
  }
}

TEST(BatchScheduler, GoingOnFromAPointIsOneLongerText) {
  for (const ModelConfig& config : configs()) {
    Served served(config);
    GenerationRequest whole = served.request("It was ", 50);
    whole.ignore_end = true;
    const Result expected = served.run(whole);
    for (const int64_t first : {0, 1, 20}) {
      GenerationRequest part = whole;
      part.max_tokens = first;
      Result begun = served.run(part);
      EXPECT_EQ(begun.end.point.length(), 1 + 7 + static_cast<uint64_t>(first));
      GenerationRequest rest = whole;
      rest.from = begun.end.point;
      rest.tokens.clear();
      rest.max_tokens = 50 - first;
      const Result ended = served.run(rest);
      EXPECT_EQ(begun.text + ended.text, expected.text);
      EXPECT_EQ(ended.end.point, expected.end.point);
    }
  }
}

TEST(BatchScheduler, ScoresAreThoseOfATextStream) {
  Served served;
  GenerationRequest request =
      served.request("The quick brown fox jumps over the lazy dog. " + std::string(300, 'x'), 0);
  request.score = true;
  const Result result = served.run(request);
  ThreadPool pool(1);
  Inference inference(served.model, pool);
  TextStream stream(inference, 0);
  std::vector<double> bits;
  stream.score(request.tokens, bits);
  ASSERT_EQ(result.scored.size(), bits.size());
  for (size_t i = 0; i < bits.size(); ++i) EXPECT_NEAR(-result.scored[i] * kBitsPerNat, bits[i], 1e-5);
}

TEST(BatchScheduler, BoundariesAreStatesOfTheTextSoFar) {
  Served served;
  GenerationRequest request = served.request(std::string(100, 'a') + "bcd", 3);
  request.boundary_every = 32;
  const Result result = served.run(request);
  std::vector<int64_t> at;
  for (const auto& [tokens, point] : result.boundaries) {
    at.push_back(tokens);
    GenerationRequest rest = request;
    rest.from = point;
    rest.tokens.erase(rest.tokens.begin(), rest.tokens.begin() + tokens);
    EXPECT_EQ(served.run(rest).tokens, result.tokens);
  }
  EXPECT_EQ(at, (std::vector<int64_t>{32, 64, 96, 103}));
}

TEST(BatchScheduler, AStopStringEndsTheTextAndIsNotShown) {
  Served served;
  GenerationRequest request = served.request("abc", 200);
  request.ignore_end = true;
  const std::string whole = served.run(request).text;
  ASSERT_GT(whole.size(), 60u);
  size_t begin = 20;
  while ((static_cast<uint8_t>(whole[begin]) & 0xC0) == 0x80) ++begin;
  // A string of the text's own bytes: those of valid characters only, since others were replaced.
  std::string ascii;
  for (const char c : whole.substr(begin)) {
    if (static_cast<uint8_t>(c) >= 0x80 || c == '\n') {
      if (ascii.size() >= 2) break;
      ascii.clear();
    } else if (ascii.size() < 3) {
      ascii += c;
    }
  }
  ASSERT_GE(ascii.size(), 2u);
  request.stop = {"no such text as this", ascii};
  const Result stopped = served.run(request);
  EXPECT_EQ(stopped.end.finish, GenerationEnd::Finish::stop);
  EXPECT_EQ(stopped.text, whole.substr(0, whole.find(ascii)));
}

// A stop string behind a character that is cut is part of the text, and so the character stays cut.
TEST(BatchScheduler, WhereAStopStringEndedATextItStandsAsWhereItWasRead) {
  Served served;
  const Tokenizer& tokenizer = *served.tokenizer;
  bool tried = false;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    GenerationRequest request = served.request("cut \xc3", 1, seed);
    const int32_t next = served.run(request).tokens.at(0);
    const std::string bytes(tokenizer.bytes_of(next));
    if (next == tokenizer.eot() || static_cast<uint8_t>(bytes[0]) >= 0x80) continue;
    tried = true;
    request.stop = {bytes};
    const Result stopped = served.run(request);
    EXPECT_EQ(stopped.end.finish, GenerationEnd::Finish::stop);
    EXPECT_EQ(stopped.text, "\xEF\xBF\xBD");
    request = served.request("cut \xc3" + bytes, 0);
    const TextPoint read = served.run(request).end.point;
    EXPECT_EQ(stopped.end.point.unfinished, read.unfinished);
    EXPECT_EQ(stopped.end.point, read);
  }
  EXPECT_TRUE(tried);
}

TEST(BatchScheduler, ACharacterIsShownWhenItIsWholeEvenWhereThePromptBeganIt) {
  Served served;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Result result = served.run(served.request("caf\xc3", 40, seed));
    EXPECT_TRUE(is_utf8(result.text));
    GenerationRequest more = served.request("", 1);
    more.from = result.end.point;
    EXPECT_TRUE(is_utf8(served.run(more).text));
  }
}

TEST(BatchScheduler, ALongPromptDoesNotHoldUpAShortOne) {
  Served served({.threads = 1, .step_milliseconds = 2});
  const auto slow = std::make_shared<Collector>();
  const auto ticket = served.scheduler->submit(served.request(std::string(3'000'000, 'x'), 1), slow);
  while (served.scheduler->load().tokens_read == 0) std::this_thread::yield();
  served.run(served.request("short", 20));
  EXPECT_LT(served.scheduler->load().tokens_read, 1'500'000);
  ticket.cancel();
  EXPECT_EQ(slow->wait().end.finish, GenerationEnd::Finish::cancelled);
}

TEST(BatchScheduler, ACancelledTextStopsAtAPointThatItCanGoOnFrom) {
  Served served;
  GenerationRequest request = served.request("abc", 100'000'000);
  request.ignore_end = true;
  const auto listener = std::make_shared<Collector>();
  const auto begun = std::make_shared<std::latch>(1);
  listener->tell_first_token(begun);
  const auto ticket = served.scheduler->submit(request, listener);
  begun->wait();
  ticket.cancel();
  const Result cut = listener->wait();
  EXPECT_EQ(cut.end.finish, GenerationEnd::Finish::cancelled);
  request.max_tokens = static_cast<int64_t>(cut.tokens.size()) + 5;
  const Result longer = served.run(request);
  request.from = cut.end.point;
  request.tokens.clear();
  request.max_tokens = 5;
  EXPECT_EQ(cut.text + served.run(request).text, longer.text);
}

TEST(BatchScheduler, ADeadlineEndsATextInTheQueueToo) {
  Served served({.threads = 1, .max_batch = 1});
  const auto first = std::make_shared<Collector>(), second = std::make_shared<Collector>();
  GenerationRequest endless = served.request("first", 1'000'000'000);
  endless.ignore_end = true;
  const auto ticket = served.scheduler->submit(std::move(endless), first);
  GenerationRequest waiting = served.request("second", 1);
  waiting.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  served.scheduler->submit(std::move(waiting), second);
  EXPECT_EQ(second->wait().end.finish, GenerationEnd::Finish::cancelled);
  ticket.cancel();
  EXPECT_EQ(first->wait().end.finish, GenerationEnd::Finish::cancelled);
}

// Of a text whose place another one had before, which remembered more.
TEST(BatchScheduler, NothingOfAnothersTextIsInAState) {
  ModelConfig config = tiny_config(*make_byte_tokenizer());
  config.mixer = {"attention"};
  config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 100};
  Served served(config, {.threads = 1, .max_batch = 2}), fresh(config, {.threads = 1, .max_batch = 2});
  served.run(served.request(std::string(90, 'x'), 5));
  const auto one = std::make_shared<Collector>(), two = std::make_shared<Collector>();
  GenerationRequest shorter = served.request("shorter", 3);
  shorter.ignore_end = true;
  served.scheduler->submit(served.request(std::string(80, 'y'), 5), one);  // ends first or last: both move
  served.scheduler->submit(std::move(shorter), two);
  one->wait();
  GenerationRequest again = fresh.request("shorter", 3);
  again.ignore_end = true;
  EXPECT_EQ(two->wait().end.point, fresh.run(std::move(again)).end.point);
}

// The fast level moves with every token, the slowest with every sixteenth.
TEST(LevelActivity, ShowsEachLevelWhereATokenIsChosen) {
  class Pictures : public Collector {
   public:
    void on_token(const TokenReport& token) override {
      seen.push_back(token.activity);
      Collector::on_token(token);
    }
    std::vector<std::string> seen;
  };
  Served served;
  const auto pictures = std::make_shared<Pictures>();
  GenerationRequest request = served.request("a", 48);
  request.activity = request.ignore_end = true;
  request.sampling.temperature = 0;
  served.scheduler->submit(std::move(request), pictures);
  pictures->wait();
  const LevelActivity activity(served.model.state_layout());
  ASSERT_EQ(activity.levels(), 3);
  int changes[3] = {};
  for (size_t i = 0; i < pictures->seen.size(); ++i) {
    ASSERT_EQ(pictures->seen[i].size(), static_cast<size_t>(3 * 2 * LevelActivity::kCells));
    for (size_t level = 0; i > 0 && level < 3; ++level)
      changes[level] +=
          pictures->seen[i].substr(32 * level, 32) != pictures->seen[i - 1].substr(32 * level, 32);
  }
  EXPECT_GT(changes[0], changes[1]);
  EXPECT_GT(changes[1], changes[2]);
  EXPECT_GT(changes[2], 0);
  ModelConfig config = tiny_config(*make_byte_tokenizer());
  config.mixer = {"attention"};
  config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 100};
  EXPECT_EQ(LevelActivity(Model(config, cpu_backend(), false).state_layout()).levels(), 0);
}

TEST(BatchScheduler, TextsThatAttentionCannotRememberAreRefusedOrEndWhenItIsFull) {
  ModelConfig config = tiny_config(*make_byte_tokenizer());
  config.mixer = {"attention"};
  config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 32};
  Served served(config);
  EXPECT_THROW(served.run(served.request(std::string(33, 'a'), 1)), Error);
  GenerationRequest request = served.request("abc", 100);
  request.ignore_end = false;
  const Result result = served.run(request);
  EXPECT_LE(result.tokens.size(), 29u);
  EXPECT_EQ(served.run(served.request(std::string(32, 'a'), 5)).tokens.size(), 0u);
}

TEST(BatchScheduler, TokensOutsideTheVocabularyAreRefused) {
  Served served;
  GenerationRequest request = served.request("abc", 1);
  request.tokens.push_back(256);
  EXPECT_THROW(served.run(request), Error);
  request.tokens.back() = -1;
  EXPECT_THROW(served.run(request), Error);
}

TEST(BatchScheduler, AModelWhoseLogitsAreNotFiniteFailsTheRequestAndNotTheProgram) {
  Served served;
  Parameter* embedding = served.model.parameters().find("embed.weight");
  embedding->value.row<float>('c')[0] = std::numeric_limits<float>::quiet_NaN();
  const Result result = served.run(served.request("abc", 5));
  EXPECT_EQ(result.end.finish, GenerationEnd::Finish::failed);
  EXPECT_NE(result.end.error.find("not finite"), std::string::npos);
}

TEST(TextPoint, SurvivesItsBytesAndRefusesOthers) {
  Served served;
  Result result = served.run(served.request("caf\xc3", 0));
  const TextPoint& point = result.end.point;
  EXPECT_EQ(point.unfinished, "\xc3");
  const std::string bytes = encode_point(point);
  EXPECT_EQ(decode_point(served.model, bytes, "x"), point);
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW(decode_point(served.model, bytes.substr(0, size), "x"), Error);
  EXPECT_THROW(decode_point(served.model, bytes + 'x', "x"), Error);
  TextPoint broken = point;
  broken.pending = 256;
  EXPECT_THROW(decode_point(served.model, encode_point(broken), "x"), Error);
  broken = point;
  broken.unfinished = "a";
  EXPECT_THROW(decode_point(served.model, encode_point(broken), "x"), Error);
  broken = point;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(static_cast<char*>(broken.state.data()) + 16, &nan, 4);
  EXPECT_THROW(decode_point(served.model, encode_point(broken), "x"), Error);
}

}  // namespace
}  // namespace harmonic
