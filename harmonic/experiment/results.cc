#include "harmonic/experiment/results.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kLargestJson = int64_t{16} << 20, kLargestSample = int64_t{16} << 20;
constexpr size_t kMostRuns = 10'000, kMostItems = 2'000, kShownSample = 4'000;

// An axis or a group, which is a text or a number.
std::string axis_text(const Value& value) {
  const auto* text = std::get_if<std::string>(&value.data);
  return text ? *text : inline_text(value);
}

// An object of a JSON file: its entries with their types checked.
class Object {
 public:
  Object(const Value& value, std::string name) : value_(value), name_(std::move(name)) {
    if (!value.table()) wrong("", "an object");
  }

  bool has(std::string_view key) const {
    const Value* entry = value_.find(key);
    return entry && !std::holds_alternative<std::monostate>(entry->data);
  }
  std::string text(std::string_view key, std::string_view otherwise) const {
    return has(key) ? text(key) : std::string(otherwise);
  }
  std::string text(std::string_view key) const {
    const auto* text = std::get_if<std::string>(&entry(key, "a text").data);
    if (!text) wrong(key, "a text");
    return *text;
  }
  // A text or a number as a text; empty when it is missing.
  std::string label(std::string_view key) const { return has(key) ? axis_text(*value_.find(key)) : ""; }
  std::string one_of(std::string_view key, std::initializer_list<std::string_view> names) const {
    const std::string found = text(key);
    if (std::find(names.begin(), names.end(), found) != names.end()) return found;
    std::string expected;
    for (const std::string_view name : names)
      expected += fmt::format("{}\"{}\"", expected.empty() ? "" : " or ", name);
    wrong(key, expected);
  }
  // Finite and at least 0, as every figure of a result is.
  double number(std::string_view key) const {
    const Value& found = entry(key, "a number");
    const auto* integer = std::get_if<int64_t>(&found.data);
    const auto* real = std::get_if<double>(&found.data);
    const double number = integer ? static_cast<double>(*integer) : real ? *real : -1;
    if (!std::isfinite(number) || number < 0) wrong(key, "a number of at least 0");
    return number;
  }
  double number(std::string_view key, double otherwise) const { return has(key) ? number(key) : otherwise; }
  int64_t integer(std::string_view key) const {
    const double found = number(key);
    if (found != std::floor(found) || found > 9e15) wrong(key, "a whole number");
    return static_cast<int64_t>(found);
  }
  int64_t integer(std::string_view key, int64_t otherwise) const {
    return has(key) ? integer(key) : otherwise;
  }
  // The items of a list, none when it is missing.
  const Value::List& list(std::string_view key, size_t most = kMostItems) const {
    static const Value::List none;
    if (!has(key)) return none;
    const auto* items = std::get_if<Value::List>(&value_.find(key)->data);
    if (!items) wrong(key, "a list");
    if (items->size() > most) wrong(key, fmt::format("at most {} items", most));
    return *items;
  }
  const Value::Table& table(std::string_view key) const {
    static const Value::Table none;
    if (!has(key)) return none;
    const auto* entries = value_.find(key)->table();
    if (!entries) wrong(key, "an object");
    return *entries;
  }
  const std::string& name() const { return name_; }

  [[noreturn]] void wrong(std::string_view key, std::string_view expected) const {
    const Value* found = key.empty() ? &value_ : value_.find(key);
    std::string shown = found ? inline_text(*found) : "nothing";
    if (shown.size() > 60) shown = shown.substr(0, 60) + "...";
    fail("{}: {}expected {}, found {}; run it again, or take its folder away", name_,
         key.empty() ? "" : fmt::format("\"{}\": ", key), expected, shown);
  }

 private:
  const Value& entry(std::string_view key, std::string_view expected) const {
    const Value* found = value_.find(key);
    if (!found) wrong(key, expected);
    return *found;
  }

  const Value& value_;
  std::string name_;
};

LengthResults length_results(const Object& object) {
  LengthResults result;
  result.length = object.integer("length");
  result.state = object.has("state") ? object.one_of("state", {"cold", "carry"}) : "cold";
  result.tokens = object.integer("tokens", 0);
  result.bytes = object.integer("bytes", 0);
  result.bits_per_token = object.number("bits_per_token");
  result.bits_per_byte = object.number("bits_per_byte");
  for (const Value& item : object.list("by_context")) {
    const Object bin(item, object.name() + ": by_context");
    const ContextLoss loss{bin.integer("from"), bin.integer("to") - 1, bin.integer("tokens", 0),
                           bin.number("bits_per_token")};
    if (loss.from < 1 || loss.to < loss.from) bin.wrong("to", "a range of places from 1 that ends before it");
    result.by_context.push_back(loss);
  }
  for (const Value& item : object.list("by_phase")) {
    const Value wrapped{Value::Table{{"by_phase", item}}, {}};
    const bool none = std::holds_alternative<std::monostate>(item.data);  // no token at that phase
    result.by_phase.push_back(none ? std::numeric_limits<double>::quiet_NaN()
                                   : Object(wrapped, object.name()).number("by_phase"));
  }
  return result;
}

