#include "harmonic/convert/distill_folder.h"

#include <cstdlib>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/train/run_folder.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr const char* kRecord = "distill.json";
constexpr const char* kTeacher = "teacher_sha256";
constexpr const char* kStudent = "student_sha256";
constexpr const char* kPhases = "phases_sha256";

}  // namespace

DistillFolder::DistillFolder(fs::path path, bool resume, Models models)
    : path_(std::move(path)), models_(std::move(models)) {
  if (!is_one() && !holds_nothing(path_)) {
    if (resume)
      fail_usage("--resume: {} holds no distillation, for it has no {}; name the folder of one with --out",
                 path_.string(), kRecord);
    fail_usage("--out {}: is there and not an empty folder; name another", path_.string());
  }
  if (!is_one()) return;
  if (!resume)
    fail_usage("--out {}: holds a distillation already; go on with it by --resume, or name another folder",
               path_.string());
  lock();
  read_record();
  count_phases();
}

bool DistillFolder::is_one() const { return is_there(path_ / kRecord); }

void DistillFolder::lock() {
  lock_.emplace(path_ / ".lock", FileLock::Kind::exclusive);
  if (lock_->state() == FileLock::State::taken)
    fail("{}: another process distils there; wait for it or stop it", path_.string());
}

void DistillFolder::create() {
  if (lock_) return;
  make_folder(path_);
  lock();
  // Another process may have been faster, and have ended.
  if (!holds_nothing(path_))
    fail("{}: another process has written there; name another --out", path_.string());
  write_record();
}

fs::path DistillFolder::phase(size_t number) const { return path_ / fmt::format("phase-{}", number); }

void DistillFolder::read_record() {
  const fs::path path = path_ / kRecord;
  const Json json = read_json(path, 1 << 20);
  Models before;
  try {
    before = {json.at(kTeacher).get<std::string>(), json.at(kStudent).get<std::string>()};
    first_weights_ = json.at(kPhases).get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not what this version of harmonic distill writes: {}; begin anew with another --out",
         path.string(), error.what());
  }
  const auto expect = [&](const char* flag, const std::string& was, const std::string& is) {
    if (was != is)
      fail_usage("{}: not the model that the distillation in {} began with; name that one, or another --out",
                 flag, path_.string());
  };
  expect("--teacher", before.teacher, models_.teacher);
  expect("--student", before.student, models_.student);
}

void DistillFolder::write_record() const {
  const Json record = {{kTeacher, models_.teacher}, {kStudent, models_.student}, {kPhases, first_weights_}};
  write_file(path_ / kRecord, record.dump(2) + "\n");
}

void DistillFolder::count_phases() {
  std::error_code ignored;
  while (is_there(phase(begun_ + 1))) ++begun_;
  for (fs::directory_iterator i(path_, ignored), end; !ignored && i != end; i.increment(ignored)) {
    const std::string name = i->path().filename().string();
    size_t number = 0;
    if (name.starts_with("phase-")) number = std::strtoull(name.c_str() + 6, nullptr, 10);
    if (number > begun_ && i->path() == phase(number))
      fail_usage(
          "{}: is there and {} is not, from which it went on; put that back, or remove it to train it again",
          i->path().string(), phase(begun_ + 1).string());
  }
  if (begun_ > first_weights_.size())
    fail("{}: is there, but {} knows of {} phases; remove it to train it again", phase(begun_).string(),
         (path_ / kRecord).string(), first_weights_.size());
}

void DistillFolder::enter_phase(size_t number, const std::string& weights) {
  HARMONIC_ASSERT(lock_ && number >= 1);
  if (number <= begun_) {
    if (first_weights_[number - 1] != weights)
      fail_usage(
          "{}: began with other weights than those that the phase before has now; remove it, and the phases "
          "after it, to train them again",
          phase(number).string());
    return;
  }
  HARMONIC_ASSERT(first_weights_.size() + 1 >= number);
  first_weights_.resize(number - 1);
  first_weights_.push_back(weights);
  write_record();
  begun_ = number;
}

}  // namespace harmonic
