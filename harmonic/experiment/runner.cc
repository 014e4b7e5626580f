#include "harmonic/experiment/runner.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <ctime>
#include <exception>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include "harmonic/base/divergence.h"
#include "harmonic/base/file_lock.h"
#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/experiment/child_program.h"
#include "harmonic/experiment/run_plan.h"
#include "harmonic/model/model.h"
#include "harmonic/ops/machine_peak.h"
#include "harmonic/ops/simd_targets.h"
#include "harmonic/train/checkpoint.h"
#include "harmonic/train/metrics.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kLargestJson = 1 << 26, kLargestPlan = 1 << 20;
constexpr const char* kLock = ".lock";

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

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

// The last line of a child that failed, without what every error begins with.
std::string without_name(const std::string& line) {
  constexpr std::string_view kName = "harmonic: error: ";
  return line.starts_with(kName) ? line.substr(kName.size()) : line;
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

class Runner {
 public:
  Runner(const ExperimentPlan& plan, fs::path out, int threads, int jobs, std::string build)
      : plan_(plan),
        out_(std::move(out)),
        jobs_(jobs),
        threads_(std::max(1, threads / jobs)),
        build_(std::move(build)),
        lock_(locked(out_)) {
    describe(threads);
    for (const char* folder : {"plans", "settings", "logs", "runs"}) make_folder(out_ / folder);
  }

  void run() {
    prepare();
    const std::vector<PlannedRun> tuning = plan_.tuning();
    total_ = tuning.size() + plan_.runs({}).size();
    const std::vector<std::optional<double>> bits = take_all(tuning);
    std::map<std::string, double> factors;
    std::map<std::string, double> best;
    for (size_t i = 0; i < tuning.size(); ++i) {
      const std::string& variant = tuning[i].variant;
      if (bits[i] && (!best.count(variant) || *bits[i] < best[variant])) {
        best[variant] = *bits[i];
        factors[variant] = tuning[i].lr_factor;
      }
    }
    for (const PlannedRun& run : tuning)
      if (!factors.count(run.variant))
        fail("{}: every learning rate that was tried for {} diverged; lower train.lr", out_.string(),
             run.variant);
    for (const auto& [variant, factor] : factors) {
      log("{}: learning rates times {:g}", variant, factor);
      warn_at_the_edge(tuning, variant, factor);
    }
    take_all(plan_.runs(factors));
  }

 private:
  // `jobs_` at a time, in their order. When one fails those under way come to their end first.
  std::vector<std::optional<double>> take_all(const std::vector<PlannedRun>& runs) {
    std::vector<std::optional<double>> bits(runs.size());
    std::atomic<size_t> next = 0;
    std::mutex mutex;
    std::exception_ptr failure;
    const auto work = [&] {
      for (size_t i = next++; i < runs.size(); i = next++) try {
          bits[i] = take(runs[i], taken_ + i + 1);
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!failure) failure = std::current_exception();
          next = runs.size();
        }
    };
    std::vector<std::thread> others;
    for (size_t i = 1; i < std::min(static_cast<size_t>(jobs_), runs.size()); ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
    taken_ += runs.size();
    return bits;
  }

  // Throws Error, and changes nothing, where the folder holds something else or another process works in it.
  static FileLock locked(const fs::path& out) {
    std::error_code error;
    if (is_there(out) && !is_there(out / "experiment.json"))
      for (fs::directory_iterator i(out, error), end; !error && i != end; i.increment(error))
        if (i->path().filename() != kLock)
          fail_usage("{}: holds {} and no experiment.json; name an empty folder, or a new one, with --out",
                     out.string(), i->path().filename().string());
    make_folder(out);
    FileLock lock(out / kLock, FileLock::Kind::exclusive);
    if (lock.state() == FileLock::State::taken)
      fail("{}: another process runs this experiment; wait for it or stop it", out.string());
    return lock;
  }

  // What is only told of the plan is that of the newest start.
  void describe(int threads) const {
    const fs::path path = out_ / "experiment.json";
    Json described;
    if (is_there(path)) {
      described = read_json(path);
      if (described.value("name", "") != plan_.name || described.value("scale", "") != plan_.scale)
        fail("{}: holds the experiment {} at scale {}; name another folder with --out", out_.string(),
             described.value("name", "?"), described.value("scale", "?"));
    } else {
      described = {{"name", plan_.name}, {"scale", plan_.scale},   {"title", ""},
                   {"question", ""},     {"date", today()},        {"machine", describe_machine(threads)},
                   {"build", build_},    {"pairs", Json::array()}, {"reference", "bits_per_byte"}};
    }
    const Json before = described;
    described["title"] = plan_.title;
    described["question"] = plan_.question;
    described["pairs"] = plan_.pairs;
    described["measured_on"] = names_of_texts();
    if (described != before || !is_there(path)) write_file(path, described.dump(2) + "\n");
  }

  // Of the runs that count, without their folders.
  std::vector<std::string> names_of_texts() const {
    std::vector<std::string> names;
    for (const PlannedRun& run : plan_.runs({}))
      for (const std::string& text : run.texts()) {
        std::string name = fs::path(text).filename().string();
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
      }
    return names;
  }

  static void warn_at_the_edge(const std::vector<PlannedRun>& tuning, const std::string& variant,
                               double best) {
    double least = best, most = best;
    for (const PlannedRun& run : tuning) {
      if (run.variant != variant) continue;
      least = std::min(least, run.lr_factor);
      most = std::max(most, run.lr_factor);
    }
    if (least < most && (best == least || best == most))
      warn("{}: the best factor is the grid's last: try {} ones", variant,
           best == least ? "smaller" : "greater");
  }

  std::string in_folder(std::string text) const {
    constexpr std::string_view kOut = "{out}";
    for (size_t at = 0; (at = text.find(kOut, at)) != text.npos; at += out_.string().size())
      text.replace(at, kOut.size(), out_.string());
    return text;
  }

  void prepare() const {
    const fs::path done = out_ / "prepared", log = out_ / "logs" / "prepare.txt";
    if (plan_.prepare.empty()) return;
    const std::string commands = Json(plan_.prepare).dump() + "\n";
    if (is_there(done)) {
      if (read_file(done, kLargestPlan) == commands) return;
      // Each run holds to its plan, which tells of them too; without runs they may change.
      std::error_code error;
      for (fs::directory_iterator i(out_ / "runs", error), end; !error && i != end; i.increment(error))
        if (holds_a_run(i->path()))
          fail("{}: its texts were made by other commands than {} has now; name another folder with --out",
               out_.string(), plan_.name);
      fs::remove(done, error);
    }
    for (std::vector<std::string> words : plan_.prepare) {
      for (std::string& word : words) word = in_folder(word);
      const ProcessOutcome outcome =
          run_child(words, {}, log, [](const std::string& line) { progress(line); });
      if (outcome.status != 0)
        fail("{}: ended with status {}: {}", fmt::join(words, " "), outcome.status,
             without_name(outcome.last_error));
    }
    end_progress();
    write_file(done, commands);
  }

  // Whether anything was made there; a start that failed before leaves an empty folder.
  static bool holds_a_run(const fs::path& folder) {
    return is_there(folder / "run.toml") || is_there(folder / "result.json") ||
           (is_there(folder) && !checkpoint_steps(folder).empty());
  }

  // Trains and measures, unless that was done before. Returns the bits per byte of the first measurement;
  // none where the run diverged or nothing was measured.
  std::optional<double> take(const PlannedRun& run, size_t number) {
    const fs::path folder = out_ / "runs" / run.id, plan = out_ / "plans" / (run.id + ".toml");
    const fs::path result = folder / "result.json", settings = out_ / "settings" / (run.id + ".toml");
    RunConfig config = run.config;
    for (std::vector<std::string>* texts : {&config.data.train, &config.data.valid})
      for (std::string& text : *texts) text = in_folder(text);
    const std::string planned = run_plan_text(run, config, plan_.prepare);
    const PlanChange change = is_there(plan)
                                  ? plan_change(read_file(plan, kLargestPlan), planned, plan.string())
                                  : PlanChange::none;
    if (change == PlanChange::training && holds_a_run(folder))
      fail("{}: was made with other settings than {} has now ({}); name another folder with --out",
           folder.string(), plan_.name, plan.string());
    if (!is_there(result)) {
      write_file(plan, planned);
      write_file(settings, config.to_toml());
      make_folder(folder);
      log("{} of {}: {}", number, total_, run.id);
      train(run, folder, settings, result);
    } else if (change == PlanChange::evaluation) {
      log("{}: is to be measured otherwise than it was; measuring it again", run.id);
      // One whose training diverged has no model to measure.
      const Json before = read_json(result);
      if (before.value("steps", int64_t{0}) == config.train.total_steps()) {
        Json found = measured(run, folder);
        for (const char* of_training : {"threads", "jobs"})
          if (before.contains(of_training)) found[of_training] = before[of_training];
        write_file(result, found.dump(2) + "\n");
      }
      write_file(plan, planned);  // last: a stop before leaves the old plan, and it is measured again
    }
    remove_checkpoints(folder);  // which only a resumed run would need
    return first_bits(run, read_json(result));
  }

  void train(const PlannedRun& run, const fs::path& folder, const fs::path& settings,
             const fs::path& result) {
    const ProcessOutcome trained = child(
        run, {"train", "--config", settings.string(), "--out", folder.string(), "--resume"}, {}, "training");
    if (trained.status != 0 && trained.status != kDivergedStatus) give_up(run, trained);
    const Json found = trained.status == kDivergedStatus
                           ? diverged(described(run, folder), without_name(trained.last_error))
                           : measured(run, folder);
    write_file(result, found.dump(2) + "\n");
  }

  static Json diverged(Json result, const std::string& message) {
    result["status"] = "diverged";
    result["message"] = message;
    return result;
  }

  // What there is to tell before anything is measured.
  Json described(const PlannedRun& run, const fs::path& folder) const {
    Json result = {{"id", run.id},
                   {"kind", run.tuning ? "tune" : "run"},
                   {"status", "finished"},
                   {"axes",
                    {{"variant", run.variant},
                     {"length", std::to_string(run.length)},
                     {"seed", std::to_string(run.seed)},
                     {"lr_factor", fmt::format("{:g}", run.lr_factor)}}},
                   {"threads", threads_},
                   {"jobs", jobs_}};
    result.update(size_of_model(folder));
    result.update(speed_of(folder / "metrics.jsonl"));
    return result;
  }

  Json measured(const PlannedRun& run, const fs::path& folder) {
    Json result = described(run, folder);
    if (!run.evaluated) return result;
    try {
      measure_texts(run, folder, result);
      if (!run.evaluation.task.empty()) measure_task(run, folder, result);
    } catch (const Diverged& error) {
      return diverged(described(run, folder), error.what());
    }
    // A guess of all tokens alike costs log2 of their number; at lengths that it was not trained at a sound
    // model may do worse.
    const double limit = std::log2(static_cast<double>(load_model_config(folder).vocab_size)) + 1;
    for (const Json& entry : result["results"]) {
      const double bits = entry["bits_per_token"];
      if (entry["length"] <= run.length && bits > limit)
        return diverged(
            std::move(result),
            fmt::format(
                "the trained model takes {:.2f} bits per token; {:.2f}, one more than knowing nothing "
                "costs, is the limit",
                bits, limit));
    }
    return result;
  }

  void measure_texts(const PlannedRun& run, const fs::path& folder, Json& result) {
    result["results"] = Json::array();
    for (const std::string& state : run.evaluation.states) {
      std::vector<std::string> arguments = {"--state", state, "--max-tokens",
                                            std::to_string(run.evaluation.max_tokens), "--lengths"};
      for (const int64_t length : run.evaluation.lengths) arguments.push_back(std::to_string(length));
      const Json found = evaluated(run, folder, run.texts(), "eval-" + state, arguments);
      result["certificate"] = found["certificate"];
      for (const Json& entry : found["results"]) result["results"].push_back(entry);
    }
  }

  void measure_task(const PlannedRun& run, const fs::path& folder, Json& result) {
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

  // Throws Diverged when the model has.
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
    if (outcome.status == kDivergedStatus) fail_diverged("{}", without_name(outcome.last_error));
    // Status 1 with results: the certificate has failed, which they say.
    if (outcome.status != 0 && !(outcome.status == 1 && fs::exists(json, ignored))) give_up(run, outcome);
    return read_json(json);
  }

  ProcessOutcome child(const PlannedRun& run, std::vector<std::string> arguments, const fs::path& output,
                       std::string_view doing) {
    arguments.insert(arguments.end(), {"--threads", std::to_string(threads_)});
    const ProcessOutcome outcome = run_child(arguments, output, log_of(run), [&](const std::string& line) {
      progress(fmt::format("{}, {}: {}", run.id, doing, without_time(line)));
    });
    end_progress();
    return outcome;
  }

  fs::path log_of(const PlannedRun& run) const { return out_ / "logs" / (run.id + ".txt"); }

  [[noreturn]] void give_up(const PlannedRun& run, const ProcessOutcome& outcome) const {
    fail("{}: ended with status {}: {} (all of it: {})", run.id, outcome.status,
         without_name(outcome.last_error), log_of(run).string());
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

  const ExperimentPlan& plan_;
  fs::path out_;
  int jobs_, threads_;  // runs at a time; threads of each
  std::string build_;
  FileLock lock_;
  size_t taken_ = 0, total_ = 0;
};

}  // namespace

void run_experiment(const ExperimentPlan& plan, const fs::path& out, int threads, int jobs,
                    const std::string& build) {
  plan.expect_texts();  // before anything is made
  Runner(plan, out, threads, jobs, build).run();
}

}  // namespace harmonic
