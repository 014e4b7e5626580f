// A file as a sign to other processes: whoever holds its lock uses what the file stands for.
#pragma once

#include <filesystem>
#include <utility>

namespace harmonic {

// An advisory lock (flock) that is held while this lives, and gone with the process at the latest. Several
// may hold it shared, or one exclusively; two of one process count like those of two.
class FileLock {
 public:
  enum class Kind { shared, exclusive };
  enum class State {
    held,
    taken,       // by others
    impossible,  // the file system knows no locks, as some network file systems
  };

  // Does not wait. The file is made where there is none. Throws Error when it cannot be opened.
  FileLock(const std::filesystem::path& file, Kind kind);
  ~FileLock();
  FileLock(FileLock&& other) noexcept { *this = std::move(other); }
  FileLock& operator=(FileLock&& other) noexcept;

  State state() const { return state_; }

 private:
  int descriptor_ = -1;
  State state_ = State::impossible;
};

}  // namespace harmonic
