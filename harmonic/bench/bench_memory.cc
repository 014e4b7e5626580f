#include "harmonic/bench/bench_memory.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "harmonic/base/log.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/bench/measurement.h"
#include "harmonic/train/backpropagation.h"

namespace harmonic {
namespace {

struct Case {
  int64_t length, vocabulary, d_model;
};

Case case_of(const std::string& text) {
  const size_t first = text.find(':'), second = text.find(':', first + 1);
  if (first == text.npos || second == text.npos)
    fail_usage("--cases: \"{}\": expected TOKENS:VOCABULARY:D_MODEL, as in 64K:50257:256", text);
  const auto number = [&](size_t begin, size_t end) {
    try {
      return parse_quantity(text.substr(begin, end - begin));
    } catch (const Error& error) {
      fail_usage("--cases: \"{}\": {}", text, error.what());
    }
  };
  const Case c = {number(0, first), number(first + 1, second), number(second + 1, text.size())};
  if (c.length < 1 || c.vocabulary < 2 || c.d_model < 1)
    fail_usage("--cases: \"{}\": expected at least one token, a vocabulary of 2 and a width of 1", text);
  return c;
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
  const pid_t child = ::fork();
  if (child < 0) fail("no process could be started for the benchmark");
  if (child == 0) {
    ::close(ends[0]);
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
  const ssize_t got = ::read(ends[0], &outcome, sizeof outcome);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (status != 0 || got != sizeof outcome)
    fail(
        "a step of the benchmark did not end well: {}; perhaps the memory did not suffice",
        WIFSIGNALED(status) ? fmt::format("killed by signal {}", WTERMSIG(status)) : "see the message above");
  return outcome;
}

}  // namespace

BenchReport bench_memory(const MemoryBench& options) {
  BenchReport report;
  report.name = "memory";
  report.columns = {{"T", 0},        {"vocabulary", 0}, {"d_model", 0}, {"peak MB", 1},   {"weights MB", 1},
                    {"tokens/s", 0}, {"seconds", 2},    {"chunk", 0},   {"loss, nats", 4}};
  report.remarks = {
      fmt::format("{}; one step of exact gradients, {} MB for activations; peak is the whole process's, "
                  "weights and their gradients included",
                  options.mixer, options.memory_mb)};
  std::vector<Case> cases;
  for (const std::string& text : options.cases) cases.push_back(case_of(text));
  {
    // Its threads end here, and its memory goes: children start from a small process of one thread.
    ThreadPool pool(options.threads);
    const Case& first = cases.front();
    report.checks = {check_length(
        bench_config(options.mixer, first.d_model, std::min<int64_t>(first.vocabulary, 2048), first.length),
        pool)};
    report.machine = measure_machine(pool);
  }
  for (const Case& c : cases) {
    const ModelConfig config = bench_config(options.mixer, c.d_model, c.vocabulary, c.length);
    progress(fmt::format("bench memory: T {}, vocabulary {}, d_model {}", c.length, c.vocabulary, c.d_model));
    const Outcome o = in_own_process([&] { return one_step(config, c.length, options); });
    report.rows.push_back({static_cast<double>(c.length), static_cast<double>(c.vocabulary),
                           static_cast<double>(c.d_model), static_cast<double>(o.peak_bytes) * 1e-6,
                           o.weights_bytes * 1e-6, static_cast<double>(c.length) / o.seconds, o.seconds,
                           static_cast<double>(o.chunk), o.nats / static_cast<double>(c.length)});
  }
  end_progress();
  return report;
}

}  // namespace harmonic
