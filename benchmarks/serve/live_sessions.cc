// Very many sessions: what they take, how fast they fork, how soon they go on.
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/load_client.h"
#include "benchmarks/serve/parts.h"
#include "harmonic/base/random.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/runtime/sessions.h"

namespace harmonic {

ProcessUse use_of_process(int pid) {
  const std::string folder = "/proc/" + std::to_string(pid);
  std::ifstream file(folder + "/statm");
  int64_t pages = 0, resident = 0;
  if (!(file >> pages >> resident)) fail("process {}: is not there", pid);
  ProcessUse use;
  use.resident = resident * ::sysconf(_SC_PAGESIZE);
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder + "/fd"))
    ++use.descriptors;
  return use;
}

namespace {

// States that no two sessions share, of numbers that a state may hold.
TextPoint point_of(const Model& model, int64_t number) {
  TextPoint point = beginning_of_text(model);
  const auto size = static_cast<size_t>(point.state.bytes() / 4);
  std::vector<float> numbers(size, static_cast<float>(number) / 1024.0f);
  numbers[0] = numbers[1] = 0;
  std::memcpy(point.state.data(), numbers.data(), size * 4);
  const auto position = static_cast<uint64_t>(number + 1);
  std::memcpy(point.state.data(), &position, sizeof position);
  return point;
}

// Takes random sessions for a change of a token, as a request does, but for the model: seconds of each.
std::vector<double> resume(Sessions& sessions, const std::vector<std::string>& ids, int64_t times) {
  std::vector<double> seconds;
  const Random random(11, 1);
  for (int64_t i = 0; i < times; ++i) {
    const auto number = static_cast<size_t>(random.bits(static_cast<uint64_t>(i)) % ids.size());
    const auto begin = Clock::now();
    const Sessions::Lease lease = sessions.lease("", ids[number]);
    TextPoint point = *lease.session.point;  // what the scheduler is given
    seconds.push_back(seconds_since(begin));
    if (point.state.position() != number + 1) fail("a session came back as another");
  }
  return seconds;
}

int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;) {
    int64_t kilobytes = 0;
    if (word == "MemAvailable:" && file >> kilobytes) return kilobytes << 10;
  }
  return 0;
}

}  // namespace

void run_sessions(const LoadOptions& options, int64_t wanted, int64_t in_file, const std::string& folder) {
  const LoadedModel loaded = load_model_folder(options.model, cpu_backend());
  const Model& model = *loaded.model;
  const int64_t bytes = model.state_layout().bytes();
  // Half of what the machine has to give, at most.
  const int64_t count = std::min(wanted, available_memory() / 2 / bytes);
  {
    Sessions sessions(make_memory_store(), INT64_MAX);
    std::vector<std::string> ids;
    ids.reserve(static_cast<size_t>(count));
    const int pid = ::getpid();
    const int64_t before = use_of_process(pid).resident;
    for (int64_t i = 0; i < count; ++i)
      ids.push_back(sessions.create("", std::make_shared<const TextPoint>(point_of(model, i))).id);
    // The names kept here are not the store's.
    const int64_t names = count * static_cast<int64_t>(sizeof(std::string) + ids[0].capacity() + 1);
    const auto taken = static_cast<double>(use_of_process(pid).resident - before - names);
    const double share = taken / static_cast<double>(count * bytes);
    show(fmt::format("{} live sessions of {} bytes{}: memory over the states' bytes", count, bytes,
                     count < wanted ? fmt::format(" ({} wanted; more do not fit this machine)", wanted) : ""),
         "1.1x", fmt::format("{:.3f}x ({:.2f} GB)", share, taken * 1e-9), verdict(share <= 1.1));
    const double p99 = quantile(resume(sessions, ids, 100'000), 0.99);
    show("taking up one of them from memory, p99", "1 ms", milliseconds(p99), verdict(p99 < 0.001));
    // Forks of a thousand sessions, as many as may be asked for at once.
    constexpr int64_t kForks = 1000;
    const int64_t rounds = std::min<int64_t>(count, 1000);
    const auto begin = Clock::now();
    for (int64_t i = 0; i < rounds; ++i)
      sessions.fork(sessions.look("", ids[static_cast<size_t>(i * (count / rounds))]), kForks);
    const double forks = static_cast<double>(rounds * kForks) / seconds_since(begin);
    if (sessions.count() != count + rounds * kForks) fail("forks are missing");
    show("forks, copy on write", "1,000,000/s", fmt::format("{:.0f}/s ({} made)", forks, rounds * kForks),
         verdict(forks >= 1e6));
  }
  const std::string file = folder + "/bench-sessions.db";
  for (const char* end : {"", "-wal", "-shm", ".lock"}) std::filesystem::remove(file + end);
  std::vector<std::string> ids;
  {
    Sessions sessions(make_sqlite_store(file, model, "bench", 1 << 20), INT64_MAX);
    const auto begin = Clock::now();
    for (int64_t i = 0; i < in_file; ++i)
      ids.push_back(sessions.create("", std::make_shared<const TextPoint>(point_of(model, i))).id);
    const double writes = static_cast<double>(in_file) / seconds_since(begin);
    show("new sessions in SQLite", "", fmt::format("{:.0f}/s", writes));
  }
  {
    Sessions sessions(make_sqlite_store(file, model, "bench", 1 << 20), INT64_MAX);
    const double p99 = quantile(resume(sessions, ids, std::min<int64_t>(in_file, 20'000)), 0.99);
    show(fmt::format("taking up one of {} from SQLite, p99", in_file), "10 ms", milliseconds(p99),
         verdict(p99 < 0.010));
  }
  for (const char* end : {"", "-wal", "-shm", ".lock"}) std::filesystem::remove(file + end);
}

}  // namespace harmonic
