// Files: whole reads, memory maps, SHA-256, and writes that either happen or do not.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace harmonic {

// Whether there is a file or folder of that name; false where that cannot be told.
inline bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// The whole file. Throws Error when it is missing, a directory, unreadable, or larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, int64_t limit = int64_t{1} << 31);

// Lower-case hexadecimal SHA-256.
std::string sha256(std::string_view bytes);
std::string sha256_of_file(const std::filesystem::path& path);

// A file that appears under its name only when commit() has returned: written beside it under a temporary
// name, synced, renamed, and the folder synced. Destroyed without commit, it leaves nothing. Symbolic links
// stay, and the file they point to is written, made where it is missing. What has no content to replace (a
// pipe, a device), and the file that standard output or error goes to, is written straight through instead;
// a pipe or device is opened at the first write, which may wait for a reader. Not thread-safe.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);  // throws Error where it cannot be written
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::string_view bytes);  // throws Error, e.g. on a full disk
  void write(const void* data, size_t size) { write({static_cast<const char*>(data), size}); }
  void commit();

 private:
  void open_through();

  std::filesystem::path path_, temporary_;  // no temporary: straight through
  int descriptor_ = -1;
};

// A file that grows: made where it is missing, each piece at its end with one write where the system lets it,
// so that a kill leaves whole pieces but for the last at most. Not thread-safe.
class AppendFile {
 public:
  explicit AppendFile(std::filesystem::path path);  // throws Error
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  void append(std::string_view bytes);  // throws Error, e.g. on a full disk

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

// Both by AtomicFile.
void write_file(const std::filesystem::path& path, std::string_view bytes);
void copy_atomically(const std::filesystem::path& from, const std::filesystem::path& to);

// Renames a file that is complete, so that it replaces what stands there at once, and syncs it and the
// folder.
void move_into_place(const std::filesystem::path& from, const std::filesystem::path& to);

// Opens for reading, without waiting for the writer of a pipe: read_when_ready() waits for it. Throws Error.
int open_for_reading(const std::filesystem::path& path);
// Reads at most `size` bytes, at least one unless the input has ended, waiting for them; a request to stop
// the program ends the waiting with Interrupted. `name` is for errors.
size_t read_when_ready(int descriptor, char* buffer, size_t size, std::string_view name);

// Creates a folder and its parents; throws Error naming the one that stands in the way.
void make_folder(const std::filesystem::path& path);
// Forces a folder's entries to disk.
void sync_folder(const std::filesystem::path& path);

// A memory map of a whole file; empty files map to an empty span. Movable, unmaps on destruction.
class MappedFile {
 public:
  enum class Access : uint8_t {
    read,
    change,  // bytes may be written to: what is written is this map's own and never reaches the file
  };
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path, Access access = Access::read);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  // Says that a part has been read: its whole pages no longer count as this process's memory, and come from
  // the file again when they are asked for.
  void release(std::span<const uint8_t> part) const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace harmonic
