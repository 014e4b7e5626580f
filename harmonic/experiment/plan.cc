#include "harmonic/experiment/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/merge_values.h"
#include "harmonic/eval/task.h"

namespace harmonic {
namespace {

constexpr std::string_view kLike = "like";  // the key of a variant that names another to start from

// The entry of a table as a table; null when there is none.
const Value* table_in(const Value& table, std::string_view key) {
  const Value* value = table.find(key);
  if (value && !value->table()) fail_usage("{}: {}: expected a table", value->where, key);
  return value;
}

void merge_in(Value& into, const Value* from) {
  if (from) merge(into, *from);
}

std::vector<std::string> names_in(const Value* table) {
  std::vector<std::string> names;
  if (table)
    for (const auto& [key, value] : *table->table()) names.push_back(key);
  return names;
}

// The keys of all settings in a table of run settings, as "train.lr".
void add_keys(const Value& table, const std::string& prefix, std::vector<std::string>& keys) {
  for (const auto& [key, value] : *table.table()) {
    if (key == kLike) continue;
    const std::string name = prefix.empty() ? key : prefix + "." + key;
    if (value.table()) {
      add_keys(value, name, keys);
    } else {
      keys.push_back(name);
    }
  }
}

// A variant's name begins the names of folders, in which "tune-" has a meaning.
void expect_name(const std::string& name, std::string_view where) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
  if (name.empty() || !plain || name.front() == '.' || name.starts_with("tune-"))
    fail_usage(
        "{}: variant \"{}\": expected a name of letters, digits, \"-\", \"_\" and \".\" that does not begin "
        "with \".\" or \"tune-\"",
        where, name);
}

void expect_keys(const Value& table, std::string_view what, const std::vector<std::string>& known) {
  for (const auto& [key, value] : *table.table())
    if (std::find(known.begin(), known.end(), key) == known.end())
      fail_usage("{}: {} has no key \"{}\"; expected {}{}", value.where, what, key, fmt::join(known, ", "),
                 did_you_mean(key, known));
}

void read(const Value& table, Field field) {
  if (const Value* value = table.find(field.key)) set_field(field, *value, field.key);
}

void expect_variants(const std::vector<std::string>& names, const std::vector<std::string>& known,
                     std::string_view where) {
  for (const std::string& name : names)
    if (std::find(known.begin(), known.end(), name) == known.end())
      fail_usage("{}: no variant \"{}\"; there are {}{}", where, name, fmt::join(known, ", "),
                 did_you_mean(name, known));
}

std::vector<std::pair<std::string, std::string>> pairs_of(const Value& file) {
  std::vector<std::pair<std::string, std::string>> pairs;
  const Value* list = file.find("pairs");
  if (!list) return pairs;
  const auto* items = std::get_if<Value::List>(&list->data);
  for (size_t i = 0; items && i < items->size(); ++i) {
    std::vector<std::string> names;
    set_field(Field("pairs", &names, ""), (*items)[i], "pairs");
    if (names.size() != 2) fail_usage("{}: pairs: expected two variants in each", (*items)[i].where);
    pairs.emplace_back(names[0], names[1]);
  }
  if (!items) fail_usage("{}: pairs: expected a list of pairs of variants", list->where);
  return pairs;
}

template <typename Item>
void expect_different(const Value& table, std::string_view key, std::vector<Item> items) {
  std::sort(items.begin(), items.end());
  if (const auto twice = std::adjacent_find(items.begin(), items.end()); twice != items.end())
    fail_usage("{}: {}: {} stands there twice", table.find(key)->where, key, *twice);
}

void read_evaluation(const Value* table, ExperimentEvaluation& evaluation) {
  if (!table) return;
  expect_keys(*table, "[evaluate]",
              {"texts", "lengths", "states", "max_tokens", "task", "task_arguments", "longest_text"});
  read(*table, Field("texts", &evaluation.texts, ""));
  read(*table, Field("lengths", &evaluation.lengths, "").range(1, 1 << 30));
  read(*table, Field("states", &evaluation.states, "").one_of({"cold", "carry"}));
  if (table->find("states") && evaluation.states.empty())
    fail_usage("{}: states: expected \"cold\", \"carry\" or both, found none", table->find("states")->where);
  expect_different(*table, "states", evaluation.states);
  expect_different(*table, "lengths", evaluation.lengths);
  read(*table, Field("max_tokens", &evaluation.max_tokens, "").amount());
  read(*table, Field("task", &evaluation.task, "").one_of(kTaskNames));
  read(*table, Field("task_arguments", &evaluation.task_arguments, ""));
  read(*table, Field("longest_text", &evaluation.longest_text, "").amount().range(0, 1 << 30));
}

// A variant after those that it is like, the first of them first.
std::vector<std::string> with_models(const Value& variants, std::string name) {
  std::vector<std::string> chain;
  while (true) {
    if (std::find(chain.begin(), chain.end(), name) != chain.end())
      fail_usage("{}: variant \"{}\" is like itself", variants.where, name);
    chain.insert(chain.begin(), name);
    const Value* like = variants.find(name)->find(kLike);
    if (!like) return chain;
    set_field(Field(std::string(kLike), &name, ""), *like, kLike);
    expect_variants({name}, names_in(&variants), like->where);
  }
}

// The file over those that it includes.
Value read_plan(const std::filesystem::path& path) {
  std::vector<std::string> keys = {"title", "question", "pairs", "run", "variants", "evaluate", "scales"};
  const auto parsed = [&](const std::filesystem::path& from) {
    Value file = parse_toml(read_file(from, 1 << 20), from.string());
    expect_keys(file, "an experiment", keys);
    return file;
  };
  keys.push_back("include");
  const Value file = parsed(path);
  keys.pop_back();  // one level of them
  std::vector<std::string> included;
  read(file, Field("include", &included, ""));
  Value whole{Value::Table{}, path.string()};
  for (const std::string& name : included) merge(whole, parsed(path.parent_path() / name));
  merge(whole, file);
  return whole;
}

}  // namespace

