#include "harmonic/experiment/runner.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <exception>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "harmonic/base/file_lock.h"
#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/base/utf8.h"
#include "harmonic/data/input_files.h"
#include "harmonic/experiment/results.h"
#include "harmonic/experiment/run_commands.h"
#include "harmonic/experiment/run_plan.h"
#include "harmonic/ops/machine_peak.h"
#include "harmonic/ops/simd_targets.h"
#include "harmonic/tokenizer/tokenizer.h"
#include "harmonic/train/checkpoint.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kLargestPlan = 1 << 20;
constexpr const char* kLock = ".lock";

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
  return {{"processor", processor_name()},
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

// What the files of these inputs hold, one after the other, whatever their names.
std::string hash_of_texts(const std::vector<std::string>& inputs) {
  std::string hashes;
  for (const InputFile& file : list_input_files(inputs)) {
    if (file.path == "-") fail_usage("standard input (-) is read only once; an experiment's texts are files");
    hashes += sha256_of_file(file.path);
  }
  return sha256(hashes);
}

class Runner {
 public:
  Runner(const ExperimentPlan& plan, fs::path out, const ExperimentMeans& means)
      : plan_(plan), out_(std::move(out)), means_(means), commands_(out_, means_), lock_(locked(out_)) {
    begin();
    for (const char* folder : {"plans", "settings", "logs", "runs"}) make_folder(out_ / folder);
  }

  void run() {
    prepare();
    const std::vector<PlannedRun> tuning = plan_.tuning(), counted = plan_.runs({});
    total_ = tuning.size() + counted.size();
    for (const auto* runs : {&tuning, &counted})
      for (const PlannedRun& run : *runs) identify_files(run);
    if (tuning.empty()) expect_same_plans(counted);
    expect_same_plans(tuning);
    describe();
    warn_of_strangers();
    if (!counted.front().evaluation.task.empty()) commands_.check_task(counted.front());
    const std::map<std::string, double> factors = best_factors(tuning, take_all(tuning));
    std::set<std::string> lost;  // variants of which no rate was good
    for (const PlannedRun& run : tuning)
      if (!factors.count(run.variant)) lost.insert(run.variant);
    std::vector<PlannedRun> runs = plan_.runs(factors);
    std::erase_if(runs, [&](const PlannedRun& run) { return lost.count(run.variant) > 0; });
    expect_same_plans(runs);
    take_all(runs);
    if (!lost.empty())
      fail(
          "{}: every learning rate that was tried for {} diverged, so that its runs were not begun; lower "
          "train.lr",
          out_.string(), fmt::join(lost, " and "));
  }

 private:
  // Of each variant, by the bits that its runs have come to.
  static std::map<std::string, double> best_factors(const std::vector<PlannedRun>& tuning,
                                                    const std::vector<std::optional<double>>& bits) {
    std::map<std::string, double> factors, best;
    for (size_t i = 0; i < tuning.size(); ++i) {
      const std::string& variant = tuning[i].variant;
      if (bits[i] && (!best.count(variant) || *bits[i] < best[variant])) {
        best[variant] = *bits[i];
        factors[variant] = tuning[i].lr_factor;
      }
    }
    for (const auto& [variant, factor] : factors) {
      log("{}: learning rates times {:g}", variant, factor);
      warn_at_the_edge(tuning, variant, factor);
    }
    return factors;
  }

  // As many at a time as there are jobs, in their order. When one fails those under way come to their end
  // first.
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
    for (size_t i = 1; i < std::min(static_cast<size_t>(means_.jobs), runs.size()); ++i)
      others.emplace_back(work);
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

  // A new folder is told what it is for; an old one must be this experiment's.
  void begin() const {
    const fs::path path = out_ / "experiment.json";
    if (!is_there(path)) return describe();
    const ExperimentResults known = read_experiment_description(path);
    if (known.name != plan_.name || known.scale != plan_.scale)
      fail("{}: holds the experiment {} at scale {}; name another folder with --out", out_.string(),
           known.name, known.scale);
  }

  // What is only told of the plan is that of the newest start whose runs agree with those that are there.
  void describe() const {
    const fs::path path = out_ / "experiment.json";
    const Json before = is_there(path) ? read_json(path) : Json();
    Json described = before;
    if (!is_there(path))
      described = {{"name", plan_.name},    {"scale", plan_.scale},
                   {"title", ""},           {"question", ""},
                   {"date", today()},       {"machine", describe_machine(means_.threads)},
                   {"build", means_.build}, {"pairs", Json::array()}};
    described["title"] = plan_.title;
    described["question"] = plan_.question;
    described["pairs"] = plan_.pairs;
    described["measured_on"] = names_of_texts();
    described["runs"] = planned_ids();
    described["reference"] = plan_.measures_a_task() ? "accuracy" : "bits_per_byte";
    if (described != before) write_file(path, described.dump(2) + "\n");
  }

  std::vector<std::string> planned_ids() const {
    std::vector<std::string> ids;
    for (const PlannedRun& run : plan_.tuning()) ids.push_back(run.id);
    for (const PlannedRun& run : plan_.runs({})) ids.push_back(run.id);
    return ids;
  }

  void warn_of_strangers() const {
    const std::vector<std::string> planned = planned_ids();
    std::error_code error;
    for (fs::directory_iterator i(out_ / "runs", error), end; !error && i != end; i.increment(error))
      if (std::find(planned.begin(), planned.end(), i->path().filename().string()) == planned.end() &&
          holds_a_run(i->path()))
        warn("{}: not of the plan as it is now; it is kept and not counted", i->path().string());
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

  void prepare() const {
    const fs::path done = out_ / "prepared";
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
    commands_.prepare(plan_.prepare);
    write_file(done, commands);
  }

  std::vector<std::string> in_folder(std::vector<std::string> texts) const {
    for (std::string& text : texts) text = commands_.in_folder(text);
    return texts;
  }

  // The texts that the task's arguments name.
  static std::vector<std::string> texts_of_task(const PlannedRun& run) {
    std::vector<std::string> texts;
    bool named = false;
    if (run.evaluation.task.empty()) return texts;
    for (const std::string& word : run.evaluation.task_arguments) {
      if (word.starts_with("--")) {
        const size_t value = word.find('=');
        const std::string flag = word.substr(0, value);
        named = flag == "--data" || flag == "--filler";
        if (named && value != word.npos) texts.push_back(word.substr(value + 1));
      } else if (named) {
        texts.push_back(word);
      }
    }
    return texts;
  }

  // Before the first run: later each only looks them up.
  void identify_files(const PlannedRun& run) {
    for (const auto& texts : {run.config.data.train, run.config.data.valid, run.texts(), texts_of_task(run)})
      if (!texts.empty() && !hashes_.count(texts)) hashes_[texts] = hash_of_texts(in_folder(texts));
    const std::string& tokenizer = run.config.data.tokenizer;
    std::error_code error;
    const bool is_file = tokenizer != "bytes" && !tokenizer.starts_with("bpe:");
    if (is_file && !tokenizers_.count(tokenizer) && fs::exists(tokenizer, error))
      tokenizers_[tokenizer] = load_tokenizer(tokenizer)->hash();
  }
  TextHashes hashes_of(const PlannedRun& run) const {
    const auto hash = [&](const std::vector<std::string>& texts) {
      return texts.empty() ? std::string() : hashes_.at(texts);
    };
    const auto tokenizer = tokenizers_.find(run.config.data.tokenizer);
    return {hash(run.config.data.train), hash(run.config.data.valid), hash(run.texts()),
            tokenizer == tokenizers_.end() ? "" : tokenizer->second, hash(texts_of_task(run))};
  }

  // Whether anything was made there; a start that failed before leaves an empty folder.
  static bool holds_a_run(const fs::path& folder) {
    std::error_code error;
    return fs::is_directory(folder, error) &&
           (is_there(folder / "run.toml") || is_there(folder / "result.json") ||
            !checkpoint_steps(folder).empty());
  }

  fs::path plan_of(const PlannedRun& run) const { return out_ / "plans" / (run.id + ".toml"); }

  RunConfig config_in_folder(const PlannedRun& run) const {
    RunConfig config = run.config;
    for (std::vector<std::string>* texts : {&config.data.train, &config.data.valid})
      *texts = in_folder(std::move(*texts));
    return config;
  }

  std::string text_of_plan(const PlannedRun& run) const {
    return run_plan_text(run, config_in_folder(run), plan_.prepare, hashes_of(run));
  }

  // How the plan of a run has changed since its results were made. Throws Error where they are others' by
  // now.
  PlanChange expect_same_plan(const PlannedRun& run) const {
    const fs::path folder = out_ / "runs" / run.id, plan = plan_of(run);
    if (!is_there(plan)) {
      if (holds_a_run(folder))
        fail(
            "{}: there is no {}, which would tell what it was made with; take its folder away, and it is run "
            "again",
            folder.string(), plan.string());
      return PlanChange::none;
    }
    const PlanChange change = plan_change(read_file(plan, kLargestPlan), text_of_plan(run), plan.string());
    if (change == PlanChange::training && holds_a_run(folder))
      fail(
          "{}: was made with other settings, texts or another tokenizer than {} has now ({}); name another "
          "folder with --out",
          folder.string(), plan_.name, plan.string());
    return change;
  }
  // Before any of them is begun: what is made then stands beside what is there.
  void expect_same_plans(const std::vector<PlannedRun>& runs) const {
    for (const PlannedRun& run : runs) expect_same_plan(run);
  }

  // Trains and measures, unless that was done before. Returns the bits per byte of the first measurement;
  // none where the run diverged or nothing was measured.
  std::optional<double> take(const PlannedRun& run, size_t number) {
    const fs::path folder = out_ / "runs" / run.id, plan = plan_of(run);
    const fs::path result = folder / "result.json";
    const RunConfig config = config_in_folder(run);
    const std::string planned = text_of_plan(run);
    const PlanChange change = expect_same_plan(run);
    if (!is_there(result)) {
      write_file(plan, planned);
      write_file(out_ / "settings" / (run.id + ".toml"), config.to_toml());
      make_folder(folder);
      log("{} of {}: {}", number, total_, run.id);
      commands_.train(run);
    } else if (change == PlanChange::evaluation) {
      log("{}: is to be measured otherwise than it was; measuring it again", run.id);
      // One whose training diverged has no model to measure.
      if (read_run_result(result).steps == config.train.total_steps()) commands_.measure_again(run);
      write_file(plan, planned);  // last: a stop before leaves the old plan, and it is measured again
    }
    remove_checkpoints(folder);  // which only a resumed run would need
    return first_bits(run, result);
  }

  static std::optional<double> first_bits(const PlannedRun& run, const fs::path& path) {
    const RunResults result = read_run_result(path);
    if (result.status == RunResults::Status::diverged) {
      warn("{}: {}", run.id, result.message.empty() ? "diverged" : result.message);
      return {};
    }
    if (result.lengths.empty()) {
      if (run.evaluated)
        fail("{}: \"results\": expected a measurement, found none; take its folder away, and it is run again",
             path.string());
      log("{}: {:.0f} tokens/s, {:.0f} MB", run.id, result.tokens_per_second,
          static_cast<double>(result.peak_memory_bytes) * 1e-6);
      return {};
    }
    log("{}: {:.4f} bits per byte, {:.0f} tokens/s, certificate {}", run.id, result.lengths[0].bits_per_byte,
        result.tokens_per_second, result.certificate);
    return result.lengths[0].bits_per_byte;
  }

  const ExperimentPlan& plan_;
  fs::path out_;
  ExperimentMeans means_;
  RunCommands commands_;
  std::map<std::vector<std::string>, std::string> hashes_;  // of texts, by their names in the plan
  std::map<std::string, std::string> tokenizers_;           // hashes of those that are files
  FileLock lock_;
  size_t taken_ = 0, total_ = 0;
};

}  // namespace

void run_experiment(const ExperimentPlan& plan, const fs::path& out, const ExperimentMeans& means) {
  if (!is_utf8(out.string())) fail_usage("--out {}: expected a name in UTF-8", out.string());
  plan.expect_texts();  // before anything is made
  Runner(plan, out, means).run();
}

}  // namespace harmonic