TaskResults task_results(const Object& object) {
  TaskResults task;
  task.task = object.text("task");
  task.group = object.label("group");
  task.examples = object.integer("examples", 0);
  task.accuracy = object.number("accuracy");
  task.chance = object.number("chance", std::numeric_limits<double>::quiet_NaN());
  task.bits = object.number("bits", std::numeric_limits<double>::quiet_NaN());
  if (task.accuracy > 1) object.wrong("accuracy", "a share from 0 to 1");
  return task;
}

// "NVIDIA H200", "AMD EPYC, 2 threads, 2 runs at a time"
std::string computed_on(const Object& object) {
  std::string text;
  const auto add = [&](const std::string& part) {
    text += (text.empty() || part.empty() ? "" : ", ") + part;
  };
  const std::string device = object.text("device", "cpu");
  if (device != "cpu") {
    add(device);
  } else {
    add(object.text("processor", ""));
    if (const int64_t threads = object.integer("threads", 0); threads > 0)
      add(fmt::format("{} thread{}", threads, threads == 1 ? "" : "s"));
  }
  if (const int64_t jobs = object.integer("jobs", 1); jobs > 1) add(fmt::format("{} runs at a time", jobs));
  return text;
}

void read_result_file(const fs::path& path, RunResults& run) {
  const Value value = parse_json_value(read_file(path, kLargestJson), path.string());
  const Object object(value, path.string());
  run.kind = object.one_of("kind", {"run", "tune"}) == "run" ? RunResults::Kind::run : RunResults::Kind::tune;
  run.status = object.one_of("status", {"finished", "diverged"}) == "finished" ? RunResults::Status::finished
                                                                               : RunResults::Status::diverged;
  for (const auto& [name, axis] : object.table("axes")) run.axes.emplace_back(name, axis_text(axis));
  const std::string length = run.axis("length");
  if (length.find_first_not_of("0123456789") != length.npos || length.size() > 15)
    object.wrong("axes", "a length in tokens, as \"4096\"");
  run.core_parameters = object.integer("core_parameters", 0);
  run.embedding_parameters = object.integer("embedding_parameters", 0);
  run.multiply_adds = object.number("multiply_adds", 0);
  run.head_multiply_adds = object.number("head_multiply_adds", 0);
  run.state_bytes = object.integer("state_bytes", 0);
  run.train_tokens = object.integer("train_tokens", 0);
  run.steps = object.integer("steps", 0);
  run.tokens_per_second = object.number("tokens_per_second", 0);
  run.peak_memory_bytes = object.integer("peak_memory_bytes", 0);
  run.seconds = object.number("seconds", 0);
  run.computed_on = computed_on(object);
  if (object.has("certificate")) run.certificate = object.one_of("certificate", {"passed", "failed"});
  run.message = object.text("message", "");
  for (const Value& item : object.list("results"))
    run.lengths.push_back(length_results(Object(item, path.string() + ": results")));
  for (const LengthResults& a : run.lengths)
    if (std::count_if(run.lengths.begin(), run.lengths.end(),
                      [&](const LengthResults& b) { return a.length == b.length && a.state == b.state; }) > 1)
      object.wrong("results", fmt::format("one result of length {} and state {}", a.length, a.state));
  for (const Value& item : object.list("tasks"))
    run.tasks.push_back(task_results(Object(item, path.string() + ": tasks")));
  for (const TaskResults& a : run.tasks)
    if (std::count_if(run.tasks.begin(), run.tasks.end(),
                      [&](const TaskResults& b) { return a.task == b.task && a.group == b.group; }) > 1)
      object.wrong("tasks", fmt::format("one result of task {} and group {}", a.task, a.group));
}

// What a run without result.json has come to, as far as its curve tells.
void take_from_metrics(const Metrics& metrics, RunResults& run) {
  if (metrics.steps.empty()) return;
  const StepMetrics& last = metrics.steps.back();
  for (const StepMetrics& step : metrics.steps)
    run.peak_memory_bytes = std::max(run.peak_memory_bytes, step.peak_memory_bytes);
  run.train_tokens = last.tokens;
  run.steps = last.step;
  run.tokens_per_second = median_speed(metrics.steps);
  run.seconds = std::isfinite(last.seconds) ? last.seconds : 0;
}

std::vector<ValidationMetrics> evenly_chosen(const std::vector<ValidationMetrics>& all, size_t most) {
  std::vector<ValidationMetrics> chosen;
  const size_t count = std::min(all.size(), most);
  for (size_t i = 1; i <= count; ++i) chosen.push_back(all[i * all.size() / count - 1]);
  std::erase_if(chosen, [](const ValidationMetrics& m) { return !std::isfinite(m.bits_per_byte); });
  return chosen;
}

