#include "harmonic/experiment/run_plan.h"

#include <algorithm>

namespace harmonic {
namespace {

constexpr std::string_view kEvaluate = "evaluate", kTexts = "texts", kMeasured = "measured_sha256",
                           kTask = "task_sha256";

Value list_of(const std::vector<std::string>& texts) {
  Value::List list;
  for (const std::string& text : texts) list.push_back({text, {}});
  return {std::move(list), {}};
}

Value evaluation_of(const PlannedRun& run) {
  Value table{Value::Table{}, {}};
  table.at("evaluated").data = run.evaluated;
  if (!run.evaluated) return table;
  const ExperimentEvaluation& evaluation = run.evaluation;
  if (!evaluation.texts.empty()) table.at("texts") = list_of(evaluation.texts);
  Value::List lengths;
  for (const int64_t length : evaluation.lengths) lengths.push_back({length, {}});
  table.at("lengths").data = std::move(lengths);
  table.at("states") = list_of(evaluation.states);
  table.at("max_tokens").data = evaluation.max_tokens;
  table.at("task").data = evaluation.task;
  if (!evaluation.task.empty()) table.at("task_arguments") = list_of(evaluation.task_arguments);
  return table;
}

void remove(Value& table, std::string_view key) {
  if (auto* entries = std::get_if<Value::Table>(&table.data))
    std::erase_if(*entries, [&](const auto& entry) { return entry.first == key; });
}

void remove_evaluation(Value& plan) {
  remove(plan, kEvaluate);
  for (const std::string_view key : {kMeasured, kTask})
    if (plan.find(kTexts)) remove(plan.at(kTexts), key);
}

// Plans of before there were such hashes stay good.
void remove_untold(Value& wanted, const Value* told) {
  if (!told) return remove(wanted, kTexts);
  std::vector<std::string> untold;
  for (const auto& [key, hash] : *wanted.at(kTexts).table())
    if (!told->find(key)) untold.push_back(key);
  for (const std::string& key : untold) remove(wanted.at(kTexts), key);
}

// A setting that is not there has its default: plans of before there was such a setting stay good.
void add_defaults(Value& plan, const Value& defaults) {
  if (!plan.table()) return;
  for (const auto& [key, value] : *defaults.table()) {
    if (!plan.find(key)) plan.at(key) = value;
    if (value.table()) add_defaults(plan.at(key), value);
  }
}

// Whether two plans say the same, in whatever order.
bool same(const Value& a, const Value& b) {
  if (!a.table() || !b.table()) return !a.table() && !b.table() && inline_text(a) == inline_text(b);
  return a.table()->size() == b.table()->size() &&
         std::all_of(a.table()->begin(), a.table()->end(), [&](const auto& entry) {
           const Value* other = b.find(entry.first);
           return other && same(entry.second, *other);
         });
}

}  // namespace

std::string run_plan_text(const PlannedRun& run, RunConfig config,
                          const std::vector<std::vector<std::string>>& prepare, const TextHashes& texts) {
  Value plan = values_of(config.fields());
  if (!prepare.empty()) {
    Value::List commands;
    for (const std::vector<std::string>& words : prepare) commands.push_back(list_of(words));
    plan.at("prepare").data = std::move(commands);
  }
  Value& held = plan.at(kTexts);
  held = {Value::Table{}, {}};
  held.at("train_sha256").data = texts.train;
  held.at("valid_sha256").data = texts.valid;
  held.at(kMeasured).data = texts.measured;
  held.at("tokenizer_sha256").data = texts.tokenizer;
  held.at(kTask).data = texts.task;
  plan.at(kEvaluate) = evaluation_of(run);
  return to_toml(plan);
}

PlanChange plan_change(std::string_view before, std::string_view now, std::string_view source) {
  Value there = parse_toml(before, source), wanted = parse_toml(now, source);
  RunConfig config;
  const Value defaults = values_of(config.fields());
  for (Value* plan : {&there, &wanted}) add_defaults(*plan, defaults);
  remove_untold(wanted, there.find(kTexts));
  if (same(there, wanted)) return PlanChange::none;
  remove_evaluation(there);
  remove_evaluation(wanted);
  return same(there, wanted) ? PlanChange::evaluation : PlanChange::training;
}

}  // namespace harmonic
