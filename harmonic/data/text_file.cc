#include "harmonic/data/text_file.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/data/gzip_check.h"

namespace harmonic {
namespace {

enum class Packing { none, compressed, archive };

Packing packing_of(std::string_view first_bytes) {
  using namespace std::string_view_literals;
  for (std::string_view magic : {"\x1f\x8b"sv, "\xfd\x37zXZ\0"sv, "\x28\xb5\x2f\xfd"sv})
    if (first_bytes.starts_with(magic)) return Packing::compressed;
  for (std::string_view magic : {"PK\x03\x04"sv, "PK\x05\x06"sv})
    if (first_bytes.starts_with(magic)) return Packing::archive;
  return Packing::none;
}

bool named_as_compressed(std::string_view path) {
  for (std::string_view ending : {".gz", ".xz", ".zst", ".zip", ".tgz"})
    if (path.ends_with(ending)) return true;
  return false;
}

bool named_as_tar(std::string_view path) {
  for (std::string_view ending : {".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.zst"})
    if (path.ends_with(ending)) return true;
  return false;
}

}  // namespace

struct TextFile::State {
  std::string path, name;
  int descriptor = -1;
  bool close_it = true;
  std::string first_bytes;  // read to tell the packing, and not yet handed on
  ::archive* archive = nullptr;
  bool whole_is_one_member = true, started = false;
  std::optional<GzipCheck> gzip;  // of a gzip file that is its one member
  std::vector<char> block;

  ~State() {
    if (archive) archive_read_free(archive);
    if (descriptor >= 0 && close_it) ::close(descriptor);
  }

  // The raw bytes of the file, first_bytes included.
  size_t read_raw(char* buffer, size_t size) {
    if (!first_bytes.empty()) {
      const size_t count = std::min(size, first_bytes.size());
      std::memcpy(buffer, first_bytes.data(), count);
      first_bytes.erase(0, count);
      return count;
    }
    return read_when_ready(descriptor, buffer, size, path);
  }

  [[noreturn]] void archive_failure() {
    stop_if_interrupted();  // read_block() cannot throw it
    const char* message = archive_error_string(archive);
    fail("{}: damaged or truncated: {}; fetch or make the file again", name,
         message ? message : "unknown error");
  }

  // libarchive's callbacks. It is C: no exception may pass through, so a failed read is reported as its
  // error.
  static la_ssize_t read_block(::archive* archive, void* self, const void** data) {
    State& state = *static_cast<State*>(self);
    try {
      *data = state.block.data();
      const size_t got = state.read_raw(state.block.data(), state.block.size());
      if (state.gzip) state.gzip->add_packed({state.block.data(), got});
      return static_cast<la_ssize_t>(got);
    } catch (const Interrupted&) {
      archive_set_error(archive, EINTR, "interrupted");
    } catch (const std::exception& error) {
      archive_set_error(archive, errno, "%s", error.what());
    }
    return ARCHIVE_FATAL;
  }
  static la_int64_t seek(::archive*, void* self, la_int64_t offset, int whence) {
    const off_t position = ::lseek(static_cast<State*>(self)->descriptor, offset, whence);
    return position < 0 ? ARCHIVE_FATAL : position;
  }

  void open_archive(Packing packing, bool seekable) {
    archive = archive_read_new();
    if (!archive) fail("{}: not enough memory to open it", path);
    block.resize(1 << 16);
    archive_read_support_filter_gzip(archive);
    archive_read_support_filter_xz(archive);
    archive_read_support_filter_zstd(archive);
    archive_read_support_format_empty(archive);
    whole_is_one_member = packing == Packing::compressed && !named_as_tar(path);
    if (whole_is_one_member) {
      archive_read_support_format_raw(archive);
    } else if (packing == Packing::archive) {
      archive_read_support_format_zip(archive);
    } else {
      archive_read_support_format_tar(archive);
    }
    archive_read_set_read_callback(archive, read_block);
    if (seekable) archive_read_set_seek_callback(archive, seek);
    archive_read_set_callback_data(archive, this);
    if (archive_read_open1(archive) != ARCHIVE_OK) archive_failure();
    // A start cut so short that no filter knows it would otherwise pass as plain bytes.
    if (packing == Packing::compressed && archive_filter_count(archive) < 2)
      fail(
          "{}: damaged or truncated: it begins like a compressed file and goes on as none; "
          "fetch or make the file again",
          path);
  }
};

TextFile::TextFile(const std::string& path) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.path = path == "-" ? "standard input" : path;
  state.name = state.path;
  state.close_it = path != "-";
  state.descriptor = path == "-" ? STDIN_FILENO : open_for_reading(path);
  struct stat status;
  if (::fstat(state.descriptor, &status) != 0) fail("{}: cannot read: {}", state.path, std::strerror(errno));
  if (S_ISDIR(status.st_mode)) fail("{}: is a directory; a file was expected", state.path);

