#include "harmonic/train/train_config.h"

#include <unistd.h>

#include <algorithm>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/model/presets.h"

namespace harmonic {
namespace {

constexpr std::string_view kSections[] = {"model", "data", "train"};
constexpr std::string_view kPreset = "model.preset";

struct Assignment {
  std::string key, text, where;
};

Assignment divided(const Override& override) {
  const size_t equals = override.assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    fail_usage("{} {}: expected KEY=VALUE, as in train.lr=3e-3", override.where, override.assignment);
  return {override.assignment.substr(0, equals), override.assignment.substr(equals + 1), override.where};
}

// The variables of the environment that set a field or the preset. One that begins like a section's and names
// no field is an error: a setting that is silently dropped costs a run.
std::vector<Assignment> from_environment(const std::vector<Field>& fields) {
  std::vector<std::string> keys = {std::string(kPreset)}, names;
  for (const Field& field : fields) keys.push_back(field.key);
  for (const std::string& key : keys) names.push_back(environment_name(key));
  std::vector<Assignment> found;
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view variable = *entry;
    const size_t equals = variable.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view name = variable.substr(0, equals);
    const auto known = std::find(names.begin(), names.end(), name);
    if (known != names.end()) {
      found.push_back({keys[static_cast<size_t>(known - names.begin())],
                       std::string(variable.substr(equals + 1)), std::string(name)});
      continue;
    }
    for (const std::string_view section : kSections) {
      if (name.starts_with(environment_name(section) + "_"))
        fail_usage("environment variable {}: no setting has this name{}", name, did_you_mean(name, names));
    }
  }
  return found;
}

// The file's table without model.preset, whose value goes to *preset.
Value without_preset(Value file, std::string* preset) {
  for (auto& [section, table] : std::get<Value::Table>(file.data)) {
    if (section != "model" || !table.table()) continue;
    if (const Value* value = table.find("preset")) {
      set_field(Field("preset", preset, "a named starting point").one_of(preset_names()), *value, kPreset);
      std::erase_if(std::get<Value::Table>(table.data),
                    [](const auto& entry) { return entry.first == "preset"; });
    }
  }
  return file;
}

void check_sections(const Value& file) {
  for (const auto& [key, value] : *file.table()) {
    if (std::find(std::begin(kSections), std::end(kSections), key) == std::end(kSections))
      fail_usage("{}: unknown section [{}]; expected [model], [data] or [train]{}", value.where, key,
                 did_you_mean(key, {std::begin(kSections), std::end(kSections)}));
  }
}

RunConfig assembled(Value file, const std::vector<Assignment>& assignments) {
  std::string preset;
  check_sections(file);
  file = without_preset(std::move(file), &preset);
  for (const Assignment& assignment : assignments) {
    if (assignment.key == kPreset)
      set_field(Field("preset", &preset, "a named starting point").one_of(preset_names()), assignment.text,
                kPreset, assignment.where);
  }
  RunConfig config;
  if (!preset.empty()) config.model = preset_named(preset).config;
  const std::vector<Field> fields = config.fields();
  set_fields(fields, file, "");
  for (const Assignment& assignment : assignments) {
    if (assignment.key != kPreset)
      set_field(find_field(fields, assignment.key, "", assignment.where), assignment.text, assignment.key,
                assignment.where);
  }
  const auto given = [&](std::string_view key) {
    return std::any_of(assignments.begin(), assignments.end(),
                       [&](const Assignment& a) { return a.key == key; });
  };
  if (given("train.tokens") && !given("train.steps") && config.train.steps > 0)
    fail_usage(
        "train.tokens = {} would do nothing: train.steps = {} counts instead; give train.steps, 0 for none",
        config.train.tokens, config.train.steps);
  config.validate();
  return config;
}

}  // namespace

