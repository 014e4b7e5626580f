#include "harmonic/train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr size_t kKept = 2;
constexpr int kFormat = 2;
constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kPartial = ".checkpoint-";  // being written or removed
constexpr const char* kStateFile = "trainer_state.json";

// What a resumed run may change.
const std::vector<std::string> kMayChange = {
    "train.tokens",      "train.steps", "train.eval_every", "train.eval_tokens", "train.checkpoint_every",
    "train.tensorboard", "data.train",  "data.valid",       "data.cache",        "data.cache_gb"};

bool has_key(const Value& table, std::string_view dotted_key) {
  const size_t point = dotted_key.find('.');
  const Value* value = table.find(dotted_key.substr(0, point));
  return value && (point == dotted_key.npos || has_key(*value, dotted_key.substr(point + 1)));
}

// SHA-256 of the settings of `config` that `known` has too and that a resumed run may not change.
std::string hash_of_settings(RunConfig config, const Value& known) {
  std::vector<Field> fields = config.fields();
  std::erase_if(fields, [&](const Field& field) {
    return std::find(kMayChange.begin(), kMayChange.end(), field.key) != kMayChange.end() ||
           !has_key(known, field.key);
  });
  return sha256(to_toml(values_of(fields)));
}

// Proof that a checkpoint is not what was written: it may be set aside. Whatever else goes wrong with one (a
// disk that fails, no right to read, a newer version's format) proves nothing and is an Error like any other.
class Damage : public Error {
  using Error::Error;
};

template <typename... Args>
[[noreturn]] void fail_damaged(fmt::format_string<Args...> format, Args&&... args) {
  throw Damage(fmt::format(format, std::forward<Args>(args)...));
}

fs::path folder_of(const fs::path& run, int64_t step) { return run / fmt::format("{}{}", kPrefix, step); }
fs::path partial_of(const fs::path& run, int64_t step) {
  return run / fmt::format("{}{}.tmp", kPartial, step);
}

void remove_folder(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) warn("{}: cannot remove: {}", path.string(), error.message());
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) fail("{}: cannot rename to {}: {}", from.string(), to.string(), error.message());
}

// Under another name first: a folder that is half removed must not look like a checkpoint.
void discard(const fs::path& run, int64_t step) {
  const fs::path old = run / fmt::format("{}{}.old", kPartial, step);
  remove_folder(old);
  rename_folder(folder_of(run, step), old);
  remove_folder(old);
}

void remove_all_that_begin_with(const fs::path& run, std::string_view prefix) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator i(run, error), end; !error && i != end; i.increment(error)) {
    if (i->path().filename().string().starts_with(prefix)) found.push_back(i->path());
  }
  for (const fs::path& path : found) remove_folder(path);
}

void remove_partial(const fs::path& run) { remove_all_that_begin_with(run, kPartial); }

void save_states(const fs::path& path, const StateRows& states) {
  const int64_t bytes = states.layout->bytes();
  SafetensorsWriter writer(path, {{"states", StoredType::u8, {states.count, bytes}}});
  writer.append(states.data, states.count * bytes);
  writer.commit();
}

void load_states(const fs::path& path, const StateRows& states) {
  const SafetensorsFile file(path);
  const StoredTensor& stored = file.at("states");
  const std::vector<int64_t> shape = {states.count, states.layout->bytes()};
  if (stored.type != StoredType::u8 || stored.shape != shape)
    fail("{}: expected U8 states of shape [{}, {}], found others", path.string(), shape[0], shape[1]);
  std::memcpy(states.data, stored.bytes.data(), stored.bytes.size());
}

std::string state_json(const fs::path& folder, const CheckpointRecord& record, RunConfig config) {
  Json files = Json::object();
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) files[name] = sha256_of_file(folder / name);
  Json state = {{"format", kFormat},
                {"step", record.step},
                {"tokens", record.tokens},
                {"seconds", record.seconds},
                {"train_data_sha256", record.train_data_hash},
                {"valid_data_sha256", record.valid_data_hash},
                {"config_sha256", hash_of_settings(config, values_of(config.fields()))},
                {"files", files}};
  state["sha256"] = sha256(state.dump());
  return state.dump(2) + '\n';
}

void expect_file(const fs::path& path) {
  std::error_code ignored;
  if (fs::status(path, ignored).type() == fs::file_type::not_found)
    fail_damaged("{}: is missing", path.string());
}

Json parsed_state(const fs::path& path) {
  expect_file(path);
  const std::string text = read_file(path, 1 << 20);
  try {
    return parse_json(text, path.string());
  } catch (const Error& error) {
    fail_damaged("{}", error.what());
  }
}

// Reads trainer_state.json and checks every file by it.
void read_state(Checkpoint& checkpoint) {
  const fs::path path = checkpoint.folder / kStateFile;
  const std::string name = path.string();
  Json state = parsed_state(path);
  try {
    // Before all else: what follows holds for formats that this version knows.
    const int64_t format = state.at("format");
    if (format > kFormat)
      fail("{}: format {}; this version reads {}; resume with the version that wrote it", name, format,
           kFormat);
    const std::string hash = state.at("sha256");
    state.erase("sha256");
    if (sha256(state.dump()) != hash) fail_damaged("{}: its SHA-256 is not the one that it names", name);
    for (const auto& [file, expected] : state.at("files").items()) {
      const fs::path whole = checkpoint.folder / file;
      expect_file(whole);
      if (sha256_of_file(whole) != expected.get<std::string>())
        fail_damaged("{}: its SHA-256 is not the one in {}", whole.string(), kStateFile);
    }
    CheckpointRecord& record = checkpoint.record;
    record.step = state.at("step");
    record.tokens = state.at("tokens");
    record.seconds = state.at("seconds");
    record.train_data_hash = state.at("train_data_sha256");
    record.valid_data_hash = state.at("valid_data_sha256");
    if (format >= 2) checkpoint.config_hash = state.at("config_sha256");
  } catch (const nlohmann::json::exception& error) {
    fail_damaged("{}: not a trainer's state: {}", name, error.what());
  }
}

