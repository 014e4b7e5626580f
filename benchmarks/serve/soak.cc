// Everything at once for a while, and what it leaves behind.
#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/load_client.h"
#include "benchmarks/serve/parts.h"

namespace harmonic {

namespace asio = boost::asio;

namespace {

struct Soak {
  int port = 0;
  Clock::time_point end;
  int64_t answers = 0, broken_off = 0;
  bool over() const { return Clock::now() >= end; }
};

asio::awaitable<void> use_streams(asio::io_context& loop, Soak& soak, int64_t number) {
  for (int64_t i = 0; !soak.over(); ++i) {
    LoadClient client(loop);
    co_await client.connect(soak.port, static_cast<uint32_t>(6 << 16 | (number + 1)));
    const Json body = {{"prompt", fmt::format("soak {} {}", number, i)},
                       {"max_tokens", 20 + i % 100},
                       {"n", 1 + i % 3},
                       {"stream", true},
                       {"ignore_end", true}};
    const Answer answer = co_await client.ask(post_request("/v1/completions", body), [](std::string_view) {});
    if (answer.status != 200) fail("a stream was answered {}", answer.status);
    ++soak.answers;
  }
}

// Clients that go away in the middle.
asio::awaitable<void> break_off(asio::io_context& loop, Soak& soak, int64_t number) {
  while (!soak.over()) {
    LoadClient client(loop);
    co_await client.connect(soak.port, static_cast<uint32_t>(7 << 16 | (number + 1)));
    const Json body = {
        {"prompt", "never read"}, {"max_tokens", 5000}, {"stream", true}, {"ignore_end", true}};
    co_await client.send(post_request("/v1/completions", body));
    co_await pause(0.05);
    client.close();
    ++soak.broken_off;
  }
}

asio::awaitable<void> use_sessions(asio::io_context& loop, Soak& soak, int64_t number) {
  LoadClient client(loop);
  co_await client.connect(soak.port, static_cast<uint32_t>(8 << 16 | (number + 1)));
  const auto ask = [&](std::string path, Json body) -> asio::awaitable<Json> {
    const Answer answer = co_await client.ask(post_request(path, body));
    if (answer.status != 200) fail("{} was answered {}: {}", path, answer.status, answer.body);
    ++soak.answers;
    co_return parse_json(answer.body, "an answer");
  };
  while (!soak.over()) {
    const Json made = co_await ask("/v1/sessions", Json::object());
    const std::string path = "/v1/sessions/" + made.at("id").get<std::string>();
    Json body = {{"prompt", "A session"}, {"max_tokens", 20}};
    co_await ask(path + "/generate", body);
    body = {{"name", "here"}};
    co_await ask(path + "/checkpoint", body);
    body = {{"n", 3}};
    const Json forks = co_await ask(path + "/fork", body);
    body = {{"text", "How surprising is this?"}, {"by", "token"}};
    co_await ask("/v1/score", body);
    std::vector<std::string> ids = {made.at("id").get<std::string>()};
    for (const Json& fork : forks.at("data")) ids.push_back(fork.at("id").get<std::string>());
    for (const std::string& id : ids) {
      const Answer answer =
          co_await client.ask(fmt::format("DELETE /v1/sessions/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", id));
      if (answer.status != 200) fail("a session could not be deleted: {}", answer.body);
    }
  }
}

asio::awaitable<void> watch(Soak& soak, int pid, double seconds, std::vector<ProcessUse>& seen) {
  while (!soak.over()) {
    seen.push_back(use_of_process(pid));
    co_await pause(seconds / 100);
  }
}

}  // namespace

void run_soak(const LoadOptions& options) {
  Soak soak{static_cast<int>(options.port), {}, 0, 0};
  const int pid = static_cast<int>(options.pid);
  ask_once(soak.port, get_request("/health"));
  const ProcessUse before = use_of_process(pid);
  soak.end = Clock::now() +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  std::vector<ProcessUse> seen;
  Load load;
  for (int64_t i = 0; i < 32; ++i) load.start(use_streams(load.loop(), soak, i));
  for (int64_t i = 0; i < 8; ++i) load.start(break_off(load.loop(), soak, i));
  for (int64_t i = 0; i < 8; ++i) load.start(use_sessions(load.loop(), soak, i));
  load.start(watch(soak, pid, options.seconds, seen));
  load.run();
  // The last connections end in a moment.
  ProcessUse after = use_of_process(pid);
  for (int i = 0; i < 100 && after.descriptors > before.descriptors; ++i) {
    load.start(pause(0.1));
    load.run();
    after = use_of_process(pid);
  }
  // The first third fills caches and pools.
  const auto most = [&](size_t from, size_t to) {
    int64_t bytes = 0;
    for (size_t i = from; i < to; ++i) bytes = std::max(bytes, seen[i].resident);
    return static_cast<double>(bytes);
  };
  const size_t third = seen.size() / 3;
  const double early = most(0, 2 * third), late = most(2 * third, seen.size());
  show(fmt::format(
           "{:.1f} minutes of everything ({} answers, {} broken off): resident memory of the last third "
           "over that before",
           options.seconds / 60, soak.answers, soak.broken_off),
       "flat",
       fmt::format("{:.3f}x ({:.0f} MB, {:.0f} MB before the load)", late / early, late / 1e6,
                   static_cast<double>(before.resident) / 1e6),
       verdict(late <= 1.02 * early));
  show("descriptors after it, and before", "the same",
       fmt::format("{} and {}", after.descriptors, before.descriptors),
       verdict(after.descriptors <= before.descriptors));
}

}  // namespace harmonic
