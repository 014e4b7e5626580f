#include "harmonic/base/files.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "harmonic/base/error.h"

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

// Opens a regular file for reading and reports its size.
int open_file(const fs::path& path, int64_t* size) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
  struct stat status;
  if (::fstat(descriptor, &status) != 0 || S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    fail("{}: is a directory; a file was expected", path.string());
  }
  *size = status.st_size;
  return descriptor;
}

// Calls use(bytes) for the file's content piece by piece.
template <typename Use>
void read_pieces(int descriptor, const fs::path& path, Use use) {
  static thread_local char buffer[1 << 16];
  for (;;) {
    const ssize_t got = ::read(descriptor, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("{}: cannot read: {}", path.string(), std::strerror(errno));
    if (got == 0) return;
    use(std::string_view(buffer, static_cast<size_t>(got)));
  }
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
  if (fs::is_directory(path_)) fail("{}: is a directory; a file was to be written there", path_.string());
  temporary_ = path_;
  temporary_ += fmt::format(".{}.tmp", ::getpid());
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("{}: cannot create: {}", temporary_.string(), std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0)
      fail("{}: cannot write: {}; the previous file, if there was one, is untouched", path_.string(),
           std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(done));
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail("{}: cannot sync: {}", path_.string(), std::strerror(errno));
  ::close(std::exchange(descriptor_, -1));
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail("{}: cannot rename into place: {}", path_.string(), std::strerror(error));
  }
  sync_folder(path_.has_parent_path() ? path_.parent_path() : ".");
}

void write_file(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
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

MappedFile::MappedFile(const fs::path& path) {
  int64_t size;
  const Descriptor descriptor(open_file(path, &size));
  if (size == 0) return;
  void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (data == MAP_FAILED) fail("{}: cannot map: {}", path.string(), std::strerror(errno));
  data_ = static_cast<const uint8_t*>(data);
  size_ = static_cast<size_t>(size);
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