Checkpoint checked_checkpoint(const fs::path& run, int64_t step) {
  Checkpoint checkpoint;
  checkpoint.folder = folder_of(run, step);
  read_state(checkpoint);
  if (checkpoint.record.step != step)
    fail_damaged("{}: holds step {}, not {}", checkpoint.folder.string(), checkpoint.record.step, step);
  const fs::path path = checkpoint.folder / "run.toml";
  const std::string toml = read_file(path, 1 << 24);
  checkpoint.settings = parse_toml(toml, path.string());
  checkpoint.config = parse_run_config(toml, path.string());
  return checkpoint;
}

}  // namespace

std::vector<int64_t> checkpoint_steps(const fs::path& run) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (fs::directory_iterator i(run, error), end; !error && i != end; i.increment(error)) {
    const std::string name = i->path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    const char* const begin = name.data() + std::string_view(kPrefix).size();
    const char* const stop = name.data() + name.size();
    int64_t step;
    const auto parsed = std::from_chars(begin, stop, step);
    if (parsed.ec == std::errc{} && parsed.ptr == stop && step >= 0) steps.push_back(step);
  }
  if (error) fail("{}: cannot list the folder: {}", run.string(), error.message());
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void save_checkpoint(const fs::path& run, const CheckpointRecord& record,
                     const CheckpointContents& contents) {
  const fs::path partial = partial_of(run, record.step), whole = folder_of(run, record.step);
  remove_folder(partial);
  try {
    make_folder(partial);
    write_model_files(partial, contents.model, contents.tokenizer);
    save_tensors(partial / "optimizer.safetensors", contents.optimizer);
    if (contents.carried) save_states(partial / "carried.safetensors", contents.carried);
    write_file(partial / "run.toml", contents.config.to_toml());
    write_file(partial / kStateFile, state_json(partial, record, contents.config));
  } catch (...) {
    remove_folder(partial);
    throw;
  }
  if (fs::exists(whole)) discard(run, record.step);
  rename_folder(partial, whole);
  sync_folder(run);
}

void publish_checkpoint(const fs::path& run, int64_t step) {
  // A copy, not a second name of the same file: whoever edits the run's weights in place would damage the
  // checkpoint.
  copy_atomically(folder_of(run, step) / "model.safetensors", run / "model.safetensors");
  const std::vector<int64_t> steps = checkpoint_steps(run);
  for (size_t i = kKept; i < steps.size(); ++i) discard(run, steps[i]);
}

void remove_checkpoints(const fs::path& run) {
  remove_partial(run);
  remove_all_that_begin_with(run, kPrefix);
}

std::optional<Checkpoint> find_checkpoint(const fs::path& run) {
  const std::vector<int64_t> steps = checkpoint_steps(run);
  std::string reason;
  std::optional<Checkpoint> found;
  std::vector<int64_t> damaged;
  for (const int64_t step : steps) {
    try {
      found = checked_checkpoint(run, step);
      break;
    } catch (const Damage& damage) {
      warn("the checkpoint of step {} is damaged: {}", step, damage.what());
      reason = damage.what();
      damaged.push_back(step);
    } catch (const Error& error) {
      fail(
          "{}; the checkpoint of step {} cannot be read and may be whole: nothing was changed. Mend this, or "
          "move the folder away to go on without it",
          error.what(), step);
    }
  }
  if (!found && !steps.empty())
    fail("{}: no checkpoint is whole ({}); copy one back, or start anew in another folder", run.string(),
         reason);
  for (const int64_t step : damaged) {
    const fs::path aside = fmt::format("{}.damaged", folder_of(run, step).string());
    remove_folder(aside);
    rename_folder(folder_of(run, step), aside);
  }
  remove_partial(run);
  return found;
}

void load_checkpoint(const Checkpoint& checkpoint, const CheckpointContents& contents) {
  load_weights(checkpoint.folder / "model.safetensors", contents.model.parameters());
  load_tensors(checkpoint.folder / "optimizer.safetensors", contents.optimizer);
  if (contents.carried) load_states(checkpoint.folder / "carried.safetensors", contents.carried);
}

void check_same_run(const Checkpoint& checkpoint, const RunConfig& now) {
  RunConfig before = checkpoint.config, after = now;
  for (RunConfig* config : {&before, &after}) config->data = config->data.with_absolute_paths();
  const std::vector<Field> was = before.fields(), is = after.fields();
  for (size_t i = 0; i < was.size(); ++i) {
    if (std::find(kMayChange.begin(), kMayChange.end(), was[i].key) != kMayChange.end()) continue;
    if (text_of(was[i]) != text_of(is[i]))
      fail_usage("{} = {}: the run to resume had {}; leave it as it was, or start anew with another --out",
                 is[i].key, text_of(is[i]), text_of(was[i]));
  }
  if (!checkpoint.config_hash.empty() && hash_of_settings(now, checkpoint.settings) != checkpoint.config_hash)
    fail(
        "{}: config_sha256 is not that of the settings in run.toml beside it; they do not belong together: "
        "resume from another checkpoint, or start anew with another --out",
        (checkpoint.folder / kStateFile).string());
}

}  // namespace harmonic