  char start[8];
  size_t size = 0;
  while (size < sizeof start) {
    const size_t got = state.read_raw(start + size, sizeof start - size);
    if (got == 0) break;
    size += got;
  }
  const Packing packing = packing_of({start, size});
  if (packing == Packing::none && named_as_compressed(path) && size > 0)
    fail(
        "{}: its name says it is compressed, but it does not begin like gz, xz, zst or zip; "
        "it may be damaged or misnamed",
        path);
  const bool seekable = path != "-" && S_ISREG(status.st_mode) && ::lseek(state.descriptor, 0, SEEK_SET) == 0;
  if (!seekable) state.first_bytes.assign(start, size);
  if (packing == Packing::compressed && start[0] == '\x1f' && !named_as_tar(path)) state.gzip.emplace();
  if (packing != Packing::none || (named_as_tar(path) && size > 0)) state.open_archive(packing, seekable);
}

TextFile::~TextFile() = default;

bool TextFile::next_member() {
  State& state = *state_;
  if (!state.archive) return !std::exchange(state.started, true);
  for (;;) {
    archive_entry* entry;
    const int status = archive_read_next_header(state.archive, &entry);
    if (status == ARCHIVE_EOF) return false;
    if (status < ARCHIVE_WARN) {  // a warning is about a name's encoding: the content is sound
      state.name = state.path;
      state.archive_failure();
    }
    if (state.whole_is_one_member) return true;
    const char* utf8 = archive_entry_pathname_utf8(entry);
    const char* member = utf8 ? utf8 : archive_entry_pathname(entry);
    const std::string member_name = member ? member : "(a member without a readable name)";
    if (archive_entry_filetype(entry) != AE_IFREG ||
        std::filesystem::path(member_name).filename().string().starts_with('.'))
      continue;
    state.name = state.path + ": " + member_name;
    if (archive_entry_is_encrypted(entry)) fail("{}: is encrypted; unpack it first", state.name);
    return true;
  }
}

const std::string& TextFile::name() const { return state_->name; }

size_t TextFile::read(char* buffer, size_t size) {
  State& state = *state_;
  size_t done = 0;
  while (done < size) {
    stop_if_interrupted();
    size_t got;
    if (state.archive) {
      const la_ssize_t result = archive_read_data(state.archive, buffer + done, size - done);
      if (result < 0) state.archive_failure();
      got = static_cast<size_t>(result);
    } else {
      got = state.read_raw(buffer + done, size - done);
    }
    if (got == 0) {
      if (const auto gzip = std::exchange(state.gzip, std::nullopt); gzip && !gzip->passed())
        fail("{}: damaged: its content does not match its checksum; fetch or make the file again",
             state.name);
      break;
    }
    if (state.gzip) state.gzip->add_content({buffer + done, got});
    done += got;
  }
  return done;
}

std::string read_text(const std::string& path, int64_t limit) {
  constexpr size_t kPiece = 1 << 20;
  TextFile file(path);
  std::string text;
  while (file.next_member()) {
    for (size_t got = kPiece; got > 0;) {
      const size_t before = text.size();
      text.resize(before + kPiece);
      got = file.read(text.data() + before, kPiece);
      text.resize(before + got);
      if (static_cast<int64_t>(text.size()) > limit)
        fail("{}: more than {} bytes of text; a part of it will do", path, limit);
    }
  }
  return text;
}

}  // namespace harmonic
