// Many clients at once: those that wait, those that read streams, and those that mean no good.
#include <atomic>
#include <thread>

#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/load_client.h"
#include "benchmarks/serve/parts.h"

namespace harmonic {

namespace asio = boost::asio;

namespace {

constexpr int64_t kConnectedAtOnce = 200;
constexpr int64_t kAddresses = 2500;  // that they come from

// 127.1.x.y
uint32_t address_of(int64_t client) {
  const auto number = static_cast<uint32_t>(client % kAddresses);
  return (1u << 16) + ((number / 250) << 8) + number % 250 + 1;
}

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

namespace {

asio::awaitable<void> drip(asio::io_context& loop, int port, int64_t number, const bool& ended) {
  const std::string request = get_request("/v1/models");
  while (!ended) {
    LoadClient client(loop);
    try {
      co_await client.connect(port, address_of(number));
      for (size_t i = 0; i < request.size() && !ended; ++i) {
        co_await client.send(request.substr(i, 1));
        co_await pause(1);
      }
    } catch (const boost::system::system_error&) {  // thrown out, as it should be: it comes again
    }
    if (!ended) co_await pause(0.1);
  }
}

// One after the other, from four clients: seconds of each.
asio::awaitable<void> ask_honestly(asio::io_context& loop, int port, uint32_t from, Clock::time_point end,
                                   std::vector<double>& seconds) {
  LoadClient client(loop);
  co_await client.connect(port, from);
  for (uint64_t seed = 1; Clock::now() < end; ++seed) {
    const Json body = {
        {"prompt", "An honest question"}, {"max_tokens", 16}, {"seed", seed}, {"ignore_end", true}};
    const Answer answer = co_await client.ask(post_request("/v1/completions", body));
    if (answer.status != 200) fail("an honest request was answered {}: {}", answer.status, answer.body);
    seconds.push_back(answer.to_end);
  }
}

std::vector<double> honest_seconds(int port, double seconds) {
  Load load;
  std::vector<double> taken;
  const auto end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (uint32_t i = 2; i < 6; ++i) load.start(ask_honestly(load.loop(), port, i, end, taken));
  load.run();
  return taken;
}

}  // namespace

void run_drip(const LoadOptions& options, int64_t clients) {
  const int port = static_cast<int>(options.port);
  honest_seconds(port, 0.2);  // the server is warm
  std::vector<double> without = honest_seconds(port, options.seconds / 2);
  bool ended = false;
  Load load;
  for (int64_t i = 0; i < clients; ++i) load.start(drip(load.loop(), port, i, ended));
  // They come first, and stay until the honest ones have what they need.
  std::vector<double> with;
  std::exception_ptr failure;
  std::thread honest([&] {
    try {
      std::this_thread::sleep_for(std::chrono::seconds(2));
      with = honest_seconds(port, options.seconds);
    } catch (...) {
      failure = std::current_exception();
    }
    asio::post(load.loop(), [&] { ended = true; });
  });
  load.run();
  honest.join();
  if (failure) std::rethrow_exception(failure);
  const std::vector<double> again = honest_seconds(port, options.seconds / 2);
  without.insert(without.end(), again.begin(), again.end());
  const double before = quantile(without, 0.99), beside = quantile(with, 0.99);
  show(fmt::format("{} clients that drip a byte a second: p99 of honest requests", clients),
       "unchanged within 20 %",
       fmt::format("{} beside them, {} without: {:+.0f} % ({} and {} requests; medians {} and {})",
                   milliseconds(beside), milliseconds(before), 100 * (beside / before - 1), with.size(),
                   without.size(), milliseconds(quantile(with, 0.5)), milliseconds(quantile(without, 0.5))),
       verdict(beside <= 1.2 * before));
}

}  // namespace harmonic
