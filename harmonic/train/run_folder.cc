#include "harmonic/train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/log.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

bool has(const fs::path& folder, const char* name) {
  std::error_code ignored;
  return fs::exists(folder / name, ignored);
}

// Nothing but what begins with a point.
bool holds_nothing(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator i(folder, error), end; !error && i != end; i.increment(error)) {
    if (!i->path().filename().string().starts_with('.')) return false;
  }
  if (error) fail("{}: cannot list the folder: {}", folder.string(), error.message());
  return true;
}

}  // namespace

RunFolder::RunFolder(fs::path path, bool resume) : path_(std::move(path)) {
  const std::string name = path_.string();
  std::error_code ignored;
  if (fs::exists(path_, ignored) && !fs::is_directory(path_, ignored))
    fail_usage("--out {}: a file stands there; expected a folder", name);
  const bool run = has(path_, "run.toml");
  if (!resume) {
    if (run)
      fail_usage("--out {}: holds a run already; go on with it by --resume, or name another folder", name);
    if (has(path_, "model.safetensors") || has(path_, "config.json"))
      fail_usage("--out {}: holds a model already; name another folder", name);
    make_folder(path_);
  } else if (!fs::exists(path_, ignored)) {
    fail_usage("--resume: there is no folder {}; name that of the run with --out", name);
  } else if (!run && !holds_nothing(path_)) {
    fail_usage("--resume: {} holds no run; name the folder of one with --out", name);
  }
  take_lock();
  if (resume) checkpoint_ = find_checkpoint(path_);
  if (resume && !checkpoint_) log("{}: no checkpoint yet; the run starts from its beginning", name);
}

RunFolder::Lock::~Lock() {
  if (descriptor >= 0) ::close(descriptor);
}

void RunFolder::take_lock() {
  const fs::path file = path_ / ".lock";
  lock_.descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_.descriptor < 0) fail("{}: cannot create: {}", file.string(), std::strerror(errno));
  // Some network file systems have no locks; a run there goes without.
  if (::flock(lock_.descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    fail("{}: another process is training there; wait for it or stop it", path_.string());
}

}  // namespace harmonic
