#include "harmonic/experiment/runner.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <optional>

#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/experiment/child_program.h"
#include "harmonic/model/model.h"
#include "harmonic/ops/machine_peak.h"
#include "harmonic/ops/simd_targets.h"
#include "harmonic/train/metrics.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kLargestJson = 1 << 26;

std::string line_of(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key) && line.find(':') != std::string::npos) {
      const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
      return begin == std::string::npos ? "" : line.substr(begin);
    }
  return "";
}

Json describe_machine(int threads) {
  ThreadPool pool(threads);
  return {{"processor", line_of("/proc/cpuinfo", "model name")},
          {"threads", threads},
          {"simd", std::string(simd_target_names().front())},
          {"memory_bytes", std::atoll(line_of("/proc/meminfo", "MemTotal").c_str()) * 1024},
          {"matrix_peak_gflops", measure_matrix_peak(pool) * 1e-9}};
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[16];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d", &parts)};
}

// A line of the log without the time that it begins with.
std::string_view without_time(std::string_view line) {
  const size_t space = line.find(' ');
  return space == 8 && line[2] == ':' && line[5] == ':' ? line.substr(9) : line;
}

Json read_json(const fs::path& path) { return parse_json(read_file(path, kLargestJson), path.string()); }

// The speed and memory of a run.
Json speed_of(const fs::path& path) {
  std::vector<StepMetrics> steps = read_metrics(path).steps;
  if (steps.empty()) fail("{}: expected a line for each step; found none", path.string());
  const StepMetrics last = steps.back();
  int64_t peak = 0;
  for (const StepMetrics& step : steps) peak = std::max(peak, step.peak_memory_bytes);
  if (steps.size() > 1) steps.erase(steps.begin());  // in which the machine warms up
  const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(steps.size() / 2);
  std::nth_element(steps.begin(), middle, steps.end(), [](const StepMetrics& a, const StepMetrics& b) {
    return a.tokens_per_second < b.tokens_per_second;
  });
  return {{"train_tokens", last.tokens},
          {"steps", last.step},
          {"tokens_per_second", middle->tokens_per_second},
          {"peak_memory_bytes", peak},
          {"seconds", last.seconds}};
}

Json size_of_model(const fs::path& folder) {
  const Model model(load_model_config(folder), cpu_backend(), false);
  const int64_t embeddings = model.parameters().count(Role::embedding);
  return {{"core_parameters", model.parameters().count() - embeddings},
          {"embedding_parameters", embeddings},
          {"multiply_adds", model.work().per_token()},
          {"head_multiply_adds", model.config().vocab_size * model.config().d_model},
          {"state_bytes", model.state_layout().bytes()}};
}

class Runner {
 public:
  Runner(const ExperimentPlan& plan, fs::path out, int threads, std::string build)
      : plan_(plan), out_(std::move(out)), threads_(threads), build_(std::move(build)) {
    for (const char* folder : {"plans", "logs", "runs"}) make_folder(out_ / folder);
  }

  void run() {
    describe();
    prepare();
    const std::vector<PlannedRun> tuning = plan_.tuning();
    const size_t counted = plan_.runs({}).size();
    total_ = tuning.size() + counted;
    std::map<std::string, double> factors;
    std::map<std::string, double> best;
    for (const PlannedRun& run : tuning) {
      const std::optional<double> bits = take(run);
      if (bits && (!best.count(run.variant) || *bits < best[run.variant])) {
        best[run.variant] = *bits;
        factors[run.variant] = run.lr_factor;
      }
    }
    for (const PlannedRun& run : tuning)
      if (!factors.count(run.variant))
        fail("{}: every learning rate that was tried for {} diverged; lower train.lr", out_.string(),
             run.variant);
    for (const auto& [variant, factor] : factors) log("{}: learning rates times {:g}", variant, factor);
    for (const PlannedRun& run : plan_.runs(factors)) take(run);
  }

