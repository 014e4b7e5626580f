// The queue of a scheduler, and how clients share it and the batch.
#include "tests/batch_scheduler_fixture.h"

namespace harmonic {
namespace {

TEST(BatchScheduler, ARequestBeyondTheQueueIsRefused) {
  Served served({.threads = 1, .max_batch = 1, .max_waiting = 2});
  GenerationRequest request = served.request("abc", 100'000'000);
  request.ignore_end = true;
  std::vector<std::shared_ptr<Collector>> listeners;
  std::vector<BatchScheduler::Ticket> tickets;
  const auto submit = [&] {
    listeners.push_back(std::make_shared<Collector>());
    tickets.push_back(served.scheduler->submit(request, listeners.back()));
  };
  submit();
  while (served.scheduler->load().waiting > 0) std::this_thread::yield();
  submit();
  submit();
  EXPECT_THROW(submit(), BatchScheduler::QueueFull);
  // One that is cancelled while it waits leaves the queue though nobody else has ended.
  tickets[1].cancel();
  EXPECT_EQ(listeners[1]->wait().end.finish, GenerationEnd::Finish::cancelled);
  listeners.pop_back();
  submit();
  served.scheduler.reset();
  for (const size_t i : {0, 2, 3})
    EXPECT_EQ(listeners[i]->wait().end.finish, GenerationEnd::Finish::cancelled);
}

TEST(BatchScheduler, WithoutAQueueAsManyAreTakenAsTheBatchHolds) {
  Served served({.threads = 1, .max_batch = 2, .max_waiting = 0});
  GenerationRequest request = served.request("abc", 100'000'000);
  request.ignore_end = true;
  const auto one = std::make_shared<Collector>(), two = std::make_shared<Collector>();
  served.scheduler->submit(request, one);
  served.scheduler->submit(request, two);
  EXPECT_THROW(served.scheduler->submit(request, two), BatchScheduler::QueueFull);
  served.scheduler.reset();
  EXPECT_EQ(one->wait().end.finish, GenerationEnd::Finish::cancelled);
  EXPECT_EQ(two->wait().end.finish, GenerationEnd::Finish::cancelled);
}

TEST(BatchScheduler, AClientWithManyLongTextsHoldsUpNobodyElse) {
  Served served({.threads = 1, .max_batch = 4, .max_waiting = 32});
  GenerationRequest request = served.request("greedy", 100'000'000);
  request.ignore_end = true;
  request.client = "greedy";
  const auto listener = [] { return std::make_shared<Collector>(); };
  std::vector<std::shared_ptr<Collector>> greedy;
  // The last quarter of the queue is not theirs.
  for (;;) {
    try {
      served.scheduler->submit(request, greedy.emplace_back(listener()));
    } catch (const BatchScheduler::QueueFull&) {
      greedy.pop_back();
      break;
    }
  }
  EXPECT_EQ(greedy.size(), 4u + 24u);
  std::vector<std::shared_ptr<Collector>> others;
  for (const char* client : {"one", "two", "three"}) {
    GenerationRequest other = served.request("short", 20);
    other.client = client;
    served.scheduler->submit(other, others.emplace_back(listener()));
  }
  const Result alone = served.run([&] {
    GenerationRequest other = served.request("short", 20);
    other.client = "four";
    return other;
  }());
  for (const auto& other : others) {
    const Result result = other->wait();
    EXPECT_EQ(result.end.finish, alone.end.finish);
    EXPECT_EQ(result.tokens, alone.tokens);
  }
  served.scheduler.reset();
  for (const auto& one : greedy) EXPECT_EQ(one->wait().end.finish, GenerationEnd::Finish::cancelled);
}

TEST(BatchScheduler, ATextThatGaveUpItsPlaceGoesOnToTheSameBits) {
  for (const ModelConfig& config : configs()) {
    Served served(config, {.threads = 1, .max_batch = 2, .max_waiting = 64});
    std::vector<GenerationRequest> requests;
    std::vector<std::shared_ptr<Collector>> listeners;
    for (int i = 0; i < 12; ++i) {
      GenerationRequest request =
          served.request(i % 2 ? "odd \xc3" : std::string(60, 'e'), 8 + i % 5, static_cast<uint64_t>(i));
      request.ignore_end = true;
      request.client = i < 6 ? "a" : i < 9 ? "b" : "c";
      requests.push_back(request);
      listeners.push_back(std::make_shared<Collector>());
      served.scheduler->submit(request, listeners.back());
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      const Result result = listeners[i]->wait(),
                   expected = expected_of(served.model, *served.tokenizer, requests[i]);
      EXPECT_EQ(result.tokens, expected.tokens) << i;
      EXPECT_EQ(result.logprobs, expected.logprobs) << i;
    }
    EXPECT_EQ(served.scheduler->load().waiting, 0);
  }
}

}  // namespace
}  // namespace harmonic