std::vector<Field> TrainConfig::fields() {
  constexpr double kMany = 1e12;
  return {
      Field("seq_len", &seq_len, "tokens a sequence").amount().range(1, 1 << 30),
      Field("batch_size", &batch_size, "sequences a step").range(1, 1 << 20),
      Field("accumulation", &accumulation, "passes that a step's sequences are divided over")
          .range(1, 1 << 20),
      Field("tokens", &tokens, "token budget of the run").amount(),
      Field("steps", &steps, "step budget; above 0 it counts instead of tokens").range(0, kMany),
      Field("objective", &objective, "text: its cross-entropy; layers, teacher: distillation's distances")
          .one_of({"text", "layers", "teacher"}),
      Field("teacher_share", &teacher_share, "of the teacher in its objective; the rest is the text's")
          .range(0, 1),
      Field("only", &only, "what is trained: all, or the mixers alone").one_of({"all", "mixers"}),
      Field("loader", &loader, "how sequences are drawn").one_of({"windows", "documents", "streams"}),
      Field("carry_state", &carry_state, "with streams: hand each sequence's state to the next"),
      Field("optimizer", &optimizer, "muon: hidden matrices by Muon, the rest by AdamW")
          .one_of({"adamw", "muon"}),
      Field("lr", &lr, "peak learning rate").above(0, 1e3),
      Field("muon_lr", &muon_lr, "peak learning rate of Muon's matrices").above(0, 1e3),
      Field("warmup", &warmup, "share of the run in which the rate rises").range(0, 1),
      Field("schedule", &schedule, "how the rate falls").one_of({"cosine", "wsd"}),
      Field("min_lr", &min_lr, "last learning rate as a share of the peak").range(0, 1),
      Field("weight_decay", &weight_decay, "on matrices").range(0, 1e3),
      Field("betas", &betas, "AdamW's two averages").range(0, 0.999999),
      Field("clip", &clip, "largest norm of the whole gradient; 0 is no clipping").range(0, 1e9),
      Field("memory_mb", &memory_mb, "memory for activations; longer sequences go by chunks")
          .range(1, 1 << 30),
      Field("chunk_len", &chunk_len, "tokens a chunk; 0 is chosen from memory_mb").range(0, 1 << 30),
      Field("eval_every", &eval_every, "steps between held-out evaluations; 0 is never").range(0, kMany),
      Field("eval_tokens", &eval_tokens, "held-out tokens at most an evaluation; 0 is the whole split")
          .amount(),
      Field("checkpoint_every", &checkpoint_every, "steps between checkpoints; 0 is at the end only")
          .range(0, kMany),
      Field("tensorboard", &tensorboard, "write event files for TensorBoard beside metrics.jsonl"),
      Field("precision", &precision,
            "of the matrix products; bf16 on a card and on processors with AVX-512 BF16 or AMX, whose bits "
            "are their own")
          .one_of({"f32", "bf16"}),
      Field("seed", &seed, "of the initial weights and the order of the data").at_least(0),
  };
}

void TrainConfig::validate() const {
  TrainConfig copy = *this;
  check_fields(copy.fields(), "train");
  if (betas.size() != 2)
    fail_usage("train.betas: expected two numbers, as [0.9, 0.95]; found {}", betas.size());
  if (batch_size % accumulation != 0)
    fail_usage("train.accumulation = {}: does not divide batch_size = {}", accumulation, batch_size);
  if (carry_state && loader != "streams")
    fail_usage("train.carry_state = true: needs loader = \"streams\"; found \"{}\"", loader);
  if (carry_state && objective != "text")
    fail_usage(
        "train.carry_state = true: a teacher sees each window alone; objective = \"{}\" needs it false",
        objective);
  if (tokens == 0 && steps == 0)
    fail_usage("train.tokens = 0 and train.steps = 0: expected a budget in one of them");
  total_steps();
}

int64_t TrainConfig::tokens_per_step() const {
  return checked_mul(seq_len, batch_size, "train.seq_len x batch_size");
}

int64_t TrainConfig::total_steps() const {
  return steps > 0 ? steps : std::max<int64_t>(1, (tokens - 1) / tokens_per_step() + 1);
}

std::vector<Field> RunConfig::fields() {
  std::vector<Field> all;
  const auto add = [&](std::string_view section, std::vector<Field> fields) {
    for (Field& field : fields) {
      field.key = fmt::format("{}.{}", section, field.key);
      all.push_back(std::move(field));
    }
  };
  add("model", model.fields());
  add("data", data.fields());
  add("train", train.fields());
  return all;
}

void RunConfig::validate() const {
  model.validate();
  data.validate();
  train.validate();
  if (const int64_t longest = model.longest_text(); longest > 0) {
    if (train.carry_state)
      fail_usage(
          "train.carry_state = true: attention remembers {} tokens, not a stream; set "
          "model.attention.window (harmonic convert --window of a converted model) or train without",
          longest);
    if (train.seq_len > longest)
      fail_usage("train.seq_len = {}: attention remembers {} tokens; raise model.attention.context",
                 train.seq_len, longest);
  }
  if (data.within_document && train.loader != "windows")
    fail_usage("data.within_document = true: belongs to train.loader = \"windows\"; found \"{}\"",
               train.loader);
}

std::string RunConfig::to_toml() const {
  RunConfig copy = *this;
  return harmonic::to_toml(values_of(copy.fields()));
}

RunConfig load_run_config(const std::filesystem::path& path, const std::vector<Override>& overrides) {
  Value file{Value::Table{}, {}};
  if (!path.empty()) file = parse_toml(read_file(path, 1 << 24), path.string());
  std::vector<Assignment> assignments = from_environment(RunConfig().fields());
  for (const Override& override : overrides) assignments.push_back(divided(override));
  return assembled(std::move(file), assignments);
}

RunConfig run_config_of(const Value& table, const std::vector<Override>& overrides) {
  std::vector<Assignment> assignments;
  for (const Override& override : overrides) assignments.push_back(divided(override));
  return assembled(table, assignments);
}

RunConfig parse_run_config(std::string_view toml, std::string_view source) {
  return assembled(parse_toml(toml, source), {});
}

std::string environment_name(std::string_view key) {
  std::string name = "HARMONIC_";
  for (const char c : key)
    name += c == '.' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return name;
}

}  // namespace harmonic