 private:
  void describe() const {
    const fs::path path = out_ / "experiment.json";
    std::error_code ignored;
    if (fs::exists(path, ignored)) {
      const Json there = read_json(path);
      if (there.value("name", "") != plan_.name || there.value("scale", "") != plan_.scale)
        fail("{}: holds the experiment {} at scale {}; name another folder with --out", out_.string(),
             there.value("name", "?"), there.value("scale", "?"));
      return;
    }
    write_file(path, Json{{"name", plan_.name},
                          {"scale", plan_.scale},
                          {"title", plan_.title},
                          {"question", plan_.question},
                          {"date", today()},
                          {"machine", describe_machine(threads_)},
                          {"build", build_},
                          {"pairs", plan_.pairs},
                          {"reference", "bits_per_byte"}}
                             .dump(2) +
                         "\n");
  }

  std::string in_folder(std::string text) const {
    constexpr std::string_view kOut = "{out}";
    for (size_t at = 0; (at = text.find(kOut, at)) != text.npos; at += out_.string().size())
      text.replace(at, kOut.size(), out_.string());
    return text;
  }

  void prepare() const {
    const fs::path done = out_ / "prepared", log = out_ / "logs" / "prepare.txt";
    std::error_code ignored;
    if (plan_.prepare.empty() || fs::exists(done, ignored)) return;
    for (std::vector<std::string> words : plan_.prepare) {
      for (std::string& word : words) word = in_folder(word);
      const ProcessOutcome outcome =
          run_child(words, {}, log, [](const std::string& line) { progress(line); });
      if (outcome.status != 0)
        fail("{}: ended with status {}: {}", fmt::join(words, " "), outcome.status, outcome.last_error);
    }
    end_progress();
    write_file(done, "");
  }

  // Trains and measures, unless that was done before. Returns the bits per byte of the first measurement;
  // none where the run diverged or nothing was measured.
  std::optional<double> take(const PlannedRun& run) {
    ++number_;
    const fs::path folder = out_ / "runs" / run.id, plan = out_ / "plans" / (run.id + ".toml");
    const fs::path result = folder / "result.json";
    RunConfig config = run.config;
    for (std::vector<std::string>* texts : {&config.data.train, &config.data.valid})
      for (std::string& text : *texts) text = in_folder(text);
    const std::string settings = config.to_toml();
    std::error_code ignored;
    if (fs::exists(plan, ignored) && read_file(plan, 1 << 20) != settings)
      fail("{}: was made with other settings than {} has now ({}); name another folder with --out",
           folder.string(), plan_.name, plan.string());
    if (!fs::exists(result, ignored)) {
      write_file(plan, settings);
      make_folder(folder);
      write_file(result, measured(run, folder, plan).dump(2) + "\n");
      remove_checkpoints(folder);
    }
    return first_bits(run, read_json(result));
  }

  Json measured(const PlannedRun& run, const fs::path& folder, const fs::path& plan) {
    Json result = {{"id", run.id},
                   {"kind", run.tuning ? "tune" : "run"},
                   {"status", "finished"},
                   {"axes",
                    {{"variant", run.variant},
                     {"length", std::to_string(run.length)},
                     {"seed", std::to_string(run.seed)},
                     {"lr_factor", fmt::format("{:g}", run.lr_factor)}}}};
    const ProcessOutcome trained = child(
        run, {"train", "--config", plan.string(), "--out", folder.string(), "--resume"}, {}, "training");
    const bool diverged = trained.last_error.find("training diverged") != std::string::npos;
    if (trained.status != 0 && !diverged) give_up(run, trained);
    result.update(size_of_model(folder));
    result.update(speed_of(folder / "metrics.jsonl"));
    if (diverged) {
      result["status"] = "diverged";
      result["message"] = trained.last_error;
      return result;
    }
    if (!run.evaluated) return result;
    result["results"] = Json::array();
    for (const std::string& state : run.evaluation.states) {
      std::vector<std::string> arguments = {"--state", state, "--max-tokens",
                                            std::to_string(run.evaluation.max_tokens), "--lengths"};
      for (const int64_t length : run.evaluation.lengths) arguments.push_back(std::to_string(length));
      const Json found = evaluated(run, folder, run.config.data.valid, "eval-" + state, arguments);
      result["certificate"] = found["certificate"];
      for (const Json& entry : found["results"]) result["results"].push_back(entry);
    }
    if (!run.evaluation.task.empty()) {
      std::vector<std::string> arguments = {"--task", run.evaluation.task};
      arguments.insert(arguments.end(), run.evaluation.task_arguments.begin(),
                       run.evaluation.task_arguments.end());
      const Json found = evaluated(run, folder, {}, "task", arguments);
      result["tasks"] = Json::array();
      for (Json entry : found["results"]) {
        // "2 pairs at 64" is the task "recall, 2 pairs" at 64.
        std::string task = run.evaluation.task, group = entry["group"];
        if (const size_t at = group.find(" at "); at != group.npos) {
          task += ", " + group.substr(0, at);
          group = group.substr(at + 4);
        }
        entry["task"] = task;
        entry["group"] = group;
        result["tasks"].push_back(std::move(entry));
      }
    }
    return result;
  }