// Of a run without result.json (plan.cc names them).
RunResults::Kind kind_of_id(const std::string& id) {
  return id.starts_with("tune-") ? RunResults::Kind::tune : RunResults::Kind::run;
}

RunResults read_run(const fs::path& folder) {
  RunResults run;
  run.id = folder.filename().string();
  run.kind = kind_of_id(run.id);
  const bool has_result = is_there(folder / "result.json");
  if (has_result) read_result_file(folder / "result.json", run);
  if (is_there(folder / "run.toml")) {
    run.recipe = read_file(folder / "run.toml", kLargestJson);
    run.settings = parse_toml(run.recipe, (folder / "run.toml").string());
  }
  if (is_there(folder / "metrics.jsonl")) {
    const Metrics metrics = read_metrics(folder / "metrics.jsonl");
    run.curve = thinned(metrics.steps, kMostCurvePoints);
    run.validations = evenly_chosen(metrics.validations, kMostCurvePoints);
    if (!has_result) take_from_metrics(metrics, run);
  }
  if (is_there(folder / "sample.txt"))
    run.sample = read_file(folder / "sample.txt", kLargestSample).substr(0, kShownSample);
  return run;
}

// Where it is told which runs are planned: marks those that are not, and adds those that are not begun.
void hold_to_the_plan(ExperimentResults& experiment) {
  if (experiment.planned.empty()) return;
  std::set<std::string> missing(experiment.planned.begin(), experiment.planned.end());
  for (RunResults& run : experiment.runs) run.planned = missing.erase(run.id) > 0;
  for (const std::string& id : missing) {
    RunResults& run = experiment.runs.emplace_back();
    run.id = id;
    run.kind = kind_of_id(id);
    run.status = RunResults::Status::not_begun;
  }
  std::sort(experiment.runs.begin(), experiment.runs.end(),
            [](const RunResults& a, const RunResults& b) { return a.id < b.id; });
}

ExperimentResults read_experiment(const fs::path& folder) {
  ExperimentResults experiment = read_experiment_description(folder / "experiment.json");
  experiment.folder = folder.string();
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator i(folder / "runs", error), end; !error && i != end; i.increment(error)) {
    if (i->path().filename().string().starts_with('.')) continue;
    std::error_code unfollowed;
    if (fs::is_directory(i->path(), unfollowed)) folders.push_back(i->path());
    if (unfollowed && unfollowed != std::errc::no_such_file_or_directory)
      fail("{}: cannot be looked at: {}; take it away", i->path().string(), unfollowed.message());
  }
  if (error) fail("{}: cannot list the folder: {}", (folder / "runs").string(), error.message());
  if (folders.empty())
    fail("{}: expected a folder for each run, found none; run the experiment first",
         (folder / "runs").string());
  if (folders.size() > kMostRuns)
    fail("{}: {} runs; at most {} were expected", (folder / "runs").string(), folders.size(), kMostRuns);
  std::sort(folders.begin(), folders.end());
  for (const fs::path& run : folders) experiment.runs.push_back(read_run(run));
  hold_to_the_plan(experiment);
  return experiment;
}

// Without its runs' figures, two runs in the same place cannot be told apart, nor paired.
void check_distinct(const ExperimentResults& experiment) {
  std::vector<std::pair<std::vector<std::string>, const RunResults*>> seen;
  for (const RunResults& run : experiment.runs) {
    if (!experiment.is_placed(run)) continue;
    std::vector<std::string> place = {run.series(), run.axis("length"), run.axis("seed")};
    if (run.kind == RunResults::Kind::tune) place.push_back("tune " + run.axis("lr_factor"));
    seen.emplace_back(std::move(place), &run);
  }
  std::sort(seen.begin(), seen.end());
  for (size_t i = 1; i < seen.size(); ++i) {
    if (seen[i].first != seen[i - 1].first) continue;
    fail(
        "{}: the runs {} and {} have the same axes; expected a seed, length or variant of its own for each; "
        "take one of them away",
        experiment.folder, std::min(seen[i - 1].second->id, seen[i].second->id),
        std::max(seen[i - 1].second->id, seen[i].second->id));
  }
}

}  // namespace

std::string RunResults::axis(std::string_view name) const {
  for (const auto& [key, text] : axes)
    if (key == name) return text;
  return "";
}

int64_t RunResults::trained_length() const {
  const std::string text = axis("length");
  int64_t length = 0;
  std::from_chars(text.data(), text.data() + text.size(), length);
  return length;
}

