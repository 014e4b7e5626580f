#include "harmonic/train/run_folder.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/log.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

bool has(const fs::path& folder, const char* name) { return is_there(folder / name); }

// The name of something that a run would write over, apart from the model that it would make; empty when
// there is none.
std::string in_the_way(const fs::path& folder) {
  for (const char* name : {"tokenizer.json", "generation_config.json", "metrics.jsonl"})
    if (has(folder, name)) return name;
  const std::vector<int64_t> steps = checkpoint_steps(folder);
  return steps.empty() ? "" : fmt::format("checkpoint-{}", steps.front());
}

// "run.toml.4711.tmp": what an AtomicFile leaves when its process is killed.
bool is_unfinished(const std::string& name) {
  const std::string_view suffix = ".tmp";
  if (!name.ends_with(suffix)) return false;
  const size_t end = name.size() - suffix.size();
  const size_t point = name.rfind('.', end - 1);
  return point != name.npos && point + 1 < end &&
         std::all_of(name.begin() + static_cast<std::ptrdiff_t>(point) + 1,
                     name.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char c) { return c >= '0' && c <= '9'; });
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator i(folder, error), end; !error && i != end; i.increment(error))
    entries.push_back(i->path());
  if (error) fail("{}: cannot list the folder: {}", folder.string(), error.message());
  return entries;
}

void remove_unfinished(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::path& entry : entries_of(folder))
    if (is_unfinished(entry.filename().string())) fs::remove(entry, ignored);
}

}  // namespace

bool holds_nothing(const fs::path& folder) {
  std::error_code ignored;
  if (fs::status(folder, ignored).type() == fs::file_type::not_found) return true;
  const std::vector<fs::path> entries = entries_of(folder);
  return std::all_of(entries.begin(), entries.end(), [](const fs::path& entry) {
    const std::string name = entry.filename().string();
    return name.starts_with('.') || is_unfinished(name);
  });
}

RunFolder::RunFolder(fs::path path, bool resume) : path_(std::move(path)) {
  const std::string name = path_.string();
  std::error_code ignored;
  if (is_there(path_) && !fs::is_directory(path_, ignored))
    fail_usage("--out {}: a file stands there; expected a folder", name);
  const bool run = has(path_, "run.toml");
  if (!resume) {
    if (run)
      fail_usage("--out {}: holds a run already; go on with it by --resume, or name another folder", name);
    if (has(path_, "model.safetensors") || has(path_, "config.json"))
      fail_usage("--out {}: holds a model already; name another folder", name);
    make_folder(path_);
    if (const std::string file = in_the_way(path_); !file.empty())
      fail_usage("--out {}: holds {}, which the run would write over; move it away, or name another folder",
                 name, file);
  } else if (!is_there(path_)) {
    fail_usage("--resume: there is no folder {}; name that of the run with --out", name);
  } else if (!run && !holds_nothing(path_)) {
    const std::vector<int64_t> steps = checkpoint_steps(path_);
    fail_usage("--resume: {} holds no run{}", name,
               steps.empty()
                   ? "; name the folder of one with --out"
                   : fmt::format(": run.toml is missing; copy the one in checkpoint-{}", steps.front()));
  }
  lock_.emplace(path_ / ".lock", FileLock::Kind::exclusive);
  if (lock_->state() == FileLock::State::taken)
    fail("{}: another process is training there; wait for it or stop it", name);
  if (resume) remove_unfinished(path_);
  if (resume) checkpoint_ = find_checkpoint(path_);
  if (!resume || checkpoint_) return;
  // Published after the first checkpoint: there was one.
  if (has(path_, "model.safetensors"))
    fail_usage(
        "--resume: {} holds a model, but no checkpoint to go on from; a run from the beginning needs another "
        "--out",
        name);
  log("{}: no checkpoint yet; the run starts from its beginning", name);
}

}  // namespace harmonic
