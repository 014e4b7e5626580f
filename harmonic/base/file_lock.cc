#include "harmonic/base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "harmonic/base/error.h"

namespace harmonic {

FileLock::FileLock(const std::filesystem::path& file, Kind kind)
    : descriptor_(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail("{}: cannot create: {}", file.string(), std::strerror(errno));
  const bool held = ::flock(descriptor_, (kind == Kind::shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0;
  state_ = held ? State::held : errno == EWOULDBLOCK ? State::taken : State::impossible;
}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(state_, other.state_);
  return *this;
}

FileLock::~FileLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace harmonic
