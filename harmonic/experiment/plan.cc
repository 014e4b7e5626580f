#include "harmonic/experiment/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"

namespace harmonic {
namespace {

// Puts the entries of `from` over those of `into`, table by table.
void merge(Value& into, const Value& from) {
  if (!from.table()) {
    into = from;
    return;
  }
  if (!into.table()) into = {Value::Table{}, from.where};
  for (const auto& [key, value] : *from.table()) {
    auto& entries = std::get<Value::Table>(into.data);
    const auto known =
        std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return e.first == key; });
    if (known == entries.end()) {
      entries.emplace_back(key, value);
    } else {
      merge(known->second, value);
    }
  }
}

// The entry of a table as a table; null when there is none.
const Value* table_in(const Value& table, std::string_view key) {
  const Value* value = table.find(key);
  if (value && !value->table()) fail_usage("{}: {}: expected a table", value->where, key);
  return value;
}

void merge_in(Value& into, const Value* from) {
  if (from) merge(into, *from);
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

void read_evaluation(const Value* table, ExperimentEvaluation& evaluation) {
  if (!table) return;
  expect_keys(*table, "[evaluate]", {"lengths", "states", "max_tokens", "task", "task_arguments"});
  read(*table, Field("lengths", &evaluation.lengths, "").range(1, 1 << 30));
  read(*table, Field("states", &evaluation.states, "").one_of({"cold", "carry"}));
  read(*table, Field("max_tokens", &evaluation.max_tokens, "").amount());
  read(*table, Field("task", &evaluation.task, ""));
  read(*table, Field("task_arguments", &evaluation.task_arguments, ""));
}

}  // namespace

ExperimentPlan ExperimentPlan::load(const std::string& path, const std::string& scale,
                                    const PlanOverrides& overrides) {
  const Value file = parse_toml(read_file(path, 1 << 20), path);
  expect_keys(file, "an experiment", {"title", "question", "pairs", "run", "variants", "evaluate", "scales"});
  ExperimentPlan plan;
  plan.name = std::filesystem::path(path).stem().string();
  plan.scale = scale;
  plan.overrides_ = overrides;
  read(file, Field("title", &plan.title, ""));
  read(file, Field("question", &plan.question, ""));

  const auto names_in = [](const Value* table) {
    std::vector<std::string> names;
    if (table)
      for (const auto& [key, value] : *table->table()) names.push_back(key);
    return names;
  };
  const Value* scales = table_in(file, "scales");
  const Value* chosen = scales ? table_in(*scales, scale) : nullptr;
  if (!chosen)
    fail_usage("{}: no scale \"{}\"; there are {}{}", path, scale, fmt::join(names_in(scales), ", "),
               did_you_mean(scale, names_in(scales)));
  expect_keys(*chosen, "a scale", {"run", "variants", "tokens_per_step", "grid", "tune", "evaluate"});

  const Value* variants = table_in(file, "variants");
  plan.variants = names_in(variants);
  if (plan.variants.empty()) fail_usage("{}: expected at least one [variants.NAME]", path);
  const Value* own = table_in(*chosen, "variants");
  if (own) expect_variants(names_in(own), plan.variants, own->where);
  for (const std::string& name : plan.variants) {
    Value& run = plan.run_of_[name];
    run = {Value::Table{}, path};
    merge_in(run, table_in(file, "run"));
    merge_in(run, table_in(*variants, name));
    merge_in(run, table_in(*chosen, "run"));
    if (own) merge_in(run, table_in(*own, name));
  }
  plan.pairs = pairs_of(file);
  for (const auto& [first, second] : plan.pairs) expect_variants({first, second}, plan.variants, path);
  read_evaluation(table_in(file, "evaluate"), plan.evaluation_);
  read_evaluation(table_in(*chosen, "evaluate"), plan.evaluation_);
  read(*chosen, Field("tokens_per_step", &plan.tokens_per_step_, "").amount().at_least(1));

  const Value* grid = chosen->find("grid");
  const auto* cells = grid ? std::get_if<Value::List>(&grid->data) : nullptr;
  if (!cells || cells->empty())
    fail_usage("{}: expected [[scales.{}.grid]] with lengths and seeds", path, scale);
  for (const Value& value : *cells) {
    if (!value.table()) fail_usage("{}: grid: expected tables", value.where);
    expect_keys(value, "a grid's entry", {"variants", "lengths", "seeds", "run", "evaluate"});
    Cell cell;
    cell.variants = plan.variants;
    read(value, Field("variants", &cell.variants, ""));
    expect_variants(cell.variants, plan.variants, value.where);
    read(value, Field("lengths", &cell.lengths, "").range(1, 1 << 30));
    read(value, Field("seeds", &cell.seeds, "").at_least(0));
    read(value, Field("evaluate", &cell.evaluated, ""));
    if (cell.lengths.empty() || cell.seeds.empty())
      fail_usage("{}: expected lengths = [...] and seeds = [...]", value.where);
    cell.run = {Value::Table{}, value.where};
    merge_in(cell.run, table_in(value, "run"));
    plan.grid_.push_back(std::move(cell));
  }

  if (const Value* tune = table_in(*chosen, "tune")) {
    expect_keys(*tune, "[tune]", {"lr_factors", "length", "seed", "variants", "run"});
    plan.tuned_ = plan.variants;
    plan.tune_length_ = plan.grid_.front().lengths.front();
    read(*tune, Field("lr_factors", &plan.lr_factors_, "").above(0, 1e3));
    read(*tune, Field("length", &plan.tune_length_, "").range(1, 1 << 30));
    read(*tune, Field("seed", &plan.tune_seed_, "").at_least(0));
    read(*tune, Field("variants", &plan.tuned_, ""));
    expect_variants(plan.tuned_, plan.variants, tune->where);
    plan.tune_run_ = {Value::Table{}, tune->where};
    merge_in(plan.tune_run_, table_in(*tune, "run"));
  }
  plan.tuning();  // both throw now what is wrong with a run's settings
  plan.runs({});
  return plan;
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
  int64_t longest = length;
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
  planned.config = run_config_of(run);
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

std::vector<PlannedRun> ExperimentPlan::tuning() const {
  std::vector<PlannedRun> result;
  if (lr_factors_.size() < 2) return result;
  for (const std::string& variant : tuned_)
    for (const double factor : lr_factors_) {
      PlannedRun run = planned(variant, tune_length_, tune_seed_, tune_run_);
      run.tuning = true;
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
  // All variants of a seed together: an experiment that is stopped has whole pairs.
  for (const Cell& cell : grid_)
    for (const int64_t length : cell.lengths)
      for (const int64_t seed : cell.seeds)
        for (const std::string& variant : cell.variants) {
          PlannedRun run = planned(variant, length, seed, cell.run);
          run.evaluated = cell.evaluated;
          run.id = fmt::format("{}-{}-{}", variant, length, seed);
          const auto factor = lr_factors.find(variant);
          scale_rates(run, factor == lr_factors.end() ? 1 : factor->second);
          const bool twice =
              std::any_of(result.begin(), result.end(), [&](const auto& r) { return r.id == run.id; });
          if (twice) fail_usage("{}: {} is planned twice in the grid of scale {}", name, run.id, scale);
          result.push_back(std::move(run));
        }
  return result;
}

}  // namespace harmonic