ExperimentPlan ExperimentPlan::load(const std::string& path, const std::string& scale,
                                    const PlanOverrides& overrides) {
  const Value file = read_plan(path);
  ExperimentPlan plan;
  plan.name = std::filesystem::path(path).stem().string();
  plan.scale = scale;
  plan.overrides_ = overrides;
  plan.title = plan.name;
  read(file, Field("title", &plan.title, ""));
  read(file, Field("question", &plan.question, ""));
  const Value* scales = table_in(file, "scales");
  const Value* chosen = scales ? table_in(*scales, scale) : nullptr;
  if (!chosen)
    fail_usage("{}: no scale \"{}\"; there are {}{}", path, scale, fmt::join(names_in(scales), ", "),
               did_you_mean(scale, names_in(scales)));
  expect_keys(*chosen, "a scale",
              {"run", "variants", "tokens_per_step", "prepare", "grid", "tune", "evaluate"});
  plan.read_variants(file, *chosen, path);
  plan.read_measuring(file, *chosen);
  plan.read_preparation(*chosen);
  plan.read_grid(*chosen, path);
  plan.read_tuning(*chosen);
  plan.refuse_settings_of_the_plan();
  plan.tuning();  // both throw now what is wrong with a run's settings
  plan.runs({});
  return plan;
}

void ExperimentPlan::read_variants(const Value& file, const Value& chosen, const std::string& path) {
  const Value* table = table_in(file, "variants");
  variants = names_in(table);
  if (variants.empty()) fail_usage("{}: expected at least one [variants.NAME]", path);
  for (const std::string& variant : variants) expect_name(variant, table->find(variant)->where);
  const Value* own = table_in(chosen, "variants");
  if (own) expect_variants(names_in(own), variants, own->where);
  for (const std::string& variant : variants) {
    Value& run = run_of_[variant];
    run = {Value::Table{}, path};
    merge_in(run, table_in(file, "run"));
    for (const std::string& layer : with_models(*table, variant)) merge_in(run, table_in(*table, layer));
    merge_in(run, table_in(chosen, "run"));
    for (const std::string& layer : with_models(*table, variant))
      if (own) merge_in(run, table_in(*own, layer));
    std::erase_if(std::get<Value::Table>(run.data), [](const auto& entry) { return entry.first == kLike; });
  }
  for (const Value* layers : {table, own})
    if (layers)
      for (const std::string& variant : names_in(layers))
        add_keys(*table_in(*layers, variant), "", differing_);
  pairs = pairs_of(file);
  for (const auto& [first, second] : pairs) expect_variants({first, second}, variants, path);
}

void ExperimentPlan::read_measuring(const Value& file, const Value& chosen) {
  read_evaluation(table_in(file, "evaluate"), evaluation_);
  read_evaluation(table_in(chosen, "evaluate"), evaluation_);
  if (!overrides_.test.empty()) evaluation_.texts = overrides_.test;
}

