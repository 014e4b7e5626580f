#include "harmonic/base/files.h"

#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return value_; }

 private:
  int value_;
};

// Opens a file for reading and reports its size, which of a pipe is 0.
int open_file(const fs::path& path, int64_t* size) {
  const int descriptor = open_for_reading(path);
  struct stat status;
  if (::fstat(descriptor, &status) != 0 || S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    fail("{}: is a directory; a file was expected", path.string());
  }
  *size = status.st_size;
  return descriptor;
}

// Calls use(bytes) for the file's content piece by piece. Only what may have to be waited for (a pipe) is
// given up when the program is asked to stop: files are read then too, as a checkpoint is saved.
template <typename Use>
void read_pieces(int descriptor, const fs::path& path, Use use) {
  static thread_local char buffer[1 << 16];
  struct stat status;
  const bool may_wait = ::fstat(descriptor, &status) == 0 && !S_ISREG(status.st_mode);
  for (;;) {
    const ssize_t got =
        may_wait ? static_cast<ssize_t>(read_when_ready(descriptor, buffer, sizeof buffer, path.string()))
                 : ::read(descriptor, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("{}: cannot read: {}", path.string(), std::strerror(errno));
    if (got == 0) return;
    use(std::string_view(buffer, static_cast<size_t>(got)));
  }
}

// The file that `path` stands for, whether it is there or not: symbolic links are followed.
fs::path target_of(const fs::path& path) {
  constexpr int kMostLinks = 40;  // as the system's own limit
  fs::path target = path;
  std::error_code error;
  for (int links = 0; fs::is_symlink(fs::symlink_status(target, error)); ++links) {
    const fs::path next = fs::read_symlink(target, error);
    if (error || links == kMostLinks)
      fail("{}: cannot follow the link: {}", path.string(), std::strerror(error ? error.value() : ELOOP));
    target = target.parent_path() / next;  // which is `next` where that is absolute
  }
  return target;
}

fs::path folder_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : "."; }

// A duplicate of standard output or standard error where one of them is open for writing on this file; else
// -1. The duplicate shares its position: a second opening would write over what has gone there.
int duplicate_of_standard_stream(const struct stat& file) {
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
    struct stat own;
    if (::fstat(stream, &own) == 0 && own.st_dev == file.st_dev && own.st_ino == file.st_ino &&
        (::fcntl(stream, F_GETFL) & O_ACCMODE) != O_RDONLY)
      return ::fcntl(stream, F_DUPFD_CLOEXEC, 0);
  }
  return -1;
}