  Json evaluated(const PlannedRun& run, const fs::path& folder, const std::vector<std::string>& texts,
                 const std::string& name, const std::vector<std::string>& more) {
    const fs::path json = folder / (name + ".json");
    std::vector<std::string> arguments = {"eval", "--model", folder.string(), "--json", json.string()};
    if (!texts.empty()) arguments.push_back("--data");
    for (const std::string& text : texts) arguments.push_back(in_folder(text));
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::error_code ignored;
    fs::remove(json, ignored);
    const ProcessOutcome outcome = child(run, arguments, {}, "evaluating");
    // Status 1 with results: the certificate has failed, which they say.
    if (outcome.status != 0 && !(outcome.status == 1 && fs::exists(json, ignored))) give_up(run, outcome);
    return read_json(json);
  }

  ProcessOutcome child(const PlannedRun& run, std::vector<std::string> arguments, const fs::path& output,
                       std::string_view doing) {
    arguments.insert(arguments.end(), {"--threads", std::to_string(threads_)});
    const ProcessOutcome outcome = run_child(arguments, output, log_of(run), [&](const std::string& line) {
      progress(fmt::format("{} of {}, {}, {}: {}", number_, total_, run.id, doing, without_time(line)));
    });
    end_progress();
    return outcome;
  }

  fs::path log_of(const PlannedRun& run) const { return out_ / "logs" / (run.id + ".txt"); }

  [[noreturn]] void give_up(const PlannedRun& run, const ProcessOutcome& outcome) const {
    fail("{}: ended with status {}: {} (all of it: {})", run.id, outcome.status, outcome.last_error,
         log_of(run).string());
  }

  std::optional<double> first_bits(const PlannedRun& run, const Json& result) const {
    const std::string status = result.value("status", "");
    if (status == "diverged") {
      warn("{}: {}", run.id, result.value("message", "diverged"));
      return {};
    }
    if (!result.contains("results")) {
      log("{}: {:.0f} tokens/s, {:.0f} MB", run.id, result["tokens_per_second"].get<double>(),
          result["peak_memory_bytes"].get<double>() * 1e-6);
      return {};
    }
    const double bits = result["results"][0]["bits_per_byte"];
    log("{}: {:.4f} bits per byte, {:.0f} tokens/s, certificate {}", run.id, bits,
        result["tokens_per_second"].get<double>(), result["certificate"].get<std::string>());
    return bits;
  }

  // What a resumed run would need; the model stays.
  void remove_checkpoints(const fs::path& folder) const {
    std::error_code ignored;
    std::vector<fs::path> checkpoints;
    for (fs::directory_iterator i(folder, ignored), end; i != end; i.increment(ignored))
      if (i->path().filename().string().starts_with("checkpoint-")) checkpoints.push_back(i->path());
    for (const fs::path& checkpoint : checkpoints) fs::remove_all(checkpoint, ignored);
  }

  const ExperimentPlan& plan_;
  fs::path out_;
  int threads_;
  std::string build_;
  size_t number_ = 0, total_ = 0;
};

}  // namespace

void run_experiment(const ExperimentPlan& plan, const fs::path& out, int threads, const std::string& build) {
  Runner(plan, out, threads, build).run();
}

}  // namespace harmonic
