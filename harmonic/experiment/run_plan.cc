#include "harmonic/experiment/run_plan.h"

#include <algorithm>

namespace harmonic {
namespace {

constexpr std::string_view kEvaluate = "evaluate";

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
  Value::List lengths;
  for (const int64_t length : evaluation.lengths) lengths.push_back({length, {}});
  table.at("lengths").data = std::move(lengths);
  table.at("states") = list_of(evaluation.states);
  table.at("max_tokens").data = evaluation.max_tokens;
  table.at("task").data = evaluation.task;
  if (!evaluation.task.empty()) table.at("task_arguments") = list_of(evaluation.task_arguments);
  return table;
}

void remove_evaluation(Value& plan) {
  if (auto* entries = std::get_if<Value::Table>(&plan.data))
    std::erase_if(*entries, [](const auto& entry) { return entry.first == kEvaluate; });
}

}  // namespace

std::string run_plan_text(const PlannedRun& run, RunConfig config,
                          const std::vector<std::vector<std::string>>& prepare) {
  Value plan = values_of(config.fields());
  if (!prepare.empty()) {
    Value::List commands;
    for (const std::vector<std::string>& words : prepare) commands.push_back(list_of(words));
    plan.at("prepare").data = std::move(commands);
  }
  plan.at(kEvaluate) = evaluation_of(run);
  return to_toml(plan);
}

PlanChange plan_change(std::string_view before, std::string_view now, std::string_view source) {
  if (before == now) return PlanChange::none;
  Value there = parse_toml(before, source), wanted = parse_toml(now, source);
  remove_evaluation(there);
  remove_evaluation(wanted);
  return to_toml(there) == to_toml(wanted) ? PlanChange::evaluation : PlanChange::training;
}

}  // namespace harmonic