std::string RunResults::series() const {
  std::string name = axis("variant");
  for (const auto& [key, text] : axes) {
    if (key == "variant" || key == "length" || key == "seed" || key == "lr_factor") continue;
    name += fmt::format("{}{} {}", name.empty() ? "" : ", ", key, text);
  }
  return name.empty() ? id : name;
}

std::string RunResults::why_not() const {
  if (!planned) return "not of the plan as it is now";
  switch (status) {
    case Status::not_begun:
      return "not begun";
    case Status::unfinished:
      return "not finished";
    case Status::diverged:
      return message.empty() ? "diverged" : "diverged: " + message;
    case Status::finished:
      break;
  }
  return certificate == "failed" ? "its certificate failed: it looks at the future" : "";
}

std::vector<std::string> ExperimentResults::series() const {
  std::vector<std::string> present, ordered;
  for (const RunResults& run : runs)
    if (is_placed(run)) present.push_back(run.series());
  const auto is_in = [](const std::vector<std::string>& names, const std::string& one) {
    return std::find(names.begin(), names.end(), one) != names.end();
  };
  for (const auto& [first, second] : pairs) {
    for (const std::string& one : {first, second})
      if (is_in(present, one) && !is_in(ordered, one)) ordered.push_back(one);
  }
  for (const std::string& one : present)
    if (!is_in(ordered, one)) ordered.push_back(one);
  return ordered;
}

ExperimentResults read_experiment_description(const fs::path& path) {
  ExperimentResults experiment;
  const Value value = parse_json_value(read_file(path, kLargestJson), path.string());
  const Object object(value, path.string());
  experiment.name = object.text("name");
  experiment.scale = object.text("scale", "");
  experiment.title = object.text("title", experiment.name);
  experiment.question = object.text("question", "");
  experiment.date = object.text("date", "");
  experiment.build = object.text("build", "");
  for (const Value& name : object.list("measured_on"))
    experiment.measured_on += (experiment.measured_on.empty() ? "" : ", ") + axis_text(name);
  experiment.machine = object.table("machine");
  for (const Value& id : object.list("runs", kMostRuns)) experiment.planned.push_back(axis_text(id));
  if (object.has("reference"))
    experiment.reference = object.one_of("reference", {"bits_per_byte", "bits_per_token", "accuracy"});
  for (const Value& item : object.list("pairs")) {
    const auto* names = std::get_if<Value::List>(&item.data);
    if (!names || names->size() != 2) object.wrong("pairs", "pairs of names, as [[\"a\", \"b\"]]");
    experiment.pairs.emplace_back(axis_text((*names)[0]), axis_text((*names)[1]));
  }
  return experiment;
}

RunResults read_run_result(const fs::path& path) {
  RunResults run;
  read_result_file(path, run);
  return run;
}

std::vector<ExperimentResults> read_results(const std::vector<fs::path>& folders) {
  std::vector<ExperimentResults> experiments;
  ExperimentResults runs;
  runs.plain = true;
  runs.name = "runs";
  runs.title = "Training runs";
  for (const fs::path& given : folders) {
    // "runs/x/" has no last name otherwise.
    const fs::path folder = given.has_filename() ? given : given.parent_path();
    if (!is_there(folder)) fail("{}: no such folder", folder.string());
    if (is_there(folder / "experiment.json")) {
      experiments.push_back(read_experiment(folder));
      check_distinct(experiments.back());
    } else if (is_there(folder / "run.toml")) {
      runs.runs.push_back(read_run(folder));
      for (const RunResults& run : runs.runs)
        if (run.id == folder.filename().string() && &run != &runs.runs.back())
          runs.runs.back().id = folder.string();  // two folders of one name
    } else {
      fail(
          "{}: holds neither experiment.json nor run.toml; expected the folder of an experiment or of a "
          "training run",
          folder.string());
    }
  }
  if (!runs.runs.empty()) experiments.push_back(std::move(runs));
  return experiments;
}

std::vector<CurvePoint> thinned(const std::vector<StepMetrics>& steps, size_t most) {
  std::vector<CurvePoint> points;
  const size_t buckets = std::min(steps.size(), most);
  for (size_t bucket = 0; bucket < buckets; ++bucket) {
    const size_t begin = bucket * steps.size() / buckets, end = (bucket + 1) * steps.size() / buckets;
    CurvePoint sum;
    double count = 0;
    for (size_t i = begin; i < end; ++i) {
      const StepMetrics& step = steps[i];
      if (!std::isfinite(step.bits_per_byte) || !std::isfinite(step.seconds)) continue;
      sum.tokens += static_cast<double>(step.tokens);
      sum.seconds += step.seconds;
      sum.bits_per_byte += step.bits_per_byte;
      ++count;
    }
    if (count > 0) points.push_back({sum.tokens / count, sum.seconds / count, sum.bits_per_byte / count});
  }
  return points;
}

}  // namespace harmonic
