#include "harmonic/experiment/run_commands.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "harmonic/base/divergence.h"
#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/experiment/child_program.h"
#include "harmonic/model/model.h"
#include "harmonic/ops/simd_targets.h"
#include "harmonic/train/metrics.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr int kUsageStatus = 2;

// A line of the log without the time that it begins with.
std::string_view without_time(std::string_view line) {
  const size_t space = line.find(' ');
  return space == 8 && line[2] == ':' && line[5] == ':' ? line.substr(9) : line;
}

// The last line of a child that failed, without what every error begins with.
std::string without_name(const std::string& line) {
  constexpr std::string_view kName = "harmonic: error: ";
  return line.starts_with(kName) ? line.substr(kName.size()) : line;
}

// The card that training said it computes on, in its log from byte `begin` on, or "cpu".
std::string device_of_log(const fs::path& path, int64_t begin) {
  constexpr std::string_view kComputing = "computing on ";
  std::ifstream log(path);
  log.seekg(begin);
  std::string device = "cpu";
  for (std::string line; std::getline(log, line);) {
    const std::string_view text = without_time(line);
    if (text.starts_with(kComputing) && !text.starts_with("computing on the cpu"))
      device = text.substr(kComputing.size());
  }
  return device;
}

// The speed and memory of a run; of one that diverged at its first step there is nothing to tell.
Json speed_of(const fs::path& path) {
  const std::vector<StepMetrics> steps = read_metrics(path).steps;
  const StepMetrics last = steps.empty() ? StepMetrics() : steps.back();
  int64_t peak = 0;
  for (const StepMetrics& step : steps) peak = std::max(peak, step.peak_memory_bytes);
  return {{"train_tokens", last.tokens},
          {"steps", last.step},
          {"tokens_per_second", median_speed(steps)},
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

}  // namespace

RunCommands::RunCommands(fs::path out, ExperimentMeans means)
    : out_(std::move(out)), means_(std::move(means)) {}

std::string RunCommands::in_folder(std::string text) const {
  constexpr std::string_view kOut = "{out}";
  for (size_t at = 0; (at = text.find(kOut, at)) != text.npos; at += out_.string().size())
    text.replace(at, kOut.size(), out_.string());
  return text;
}

void RunCommands::prepare(const std::vector<std::vector<std::string>>& commands) const {
  for (std::vector<std::string> words : commands) {
    for (std::string& word : words) word = in_folder(word);
    const ProcessOutcome outcome =
        run_child(words, {}, out_ / "logs" / "prepare.txt", [](const std::string& line) { progress(line); });
    if (outcome.status != 0)
      fail("{}: ended with status {}: {}", fmt::join(words, " "), outcome.status,
           without_name(outcome.last_error));
  }
  end_progress();
}

ProcessOutcome RunCommands::child(const PlannedRun& run, std::vector<std::string> arguments,
                                  std::string_view doing, const fs::path& output) const {
  arguments.insert(arguments.end(),
                   {"--threads", std::to_string(threads_of_a_run()), "--device", means_.device});
  const ProcessOutcome outcome = run_child(arguments, output, log_of(run), [&](const std::string& line) {
    progress(fmt::format("{}, {}: {}", run.id, doing, without_time(line)));
  });
  end_progress();
  return outcome;
}

void RunCommands::give_up(const PlannedRun& run, const ProcessOutcome& outcome) const {
  fail("{}: ended with status {}: {} (all of it: {})", run.id, outcome.status,
       without_name(outcome.last_error), log_of(run).string());
}

// What a trained run comes to, as result.json has it.
class RunCommands::Measurement {
 public:
  Measurement(const RunCommands& commands, const PlannedRun& run, std::string_view device)
      : commands_(commands), run_(run), folder_(commands.folder_of(run)) {
    result_ = {{"id", run.id},
               {"kind", run.tuning ? "tune" : "run"},
               {"status", "finished"},
               {"axes",
                {{"variant", run.variant},
                 {"length", std::to_string(run.length)},
                 {"seed", std::to_string(run.seed)},
                 {"lr_factor", fmt::format("{:g}", run.lr_factor)}}},
               {"device", device},
               {"processor", processor_name()},
               {"threads", commands.threads_of_a_run()},
               {"jobs", commands.means_.jobs},
               {"build", commands.means_.build}};
    result_.update(size_of_model(folder_));
    result_.update(speed_of(folder_ / "metrics.jsonl"));
  }

  Json diverged(const std::string& message) const {
    Json result = result_;
    result["status"] = "diverged";
    result["message"] = message;
    return result;
  }

  Json measured() {
    if (!run_.evaluated) return result_;
    const Json before = result_;
    try {
      measure_texts();
      if (!run_.evaluation.task.empty()) measure_task();
    } catch (const Diverged& error) {
      result_ = before;
      return diverged(error.what());
    }
    // A guess of all tokens alike costs log2 of their number; at lengths that it was not trained at a sound
    // model may do worse.
    const double limit = std::log2(static_cast<double>(load_model_config(folder_).vocab_size)) + 1;
    for (const Json& entry : result_["results"]) {
      const double bits = entry["bits_per_token"];
      if (entry["length"] <= run_.length && bits > limit)
        return diverged(fmt::format(
            "the trained model takes {:.2f} bits per token; {:.2f}, one more than knowing nothing costs, is "
            "the limit",
            bits, limit));
    }
    return result_;
  }

 private:
  void measure_texts() {
    result_["results"] = Json::array();
    for (const std::string& state : run_.evaluation.states) {
      std::vector<std::string> arguments = {"--state", state, "--max-tokens",
                                            std::to_string(run_.evaluation.max_tokens), "--lengths"};
      for (const int64_t length : run_.evaluation.lengths) arguments.push_back(std::to_string(length));
      arguments.push_back("--data");
      for (const std::string& text : run_.texts()) arguments.push_back(commands_.in_folder(text));
      const Json found = evaluated("eval-" + state, std::move(arguments));
      result_["certificate"] = found["certificate"];
      for (const Json& entry : found["results"]) result_["results"].push_back(entry);
    }
  }

  void measure_task() {
    const Json found = evaluated("task", commands_.task_arguments(run_));
    result_["tasks"] = Json::array();
    for (Json entry : found["results"]) {
      // "2 pairs at 64" is the task "recall, 2 pairs" at 64.
      std::string task = run_.evaluation.task, group = entry["group"];
      if (const size_t at = group.find(" at "); at != group.npos) {
        task += ", " + group.substr(0, at);
        group = group.substr(at + 4);
      }
      entry["task"] = task;
      entry["group"] = group;
      result_["tasks"].push_back(std::move(entry));
    }
  }

  // Throws Diverged when the model has.
  Json evaluated(const std::string& name, std::vector<std::string> more) const {
    const fs::path json = folder_ / (name + ".json");
    more.insert(more.begin(), {"eval", "--model", folder_.string(), "--json", json.string()});
    std::error_code ignored;
    fs::remove(json, ignored);
    const ProcessOutcome outcome = commands_.child(run_, std::move(more), "evaluating");
    if (outcome.status == kDivergedStatus) fail_diverged("{}", without_name(outcome.last_error));
    // Status 1 with results: the certificate has failed, which they say.
    if (outcome.status != 0 && !(outcome.status == 1 && fs::exists(json, ignored)))
      commands_.give_up(run_, outcome);
    return read_json(json);
  }

  const RunCommands& commands_;
  const PlannedRun& run_;
  fs::path folder_;
  Json result_;
};

std::vector<std::string> RunCommands::task_arguments(const PlannedRun& run) const {
  std::vector<std::string> arguments = {"--task", run.evaluation.task};
  for (const std::string& word : run.evaluation.task_arguments) arguments.push_back(in_folder(word));
  return arguments;
}

void RunCommands::check_task(const PlannedRun& run) const {
  // Flags are looked at before the model, which is not there.
  std::vector<std::string> arguments = task_arguments(run);
  arguments.insert(arguments.begin(), {"eval", "--model", (out_ / "no-model").string()});
  const ProcessOutcome outcome = child(run, std::move(arguments), "checking its task");
  if (outcome.status == kUsageStatus)
    fail_usage("{}: evaluate.task = \"{}\" with evaluate.task_arguments: {}", run.id, run.evaluation.task,
               without_name(outcome.last_error));
}

void RunCommands::write_result(const PlannedRun& run, const Json& result) const {
  const fs::path folder = folder_of(run), sample = folder / "sample.txt";
  std::error_code ignored;
  fs::remove(sample, ignored);
  write_file(folder / "result.json", result.dump(2) + "\n");
  if (run.tuning || !run.evaluated || result["status"] != "finished" || result["certificate"] == "failed")
    return;
  // What the model writes by itself, for people: no reason to lose a result.
  const ProcessOutcome outcome = child(
      run,
      {"generate", "--model", folder.string(), "--max-tokens", "256", "--temperature", "0.8", "--seed", "1"},
      "writing", sample);
  if (outcome.status == 0) return;
  fs::remove(sample, ignored);
  warn("{}: no sample: {}", run.id, without_name(outcome.last_error));
}

void RunCommands::train(const PlannedRun& run) const {
  const fs::path folder = folder_of(run), settings = out_ / "settings" / (run.id + ".toml");
  std::error_code none;
  const auto logged = static_cast<int64_t>(fs::file_size(log_of(run), none));
  const ProcessOutcome trained =
      child(run, {"train", "--config", settings.string(), "--out", folder.string(), "--resume"}, "training");
  if (trained.status != 0 && trained.status != kDivergedStatus) give_up(run, trained);
  Measurement measurement(*this, run, device_of_log(log_of(run), none ? 0 : logged));
  write_result(run, trained.status == kDivergedStatus ? measurement.diverged(without_name(trained.last_error))
                                                      : measurement.measured());
}

void RunCommands::measure_again(const PlannedRun& run) const {
  const fs::path result = folder_of(run) / "result.json";
  const Json before = read_json(result);
  Json found = Measurement(*this, run, "").measured();
  for (const char* of_training : {"device", "processor", "threads", "jobs", "build"}) {
    if (before.contains(of_training)) {
      found[of_training] = before[of_training];
    } else {
      found.erase(of_training);
    }
  }
  write_result(run, found);
}

}  // namespace harmonic
