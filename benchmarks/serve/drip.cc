// Honest clients beside thousands that send a byte a second.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <thread>
#include <unordered_map>

#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/load_client.h"
#include "benchmarks/serve/parts.h"

namespace harmonic {

namespace asio = boost::asio;

namespace {

// After which the server throws out who has not sent a head (--header-seconds).
constexpr double kHeaderSeconds = 10;

// What the clients that drip cost by themselves, on the same processors: in place of the server, a process
// that takes their connections, reads what comes, and ends each when the server would.
class Sink {
 public:
  Sink() {
    listening_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* name = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listening_, name, size) != 0 || ::listen(listening_, 4096) != 0 ||
        ::getsockname(listening_, name, &size) != 0)
      fail("a port of 127.0.0.1 cannot be had");
    port_ = ntohs(address.sin_port);
    child_ = ::fork();
    if (child_ < 0) fail("a process cannot be had");
    if (child_ == 0) run();
    ::close(listening_);
  }
  ~Sink() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  int port() const { return port_; }

 private:
  [[noreturn]] void run() const {
    std::unordered_map<int, Clock::time_point> since;
    const int poll = ::epoll_create1(EPOLL_CLOEXEC);
    const auto watch = [poll](int file) {
      epoll_event event = {};
      event.events = EPOLLIN;
      event.data.fd = file;
      ::epoll_ctl(poll, EPOLL_CTL_ADD, file, &event);
    };
    watch(listening_);
    for (;;) {
      epoll_event events[128];
      const int count = ::epoll_wait(poll, events, 128, -1);
      for (int i = 0; i < count; ++i) {
        const int file = events[i].data.fd;
        char bytes[2048];
        if (file == listening_) {
          const int client = ::accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
          if (client < 0) continue;
          since[client] = Clock::now();
          watch(client);
        } else if (::recv(file, bytes, sizeof bytes, 0) <= 0 || seconds_since(since[file]) > kHeaderSeconds) {
          ::close(file);
        }
      }
    }
  }

  int listening_, port_ = 0;
  pid_t child_ = -1;
};

// They begin one after the other, as strangers do, so that about the same comes in every moment.
asio::awaitable<void> drip(asio::io_context& loop, int port, int64_t number, double first,
                           const bool& ended) {
  const std::string request = get_request("/v1/models");
  co_await pause(first);
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

// The same beside so many clients that drip at a port.
std::vector<double> honest_seconds_beside(int64_t clients, int drip_port, int port, double seconds) {
  bool ended = false;
  Load load;
  for (int64_t i = 0; i < clients; ++i)
    load.start(drip(load.loop(), drip_port, i,
                    kHeaderSeconds * static_cast<double>(i) / static_cast<double>(clients), ended));
  std::vector<double> taken;
  std::exception_ptr failure;
  std::thread honest([&] {
    try {
      // All have come by then, and the first ones come again.
      std::this_thread::sleep_for(std::chrono::duration<double>(kHeaderSeconds + 1));
      taken = honest_seconds(port, seconds);
    } catch (...) {
      failure = std::current_exception();
    }
    asio::post(load.loop(), [&] { ended = true; });
  });
  load.run();
  honest.join();
  if (failure) std::rethrow_exception(failure);
  return taken;
}

}  // namespace

// In turns, so that what else the machine does meets all three alike; the median of each, for a single p99
// may be that of one bad moment.
void run_drip(const LoadOptions& options, int64_t clients) {
  constexpr int kTurns = 5;
  const int port = static_cast<int>(options.port);
  const Sink sink;            // before threads
  honest_seconds(port, 0.2);  // the server is warm
  std::vector<double> alone, beside_sink, beside;
  const auto add_p99 = [](std::vector<double>& to, const std::vector<double>& seconds) {
    to.push_back(quantile(seconds, 0.99));
  };
  for (int turn = 0; turn < kTurns; ++turn) {
    add_p99(alone, honest_seconds(port, options.seconds / 2));
    add_p99(beside_sink, honest_seconds_beside(clients, sink.port(), port, options.seconds));
    add_p99(beside, honest_seconds_beside(clients, port, port, options.seconds));
  }
  const auto shown = [](const std::vector<double>& p99) {
    return fmt::format("{} ({} to {})", milliseconds(quantile(p99, 0.5)), milliseconds(quantile(p99, 0)),
                       milliseconds(quantile(p99, 1)));
  };
  const double ratio = quantile(beside, 0.5) / quantile(beside_sink, 0.5);
  show(fmt::format("{} clients that drip a byte a second: p99 of honest requests", clients),
       "unchanged within 20 %",
       fmt::format("{} where they drip at the server, {} where at a process on the same machine that only "
                   "reads: {:+.0f} %; {} without them (medians of {} turns, least and most)",
                   shown(beside), shown(beside_sink), 100 * (ratio - 1), shown(alone), kTurns),
       verdict(ratio <= 1.2));
}

}  // namespace harmonic