void ExperimentPlan::read_preparation(const Value& chosen) {
  const Value* commands = chosen.find("prepare");
  if (!commands) return;
  const auto* list = std::get_if<Value::List>(&commands->data);
  if (!list) fail_usage("{}: prepare: expected a list of commands, each a list of words", commands->where);
  for (const Value& command : *list) {
    set_field(Field("prepare", &prepare.emplace_back(), ""), command, "prepare");
    if (prepare.back().empty())
      fail_usage("{}: prepare: expected the words of a command, found none", command.where);
  }
}

void ExperimentPlan::read_grid(const Value& chosen, const std::string& path) {
  read(chosen, Field("tokens_per_step", &tokens_per_step_, "").amount().at_least(1));
  const Value* grid = chosen.find("grid");
  const auto* cells = grid ? std::get_if<Value::List>(&grid->data) : nullptr;
  if (!cells || cells->empty())
    fail_usage("{}: expected [[scales.{}.grid]] with lengths and seeds", path, scale);
  for (const Value& value : *cells) {
    if (!value.table()) fail_usage("{}: grid: expected tables", value.where);
    expect_keys(value, "a grid's entry", {"variants", "lengths", "seeds", "run", "evaluate"});
    Cell cell;
    cell.variants = variants;
    read(value, Field("variants", &cell.variants, ""));
    expect_variants(cell.variants, variants, value.where);
    read(value, Field("lengths", &cell.lengths, "").range(1, 1 << 30));
    read(value, Field("seeds", &cell.seeds, "").at_least(0));
    read(value, Field("evaluate", &cell.evaluated, ""));
    if (cell.lengths.empty() || cell.seeds.empty())
      fail_usage("{}: expected lengths = [...] and seeds = [...]", value.where);
    cell.run = {Value::Table{}, value.where};
    merge_in(cell.run, table_in(value, "run"));
    add_keys(cell.run, "", differing_);
    grid_.push_back(std::move(cell));
  }
}

void ExperimentPlan::read_tuning(const Value& chosen) {
  const Value* tune = table_in(chosen, "tune");
  if (!tune) return;
  expect_keys(*tune, "[tune]", {"lr_factors", "length", "seed", "variants", "run"});
  tuned_ = variants;
  tune_length_ = grid_.front().lengths.front();
  read(*tune, Field("lr_factors", &lr_factors_, "").above(0, 1e3));
  read(*tune, Field("length", &tune_length_, "").range(1, 1 << 30));
  read(*tune, Field("seed", &tune_seed_, "").at_least(0));
  read(*tune, Field("variants", &tuned_, ""));
  expect_variants(tuned_, variants, tune->where);
  tune_run_ = {Value::Table{}, tune->where};
  merge_in(tune_run_, table_in(*tune, "run"));
  std::vector<std::string> shown;  // as runs are named by them
  for (const double factor : lr_factors_) {
    const std::string text = fmt::format("{:g}", factor);
    if (std::find(shown.begin(), shown.end(), text) != shown.end())
      fail_usage("{}: lr_factors: two of them are {}, to six digits", tune->find("lr_factors")->where, text);
    shown.push_back(text);
  }
}

// What names a run, tells it from others or follows from that may not be one value for all.
void ExperimentPlan::refuse_settings_of_the_plan() const {
  std::vector<std::pair<std::string, std::string>> fixed = {
      {"train.seed", "the grid's seeds set it"},
      {"train.seq_len", "the grid's lengths set it"},
      {"model.attention.context", "it follows from the lengths that a run is trained and measured at"}};
  if (tokens_per_step_ > 0) fixed.push_back({"train.batch_size", "it follows from tokens_per_step"});
  // One stands for the other.
  const auto differs = [&](const char* key) {
    return std::find(differing_.begin(), differing_.end(), key) != differing_.end();
  };
  if (differs("train.tokens") || differs("train.steps"))
    for (const char* key : {"train.tokens", "train.steps"})
      fixed.push_back({key, "variants or the grid set it"});
  for (const std::string& key : differing_) fixed.push_back({key, "variants or the grid set it"});
  for (const Override& setting : overrides_.settings) {
    std::string key = setting.assignment.substr(0, setting.assignment.find('='));
    std::erase(key, ' ');
    for (const auto& [known, reason] : fixed)
      if (key == known)
        fail_usage("{}: {} cannot be set for all runs: {}; change the plan", setting.where, key, reason);
  }
}

