#include "harmonic/convert/distill_plan.h"

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/merge_values.h"

namespace harmonic {

std::vector<DistillPhase> load_distill_plan(const std::filesystem::path& path, const ModelConfig& student,
                                            const std::vector<std::string>& data,
                                            const std::vector<std::string>& valid,
                                            const std::vector<Override>& overrides) {
  for (const Override& change : overrides)
    if (change.assignment.starts_with("model."))
      fail_usage("{} {}: a student's shape is that of its folder; harmonic convert --replace makes it",
                 change.where, change.assignment);
  const Value file = parse_toml(read_file(path, 1 << 24), path.string());
  const Value* phases = nullptr;
  Value shared{Value::Table{}, file.where};
  for (const auto& [section, table] : *file.table()) {
    if (section == "phase" && table.table()) {
      phases = &table;
    } else if ((section == "train" || section == "data") && table.table()) {
      shared.at(section) = table;
    } else {
      fail_usage("{}: unknown section [{}]; expected [data], [train], and [phase.1], [phase.2], ...",
                 table.where, section);
    }
  }
  const size_t count = phases ? phases->table()->size() : 0;
  if (count == 0) fail_usage("{}: no phase; expected [phase.1] with keys of [train]", path.string());
  std::vector<DistillPhase> plan;
  for (size_t n = 1; n <= count; ++n) {
    const std::string name = fmt::format("{}", n);
    const Value* phase = phases->find(name);
    if (!phase || !phase->table())
      fail_usage("{}: {} phases and no [phase.{}]; they are counted from 1", path.string(), count, name);
    Value run = shared;
    for (const char* section : {"train", "data"})
      if (!run.find(section)) run.at(section) = Value{Value::Table{}, phase->where};
    Value changes = *phase;
    if (const Value* texts = phase->find("data"); texts && texts->table()) {
      merge(run.at("data"), *texts);
      std::erase_if(std::get<Value::Table>(changes.data),
                    [](const auto& entry) { return entry.first == "data"; });
    }
    merge(run.at("train"), changes);
    RunConfig config;
    try {
      config = run_config_of(run, overrides);
      config.model = student;
      if (!data.empty()) config.data.train = data;
      if (!valid.empty()) config.data.valid = valid;
      config.validate();
    } catch (const Error& error) {
      throw Error(fmt::format("phase {}: {}", name, error.what()), error.kind());
    }
    config.data = config.data.with_absolute_paths();
    plan.push_back({name, config});
  }
  return plan;
}

}  // namespace harmonic
