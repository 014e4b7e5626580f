// Memory and time against length: a training step with exact gradients, and a text that streams by.
//   length_benchmark [--layout levels|sandwich] [--cell decay|selective] [--steps 1024,16384,...] [--stream
//   TOKENS]
// Each length runs in a process of its own, so that its peak memory is its own.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "harmonic/base/random.h"
#include "harmonic/model/inference.h"
#include "harmonic/train/backpropagation.h"
#include "measure.h"

namespace harmonic {
namespace {

// Resident memory in MB: "VmHWM" is the peak so far, "VmRSS" the present.
double resident_mb(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(key, 0) == 0) return std::stod(line.substr(key.size() + 1)) / 1024;
  return 0;
}

ModelConfig config_of(const std::string& layout, const std::string& cell) {
  ModelConfig config;
  config.d_model = 128;
  config.harmonic.layout = layout;
  config.harmonic.cell = {cell};
  if (layout == "sandwich") config.harmonic.cells = {1, 1, 1, 1};
  return config;
}

std::vector<int32_t> random_bytes(int64_t count) {
  const Random random(1, 1);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(random.below(i, 256));
  return tokens;
}

void training_step(const ModelConfig& config, int64_t length) {
  ThreadPool pool;
  Model model(config, cpu_backend(), true);
  model.parameters().initialise(1);
  Backpropagation backpropagation(model, pool, int64_t{128} << 20);
  Batch batch;
  batch.tokens = random_bytes(length);
  batch.targets = batch.tokens;
  batch.offsets = {0, length};
  batch.segments = {{0, 0, false}};
  batch.sequences = 1;
  batch.target_count = length;
  std::vector<double> times;
  for (int repeat = 0; repeat < (length > 100'000 ? 1 : 3); ++repeat) {
    times.push_back(seconds_of([&] { backpropagation.run(batch, {}, 1.0 / static_cast<double>(length)); }));
  }
  const double seconds = summary_of(times).median;
  std::printf("%10lld %12.1f %14.3f %12.0f   chunks of %lld\n", static_cast<long long>(length),
              resident_mb("VmHWM"), seconds / static_cast<double>(length) * 1e6,
              static_cast<double>(length) / seconds, static_cast<long long>(backpropagation.chunk_rows()));
}

void stream(const ModelConfig& config, int64_t total) {
  ThreadPool pool;
  Model model(config, cpu_backend(), false);
  model.parameters().initialise(1);
  Inference inference(model, pool);
  model.pack(inference.context());
  const std::vector<int32_t> tokens = random_bytes(1 << 20);
  State state(model.state_layout());
  const StateRows row(state, model.state_layout());
  const int64_t offsets[2] = {0, Inference::kRowsPerCall};
  std::printf("%10s %12s %14s\n", "tokens", "MB resident", "us a token");
  for (int64_t done = 0; done < total;) {
    const int64_t from = done, tenth = std::max<int64_t>(1, total / 10);
    const double seconds = seconds_of([&] {
      for (; done < total && done - from < tenth; done += Inference::kRowsPerCall) {
        const int32_t* piece = tokens.data() + done % ((1 << 20) - Inference::kRowsPerCall);
        inference.losses(inference.hidden(piece, {offsets, 1}, row, row), piece + 1);
      }
    });
    std::printf("%10lld %12.1f %14.3f\n", static_cast<long long>(done), resident_mb("VmRSS"),
                seconds / static_cast<double>(done - from) * 1e6);
    std::fflush(stdout);
  }
}

template <typename Body>
void in_own_process(Body body) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    std::fflush(stdout);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (status != 0) std::exit(1);
}

int run(int count, char** arguments) {
  std::string layout = "levels", cell = "decay", steps = "1024,16384,262144,1048576";
  int64_t stream_tokens = 0;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string flag = arguments[i];
    if (flag == "--layout") layout = arguments[i + 1];
    if (flag == "--cell") cell = arguments[i + 1];
    if (flag == "--steps") steps = arguments[i + 1];
    if (flag == "--stream") stream_tokens = std::atoll(arguments[i + 1]);
  }
  const ModelConfig config = config_of(layout, cell);
  std::printf("layout %s, cell %s, d_model 128, bytes, batch 1, 128 MB for activations\n", layout.c_str(),
              cell.c_str());
  if (stream_tokens > 0) {
    in_own_process([&] { stream(config, stream_tokens); });
    return 0;
  }
  std::printf("%10s %12s %14s %12s\n", "T", "peak MB", "us a token", "tokens/s");
  for (size_t at = 0; at < steps.size();) {
    const size_t comma = std::min(steps.find(',', at), steps.size());
    const int64_t length = std::atoll(steps.substr(at, comma - at).c_str());
    in_own_process([&] { training_step(config, length); });
    at = comma + 1;
  }
  return 0;
}

}  // namespace
}  // namespace harmonic

int main(int count, char** arguments) { return harmonic::run(count, arguments); }
