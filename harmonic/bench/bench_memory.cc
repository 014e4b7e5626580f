#include "harmonic/bench/bench_memory.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "harmonic/base/log.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/bench/measurement.h"
#include "harmonic/train/backpropagation.h"

namespace harmonic {
namespace {

struct Case {
  int64_t length;
  ModelConfig config;
};

Case case_of(const std::string& text, const std::string& mixer) {
  const size_t first = text.find(':'), second = text.find(':', first + 1);
  if (first == text.npos || second == text.npos)
    fail_usage("--cases: \"{}\": expected TOKENS:VOCABULARY:D_MODEL, as in 64K:50257:256", text);
  const auto number = [&](size_t begin, size_t end) {
    return parse_quantity(text.substr(begin, end - begin));
  };
  try {
    const int64_t length = number(0, first), vocabulary = number(first + 1, second),
                  d_model = number(second + 1, text.size());
    if (length < 1 || vocabulary < 2) fail_usage("expected at least one token and a vocabulary of 2");
    return {length, bench_config(mixer, d_model, vocabulary, length)};
  } catch (const Error& error) {
    fail_usage("--cases: \"{}\": {}", text, error.what());
  }
}

// What a child tells its parent.
struct Outcome {
  double seconds = 0, nats = 0, weights_bytes = 0;
  int64_t chunk = 0, peak_bytes = 0;
};

Outcome one_step(const ModelConfig& config, int64_t length, const MemoryBench& options) {
  ThreadPool pool(options.threads);
  Model model(config, cpu_backend(), true);
  model.parameters().initialise(1);
  Backpropagation backpropagation(model, pool, options.memory_mb << 20);
  const Batch batch = random_batch(1, length, config.vocab_size);
  Outcome outcome;
  outcome.seconds = seconds_of(
      [&] { outcome.nats = backpropagation.run(batch, {}, 1 / static_cast<double>(length)).nats; });
  outcome.chunk = std::min(backpropagation.chunk_rows(), length);
  outcome.weights_bytes = 8.0 * static_cast<double>(model.parameters().count());
  struct rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  outcome.peak_bytes = int64_t{usage.ru_maxrss} * 1024;
  return outcome;
}

// Runs body() in a child and returns what it came to.
template <typename Body>
Outcome in_own_process(const Body& body) {
  int ends[2];
  if (::pipe(ends) != 0) fail("no pipe could be made for a process of the benchmark");
  std::fflush(nullptr);
  const pid_t parent = ::getpid(), child = ::fork();
  if (child < 0) fail("no process could be started for the benchmark");
  if (child == 0) {
    ::close(ends[0]);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);  // it had ended before that
    int status = 1;
    try {
      const Outcome outcome = body();
      status = ::write(ends[1], &outcome, sizeof outcome) == sizeof outcome ? 0 : 1;
    } catch (const std::exception& error) {
      warn("{}", error.what());
    }
    ::_exit(status);
  }
  ::close(ends[1]);
  Outcome outcome;
  ssize_t got;
  while ((got = ::read(ends[0], &outcome, sizeof outcome)) < 0 && errno == EINTR) continue;
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (status != 0 || got != sizeof outcome)
    fail(
        "a step of the benchmark did not end well: {}; perhaps the memory did not suffice",
        WIFSIGNALED(status) ? fmt::format("killed by signal {}", WTERMSIG(status)) : "see the message above");
  return outcome;
}

}  // namespace

BenchReport bench_memory(const MemoryBench& options) {
  HARMONIC_ASSERT(!options.cases.empty());
  BenchReport report;
  report.name = "memory";
  report.columns = {{"T", 0},        {"vocabulary", 0}, {"d_model", 0}, {"peak MB", 1},   {"weights MB", 1},
                    {"tokens/s", 0}, {"seconds", 2},    {"chunk", 0},   {"loss, nats", 4}};
  report.remarks = {
      fmt::format("{}; one step of exact gradients, {} MB for activations; peak is the whole process's, "
                  "weights and their gradients included",
                  options.mixer, options.memory_mb)};
  std::vector<Case> cases;
  for (const std::string& text : options.cases) cases.push_back(case_of(text, options.mixer));
  {
    // Its threads end here, and its memory goes: children start from a small process of one thread.
    ThreadPool pool(options.threads);
    ModelConfig first = cases.front().config;
    first.vocab_size = std::min<int64_t>(first.vocab_size, 2048);
    report.checks = {check_length(first, pool)};
    report.machine = measure_machine(pool);
  }
  for (const auto& [length, config] : cases) {
    const auto T = static_cast<double>(length);
    progress(fmt::format("bench memory: T {}, vocabulary {}, d_model {}", length, config.vocab_size,
                         config.d_model));
    const Outcome o = in_own_process([&] { return one_step(config, length, options); });
    report.rows.push_back({T, static_cast<double>(config.vocab_size), static_cast<double>(config.d_model),
                           static_cast<double>(o.peak_bytes) * 1e-6, o.weights_bytes * 1e-6, T / o.seconds,
                           o.seconds, static_cast<double>(o.chunk), o.nats / T});
  }
  end_progress();
  return report;
}

}  // namespace harmonic
