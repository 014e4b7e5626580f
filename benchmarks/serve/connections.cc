// Many clients at once: those that wait, and those that read streams.
#include <atomic>
#include <thread>

#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/load_client.h"
#include "benchmarks/serve/parts.h"

namespace harmonic {

namespace asio = boost::asio;

namespace {

constexpr int64_t kConnectedAtOnce = 200;

// Asks /health on a thread of its own, whatever else the load does.
class HealthProbe {
 public:
  explicit HealthProbe(int port) : thread_([this, port] { run(port); }) {}
  ~HealthProbe() { end(); }
  // Seconds that each answer took. Throws Error when one was wrong.
  std::vector<double> end() {
    ended_ = true;
    if (thread_.joinable()) thread_.join();
    if (!error_.empty()) fail("/health: {}", error_);
    return seconds_;
  }

 private:
  void run(int port) {
    try {
      Load load;
      load.start(ask(load.loop(), port));
      load.run();
    } catch (const std::exception& error) {
      error_ = error.what();
    }
  }
  asio::awaitable<void> ask(asio::io_context& loop, int port) {
    LoadClient client(loop);
    co_await client.connect(port);
    while (!ended_) {
      const Answer answer = co_await client.ask(get_request("/health"));
      if (answer.status != 200) fail("status {}", answer.status);
      seconds_.push_back(answer.to_end);
      co_await pause(0.002);
    }
  }

  std::atomic<bool> ended_{false};
  std::vector<double> seconds_;
  std::string error_;
  std::thread thread_;  // the last: it uses the others
};

struct Counts {
  int64_t open = 0, answers = 0, tokens = 0, failures = 0;
  std::string first_failure;

  void add_failure(const std::string& why) {
    if (failures++ == 0) first_failure = why;
  }
};

asio::awaitable<void> open_some(std::vector<std::unique_ptr<LoadClient>>& clients, int64_t first, int port,
                                Counts& counts) {
  for (size_t i = static_cast<size_t>(first); i < clients.size(); i += kConnectedAtOnce) {
    try {
      co_await clients[i]->connect(port, address_of(static_cast<int64_t>(i)));
      ++counts.open;
    } catch (const std::exception& error) {
      counts.add_failure(error.what());
    }
  }
}

asio::awaitable<void> check_open(LoadClient& client, Counts& counts) {
  try {
    const Answer answer = co_await client.ask(get_request("/health"));
    answer.status == 200 ? ++counts.answers : throw std::runtime_error("another status than 200");
  } catch (const std::exception& error) {
    counts.add_failure(error.what());
  }
}

asio::awaitable<void> read_streams(asio::io_context& loop, int port, int64_t number, Clock::time_point end,
                                   Counts& counts) {
  try {
    LoadClient client(loop);
    co_await client.connect(port, address_of(number));
    for (uint64_t seed = 1; Clock::now() < end; ++seed) {
      const std::string request =
          post_request("/v1/completions", {{"prompt", fmt::format("{} of {}", seed, number)},
                                           {"max_tokens", 100},
                                           {"seed", seed},
                                           {"ignore_end", true},
                                           {"stream", true}});
      std::string tail;
      const Answer answer = co_await client.ask(request, [&](std::string_view piece) {
        ++counts.tokens;
        tail = piece.substr(piece.size() - std::min<size_t>(piece.size(), 14));
      });
      if (answer.status != 200 || tail != "data: [DONE]\n\n")
        fail("status {}, the stream's end is \"{}\"", answer.status, tail);
      ++counts.answers;
    }
  } catch (const std::exception& error) {
    counts.add_failure(error.what());
  }
}

}  // namespace

void run_connections(const LoadOptions& options, int64_t connections, int64_t streams) {
  const int port = static_cast<int>(options.port);
  HealthProbe probe(port);
  Counts idle, reading, after;
  Load load;
  std::vector<std::unique_ptr<LoadClient>> clients;
  for (int64_t i = 0; i < connections; ++i) clients.push_back(std::make_unique<LoadClient>(load.loop()));
  for (int64_t i = 0; i < std::min(connections, kConnectedAtOnce); ++i)
    load.start(open_some(clients, i, port, idle));
  load.run();
  const int64_t memory = options.pid > 0 ? use_of_process(static_cast<int>(options.pid)).resident : 0;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(options.seconds));
  for (int64_t i = 0; i < streams; ++i) load.start(read_streams(load.loop(), port, i, end, reading));
  load.run();
  for (const auto& client : clients) load.start(check_open(*client, after));
  load.run();
  const std::vector<double> health = probe.end();
  for (const Counts* counts : {&idle, &reading, &after})
    if (counts->failures > 0)
      fail("{} clients failed, the first: {}", counts->failures, counts->first_failure);
  if (after.answers != connections) fail("{} of {} connections were still open", after.answers, connections);
  show(fmt::format("{} open connections from {} addresses and {} streams at once", connections,
                   std::min(connections, kAddresses), streams),
       "no error",
       fmt::format("none in {} answers; resident {} MB with the connections", reading.answers, memory >> 20),
       Verdict::holds);
  const double p99 = quantile(health, 0.99);
  show("/health beside them, p99", "10 ms",
       fmt::format("{} (median {}, longest {}, {} asked)", milliseconds(p99),
                   milliseconds(quantile(health, 0.5)), milliseconds(quantile(health, 1)), health.size()),
       verdict(p99 < 0.010));
}

}  // namespace harmonic