std::string hexadecimal(const unsigned char (&hash)[crypto_hash_sha256_BYTES]) {
  std::string text;
  for (unsigned char byte : hash) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace

std::string read_file(const fs::path& path, int64_t limit) {
  int64_t size;
  const Descriptor descriptor(open_file(path, &size));
  std::string content;
  if (size > limit) fail("{}: {} bytes; at most {} were expected", path.string(), size, limit);
  content.reserve(static_cast<size_t>(size));
  read_pieces(descriptor, path, [&](std::string_view piece) {
    content += piece;
    if (static_cast<int64_t>(content.size()) > limit)
      fail("{}: more than {} bytes; fewer were expected", path.string(), limit);
  });
  return content;
}

std::string sha256(std::string_view bytes) {
  unsigned char hash[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(hash, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  return hexadecimal(hash);
}

std::string sha256_of_file(const fs::path& path) {
  int64_t size;
  const Descriptor descriptor(open_file(path, &size));
  crypto_hash_sha256_state state;
  crypto_hash_sha256_init(&state);
  read_pieces(descriptor, path, [&](std::string_view piece) {
    crypto_hash_sha256_update(&state, reinterpret_cast<const unsigned char*>(piece.data()), piece.size());
  });
  unsigned char hash[crypto_hash_sha256_BYTES];
  crypto_hash_sha256_final(&state, hash);
  return hexadecimal(hash);
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  struct stat status;
  if (::stat(path_.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail("{}: is a directory; a file was to be written there", path_.string());
    descriptor_ = duplicate_of_standard_stream(status);
    if (descriptor_ >= 0) return;
    if (!S_ISREG(status.st_mode)) {
      if (::access(path_.c_str(), W_OK) != 0)
        fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
      return;
    }
  }
  path_ = target_of(path_);
  temporary_ = path_;
  temporary_ += fmt::format(".{}.tmp", ::getpid());
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ >= 0) return;
  const int error = errno;
  const fs::path folder = folder_of(path_);
  if (error == ENOENT && !is_there(folder))
    fail("{}: cannot write: there is no folder {}; make it, or name another", path_.string(),
         folder.string());
  fail("{}: cannot write into the folder {}: {}", path_.string(), folder.string(), std::strerror(error));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::open_through() {
  while ((descriptor_ = ::open(path_.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC)) < 0 && errno == EINTR)
    stop_if_interrupted();  // a pipe waits here for its reader
  if (descriptor_ < 0) fail("{}: cannot open for writing: {}", path_.string(), std::strerror(errno));
}

void AtomicFile::write(std::string_view bytes) {
  if (descriptor_ < 0) open_through();
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0)
      fail("{}: cannot write: {}{}", path_.string(), std::strerror(errno),
           temporary_.empty() ? "" : "; the previous file, if there was one, is untouched");
    bytes.remove_prefix(static_cast<size_t>(done));
  }
}

void AtomicFile::commit() {
  if (descriptor_ < 0) open_through();  // nothing was written: a reader of a pipe waits for its end
  // Pipes and devices answer EINVAL: they have nothing to sync.
  if (::fsync(descriptor_) != 0 && errno != EINVAL)
    fail("{}: cannot sync: {}", path_.string(), std::strerror(errno));
  ::close(std::exchange(descriptor_, -1));
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail("{}: cannot rename into place: {}", path_.string(), std::strerror(error));
  }
  sync_folder(folder_of(path_));
}

void move_into_place(const fs::path& from, const fs::path& to) {
  {
    const Descriptor descriptor(open_for_reading(from));
    if (::fsync(descriptor) != 0) fail("{}: cannot sync: {}", from.string(), std::strerror(errno));
  }
  if (::rename(from.c_str(), to.c_str()) != 0)
    fail("{}: cannot rename into place as {}: {}", from.string(), to.string(), std::strerror(errno));
  sync_folder(folder_of(to));
}

AppendFile::AppendFile(fs::path path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("{}: cannot open for writing: {}", path_.string(), std::strerror(errno));
}

AppendFile::~AppendFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(done));
  }
}

void write_file(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void copy_atomically(const fs::path& from, const fs::path& to) {
  int64_t size;
  const Descriptor source(open_file(from, &size));
  AtomicFile file(to);
  read_pieces(source, from, [&](std::string_view piece) { file.write(piece); });
  file.commit();
}

int open_for_reading(const fs::path& path) {
  // Blocking, it would wait for a pipe's writer, where a request to stop that came just before is not seen.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
  ::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) & ~O_NONBLOCK);
  return descriptor;
}

size_t read_when_ready(int descriptor, char* buffer, size_t size, std::string_view name) {
  for (;;) {
    stop_if_interrupted();
    // Not left to the read: the signal that ends the waiting may come before it, or go to another thread.
    struct pollfd input = {descriptor, POLLIN, 0};
    constexpr int kMilliseconds = 100;
    const int ready = ::poll(&input, 1, kMilliseconds);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    const ssize_t got = ::read(descriptor, buffer, size);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) fail("{}: cannot read: {}", name, std::strerror(errno));
  }
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error || !fs::is_directory(path))
    fail("{}: cannot create the folder: {}", path.string(), error ? error.message() : "a file stands there");
}

void sync_folder(const fs::path& path) {
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor < 0 || (::fsync(descriptor) != 0 && errno != EINVAL))
    fail("{}: cannot sync the folder: {}", path.string(), std::strerror(errno));
}

MappedFile::MappedFile(const fs::path& path, Access access) {
  int64_t size;
  const Descriptor descriptor(open_file(path, &size));
  if (size == 0) return;
  const int protection = access == Access::read ? PROT_READ : PROT_READ | PROT_WRITE;
  void* data = ::mmap(nullptr, static_cast<size_t>(size), protection, MAP_PRIVATE, descriptor, 0);
  if (data == MAP_FAILED) fail("{}: cannot map: {}", path.string(), std::strerror(errno));
  data_ = static_cast<const uint8_t*>(data);
  size_ = static_cast<size_t>(size);
}

void MappedFile::release(std::span<const uint8_t> part) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const auto address = reinterpret_cast<uintptr_t>(part.data());
  const auto begin = round_up(static_cast<int64_t>(address), page);
  const auto end = static_cast<int64_t>(address + part.size()) / page * page;
  // A hint: where the system does not take it, nothing is lost.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), static_cast<size_t>(end - begin), MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace harmonic