void ExperimentPlan::expect_texts() const {
  std::vector<PlannedRun> all = tuning();
  for (PlannedRun& run : runs({})) all.push_back(std::move(run));
  for (const PlannedRun& run : all) {
    if (run.config.data.train.empty())
      fail_usage("{} at scale {}: {} has no texts to train on; give them with --data", name, scale, run.id);
    if (run.evaluated && run.texts().empty())
      fail_usage("{} at scale {}: {} has no held-out texts to be measured on; give them with --valid", name,
                 scale, run.id);
  }
}

PlannedRun ExperimentPlan::planned(const std::string& variant, int64_t length, int64_t seed,
                                   const Value& change) const {
  Value run = run_of_.at(variant);
  merge(run, change);
  PlannedRun planned;
  planned.variant = variant;
  planned.length = length;
  planned.seed = seed;
  planned.evaluation = evaluation_;
  run.at("train.seq_len").data = length;
  run.at("train.seed").data = seed;
  if (tokens_per_step_ > 0) run.at("train.batch_size").data = std::max<int64_t>(1, tokens_per_step_ / length);
  int64_t longest = std::max(length, evaluation_.longest_text);
  for (const int64_t evaluated : evaluation_.lengths) longest = std::max(longest, evaluated);
  run.at("model.attention.context").data = longest;
  const auto put_texts = [&](const std::vector<std::string>& texts, const char* key) {
    if (texts.empty()) return;
    Value::List list;
    for (const std::string& text : texts) list.push_back({text, {}});
    run.at(key).data = std::move(list);
  };
  put_texts(overrides_.train, "data.train");
  put_texts(overrides_.valid, "data.valid");
  planned.config = run_config_of(run, overrides_.settings);
  if (planned.evaluation.lengths.empty()) planned.evaluation.lengths = {length};
  return planned;
}

namespace {

void scale_rates(PlannedRun& run, double factor) {
  run.lr_factor = factor;
  run.config.train.lr *= factor;
  run.config.train.muon_lr *= factor;
}

}  // namespace

double ExperimentPlan::factor_of(const std::string& variant) const {
  const bool given =
      lr_factors_.size() == 1 && std::find(tuned_.begin(), tuned_.end(), variant) != tuned_.end();
  return given ? lr_factors_.front() : 1;
}

std::vector<PlannedRun> ExperimentPlan::tuning() const {
  std::vector<PlannedRun> result;
  if (lr_factors_.size() < 2) return result;
  for (const std::string& variant : tuned_)
    for (const double factor : lr_factors_) {
      PlannedRun run = planned(variant, tune_length_, tune_seed_, tune_run_);
      run.tuning = true;
      run.evaluation.texts.clear();
      run.evaluation.lengths = {tune_length_};
      run.evaluation.states = {"cold"};
      run.evaluation.task.clear();
      run.id = fmt::format("tune-{}-{}-lr{:g}", variant, tune_length_, factor);
      scale_rates(run, factor);
      result.push_back(std::move(run));
    }
  return result;
}

std::vector<PlannedRun> ExperimentPlan::runs(const std::map<std::string, double>& lr_factors) const {
  std::vector<PlannedRun> result;
  for (const Cell& cell : grid_)
    for (const int64_t length : cell.lengths)
      for (const int64_t seed : cell.seeds)
        for (const std::string& variant : cell.variants) {
          PlannedRun run = planned(variant, length, seed, cell.run);
          run.evaluated = cell.evaluated;
          run.id = fmt::format("{}-{}-{}", variant, length, seed);
          const auto factor = lr_factors.find(variant);
          scale_rates(run, factor == lr_factors.end() ? factor_of(variant) : factor->second);
          const bool twice =
              std::any_of(result.begin(), result.end(), [&](const auto& r) { return r.id == run.id; });
          if (twice) fail_usage("{}: {} is planned twice in the grid of scale {}", name, run.id, scale);
          result.push_back(std::move(run));
        }
  // All variants of a length and seed together: an experiment that is stopped has whole pairs.
  std::vector<std::pair<int64_t, int64_t>> places;
  const auto place = [&](const PlannedRun& run) {
    return std::find(places.begin(), places.end(), std::pair(run.length, run.seed)) - places.begin();
  };
  for (const PlannedRun& run : result)
    if (place(run) == std::ssize(places)) places.emplace_back(run.length, run.seed);
  std::stable_sort(result.begin(), result.end(),
                   [&](const PlannedRun& a, const PlannedRun& b) { return place(a) < place(b); });
  return result;
}

}  // namespace harmonic
